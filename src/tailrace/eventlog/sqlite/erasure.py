"""Getting rid of events, a little at a time.

One transaction holds up every append of every process, and SQLite deletes some 80 MB a
second. So whatever may be large goes in slices. A run that is forgotten is gone at once,
for everybody; its blocks follow, and a note in the log makes sure that they do, also after
a crash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from tailrace.errors import RunActive, RunUnknown
from tailrace.eventlog.retention import Ended, Retention, Stretch, expired, trimmed
from tailrace.eventlog.sqlite.schema import key
from tailrace.protocol.lifecycle import TERMINAL, State

SLICE_BYTES: Final = 4 * 1024 * 1024
SLICE_ROWS: Final = 2000


def forget(connection: sqlite3.Connection, run: str) -> int:
    """Forget a finished run; its ordinal, for `clear`. Raises RunUnknown, RunActive."""
    row = connection.execute("SELECT ordinal, state FROM runs WHERE id = ?", (run,)).fetchone()
    if row is None:
        raise RunUnknown(f"There is no run {run}.")
    ordinal, state = row
    if State(state) not in TERMINAL:
        raise RunActive(f"{run} is {state}.", fix="Cancel it first, and wait until it ended.")
    connection.execute("INSERT INTO forgotten VALUES (?)", (ordinal,))
    connection.execute("DELETE FROM producers WHERE run = ?", (ordinal,))
    connection.execute("DELETE FROM inputs WHERE ordinal = ?", (ordinal,))
    connection.execute("DELETE FROM runs WHERE ordinal = ?", (ordinal,))
    return int(ordinal)


def unfinished(connection: sqlite3.Connection) -> list[int]:
    """The ordinals of forgotten runs whose blocks are not all gone."""
    return [ordinal for (ordinal,) in connection.execute("SELECT ordinal FROM forgotten")]


def clear(connection: sqlite3.Connection, ordinal: int) -> bool:
    """Delete a slice of a forgotten run's blocks; whether there may be more."""
    found = list(_oldest(connection, ordinal))
    if not found:
        connection.execute("DELETE FROM forgotten WHERE ordinal = ?", (ordinal,))
        return False
    _delete(connection, ordinal, found[-1].last)
    return True


def trim(
    connection: sqlite3.Connection, rules: Retention, ordinal: int, last: int, size: int
) -> tuple[int, int]:
    """Delete the oldest blocks of a crowded run, at most a slice; the first sequence number
    that is kept, and the size that is left.
    """
    first, dropped = trimmed(rules, list(_oldest(connection, ordinal)), size, last)
    _delete(connection, ordinal, first - 1)
    return first, size - dropped


def expired_runs(connection: sqlite3.Connection, rules: Retention, at: float) -> list[str]:
    """The ids of the finished runs that must go."""
    rows = connection.execute(
        "SELECT id, ended_at, size FROM runs WHERE ended_at IS NOT NULL"
    ).fetchall()
    return expired(rules, [Ended(*row) for row in rows], at)


def _oldest(connection: sqlite3.Connection, ordinal: int) -> Iterator[Stretch]:
    rows = connection.execute(
        # The length of a blob stands in its row: the blob itself is not read.
        "SELECT first, at & 4294967295, length(wire) FROM blocks "
        "WHERE at BETWEEN ? AND ? ORDER BY at LIMIT ?",
        (key(ordinal, 0), key(ordinal + 1, 0), SLICE_ROWS),
    ).fetchall()
    size = 0
    for row in rows:
        stretch = Stretch(*row)
        yield stretch
        size += stretch.size
        if size > SLICE_BYTES:
            return


def _delete(connection: sqlite3.Connection, ordinal: int, last: int) -> None:
    connection.execute(
        "DELETE FROM blocks WHERE at BETWEEN ? AND ?", (key(ordinal, 0), key(ordinal, last))
    )
