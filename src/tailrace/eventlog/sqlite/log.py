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
    RunUnknown,
    TailraceError,
)
from tailrace.eventlog.contract import (
    READ_BYTES,
    Append,
    Commit,
    Listener,
    Retention,
    busy,
)
from tailrace.eventlog.sqlite import erasure, schema
from tailrace.eventlog.sqlite.followed import Followed
from tailrace.eventlog.sqlite.ledger import Appended, Ledger
from tailrace.eventlog.sqlite.liveness import Liveness
from tailrace.eventlog.sqlite.writer import Job, Settle, Verdict, Writer
from tailrace.protocol.blocks import Block
from tailrace.protocol.lifecycle import TERMINAL
from tailrace.protocol.runs import RunQuery, RunRecord

_Made = TypeVar("_Made")

READERS: Final = 4
_ACTIVE: Final = "r.ended_at IS NULL AND r.state NOT IN ({})".format(
    ", ".join(f"'{state}'" for state in sorted(TERMINAL))
)
"""`ended_at` chooses the index, the state decides."""
_GOING_ON: Final = (
    "SELECT id FROM runs WHERE principal = ? AND thread = ? AND ended_at IS NULL LIMIT 1"
)


def _settle(future: asyncio.Future[Any], outcome: Verdict) -> None:
    if future.done():
        return
    if isinstance(outcome, Appended):
        future.set_result(outcome.commit)
    elif isinstance(outcome, TailraceError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class SqliteLog:
    """An `EventLog` in one SQLite file, which several processes may open.

    `path` is made, with its folder, if it does not exist.
    """

    def __init__(self, path: Path | str, retention: Retention | None = None) -> None:
        # Resolved: who comes by a symbolic link must find the same workers beside the file.
        self._path = Path(path).resolve()
        self._retention = retention or Retention()
        self._liveness = Liveness(self._path.with_name(self._path.name + ".workers"))
        self._listener: Listener | None = None
        self._followers: Counter[str] = Counter()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._make_writer()

    def _make_writer(self) -> None:
        self._followed = Followed(self._tell)
        self._writer = Writer(self._path, self._followed, Ledger(self._retention))

    @property
    def worker(self) -> str:
        """See the contract."""
        return self._liveness.worker

    @property
    def folder(self) -> Path:
        """See the contract: beside the file."""
        return self._path.with_name(f"{self._path.name}.spools")

    async def open(self) -> None:
        """See the contract. Opened again, because its event loop has ended, it starts anew."""
        if self._pool is not None:
            await self.close()
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
        return self._submit(append)

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
        await self._clear(await self._submit(partial(erasure.forget, run=run)))

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
        for ordinal in await self._ask(erasure.unfinished):
            await self._clear(ordinal)
        count = 0
        for run in await self._ask(partial(erasure.expired_runs, rules=self._retention, at=at)):
            # Another process may sweep as well.
            with contextlib.suppress(RunUnknown):
                await self.forget(run)
                count += 1
        return count

    async def _clear(self, ordinal: int) -> None:
        has_more = True
        while has_more:
            has_more = await self._submit(partial(erasure.clear, ordinal=ordinal))

    # --- towards the threads ---------------------------------------------------------

    def _submit(self, act: Append | Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if loop is not self._loop and self._pool is not None:
            future.set_exception(
                LogClosed(
                    "The event log belongs to another event loop.",
                    fix="Use one engine in one event loop.",
                )
            )
            return future
        try:
            self._writer.submit(Job(act, partial(_settle, future)))
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

    def _tell(self, blocks: Sequence[Block], outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        if self._loop is not None:
            # The loop may have ended under an open log: then nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrive, blocks, outcomes)

    def _arrive(self, blocks: Sequence[Block], outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        try:
            for block in blocks:
                if self._listener is not None and block.run in self._followers:
                    self._listener(block)
        finally:
            # Whatever became of the listener, the appends have happened.
            for settle, outcome in outcomes:
                settle(outcome)


def _create(connection: sqlite3.Connection, run: RunRecord) -> RunRecord:
    if run.key is not None:
        row = connection.execute(
            f"{schema.SELECT_RUN} WHERE r.principal = ? AND r.key = ?", (run.principal, run.key)
        ).fetchone()
        if row is not None:
            return schema.record(row)
    if run.thread is not None:
        # Nobody can get ahead: the transaction has the file's one lock for writers.
        row = connection.execute(_GOING_ON, (run.principal, run.thread)).fetchone()
        if row is not None:
            raise busy(run.thread, row[0])
    ordinal = connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
    connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, run.input))
    return run.with_(ordinal=ordinal)


def _active(connection: sqlite3.Connection, worker: str) -> list[RunRecord]:
    sql = f"{schema.SELECT_RUN} WHERE {_ACTIVE} AND r.worker = ?"
    return [schema.record(row) for row in connection.execute(sql, (worker,))]


def _touch(connection: sqlite3.Connection, runs: Sequence[str], at: float) -> None:
    sql = "UPDATE runs SET watched_at = ? WHERE id = ?"
    connection.executemany(sql, [(at, run) for run in runs])


def _misplaced(path: Path, error: OSError) -> LogError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LogFull(f"There is no space left for the event log {path.name}.")
    return LogError(
        f"The event log cannot be kept at {path}: {error.strerror}.",
        fix="Name a file in a folder this user may write to, or use memory:",
    )
