"""One thread that writes: it takes everything pending of all runs and commits it at once.

An fsync costs 0.2 to 10 ms whatever it covers. While one is under way the next group
gathers, so the batch grows with the load and an idle log adds no latency. A commit costs the
processor what a dozen appends do: where several runs are busy, a group waits a moment for more,
as long as they come.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, Protocol

from tailrace.errors import LogClosed, TailraceError
from tailrace.eventlog.contract import Append
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.ledger import Ledger

POLL_SECONDS: Final = 0.025
"""How often commits of other processes are looked for while a run is followed:
watchers elsewhere shall see an event within 50 ms. One PRAGMA that reads shared memory, a
few microseconds."""

GATHER_SECONDS: Final = 0.01
"""How long after the last commit began the next begins at the latest, where groups gather."""

_MOMENT_SECONDS: Final = 0.001
_SEVERAL: Final = 3

logger = logging.getLogger("tailrace.eventlog")

Verdict = Any
Settle = Callable[[Verdict], None]


class Job(NamedTuple):
    """Something to do inside a transaction: an append, or anything else.

    `act` must refuse (raise a TailraceError) before it writes, so that a refusal leaves
    nothing behind in the shared transaction.
    """

    act: Append | Callable[[sqlite3.Connection], Verdict]
    settle: Settle


class Lookout(Protocol):
    """Who wants to know what is committed, by us or by others. Called on the thread."""

    @property
    def is_watching(self) -> bool:
        """Whether commits of others matter."""

    def heed(self, connection: sqlite3.Connection) -> None:
        """Attend to what was asked for since the last call, before the next group."""

    def deliver(self, outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        """Take a group's outcomes, in order, after their commit."""

    def look_around(self, connection: sqlite3.Connection) -> None:
        """Somebody else has committed something."""


class Writer:
    """The writer thread. Everything but its own loop is called on the event loop's."""

    def __init__(self, path: Path, lookout: Lookout, ledger: Ledger) -> None:
        self._path = path
        self._lookout = lookout
        self._ledger = ledger
        self._jobs: list[Job] = []
        self._queue = threading.Lock()
        self._wake = threading.Event()
        self._is_open = False
        self._connection: sqlite3.Connection | None = None
        # The state of others' commits that was looked at last; None after a reconnection,
        # because each connection counts from its own start.
        self._version: int | None = None
        self._is_blind = False
        self._gather_until = 0.0
        self._thread = threading.Thread(target=self._run, name="tailrace-writer", daemon=True)

    def start(self) -> None:
        """Open the file and start. Raises what `schema.explain` makes of a failure."""
        try:
            self._connection = schema.establish(self._path)
        except sqlite3.Error as error:
            raise schema.explain(error, self._path) from error
        self._is_open = True
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises LogClosed."""
        if not self._is_open:
            raise LogClosed("The event log is closed.", fix="Open it, or start the engine.")
        with self._queue:
            self._jobs.append(job)
            is_first = len(self._jobs) == 1
        # Whoever came before has woken the thread, and it has not looked yet.
        if is_first:
            self._wake.set()

    def nudge(self) -> None:
        """Have the lookout heed what it was asked for."""
        self._wake.set()

    def stop(self) -> None:
        """Take nothing more. On the event loop, like `submit`: what came before is done."""
        self._is_open = False
        self._wake.set()

    def join(self) -> None:
        """After `stop`: wait until what is queued is committed, and let go of the file."""
        if self._thread.is_alive():
            self._thread.join()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self) -> None:
        while True:
            self._wake.wait(POLL_SECONDS if self._lookout.is_watching else None)
            self._wake.clear()
            if self._lookout.is_watching:
                self._look(self._lookout.heed)
            self._gather()
            # Before the jobs are taken: what was submitted before `stop` is then among them.
            is_open = self._is_open
            with self._queue:
                group, self._jobs = self._jobs, []
            if group:
                began = monotonic()
                self._lookout.deliver(self._commit(group))
                self._gather_until = began + GATHER_SECONDS if len(group) >= _SEVERAL else 0.0
            if not is_open:
                return
            if self._lookout.is_watching:
                self._look(self._look_around)

    def _gather(self) -> None:
        """Where the last group was one of several, let the next become so: until nothing came for
        a moment. Those who wait for this commit before they go on come no more, and at once.
        """
        seen = 0
        while self._is_open and monotonic() < self._gather_until:
            count = len(self._jobs)
            if count == seen:
                return
            seen = count
            sleep(_MOMENT_SECONDS)

    def _look(self, look: Callable[[sqlite3.Connection], None]) -> None:
        # A failure here loses a wake-up, never an event: whoever reads is told of it.
        try:
            look(self._connected())
            self._is_blind = False
        except sqlite3.Error:
            if not self._is_blind:
                self._is_blind = True
                logger.exception("What is new in %s cannot be looked for", self._path.name)

    def _look_around(self, connection: sqlite3.Connection) -> None:
        # Changes only by commits of other connections; within this process nobody else
        # writes, so a change means another process.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._lookout.look_around(connection)
            # Only now: what a failure left out is looked for again.
            self._version = version

    def _commit(self, group: list[Job]) -> list[tuple[Settle, Verdict]]:
        try:
            return self._transact(group)
        # Whatever it is, this thread must go on: every run's events pass through it.
        except Exception as error:  # noqa: BLE001
            if len(group) > 1 and not schema.is_environmental(error):
                # One job may be at fault; alone, each of them gets its own verdict.
                return [outcome for job in group for outcome in self._commit([job])]
            return [(job.settle, schema.explain(error, self._path)) for job in group]

    def _transact(self, group: list[Job]) -> list[tuple[Settle, Verdict]]:
        connection = self._connected()
        outcomes: list[tuple[Settle, Verdict]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._ledger.begin(connection)
            for act, settle in group:
                try:
                    verdict = self._do(act, connection)
                except TailraceError as refusal:
                    verdict = refusal
                outcomes.append((settle, verdict))
            self._ledger.write(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, error)
            raise
        return outcomes

    def _do(
        self, act: Append | Callable[[sqlite3.Connection], Verdict], connection: sqlite3.Connection
    ) -> Verdict:
        if isinstance(act, Append):
            return self._ledger.append(connection, act)
        # It may look at runs, change them, forget them.
        self._ledger.write(connection)
        self._ledger.forget()
        return act(connection)

    def _undo(self, connection: sqlite3.Connection, error: BaseException) -> None:
        """Roll back; where the disk is in doubt, also drop the connection.

        After a failed fsync SQLite cannot know what the disk has, and only a new connection
        reads it again (the lesson of PostgreSQL's fsync bug).
        """
        self._ledger.undo()
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not schema.is_environmental(error):
                return
        self._connection = None
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = schema.connect(self._path)
            self._version = None
        return self._connection
