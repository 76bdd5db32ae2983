"""A run that this process has taken on: it waits for its slot, goes on, is asked to stop.

What is asked of it comes out of the log, the same way from this process and from another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Final

from tailrace import time
from tailrace.errors import Conflict, LogClosed, LogError
from tailrace.eventlog.contract import Append, EventLog
from tailrace.outcome import Outcome, settle
from tailrace.protocol import events
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, draft, loads, to_json
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.slots import Place

STOPPED: Final = Outcome(
    Signal.LOSE, error={"error": "The server was stopped while the run was going on."}
)

# How long a process that goes away waits for a log that cannot write (disk full). What it
# leaves behind, the next one finds and ends as lost.
_LAST_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.5
_TELL_SECONDS: Final = 1.0
# Who is far behind is told less often: a queue of thousands that moves on would otherwise
# write thousands of events a second to say so.
_PROMPT_POSITIONS: Final = 20
_TITLE_CHARACTERS: Final = 200
# How old a note in the log may be while somebody watches at another process: engines write
# it once a second.
_NOTED_SECONDS: Final = 1.25
_HOLE_BYTES: Final = 16 * 1024
_HEARD_BYTES: Final = 256 * 1024
# A log may lose a wake-up, and what work waits for may be the last event there is.
_LOOK_SECONDS: Final = 5.0
_CANCELLING: Final = State.CANCELLING.value
_STATUS_MARK: Final = b"\nevent: status\n"


class Going:
    """One run here. `stop` is set once, to the reason it must end early.

    `record` is there from `follow` on. `began` is true once it executes, and `spent` the
    seconds for which it had done so in another process.
    """

    record: RunRecord

    def __init__(self, log: EventLog, run: str, clock: Callable[[], float] = time.time) -> None:
        self.run = run
        self.stop: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.began = False
        self.spent = 0.0
        self.is_leaving = False
        self._log = log
        self._clock = clock
        self._watched_at = 0.0
        self._ending: asyncio.Timeout | None = None
        self._seen: int | None = None
        self._looking: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        """The process goes away."""
        self.is_leaving = True
        if self._ending is not None and self._ending.when() is None:
            self._ending.reschedule(asyncio.get_running_loop().time() + _LAST_SECONDS)
        self.ask(STOPPED)

    def bounded(self) -> asyncio.Timeout:
        """What its end may take: all the time there is, unless the process goes away."""
        self._ending = asyncio.timeout(_LAST_SECONDS if self.is_leaving else None)
        return self._ending

    def ask(self, outcome: Outcome) -> None:
        """Have it end early."""
        if not self.stop.done():
            self.stop.set_result(outcome)

    def follow(self, record: RunRecord) -> None:
        """Hear what the log tells of it, from this snapshot on."""
        self.record = record
        self._seen = record.last_seq
        self._log.follow(self.run, record.last_seq)

    def unfollow(self) -> None:
        """Undo `follow`."""
        self._log.unfollow(self.run)

    # --- from the queue to its start -------------------------------------------------

    async def wait(self, place: Place) -> None:
        """Wait for its slot, and tell its watchers where it stands; no longer than until it
        must end early. Raises LogClosed.
        """
        loop = asyncio.get_running_loop()
        told, due = 0, loop.time()
        while not place.has_slot and not self.stop.done():
            position, rest = place.position, due - loop.time()
            if rest > 0:
                await _first(place.turn, self.stop, timeout=rest)
            elif position == told:
                await _first(place.moved(), self.stop)
            else:
                await self._tell(position)
                told, pace = position, max(1.0, position / _PROMPT_POSITIONS)
                due = loop.time() + _TELL_SECONDS * pace

    async def _tell(self, position: int) -> None:
        said = {"status": State.QUEUED.value, "position": position}
        told = draft(events.STATUS, said, self._clock())
        patch = {"progress": to_json({"position": position})}
        fence = self.record.attempt
        try:
            await self._log.append(Append(self.run, (told,), patch=patch, fence=fence))
        except Conflict:
            # Ended, or started by another process: it keeps nobody waiting here.
            self.ask(Outcome(Signal.LOSE))
        except LogClosed:
            raise
        except LogError:
            # It waits all the same; what is said next is newer.
            return

    async def start(self, title: str | None) -> bool:
        """Whether it is this process that has started it. Raises LogError."""
        record, now = self.record, self._clock()
        attempt = record.attempt + 1
        said = {"run": record.id, "operation": record.operation}
        if title is not None:
            said["title"] = title[:_TITLE_CHARACTERS]
        if record.thread is not None:
            said["thread"] = record.thread
        told = {**said, "input": loads(record.input), "attempt": attempt}
        patch = {"started_at": now, "attempt": attempt, "worker": self._log.worker,
                 "progress": None}  # fmt: skip
        move, drafts = (State.QUEUED, State.RUNNING), (draft(events.START, told, now),)
        try:
            commit = await self._log.append(
                Append(record.id, drafts, move=move, patch=patch, fence=record.attempt)
            )
        except Conflict:
            return False
        self._begin(record.with_(**patch, state=State.RUNNING, last_seq=commit.last))
        return True

    def resume(self) -> None:
        """It goes on where another process has left it."""
        began = self.record.started_at
        self.spent = 0.0 if began is None else max(0.0, self._clock() - began)
        self._begin(self.record)
        if self.record.state is State.CANCELLING:
            self.ask(Outcome(Signal.STOPPED))

    def _begin(self, record: RunRecord) -> None:
        self.record = record
        self.began = True
        self._watched_at = time.monotonic()

    # --- what the log tells of it ----------------------------------------------------

    def notice(self, block: Block) -> None:
        """Look at a committed block of it: is it asked to stop?"""
        if self._seen is None:
            # A watcher's channel had the log tell of it; `follow` tells of this block again.
            return
        seen, self._seen = self._seen, max(self._seen, block.last)
        if not self._news.done():
            self._news.set_result(None)
        if block.first > seen + 1:
            # Another process wrote in between, and may have wished to cancel.
            self._reading = asyncio.create_task(self._catch_up(seen, block.first))
        self._heed(block)

    async def _catch_up(self, after: int, end: int) -> None:
        """What the log did not tell of, it still has."""
        while after + 1 < end and not self.stop.done():
            try:
                blocks = await self._log.read(self.run, after, _HOLE_BYTES)
            except LogClosed:
                return
            except LogError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for block in blocks:
                self._heed(block)
            after = blocks[-1].last if blocks else end

    def _heed(self, block: Block) -> None:
        if block.ends:
            self.ask(Outcome(Signal.LOSE))
        elif _STATUS_MARK in block.wire:
            for event in block.events:
                if event.type == events.STATUS and event.payload.get("status") == _CANCELLING:
                    reason = str(event.payload.get("reason", "requested"))
                    self._looking = asyncio.create_task(self._look(reason))

    async def _look(self, reason: str) -> None:
        """Believe the state, not the event: work may emit a `status` of any wording."""
        try:
            record = await self._log.get(self.run)
        except LogError:
            # Nobody can tell; a wish to cancel that is overlooked comes never again.
            record = None
        if record is None or record.state is State.CANCELLING:
            self.ask(Outcome(Signal.STOPPED, reason=reason))

    async def heard(self, types: Collection[str], after: int) -> Event:
        """The first event after number `after` that is of one of the types, once it is there."""
        marks = [b"\nevent: %b\n" % type_.encode() for type_ in types]
        while True:
            # Before the log is read: what comes while it is being read is news.
            if self._news.done():
                self._news = asyncio.get_running_loop().create_future()
            news = self._news
            blocks = await self._log.read(self.run, after, _HEARD_BYTES)
            for block in blocks:
                if any(mark in block.wire for mark in marks):
                    for event in block.events:
                        if event.seq > after and event.type in types:
                            return event
                after = block.last
            if not blocks:
                await _first(news, timeout=_LOOK_SECONDS)

    # --- who watches it --------------------------------------------------------------

    async def is_abandoned(self, watchers: int) -> bool:
        """Whether nobody has watched it for `abandon_after`; `watchers` are those here."""
        limit = self.record.abandon_after
        if limit is None:
            return False
        now = time.monotonic()
        if watchers:
            self._watched_at = now
        if now - self._watched_at <= limit:
            return False
        # Nobody here; but a watcher may be at another process that shares the log.
        try:
            record = await self._log.get(self.run)
        except LogError:
            # Nobody can tell, so nobody is cut off.
            return False
        if record is not None and record.watched_at is not None:
            age = max(0.0, self._clock() - record.watched_at - _NOTED_SECONDS)
            self._watched_at = max(self._watched_at, now - age)
        return now - self._watched_at > limit

    async def abandon(self) -> Outcome:
        """Tell that it is cancelled for it; how it must end."""
        record, wish = self.record, Outcome(Signal.CANCEL, reason="abandoned")
        # A log that cannot write must not keep the work from being stopped.
        with contextlib.suppress(LogError):
            await settle(
                self._log, record, wish, fence=record.attempt, clock=self._clock, patient=False
            )
        return Outcome(Signal.STOPPED, reason="abandoned")


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
