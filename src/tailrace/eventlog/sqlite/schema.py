"""The tables, and how a row becomes a record.

runs       one row per run: all that changes with an append
inputs     a run's input, apart: SQLite rewrites a whole row with each update
blocks     one row per committed block, in the order of their commits; found by
           ordinal << 32 | last sequence number. Side by side for each run they would be
           read a little faster, but each append would then rewrite pages of its own:
           measured with 100 and 1,000 runs at once, three times the cost of the whole
forgotten  runs that are gone, while their blocks are still being deleted
producers  how far each remote producer of a run has come
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tailrace.errors import LogCorrupt, LogError, LogFull, TailraceError
from tailrace.protocol.blocks import Block
from tailrace.protocol.lifecycle import ACTIVE, State
from tailrace.protocol.runs import RunQuery, RunRecord

VERSION: Final = 3
APPLICATION: Final = 0x7461696C  # "tail": `file` and we ourselves tell our files from others
BUSY_SECONDS: Final = 10.0

logger = logging.getLogger("tailrace.eventlog")

# Of a thread at most one run is active: the second index would refuse another.
_THREADS: Final = """
CREATE INDEX runs_thread ON runs (thread, principal, ordinal) WHERE thread IS NOT NULL;
CREATE UNIQUE INDEX runs_turn ON runs (principal, thread)
    WHERE thread IS NOT NULL AND ended_at IS NULL;
"""
_TABLES: Final = f"""
CREATE TABLE runs (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    principal TEXT NOT NULL,
    created_at REAL NOT NULL,
    state TEXT NOT NULL,
    started_at REAL, ended_at REAL, watched_at REAL, timeout REAL, abandon_after REAL,
    progress BLOB, result BLOB, error BLOB,
    attempt INTEGER NOT NULL, worker TEXT NOT NULL, key TEXT,
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, size INTEGER NOT NULL,
    epoch INTEGER NOT NULL, base INTEGER NOT NULL, thread TEXT
) STRICT;
CREATE UNIQUE INDEX runs_key ON runs (principal, key) WHERE key IS NOT NULL;
CREATE INDEX runs_principal ON runs (principal, ordinal);
CREATE INDEX runs_active ON runs (worker) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE inputs (ordinal INTEGER PRIMARY KEY, input BLOB NOT NULL) STRICT;
CREATE TABLE blocks (
    at INTEGER NOT NULL UNIQUE, first INTEGER NOT NULL, epoch INTEGER NOT NULL,
    sum INTEGER NOT NULL, wire BLOB NOT NULL
) STRICT;
CREATE TABLE forgotten (ordinal INTEGER PRIMARY KEY) STRICT;
CREATE TABLE producers (
    run INTEGER NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (run, id)
) STRICT, WITHOUT ROWID;{_THREADS}"""

_OLDER: Final = {2: f"ALTER TABLE runs ADD COLUMN thread TEXT;\n{_THREADS}"}
"""What makes a file of this format of one of an older."""

_COLUMNS: Final = (
    "ordinal", "id", "operation", "principal", "created_at", "state", "started_at", "ended_at",
    "watched_at", "timeout", "abandon_after", "progress", "result", "error", "attempt", "worker",
    "key", "first_seq", "last_seq", "size", "epoch", "base", "thread",
)  # fmt: skip
SELECT_RUN: Final = (
    f"SELECT {', '.join(f'r.{name}' for name in _COLUMNS)}, i.input "
    "FROM runs r JOIN inputs i ON i.ordinal = r.ordinal"
)
INSERT_RUN: Final = (
    f"INSERT INTO runs ({', '.join(_COLUMNS[1:])}) VALUES ({', '.join('?' * len(_COLUMNS[1:]))})"
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, with our durability, to a file known to be ours."""
    connection = _opened(path)
    try:
        _settle(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def establish(path: Path) -> sqlite3.Connection:
    """The first connection: makes the tables in a new file, which is its owner's alone, and
    adds what a file of an older format lacks.

    Raises LogError, before it changes anything, for a file that is not ours.
    """
    _keep_private(path)
    connection = _opened(path)
    try:
        # WAL mode stays in the file: not a thing to do to another program's database.
        _format(connection)
        _settle(connection)
        _make(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _keep_private(path: Path) -> None:
    """What runs are given and say is nobody else's. SQLite makes the files beside it alike."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # Left as it is: several users may share one on purpose.
        if os.name == "posix" and _mode(path) & stat.S_IROTH:
            logger.warning(
                "Every user of this machine may read the event log %s; unless that is meant: "
                "chmod o= %s*",
                path.name,
                path.name,
            )
    except OSError:
        # SQLite meets the same, and its words are explained.
        return


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _settle(connection: sqlite3.Connection) -> None:
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait here: two processes that make one file get in each
            # other's way.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
    # NORMAL survives a kill but loses acknowledged appends in a power cut (measured: 10 of
    # 19 cuts); FULL costs one fdatasync per commit, which group commit shares.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA journal_size_limit=67108864")


def _format(connection: sqlite3.Connection) -> int:
    """Which one the file has; 0 for a new file. Raises LogError."""
    # The tables first: another process that is making them sets the rest with them.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        return 0
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION or version not in {*_OLDER, VERSION}:
        raise LogError(
            "The file holds another program's database, or another version's log.",
            fix=f"Name another file; this version writes log format {VERSION}.",
        )
    return int(version)


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again: another process may have come first.
        found = _format(connection)
        if found != VERSION:
            for statement in (_OLDER[found] if found else _TABLES).split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute(f"PRAGMA application_id={APPLICATION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def key(ordinal: int, seq: int) -> int:
    """A block's primary key: 2**31 runs of 2**32 events each."""
    return ordinal << 32 | seq


def values(run: RunRecord) -> list[object]:
    """A record as the parameters of INSERT_RUN."""
    row = [getattr(run, name) for name in _COLUMNS[1:]]
    return [value.value if isinstance(value, State) else value for value in row]


def record(row: tuple[object, ...]) -> RunRecord:
    """A row of SELECT_RUN as a record."""
    named = dict(zip((*_COLUMNS, "input"), row, strict=True))
    named["state"] = State(str(named["state"]))
    return RunRecord(**named)  # type: ignore[arg-type]


def question(query: RunQuery) -> tuple[str, list[object]]:
    """A query as SQL and its parameters."""
    terms: list[tuple[str, list[object]]] = []
    if query.principal is not None:
        terms.append(("r.principal = ?", [query.principal]))
    if query.states and query.states <= ACTIVE:
        # In the words of the index: this must not cost more with every run that has ended.
        terms.append(("r.ended_at IS NULL", []))
    if query.states:
        marks = ", ".join("?" * len(query.states))
        terms.append((f"r.state IN ({marks})", [state.value for state in query.states]))
    if query.operation is not None:
        terms.append(("r.operation = ?", [query.operation]))
    if query.thread is not None:
        terms.append(("r.thread = ?", [query.thread]))
    if query.text is not None:
        # instr, not LIKE: the text is the user's and % would be a wildcard.
        terms.append(("(instr(r.operation, ?) OR instr(r.id, ?))", [query.text, query.text]))
    if query.before is not None:
        terms.append(("r.ordinal < ?", [query.before]))
    if query.since is not None:
        terms.append(("r.ordinal > ?", [query.since]))
    where = " AND ".join(term for term, _ in terms) or "true"
    given = [value for _, values in terms for value in values]
    order = "ASC" if query.oldest_first else "DESC"
    return f"{SELECT_RUN} WHERE {where} ORDER BY r.ordinal {order} LIMIT ?", [*given, query.limit]


def checksum(at: int, first: int, epoch: int, wire: bytes) -> int:
    """Over the whole row: a wrong number is as bad as a wrong byte."""
    return zlib.crc32(wire, (at + (at >> 32) + first + epoch) & 0xFFFFFFFF)


_BLOCKS: Final = (
    "SELECT b.at, b.first, b.epoch, b.sum, b.wire FROM runs r "
    "JOIN blocks b ON b.at BETWEEN (r.ordinal << 32) + ? AND (r.ordinal << 32) + 4294967295 "
    "WHERE r.id = ? ORDER BY b.at"
)
_NEWEST: Final = f"{_BLOCKS} DESC LIMIT 1"

_Row = tuple[int, int, int, int, bytes]


def read(connection: sqlite3.Connection, run: str, after: int, limit: int) -> list[Block]:
    """Blocks after event `after`, about `limit` bytes. Raises LogCorrupt."""
    found = _blocks(connection, _BLOCKS, run, after, limit)
    return [found[0].after(after), *found[1:]] if found else []


def newest(connection: sqlite3.Connection, run: str) -> list[Block]:
    """The last block, if there is any. Raises LogCorrupt."""
    return _blocks(connection, _NEWEST, run, 0, 1)


def _blocks(
    connection: sqlite3.Connection, sql: str, run: str, after: int, limit: int
) -> list[Block]:
    rows = connection.execute(sql, (after + 1, run))
    try:
        return list(_joined(run, rows, limit))
    finally:
        # A cursor left half-read would pin the WAL against checkpoints.
        rows.close()


def _joined(run: str, rows: Iterable[_Row], limit: int) -> Iterator[Block]:
    """Adjoining rows as one block: many events come alone, a reader wants few large sends."""
    wires: list[bytes] = []
    first = last = epoch = size = 0
    for at, row_first, row_epoch, total, wire in rows:
        if checksum(at, row_first, row_epoch, wire) != total:
            if wires:
                # What is sound goes out; the next read begins here and says so.
                break
            raise LogCorrupt(
                f"Events {row_first} to {at & 0xFFFFFFFF} of {run} do not match their checksum.",
                fix="Restore the log file from a copy, or forget the run.",
            )
        if wires and (row_first != last + 1 or row_epoch != epoch):
            yield Block(run, first, last, b"".join(wires), epoch)
            wires.clear()
        if not wires:
            first, epoch = row_first, row_epoch
        wires.append(wire)
        last = at & 0xFFFFFFFF
        size += len(wire)
        if size >= limit:
            break
    if wires:
        yield Block(run, first, last, b"".join(wires), epoch)


# Faults of the file, the disk or another process. Nothing is wrong with what was to be
# written, so trying each job of a group alone would only fail as often, or wait as long.
_ENVIRONMENTAL: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_environmental(error: BaseException) -> bool:
    """Whether the fault lies with the place rather than with what was to be written."""
    return isinstance(error, sqlite3.Error) and _code(error) in _ENVIRONMENTAL


def explain(error: Exception, path: Path) -> TailraceError:
    """SQLite's error, or any other of a transaction, as ours."""
    explained = _explained(error, path)
    explained.__cause__ = error
    return explained


def _explained(error: Exception, path: Path) -> TailraceError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return LogFull(
            f"There is no space left for the event log {path.name}.",
            fix="Free disk space, or forget finished runs. Nothing already stored is lost.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogCorrupt(
            f"The event log {path.name} is damaged: {error}.",
            fix="Restore the file from a copy, or start with another one.",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogError(
            f"Another process held the event log for over {BUSY_SECONDS:g} s.",
            fix="Look for a stopped process or an open transaction on the file.",
        )
    if code in (0, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG):
        # No LogError: whoever offers it again when the log is well would do so for ever.
        return TailraceError(
            f"The event log {path.name} cannot take this: {type(error).__name__}: {error}.",
            fix="Look at the values that were to be kept.",
        )
    return LogError(
        f"The event log {path.name} cannot be used: {error}.",
        fix="Look at the path, its permissions and the disk.",
    )
