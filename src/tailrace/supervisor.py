"""Starts, times out, cancels and ends runs.

The supervisor of a run only ever *offers* what happened; the log decides. A cancel reaches
it the same way whether it came from this process or another: as an event in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from tailrace.errors import LogClosed, LogError, RunCancelled, TailraceError, WriterFenced
from tailrace.eventlog.contract import EventLog
from tailrace.going import STOPPED, Going
from tailrace.hub import Hub
from tailrace.operations import Operation
from tailrace.outbox import Outbox
from tailrace.outcome import Outcome, failure, settle
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.registry import Operations
from tailrace.run import RunContext
from tailrace.slots import Slots
from tailrace.work import working

Made = TypeVar("Made")

GRACE_SECONDS: Final = 5.0
"""How long work that is asked to stop may take before it is forced."""

FORCED_SECONDS: Final = 0.8
"""How long forced work may take before it is given up (P6: grace + 1 s)."""

_WATCH_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 0.5

_NOT_STARTED: Final = Outcome(
    Signal.LOSE, error={"error": "The server was stopped before the run was started."}
)
_ITSELF: Final = Outcome(Signal.STOPPED, reason="the work cancelled itself")

logger = logging.getLogger("tailrace.supervisor")


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
        self._going: dict[str, Going] = {}
        self._slots: dict[str, Slots] = {}
        self._is_leaving = False

    @property
    def going(self) -> int:
        """How many runs execute here; those that wait for a slot do not."""
        return sum(going.began for going in self._going.values())

    def notice(self, block: Block) -> None:
        """Look at a committed block of a run that is here: is it asked to stop?"""
        going = self._going.get(block.run)
        if going is not None:
            going.notice(block)

    async def execute(self, run: str) -> None:
        """See a queued run to its end, or one that this process has taken over from another.
        Does nothing for a run that is taken.
        """
        if run in self._going:
            return
        going = self._going[run] = Going(self._log, run, self._clock)
        if self._is_leaving:
            going.leave()
        try:
            await self._execute(going)
        except (TailraceError, TimeoutError) as error:
            logger.warning("%s was left as it is: %s", run, str(error) or "its log cannot write")
        finally:
            # An event loop may have ended under it, and the run may be another's by now.
            if self._going.get(run) is going:
                del self._going[run]

    def begin(self) -> None:
        """Execute runs, again if need be."""
        self._is_leaving = False
        self._going.clear()
        self._slots.clear()

    def stop_all(self) -> None:
        """Have every run here end as lost, also those that come yet: the process goes away.
        Those that survive it are let go.
        """
        self._is_leaving = True
        for going in tuple(self._going.values()):
            going.leave()

    async def _execute(self, going: Going) -> None:
        record = await self._insist(going, lambda: self._log.get(going.run))
        if record is None:
            return
        is_queued = record.state is State.QUEUED
        operation = (
            self._operations.take(record.id, record.operation)
            if is_queued
            else self._operations.heir(record.operation)
        )
        if not is_queued and (going.is_leaving or not self._is_taken_over(record, operation)):
            return
        going.follow(record)
        try:
            with self._slots_of(operation).place(record.ordinal, at_once=not is_queued) as place:
                await going.wait(place)
                if not is_queued:
                    going.resume()
                elif not await self._insist(going, lambda: self._start(going, operation)):
                    return
                await self._supervise(going, operation)
        finally:
            going.unfollow()

    async def _insist(self, going: Going, act: Callable[[], Awaitable[Made]]) -> Made:
        """Have the log do something that it perhaps cannot do yet. Raises TimeoutError if the
        process has no time for that any more.
        """
        while True:
            try:
                return await act()
            except LogClosed:
                raise
            except LogError as error:
                if going.is_leaving:
                    raise TimeoutError from error
                logger.error("%s cannot be started yet: %s %s", going.run, error, error.fix)  # noqa: TRY400
                await asyncio.sleep(_RETRY_SECONDS)

    def _is_taken_over(self, run: RunRecord, operation: Operation[..., object] | None) -> bool:
        """Whether `upkeep` has put it into this process's hands, and it may begin twice."""
        return (
            not run.ended
            and run.worker == self._log.worker
            and operation is not None
            and operation.traits.resumes is not None
        )

    def _slots_of(self, operation: Operation[..., object] | None) -> Slots:
        if operation is None:
            return Slots()
        return self._slots.setdefault(operation.name, Slots(operation.concurrency))

    async def _start(self, going: Going, operation: Operation[..., object] | None) -> bool:
        if going.is_leaving:
            if operation is None or not operation.traits.lets_go(going.run):
                fence = going.record.attempt
                await settle(
                    self._log, going.record, _NOT_STARTED, fence=fence, clock=self._clock,
                    patient=False,
                )  # fmt: skip
            return False
        return await going.start(_title(operation, going.record))

    async def _supervise(self, going: Going, operation: Operation[..., object] | None) -> None:
        record = going.record
        can_resume = operation is not None and operation.traits.resumes is not None

        def refused(error: TailraceError) -> None:
            if can_resume and isinstance(error, WriterFenced):
                # Taken for dead: what it runs is watched by another process now.
                context.release()
            going.ask(failure(error))

        outbox = Outbox(self._log, record.id, record.attempt, refused)
        context = RunContext(record, outbox, going.heard)
        try:
            outcome = await self._outcome(operation, going, context, outbox)
            async with going.bounded():
                outbox.seal()
                try:
                    await outbox.drain()
                except TailraceError as error:
                    outcome = failure(error)
                outbox.close()
                if not context.released:
                    await settle(
                        self._log, record, outcome, fence=record.attempt, clock=self._clock
                    )
                    if operation is not None and operation.traits.ended is not None:
                        await asyncio.to_thread(operation.traits.ended, record.id)
        finally:
            context.request_stop()
            outbox.close()

    async def _outcome(
        self,
        operation: Operation[..., object] | None,
        going: Going,
        context: RunContext,
        outbox: Outbox,
    ) -> Outcome:
        try:
            # Unknown: then this says so.
            operation = operation or self._operations.get(going.record.operation)
            return await self._work(operation, going, context, outbox)
        except Exception as error:  # noqa: BLE001 - the input's own validators raise anything
            return _failed(going.record.id, error)

    async def _work(
        self,
        operation: Operation[..., object],
        going: Going,
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
        if context.released or (stop is STOPPED and operation.traits.lets_go(record.id)):
            await _let_go(work, context)
            return stop
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

    async def _until_stopped(self, work: asyncio.Task[object], going: Going) -> Outcome | None:
        """None when the work is done; otherwise why it must stop."""
        record = going.record
        loop = asyncio.get_running_loop()
        ends_at = None if record.timeout is None else loop.time() + record.timeout - going.spent
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
                return STOPPED
            if work.done():
                return None
            if going.stop.done():
                return going.stop.result()
            if ends_at is not None and loop.time() >= ends_at:
                said = f"The run took longer than its timeout of {record.timeout:g} s."
                return Outcome(Signal.TIMEOUT, error={"error": said})
            if await going.is_abandoned(self._hub.watchers(record.id)):
                return await going.abandon()


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


async def _let_go(work: asyncio.Task[object], context: RunContext) -> None:
    """What the work runs goes on, and so does the run: nothing of it is ended here."""
    context.release()
    # An event loop that ends has cancelled it already: once more would cut its farewell short.
    if not work.cancelling():
        work.cancel()
    await asyncio.wait((work,), timeout=FORCED_SECONDS)
    if not work.done():
        work.cancel()
        await asyncio.wait((work,), timeout=FORCED_SECONDS)
    work.add_done_callback(_retrieve)


def _title(operation: Operation[..., object] | None, run: RunRecord) -> str | None:
    if operation is None or operation.traits.title is None:
        return None
    try:
        return operation.traits.title(loads(run.input))
    except Exception:
        # The input may be as an older version kept it.
        logger.exception("%s has no title", run.id)
        return None


def _retrieve(work: asyncio.Task[object]) -> None:
    """Look at an ending nobody waits for any more, so that asyncio does not complain."""
    if not work.cancelled():
        work.exception()
