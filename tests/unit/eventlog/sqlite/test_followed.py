"""What the listener is told, and when nothing is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from tailrace.eventlog.contract import READ_BYTES, Commit
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.followed import Followed
from tailrace.eventlog.sqlite.ledger import Appended
from tailrace.eventlog.sqlite.writer import Settle, Verdict
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import Draft
from tailrace.protocol.lifecycle import State
from tailrace.testing.logbook import logs, new_run


class Bench:
    """A file with runs, and whatever was told of them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.told: list[tuple[str, int, int]] = []
        self.settled: list[Verdict] = []
        self.followed = Followed(self._tell)
        self._ordinals: dict[str, int] = {}

    def _tell(self, blocks: Sequence[Block], outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        self.told += [(block.run, block.first, block.last) for block in blocks]
        self.settled += [outcome for _, outcome in outcomes]

    def run(self, name: str) -> str:
        run = new_run(id=name)
        ordinal = self.connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
        assert ordinal is not None
        self.connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, b"{}"))
        self._ordinals[name] = ordinal
        return name

    def commit(self, run: str, first: int, count: int, *, size: int = 0) -> Block:
        drafts = [Draft("log", b"x" * size)] * count if size else logs(count)
        wire = pack(first, drafts)
        last = first + count - 1
        at = schema.key(self._ordinals[run], last)
        row = (at, first, 0, schema.checksum(at, first, 0, wire), wire)
        self.connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", row)
        self.connection.execute("UPDATE runs SET last_seq = ? WHERE id = ?", (last, run))
        return Block(run, first, last, wire)

    def damage(self, run: str, last: int) -> None:
        at = schema.key(self._ordinals[run], last)
        self.connection.execute("UPDATE blocks SET sum = sum + 1 WHERE at = ?", (at,))

    def deliver(self, *blocks: Block) -> None:
        self.followed.deliver(
            [
                (lambda _: None, Appended(Commit(b.run, b.first, b.last, State.RUNNING), b))
                for b in blocks
            ]
        )

    def heed(self, *wishes: tuple[str, int | None]) -> None:
        for run, after in wishes:
            self.followed.wish(run, after)
        self.followed.heed(self.connection)

    def take(self) -> list[tuple[str, int, int]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    with closing(schema.establish(path)) as connection:
        yield Bench(connection)


def test_it_watches_while_anybody_follows(bench: Bench) -> None:
    run = bench.run("a")
    watching = [bench.followed.is_watching]
    bench.followed.wish(run, 0)
    watching.append(bench.followed.is_watching)
    for wishes in ([], [(run, None)]):
        bench.heed(*wishes)
        watching.append(bench.followed.is_watching)
    # Already before the wish is heeded, or the thread would sleep over it.
    assert watching == [False, True, True, False]


def test_who_comes_late_is_told_the_rest(bench: Bench) -> None:
    run = bench.run("a")
    bench.commit(run, 1, 3)
    bench.commit(run, 4, 2)
    bench.heed((run, 2))
    assert bench.take() == [("a", 3, 5)]
    bench.heed((run, None), (run, 5))
    assert bench.take() == []


def test_our_own_commits_are_told_with_their_outcomes(bench: Bench) -> None:
    run, other = bench.run("a"), bench.run("b")
    bench.heed((run, 0))
    blocks = [bench.commit(run, 1, 2), bench.commit(other, 1, 1), bench.commit(run, 3, 1)]
    bench.deliver(*blocks)
    assert bench.take() == [("a", 1, 2), ("a", 3, 3)]
    assert len(bench.settled) == 3
    bench.followed.look_around(bench.connection)
    assert bench.take() == [], "nothing twice"


def test_others_commits_are_told_when_looked_for(bench: Bench) -> None:
    runs = [bench.run(name) for name in "abc"]
    bench.heed(*((run, 0) for run in runs[:2]))
    for run in runs:
        bench.commit(run, 1, 2)
    bench.followed.look_around(bench.connection)
    assert bench.take() == [("a", 1, 2), ("b", 1, 2)]


def test_only_runs_that_moved_are_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.eventlog.sqlite.followed._ASKED", 10)
    names = [f"r{number:02}" for number in range(35)]
    runs = [bench.run(name) for name in names]
    bench.heed(*((run, 0) for run in runs))
    for name in ("r03", "r21", "r34"):
        bench.commit(name, 1, 2)
    asked: list[str] = []
    bench.connection.set_trace_callback(asked.append)
    bench.followed.look_around(bench.connection)
    bench.connection.set_trace_callback(None)
    assert bench.take() == [("r03", 1, 2), ("r21", 1, 2), ("r34", 1, 2)]
    assert len(asked) == 4 + 3


def test_damage_among_the_runs_is_borne(bench: Bench) -> None:
    run = bench.run("a")
    bench.heed((run, 0))
    bench.commit(run, 1, 1)

    class Damaged:
        def execute(self, sql: str, given: Any) -> Any:
            if "id IN (" in sql:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return bench.connection.execute(sql, given)

    bench.followed.look_around(cast("sqlite3.Connection", Damaged()))
    assert bench.take() == [("a", 1, 1)]


def test_the_last_wish_counts(bench: Bench) -> None:
    run = bench.run("a")
    block = bench.commit(run, 1, 2)
    bench.heed((run, 0), (run, None))
    assert (bench.take(), bench.followed.is_watching) == ([], False)
    bench.deliver(block)
    assert (bench.take(), bench.followed.is_watching) == ([], False)
    bench.heed((run, None), (run, 1))
    assert bench.take() == [("a", 2, 2)]


def test_nothing_before_the_place_that_was_asked_for(bench: Bench) -> None:
    run = bench.run("a")
    bench.heed((run, 4))
    bench.deliver(bench.commit(run, 1, 2), bench.commit(run, 3, 3))
    assert bench.take() == [("a", 5, 5)]


def test_a_long_history_is_not_held_in_memory(bench: Bench) -> None:
    run = bench.run("a")
    for first in range(1, 9):
        bench.commit(run, first, 1, size=READ_BYTES // 3)
    bench.heed((run, 0))
    # The listener sees the hole and reads at its own pace.
    assert bench.take() == [("a", 1, 3), ("a", 8, 8)]
    bench.heed((run, None), (run, 5))
    assert bench.take() == [("a", 6, 8)]


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ([2], [("a", 1, 1)]),
        ([1], [("a", 3, 3)]),
        ([1, 2, 3], []),
    ],
)
def test_damage_shows_as_a_hole_and_harms_no_other_run(
    bench: Bench, damaged: list[int], told: list[Any]
) -> None:
    run, other = bench.run("a"), bench.run("b")
    bench.heed((run, 0), (other, 0))
    for first in (1, 2, 3):
        bench.commit(run, first, 1)
    bench.commit(other, 1, 1)
    for last in damaged:
        bench.damage(run, last)
    bench.followed.look_around(bench.connection)
    assert bench.take() == [*told, ("b", 1, 1)]
    bench.deliver(bench.commit(run, 4, 1))
    assert bench.take() == [("a", 4, 4)], "whoever reads up to here meets the damage"


def test_a_run_that_does_not_exist_yet_may_be_followed(bench: Bench) -> None:
    bench.heed(("a", 0))
    bench.deliver(bench.commit(bench.run("a"), 1, 1))
    assert bench.take() == [("a", 1, 1)]
