"""Starts, times out, cancels and ends runs.

The supervisor of a run only ever *offers* what happened; the log decides. A cancel reaches
it the same way whether it came from this process or another: as an event in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tailrace.errors import (
    Conflict,
    LogClosed,
    LogError,
    RunCancelled,
    TailraceError,
)
from tailrace.eventlog.contract import Append, EventLog
from tailrace.hub import Hub
from tailrace.operations import Operation, Operations
from tailrace.outbox import Outbox
from tailrace.outcome import Outcome, failure, settle
from tailrace.protocol import events
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import draft, loads
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.run import RunContext
from tailrace.work import working

GRACE_SECONDS: Final = 5.0
"""How long work that is asked to stop may take before it is forced."""

FORCED_SECONDS: Final = 0.8
"""How long forced work may take before it is given up (P6: grace + 1 s)."""

_WATCH_SECONDS: Final = 0.25
# How old a note in the log may be while somebody watches at another process: engines write
# it once a second.
_NOTED_SECONDS: Final = 1.25
_RETRY_SECONDS: Final = 0.5
# How long a process that goes away waits for a log that cannot write (disk full). What it
# leaves behind, the next one finds and ends as lost.
_LAST_SECONDS: Final = 2.0
_CANCELLING: Final = State.CANCELLING.value
_HOLE_BYTES: Final = 16 * 1024
_STATUS_MARK: Final = b"\nevent: status\n"

_STOPPED: Final = Outcome(
    Signal.LOSE, error={"error": "The server was stopped while the run was going on."}
)

_NOT_STARTED: Final = Outcome(
    Signal.LOSE, error={"error": "The server was stopped before the run was started."}
)
_ITSELF: Final = Outcome(Signal.STOPPED, reason="the work cancelled itself")

logger = logging.getLogger("tailrace.supervisor")


@dataclass(slots=True, eq=False)
class _Going:
    """One run that executes here. `stop` is set once, to the reason it must end early."""

    record: RunRecord
    stop: asyncio.Future[Outcome]
    watched_at: float = field(default_factory=time.monotonic)
    looking: asyncio.Task[None] | None = None
    ending: asyncio.Timeout | None = None
    is_leaving: bool = False
    seen: int = 0
    reading: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """The process goes away."""
        self.is_leaving = True
        if self.ending is not None and self.ending.when() is None:
            self.ending.reschedule(asyncio.get_running_loop().time() + _LAST_SECONDS)
        self.ask(_STOPPED)

    def ask(self, outcome: Outcome) -> None:
        if not self.stop.done():
            self.stop.set_result(outcome)


class Supervisor:
    """Executes runs of known operations against one log."""

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        operations: Operations,
        *,
        grace: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._hub = hub
        self._operations = operations
        self._grace = grace
        self._clock = clock
        self._going: dict[str, _Going] = {}
        self._is_leaving = False

    @property
    def going(self) -> int:
        """How many runs execute here."""
        return len(self._going)

    def notice(self, block: Block) -> None:
        """Look at a committed block of a run that executes here: is it asked to stop?"""
        going = self._going.get(block.run)
        if going is None:
            return
        seen, going.seen = going.seen, max(going.seen, block.last)
        if block.first > seen + 1:
            # Another process wrote in between, and may have wished to cancel.
            going.reading = asyncio.create_task(self._catch_up(going, seen, block.first))
        self._heed(going, block)

    async def _catch_up(self, going: _Going, after: int, end: int) -> None:
        """What the log did not tell of, it still has."""
        while after + 1 < end and not going.stop.done():
            try:
                blocks = await self._log.read(going.record.id, after, _HOLE_BYTES)
            except LogClosed:
                return
            except LogError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for block in blocks:
                self._heed(going, block)
            after = blocks[-1].last if blocks else end

    def _heed(self, going: _Going, block: Block) -> None:
        if block.ends:
            going.ask(Outcome(Signal.LOSE))
        elif _STATUS_MARK in block.wire:
            for event in block.events:
                if event.type == events.STATUS and event.payload.get("status") == _CANCELLING:
                    reason = str(event.payload.get("reason", "requested"))
                    going.looking = asyncio.create_task(self._look(going, reason))

    async def _look(self, going: _Going, reason: str) -> None:
        """Believe the state, not the event: work may emit a `status` of any wording."""
        try:
            record = await self._log.get(going.record.id)
        except LogError:
            # Nobody can tell; a wish to cancel that is overlooked comes never again.
            record = None
        if record is None or record.state is State.CANCELLING:
            going.ask(Outcome(Signal.STOPPED, reason=reason))

    async def execute(self, run: str) -> None:
        """Claim a queued run and see it to its end. Does nothing for a run that is taken."""
        try:
            record = await self._claim(run)
            if record is None:
                return
            going = _Going(record, asyncio.get_running_loop().create_future())
            going.seen = record.last_seq
            if self._is_leaving:
                going.leave()
            self._going[run] = going
            self._log.follow(run, record.last_seq)
            try:
                await self._supervise(going)
            finally:
                del self._going[run]
                self._log.unfollow(run)
        except (TailraceError, TimeoutError) as error:
            logger.warning("%s was left as it is: %s", run, str(error) or "its log cannot write")

    def begin(self) -> None:
        """Execute runs, again if need be."""
        self._is_leaving = False
        self._going.clear()

    def stop_all(self) -> None:
        """Have every run here end as lost, also those that come yet: the process goes away."""
        self._is_leaving = True
        for going in tuple(self._going.values()):
            going.leave()

    async def _claim(self, run: str) -> RunRecord | None:
        """None for a run that is taken, or that this process has no time for any more."""
        while True:
            try:
                record = await self._log.get(run)
                if record is None or record.state is not State.QUEUED:
                    return None
                if self._is_leaving:
                    await settle(self._log, record, _NOT_STARTED, patient=False)
                    return None
                return await self._start(record)
            except Conflict:
                return None
            except LogClosed:
                raise
            except LogError as error:
                if self._is_leaving:
                    raise TimeoutError from error
                logger.error("%s cannot be started yet: %s %s", run, error, error.fix)  # noqa: TRY400
                await asyncio.sleep(_RETRY_SECONDS)

    async def _start(self, record: RunRecord) -> RunRecord:
        now = self._clock()
        attempt = record.attempt + 1
        told = draft(
            events.START,
            {"run": record.id, "operation": record.operation, "input": loads(record.input),
             "attempt": attempt},
            now,
        )  # fmt: skip
        patch = {"started_at": now, "attempt": attempt, "worker": self._log.worker}
        move = (State.QUEUED, State.RUNNING)
        commit = await self._log.append(
            Append(record.id, (told,), move=move, patch=patch, fence=record.attempt)
        )
        return record.with_(**patch, state=State.RUNNING, last_seq=commit.last)

    async def _supervise(self, going: _Going) -> None:
        record = going.record
        outbox = Outbox(
            self._log, record.id, record.attempt, lambda error: going.ask(failure(error))
        )
        context = RunContext(record, outbox)
        try:
            outcome = await self._outcome(going, context, outbox)
            async with asyncio.timeout(_LAST_SECONDS if going.is_leaving else None) as going.ending:
                outbox.seal()
                try:
                    await outbox.drain()
                except TailraceError as error:
                    outcome = failure(error)
                outbox.close()
                await settle(self._log, record, outcome, fence=record.attempt, clock=self._clock)
        finally:
            context.request_stop()
            outbox.close()

    async def _outcome(self, going: _Going, context: RunContext, outbox: Outbox) -> Outcome:
        try:
            operation = self._operations.get(going.record.operation)
            return await self._work(operation, going, context, outbox)
        except Exception as error:  # noqa: BLE001 - the input's own validators raise anything
            return _failed(going.record.id, error)

    async def _work(
        self,
        operation: Operation[..., object],
        going: _Going,
        context: RunContext,
        outbox: Outbox,
    ) -> Outcome:
        record = going.record
        with context.entered():
            work = asyncio.create_task(
                working(operation, record, context, outbox), name=f"tailrace-work-{record.id}"
            )
        try:
            stop = await self._until_stopped(work, going)
        except BaseException:
            work.cancel()
            work.add_done_callback(_retrieve)
            raise
        if stop is None:
            return _verdict(work)
        grace = self._grace if operation.grace is None else operation.grace
        context.request_stop()
        for seconds in (grace, FORCED_SECONDS):
            work.cancel()
            await asyncio.wait((work,), timeout=seconds)
            if work.done():
                _retrieve(work)
                return stop
            stop = replace(stop, forced=True)
        logger.error(
            "%s ignores that it should stop and was given up after %g s; its %s goes on",
            record.id, grace + FORCED_SECONDS, operation.kind,
        )  # fmt: skip
        work.add_done_callback(_retrieve)
        return stop

    async def _until_stopped(self, work: asyncio.Task[object], going: _Going) -> Outcome | None:
        """None when the work is done; otherwise why it must stop."""
        record = going.record
        loop = asyncio.get_running_loop()
        ends_at = None if record.timeout is None else loop.time() + record.timeout
        while True:
            wait = None if ends_at is None else max(0.0, ends_at - loop.time())
            if record.abandon_after is not None:
                wait = _WATCH_SECONDS if wait is None else min(wait, _WATCH_SECONDS)
            try:
                await asyncio.wait(
                    (work, going.stop), timeout=wait, return_when=asyncio.FIRST_COMPLETED
                )
            except asyncio.CancelledError:
                # The event loop ends under an engine that nobody closed (asyncio.run cancels
                # all tasks, and waits). Work that goes on regardless would keep it for ever.
                going.leave()
                return _STOPPED
            if work.done():
                return None
            if going.stop.done():
                return going.stop.result()
            if ends_at is not None and loop.time() >= ends_at:
                said = f"The run took longer than its timeout of {record.timeout:g} s."
                return Outcome(Signal.TIMEOUT, error={"error": said})
            if await self._is_abandoned(going):
                return await self._abandon(going)

    async def _is_abandoned(self, going: _Going) -> bool:
        limit = going.record.abandon_after
        if limit is None:
            return False
        now = time.monotonic()
        if self._hub.watchers(going.record.id):
            going.watched_at = now
        if now - going.watched_at <= limit:
            return False
        # Nobody here; but a watcher may be at another process that shares the log.
        try:
            record = await self._log.get(going.record.id)
        except LogError:
            # Nobody can tell, so nobody is cut off.
            return False
        if record is not None and record.watched_at is not None:
            age = max(0.0, self._clock() - record.watched_at - _NOTED_SECONDS)
            going.watched_at = max(going.watched_at, now - age)
        return now - going.watched_at > limit

    async def _abandon(self, going: _Going) -> Outcome:
        record, wish = going.record, Outcome(Signal.CANCEL, reason="abandoned")
        # A log that cannot write must not keep the work from being stopped.
        with contextlib.suppress(LogError):
            await settle(
                self._log, record, wish, fence=record.attempt, clock=self._clock, patient=False
            )
        return Outcome(Signal.STOPPED, reason="abandoned")


def _verdict(work: asyncio.Task[object]) -> Outcome:
    if work.cancelled():
        return _ITSELF
    error = work.exception()
    if error is None:
        return Outcome(Signal.FINISH, result=work.result())
    return _ITSELF if isinstance(error, RunCancelled) else _failed(work.get_name(), error)


def _failed(name: str, error: BaseException) -> Outcome:
    if not isinstance(error, TailraceError):
        logger.error("%s failed", name, exc_info=error)
    return failure(error)


def _retrieve(work: asyncio.Task[object]) -> None:
    """Look at an ending nobody waits for any more, so that asyncio does not complain."""
    if not work.cancelled():
        work.exception()
