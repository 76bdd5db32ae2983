"""How appends become rows: what the writer knows by heart, and what it has yet to write.

A log with a thousand busy runs would ask SQLite for each of them, with each group, what it
wrote there itself the time before. So the runs' standing is remembered, for as long as no
other connection has committed anything; and what a group's appends come to is written at
its end, one statement for all of a kind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

from tailrace.eventlog.contract import Append, Commit, Retention, Standing, admit
from tailrace.eventlog.retention import crowded
from tailrace.eventlog.sqlite import erasure, schema
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.lifecycle import State

REMEMBERED: Final = 16_384
"""How many runs' standing is remembered: some 6 MiB."""

_SELECT: Final = (
    "SELECT ordinal, state, attempt, first_seq, last_seq, size, epoch FROM runs WHERE id = ?"
)
_AT_ONCE: Final = (64, 8, 1)
_POSITION: Final = "SELECT epoch, seq FROM producers WHERE run = ? AND id = ?"
_PRODUCED: Final = "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?)"


class Appended(NamedTuple):
    """What an append did, and the block to tell of once it is committed."""

    commit: Commit
    block: Block | None = None


@dataclass(slots=True)
class _Known:
    """A run's row, as it will be when the group is written."""

    ordinal: int
    state: State
    attempt: int
    first: int
    last: int
    size: int
    epoch: int
    patch: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The appends of one writer. Called on its thread, inside its transactions."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._known: dict[str, _Known] = {}
        self._version: int | None = None
        # What the group under way comes to.
        self._changed: dict[str, _Known] = {}
        self._rows: list[tuple[object, ...]] = []

    def begin(self, connection: sqlite3.Connection) -> None:
        """At the start of a transaction that nobody else can get ahead of any more."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._known) > REMEMBERED:
            self.forget()
            self._version = version

    def forget(self) -> None:
        """Know nothing more, after `write`: something else may change what is known."""
        self._known.clear()

    def undo(self) -> None:
        """The transaction did not happen, or nobody can tell; nor perhaps will the next one
        be on the same connection, and each counts from its own start.
        """
        self._known.clear()
        self._changed.clear()
        self._rows.clear()
        self._version = None

    def append(self, connection: sqlite3.Connection, append: Append) -> Appended:
        """Take an append, or refuse it as `admit` does; then nothing has changed."""
        run = append.run
        known = self._known.get(run) or self._look_up(connection, run)
        producer, position = append.producer, None
        if producer is not None and known is not None:
            position = connection.execute(_POSITION, (known.ordinal, producer.id)).fetchone()
        standing = None if known is None else Standing(known.state, known.attempt)
        drafts = admit(standing, append, position)
        assert known is not None, "admit refuses an unknown run"  # noqa: S101
        first, last = known.last + 1, known.last + len(drafts)
        if append.drafts and not drafts:
            return Appended(Commit(run, first, last, known.state))
        # What may fail comes before anything is changed: other appends of the run follow.
        wire = pack(first, drafts, known.epoch) if drafts else b""
        if drafts and producer is not None:
            reached = producer.seq + len(append.drafts) - 1
            connection.execute(_PRODUCED, (known.ordinal, producer.id, producer.epoch, reached))
        self._changed[run] = known
        if append.move is not None:
            known.state = append.move[1]
        if append.patch:
            known.patch.update(append.patch)
            known.attempt = append.patch.get("attempt", known.attempt)
        block = None
        if drafts:
            known.last = last
            known.size += len(wire)
            at = schema.key(known.ordinal, last)
            total = schema.checksum(at, first, known.epoch, wire)
            self._rows.append((at, first, known.epoch, total, wire))
            block = Block(run, first, last, wire, known.epoch)
        if crowded(self._retention, last - known.first + 1, known.size):
            self.write(connection)
            known.first, known.size = erasure.trim(
                connection, self._retention, known.ordinal, last, known.size
            )
            self._changed[run] = known
        return Appended(Commit(run, first, last, known.state), block)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what was taken, before the commit, or before anything that looks at it."""
        if self._rows:
            rows, self._rows = self._rows, []
            _execute(connection, _insert, (), rows)
        if not self._changed:
            return
        # By the columns that are patched: few statements, and the same ones each time.
        kinds: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
        for known in self._changed.values():
            columns = (known.ordinal, known.first, known.last, known.size, known.state.value)
            kinds.setdefault(tuple(known.patch), []).append((*columns, *known.patch.values()))
            if known.patch:
                known.patch = {}
        self._changed.clear()
        for names, rows in kinds.items():
            _execute(connection, _update, names, rows)

    def _look_up(self, connection: sqlite3.Connection, run: str) -> _Known | None:
        row = connection.execute(_SELECT, (run,)).fetchone()
        if row is None:
            return None
        ordinal, state, *rest = row
        known = self._known[run] = _Known(ordinal, State(state), *rest)
        return known


@cache
def _insert(_: tuple[str, ...], count: int) -> str:
    return f"INSERT INTO blocks VALUES {_marks(5, count)}"


@cache
def _update(patched: tuple[str, ...], count: int) -> str:
    names = ("first_seq", "last_seq", "size", "state", *patched)
    if count == 1:
        # Half as dear as a table of one row.
        told = ", ".join(f"{name} = ?{number}" for number, name in enumerate(names, 2))
        return f"UPDATE runs SET {told} WHERE ordinal = ?1"
    told = ", ".join(f"{name} = v.column{number}" for number, name in enumerate(names, 2))
    values = _marks(1 + len(names), count)
    return f"UPDATE runs SET {told} FROM (VALUES {values}) AS v WHERE ordinal = v.column1"


def _marks(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def _execute(
    connection: sqlite3.Connection,
    statement: Callable[[tuple[str, ...], int], str],
    names: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Many rows to a statement: with each of them SQLite lets go of the interpreter, and
    beside a busy event loop it waits to have it back.
    """
    at = 0
    for count in _AT_ONCE:
        while at + count <= len(rows):
            given = list(chain.from_iterable(rows[at : at + count]))
            connection.execute(statement(names, count), given)
            at += count
