"""What the writer knows by heart, and what becomes of a group's appends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import RunEnded, RunUnknown, StateMoved, TailraceError, WriterFenced
from tailrace.eventlog.contract import Append, Commit, Producer
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import ledger as ledgers
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.ledger import Appended, Ledger
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import Draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tailrace.testing.logbook import ending, logs, new_run


class Book:
    """A file, a connection to it, and the ledger of that connection."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self.connection = schema.establish(path)
        self.ledger = Ledger(retention or Retention())
        self.asked: list[str] = []

    def group(self, *appends: Append) -> list[Any]:
        """One transaction; what became of each."""
        outcomes: list[Any] = []
        self.connection.set_trace_callback(self.asked.append)
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.ledger.begin(self.connection)
            for append in appends:
                try:
                    outcomes.append(self.ledger.append(self.connection, append))
                except TailraceError as refusal:
                    outcomes.append(type(refusal))
            self.ledger.write(self.connection)
            self.connection.execute("COMMIT")
        except BaseException:
            self.ledger.undo()
            self.connection.execute("ROLLBACK")
            raise
        self.connection.set_trace_callback(None)
        return outcomes

    def spans(self, *appends: Append) -> list[Any]:
        return [
            (told.commit.first, told.commit.last) if isinstance(told, Appended) else told
            for told in self.group(*appends)
        ]

    def run(self, **given: Any) -> str:
        run = new_run(**{"state": State.RUNNING, **given})
        ordinal = self.connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
        self.connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, b"{}"))
        return run.id

    def record(self, run: str) -> RunRecord:
        row = self.connection.execute(f"{schema.SELECT_RUN} WHERE r.id = ?", (run,)).fetchone()
        return schema.record(row)

    def wire(self, run: str) -> bytes:
        return b"".join(block.wire for block in schema.read(self.connection, run, 0, 10**9))


Opener = Callable[..., Book]


@pytest.fixture
def opener(path: Path) -> Iterator[Opener]:
    books: list[Book] = []

    def opened(retention: Retention | None = None) -> Book:
        books.append(Book(path, retention))
        return books[-1]

    yield opened
    for book in books:
        book.connection.close()


@pytest.fixture
def book(opener: Opener) -> Book:
    return opener()


# ---------------------------------------------------------------- one group


def test_an_append_is_a_row_and_a_block(book: Book) -> None:
    run = book.run(epoch=2)
    drafts = logs(3)
    (told,) = book.group(Append(run, drafts))
    wire = pack(1, drafts, 2)
    assert told == (Commit(run, 1, 3, State.RUNNING), Block(run, 1, 3, wire, 2))
    assert book.wire(run) == wire
    found = book.record(run)
    assert (found.last_seq, found.size, found.state) == (3, len(wire), State.RUNNING)


def test_appends_of_one_run_follow_each_other(book: Book) -> None:
    run, other = book.run(), book.run()
    drafts = logs(6)
    batches = drafts[:1], drafts[1:3], drafts[3:]
    appends = [Append(run, batch) for batch in batches]
    appends.insert(1, Append(other, drafts[:2]))
    assert book.spans(*appends) == [(1, 1), (1, 2), (2, 3), (4, 6)]
    assert book.wire(run) == pack(1, drafts)
    assert book.wire(other) == pack(1, drafts[:2])
    assert book.record(run).size == len(book.wire(run))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 150])
def test_any_number_of_runs_in_a_group(book: Book, count: int) -> None:
    runs = [book.run() for _ in range(count)]
    for round_ in range(2):
        appends = [Append(run, logs(number % 3 + 1)) for number, run in enumerate(runs)]
        appends[-1].patch["progress"] = b"{}"
        told = book.spans(*appends)
        firsts = [(number % 3 + 1) * round_ + 1 for number in range(count)]
        assert told == [(first, first + number % 3) for number, first in enumerate(firsts)]
    for number, run in enumerate(runs):
        found = book.record(run)
        assert found.last_seq == (number % 3 + 1) * 2
        assert found.size == len(book.wire(run))
        assert found.progress == (b"{}" if run == runs[-1] else None)


def test_a_group_of_many_takes_few_statements(book: Book) -> None:
    runs = [book.run() for _ in range(128)]
    book.group(*(Append(run, logs(1)) for run in runs))
    book.asked.clear()
    book.group(*(Append(run, logs(1)) for run in runs))
    kinds = [sql.split()[0] for sql in book.asked]
    assert kinds == ["BEGIN", "PRAGMA", "INSERT", "INSERT", "UPDATE", "UPDATE", "COMMIT"]


def test_the_newest_patch_counts_and_the_others_stay(book: Book) -> None:
    run = book.run()
    book.group(
        Append(run, logs(1), patch={"progress": b"1", "started_at": 1.0}),
        Append(run, logs(1), patch={"worker": "w", "progress": b"2"}),
        Append(run, logs(1)),
    )
    found = book.record(run)
    assert (found.progress, found.started_at, found.worker) == (b"2", 1.0, "w")
    book.group(Append(run, patch={"progress": None}))
    found = book.record(run)
    assert (found.progress, found.started_at, found.last_seq) == (None, 1.0, 3)


def test_a_group_is_judged_in_its_order(book: Book) -> None:
    run = book.run(state=State.QUEUED)
    start = (State.QUEUED, State.RUNNING)
    assert book.spans(
        Append(run, logs(1), fence=1),
        Append(run, logs(1), move=start, patch={"attempt": 1}, fence=0),
        Append(run, logs(1), move=start),
        Append(run, logs(1), fence=0),
        Append(run, logs(2), fence=1),
        ending(run),
        Append(run, logs(1)),
        Append("run_nobody", logs(1)),
    ) == [WriterFenced, (1, 1), StateMoved, WriterFenced, (2, 3), (4, 4), RunEnded, RunUnknown]
    found = book.record(run)
    assert (found.state, found.attempt, found.last_seq) == (State.COMPLETED, 1, 4)
    assert found.ended_at == 10.0


def test_what_a_producer_repeats_changes_nothing(book: Book) -> None:
    run = book.run()
    first = Append(run, logs(2), producer=Producer("p", 0, 1))
    again = Append(run, logs(2), producer=Producer("p", 0, 1), patch={"progress": b"1"})
    more = Append(run, logs(3), producer=Producer("p", 0, 2))
    assert book.spans(first, again, more) == [(1, 2), (3, 2), (3, 4)]
    assert book.record(run).progress is None
    assert book.spans(again, more) == [(5, 4), (5, 4)]


@pytest.mark.parametrize("rules", [Retention(run_events=10), Retention(run_bytes=1000)])
def test_a_crowded_run_is_trimmed_in_the_midst_of_a_group(opener: Opener, rules: Any) -> None:
    book = opener(rules)
    run, other = book.run(), book.run()
    appends = [Append(one, logs(3)) for _ in range(7) for one in (run, other)]
    appends[0].patch["progress"] = b"kept"
    book.group(*appends)
    for one in (run, other):
        found = book.record(one)
        blocks = schema.read(book.connection, one, 0, 10**9)
        assert found.last_seq == blocks[-1].last == 21
        assert 11 < found.first_seq == blocks[0].first <= 19
        assert found.size == len(book.wire(one))
    assert book.record(run).progress == b"kept"


# ---------------------------------------------------------------- what is known


def test_what_is_known_is_not_asked_for(book: Book) -> None:
    run = book.run()
    book.spans(Append(run, logs(1)))
    for last in range(2, 5):
        assert book.spans(Append(run, logs(1))) == [(last, last)]
    assert sum(sql.startswith("SELECT") for sql in book.asked) == 1


def test_what_others_commit_is_asked_for(opener: Opener) -> None:
    one, other = opener(), opener()
    run = one.run()
    for last in range(1, 9, 2):
        assert one.spans(Append(run, logs(1))) == [(last, last)]
        assert other.spans(Append(run, logs(1))) == [(last + 1, last + 1)]
    other.group(Append(run, patch={"attempt": 1}))
    assert one.spans(Append(run, logs(1), fence=0)) == [WriterFenced]
    other.group(ending(run))
    assert one.spans(Append(run, logs(1), fence=1)) == [RunEnded]
    assert len(schema.read(one.connection, run, 0, 10**9)[0].events) == 9


def test_what_did_not_happen_is_forgotten(book: Book) -> None:
    run = book.run()
    book.spans(Append(run, logs(1)))
    moved = Append(run, logs(1), move=(State.RUNNING, State.CANCELLING), patch={"attempt": 1})
    for bad in (
        Append(run, logs(1), patch={"progress": object()}),
        Append(run, logs(1), patch={"started_at": "noon"}),
        Append(run, [Draft("\ud800", b"{}")]),
    ):
        with pytest.raises((sqlite3.Error, UnicodeError)):
            book.group(moved, bad)
        assert not book.connection.in_transaction
    assert book.spans(Append(run, logs(1), fence=0)) == [(2, 2)]
    found = book.record(run)
    assert (found.state, found.attempt, found.last_seq) == (State.RUNNING, 0, 2)


def test_a_refusal_is_no_change(book: Book) -> None:
    run = book.run()
    book.group(Append(run, logs(1), fence=7), Append(run, logs(1), producer=Producer("p", 0, 5)))
    assert not [sql for sql in book.asked if sql.startswith(("INSERT", "UPDATE"))]
    assert book.record(run).last_seq == 0


def test_what_was_written_is_seen_by_what_comes_between(book: Book) -> None:
    run = book.run()
    book.connection.execute("BEGIN IMMEDIATE")
    book.ledger.begin(book.connection)
    book.ledger.append(book.connection, Append(run, logs(2)))
    book.ledger.write(book.connection)
    book.ledger.forget()
    assert book.record(run).last_seq == 2
    book.connection.execute("UPDATE runs SET attempt = 5 WHERE id = ?", (run,))
    told = book.ledger.append(book.connection, Append(run, logs(1), fence=5))
    book.ledger.write(book.connection)
    book.connection.execute("COMMIT")
    assert told.commit.last == 3
    assert book.record(run).last_seq == 3


def test_what_is_known_is_bounded(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "REMEMBERED", 10)
    runs = [book.run() for _ in range(25)]
    for last in (1, 2):
        for run in runs:
            assert book.spans(Append(run, logs(1))) == [(last, last)]
            assert len(book.ledger._known) <= 11


def test_another_connection_counts_from_its_own_start(path: Path, book: Book) -> None:
    run = book.run()
    book.spans(Append(run, logs(1)))
    with closing(schema.connect(path)) as fresh:
        fresh.execute("BEGIN IMMEDIATE")
        fresh.execute("UPDATE runs SET attempt = 3 WHERE id = ?", (run,))
        fresh.execute("COMMIT")
    book.ledger.undo()
    book.connection.close()
    book.connection = schema.connect(path)
    assert book.spans(Append(run, logs(1), fence=3)) == [(2, 2)]
