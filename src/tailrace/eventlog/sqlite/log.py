"""The SQLite log's face towards the event loop: submissions, reads, followed runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tailrace.errors import (
    LogClosed,
    LogError,
    LogFull,
    RunActive,
    RunUnknown,
    TailraceError,
)
from tailrace.eventlog.contract import (
    READ_BYTES,
    Append,
    Commit,
    Listener,
    Retention,
    Standing,
    admit,
)
from tailrace.eventlog.retention import Ended, Stretch, crowded, expired, trimmed
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.followed import Appended, Followed
from tailrace.eventlog.sqlite.liveness import Liveness
from tailrace.eventlog.sqlite.writer import Job, Outcome, Settle, Writer
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.lifecycle import TERMINAL, State
from tailrace.protocol.runs import RunQuery, RunRecord

_Made = TypeVar("_Made")
_Outcome = TypeVar("_Outcome")

READERS: Final = 4
_ACTIVE: Final = "r.ended_at IS NULL AND r.state NOT IN ({})".format(
    ", ".join(f"'{state}'" for state in sorted(TERMINAL))
)
"""`ended_at` chooses the index, the state decides."""


def _same(outcome: Any) -> Any:
    return outcome


def _commit_of(outcome: Appended) -> Commit:
    return outcome.commit


class SqliteLog:
    """An `EventLog` in one SQLite file, which several processes may open.

    `path` is made, with its folder, if it does not exist.
    """

    def __init__(self, path: Path | str, retention: Retention | None = None) -> None:
        self._path = Path(path).absolute()
        self._retention = retention or Retention()
        self._liveness = Liveness(self._path.with_name(self._path.name + ".workers"))
        self.worker = self._liveness.worker
        self._listener: Listener | None = None
        self._followers: Counter[str] = Counter()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._make_writer()

    def _make_writer(self) -> None:
        self._followed = Followed(self._tell)
        self._writer = Writer(self._path, self._followed)

    async def open(self) -> None:
        """See the contract."""
        self._loop = asyncio.get_running_loop()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._liveness.claim()
        except OSError as error:
            raise _misplaced(self._path, error) from error
        try:
            await asyncio.to_thread(self._writer.start)
        except BaseException:
            self._let_go()
            raise
        self._pool = ThreadPoolExecutor(READERS, "tailrace-reader")

    async def close(self) -> None:
        """See the contract."""
        # Both at once: what is asked of the log from here on is refused, not forgotten.
        self._writer.stop()
        pool, self._pool = self._pool, None
        await asyncio.to_thread(self._writer.join)
        if pool is not None:
            await asyncio.to_thread(pool.shutdown)
        # The writer's last outcomes were posted before it ended: let them arrive.
        await asyncio.sleep(0)
        self._let_go()

    def _let_go(self) -> None:
        for connection in self._readers:
            connection.close()
        self._readers.clear()
        self._local = threading.local()
        self._followers.clear()
        self._liveness.release()
        self._make_writer()

    def listen(self, listener: Listener) -> None:
        """See the contract."""
        self._listener = listener

    def follow(self, run: str, after: int) -> None:
        """See the contract."""
        if self._pool is None:
            return
        self._followers[run] += 1
        if self._followers[run] == 1:
            self._wish(run, after)

    def unfollow(self, run: str) -> None:
        """See the contract."""
        if self._pool is None:
            return
        self._followers[run] -= 1
        if self._followers[run] <= 0:
            del self._followers[run]
            self._wish(run, None)

    def _wish(self, run: str, after: int | None) -> None:
        self._followed.wish(run, after)
        self._writer.nudge()

    def create(self, run: RunRecord) -> asyncio.Future[RunRecord]:
        """See the contract."""
        return self._submit(partial(_create, run=run))

    def append(self, append: Append) -> asyncio.Future[Commit]:
        """See the contract."""
        return self._submit(partial(self._append, append=append), _commit_of)

    async def get(self, run: str) -> RunRecord | None:
        """See the contract."""
        sql = f"{schema.SELECT_RUN} WHERE r.id = ?"
        rows = await self._ask(lambda c: c.execute(sql, (run,)).fetchall())
        return schema.record(rows[0]) if rows else None

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """See the contract."""
        sql, given = schema.question(query)
        rows = await self._ask(lambda c: c.execute(sql, given).fetchall())
        return [schema.record(row) for row in rows]

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        """See the contract."""
        return await self._ask(partial(schema.read, run=run, after=after, limit=limit))

    async def forget(self, run: str) -> None:
        """See the contract."""
        await self._submit(partial(_forget, run=run))

    async def orphans(self) -> list[RunRecord]:
        """See the contract."""
        sql = f"SELECT DISTINCT r.worker FROM runs r WHERE {_ACTIVE} AND r.worker <> ''"
        rows = await self._ask(lambda c: c.execute(sql).fetchall())
        dead = [worker for (worker,) in rows if not self._liveness.alive(worker)]
        found: list[RunRecord] = []
        for worker in dead:
            found += await self._ask(partial(_active, worker=worker))
        return found

    async def touch(self, runs: Sequence[str], at: float) -> None:
        """See the contract."""
        await self._submit(partial(_touch, runs=runs, at=at))

    async def sweep(self, at: float) -> int:
        """See the contract."""
        sql = "SELECT id, ended_at, size FROM runs WHERE ended_at IS NOT NULL"
        rows = await self._ask(lambda c: c.execute(sql).fetchall())
        gone = expired(self._retention, [Ended(*row) for row in rows], at)
        count = 0
        for run in gone:
            # Another process may sweep as well.
            with contextlib.suppress(RunUnknown):
                # One transaction each: forgetting a large run must not hold up every append.
                await self._submit(partial(_forget, run=run))
                count += 1
        return count

    # --- towards the threads ---------------------------------------------------------

    def _submit(
        self,
        act: Callable[[sqlite3.Connection], _Outcome],
        unwrap: Callable[[_Outcome], _Made] = _same,
    ) -> asyncio.Future[_Made]:
        future: asyncio.Future[_Made] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, TailraceError):
                future.set_exception(outcome)
            else:
                future.set_result(unwrap(outcome))

        try:
            self._writer.submit(Job(act, settle))
        except LogClosed as error:
            future.set_exception(error)
        return future

    async def _ask(self, read: Callable[[sqlite3.Connection], _Made]) -> _Made:
        if self._pool is None or self._loop is None:
            raise LogClosed("The event log is closed.", fix="Open it, or start the engine.")
        return await self._loop.run_in_executor(self._pool, self._read_with, read)

    def _read_with(self, read: Callable[[sqlite3.Connection], _Made]) -> _Made:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = schema.connect(self._path)
                connection.execute("PRAGMA query_only=ON")
                self._readers.append(connection)
            return read(connection)
        except sqlite3.Error as error:
            raise schema.explain(error, self._path) from error

    # --- on the writer thread --------------------------------------------------------

    def _tell(self, blocks: Sequence[Block], outcomes: Sequence[tuple[Settle, Outcome]]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrive, blocks, outcomes)

    def _arrive(self, blocks: Sequence[Block], outcomes: Sequence[tuple[Settle, Outcome]]) -> None:
        try:
            for block in blocks:
                if self._listener is not None and block.run in self._followers:
                    self._listener(block)
        finally:
            # Whatever became of the listener, the appends have happened.
            for settle, outcome in outcomes:
                settle(outcome)

    def _append(self, connection: sqlite3.Connection, append: Append) -> Appended:
        row = connection.execute(
            "SELECT ordinal, state, attempt, first_seq, last_seq, size, epoch "
            "FROM runs WHERE id = ?",
            (append.run,),
        ).fetchone()
        ordinal, state, attempt, kept_from, head, size, epoch = row or (0, "queued", 0, 1, 0, 0, 0)
        producer = append.producer
        position: tuple[int, int] | None = None
        if producer is not None:
            position = connection.execute(
                "SELECT epoch, seq FROM producers WHERE run = ? AND id = ?",
                (ordinal, producer.id),
            ).fetchone()
        standing = Standing(State(state), attempt) if row else None
        drafts = admit(standing, append, position)
        if append.drafts and not drafts:
            return Appended(Commit(append.run, head + 1, head, State(state)))

        first, last = head + 1, head + len(drafts)
        moved = State(state) if append.move is None else append.move[1]
        blocks: list[Block] = []
        if drafts:
            wire = pack(first, drafts, epoch)
            size += len(wire)
            at = schema.key(ordinal, last)
            total = schema.checksum(at, first, epoch, wire)
            connection.execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (at, first, epoch, total, wire)
            )
            blocks.append(Block(append.run, first, last, wire, epoch))
        if producer is not None and drafts:
            connection.execute(
                "INSERT OR REPLACE INTO producers VALUES (?, ?, ?, ?)",
                (ordinal, producer.id, producer.epoch, producer.seq + len(append.drafts) - 1),
            )
        if crowded(self._retention, last - kept_from + 1, size):
            kept_from, size = self._trim(connection, ordinal, size)
        names = "".join(f", {name} = ?" for name in append.patch)
        connection.execute(
            f"UPDATE runs SET first_seq = ?, last_seq = ?, size = ?, state = ?{names} "
            "WHERE ordinal = ?",
            (kept_from, last, size, moved.value, *append.patch.values(), ordinal),
        )
        return Appended(Commit(append.run, first, last, moved), blocks)

    def _trim(self, connection: sqlite3.Connection, ordinal: int, size: int) -> tuple[int, int]:
        low, high = schema.key(ordinal, 0), schema.key(ordinal + 1, 0)
        rows = connection.execute(
            "SELECT first, at & 4294967295, length(wire) FROM blocks "
            "WHERE at BETWEEN ? AND ? ORDER BY at",
            (low, high),
        )
        first, dropped = trimmed(self._retention, [Stretch(*row) for row in rows], size)
        connection.execute(
            "DELETE FROM blocks WHERE at BETWEEN ? AND ?", (low, schema.key(ordinal, first - 1))
        )
        return first, size - dropped


def _create(connection: sqlite3.Connection, run: RunRecord) -> RunRecord:
    if run.key is not None:
        row = connection.execute(
            f"{schema.SELECT_RUN} WHERE r.principal = ? AND r.key = ?", (run.principal, run.key)
        ).fetchone()
        if row is not None:
            return schema.record(row)
    ordinal = connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
    connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, run.input))
    return run.with_(ordinal=ordinal)


def _active(connection: sqlite3.Connection, worker: str) -> list[RunRecord]:
    sql = f"{schema.SELECT_RUN} WHERE {_ACTIVE} AND r.worker = ?"
    return [schema.record(row) for row in connection.execute(sql, (worker,))]


def _touch(connection: sqlite3.Connection, runs: Sequence[str], at: float) -> None:
    sql = "UPDATE runs SET watched_at = ? WHERE id = ?"
    connection.executemany(sql, [(at, run) for run in runs])


def _forget(connection: sqlite3.Connection, run: str) -> None:
    row = connection.execute("SELECT ordinal, state FROM runs WHERE id = ?", (run,)).fetchone()
    if row is None:
        raise RunUnknown(f"There is no run {run}.")
    ordinal, state = row
    if State(state) not in TERMINAL:
        raise RunActive(f"{run} is {state}.", fix="Cancel it first, and wait until it ended.")
    span = (schema.key(ordinal, 0), schema.key(ordinal + 1, 0))
    connection.execute("DELETE FROM blocks WHERE at BETWEEN ? AND ?", span)
    connection.execute("DELETE FROM producers WHERE run = ?", (ordinal,))
    connection.execute("DELETE FROM inputs WHERE ordinal = ?", (ordinal,))
    connection.execute("DELETE FROM runs WHERE ordinal = ?", (ordinal,))


def _misplaced(path: Path, error: OSError) -> LogError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LogFull(f"There is no space left for the event log {path.name}.")
    return LogError(
        f"The event log cannot be kept at {path}: {error.strerror}.",
        fix="Name a file in a folder this user may write to, or use memory:",
    )
