"""Watchers of one run who are told alike and are in step: all of them at the same cursor.

One reader serves them all, and each gets the very same bytes. Whoever cannot take a frame at
once is left behind in a cohort of its own, where a task waits for it, catches up by cursor,
and joins the others again. So a watcher in step costs a write, one that is idle nothing, and
a slow one holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from tailrace import time
from tailrace.errors import TailraceError
from tailrace.outlet import End, Frame, Outlet, is_gone
from tailrace.projections.contract import Projection, Types
from tailrace.protocol import events
from tailrace.protocol.problems import document
from tailrace.protocol.wire import RETRY_AFTER_SHUTDOWN_MS
from tailrace.pulse import Act, Pulse
from tailrace.rounds import SLICE_SECONDS, Due, Timed
from tailrace.subscription import Subscription

logger = logging.getLogger("tailrace.cohort")

# The clock is asked once for so many writes: an eighth of a millisecond's worth.
_WRITES: Final = 32


@dataclass(frozen=True, slots=True)
class Manner:
    """How watchers are told: in which format, which types, and with a `tick` of the elapsed
    time since `began` every so many seconds, or, `in_silence`, after so many without a word.
    """

    projection: Projection
    types: Types = None
    tick: float | None = None
    began: float | None = None
    in_silence: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Equal where the bytes are."""
        return self.projection.name, self.types, self.tick, self.began, self.in_silence

    def ticked(self) -> bytes:
        """A control frame with the elapsed time."""
        began = self.began or time.time()
        elapsed = {"elapsed_seconds": round(time.time() - began, 1)}
        return self.projection.control(events.TICK, elapsed)


class Home(Protocol):
    """Who cares for cohorts."""

    def schedule(self, due: Due) -> None:
        """Have it flow soon."""

    def arm(self, timed: Timed, at: float | None) -> None:
        """Have it looked at, at that time; not for None."""

    def fork(self, reader: Subscription, cohort: Cohort) -> Subscription:
        """A reader for `cohort` where the given one is."""

    def settle(self, cohort: Cohort) -> None:
        """It has all there is: let it join whoever is at the same cursor."""

    def dropped(self, cohort: Cohort) -> None:
        """One of its watchers has left."""


class Cohort:
    """See the module. `lane` is what those have in common who may join each other."""

    def __init__(self, home: Home, manner: Manner, lane: tuple[object, ...]) -> None:
        self.manner = manner
        self.lane = lane
        self.members: set[Outlet] = set()
        self.is_due = False
        self.reader: Subscription
        self._home = home
        self._frame: Frame | None = None
        self._unserved: list[Outlet] = []
        self._rest: Awaitable[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_left = False
        self._pulse = Pulse(time.monotonic(), manner.tick, in_silence=manner.in_silence)

    @property
    def is_blocked(self) -> bool:
        """Whether a watcher has not taken all it was sent: then it is the only one."""
        return self._rest is not None or self._pulse.blocked_since is not None

    def adopt(self, outlets: Iterable[Outlet]) -> None:
        """Take in watchers that have what this one's have."""
        for outlet in outlets:
            outlet.holder = self
            self.members.add(outlet)

    def admit(self, after: int, outlet: Outlet) -> bool:
        """Take in a newcomer who has everything up to event `after`, if all that it lacks can be
        had at once; whether it could. Most of a crowd comes like that.
        """
        reader = self.reader
        if self._task is not None or self._frame is not None or reader.is_ready:
            return False
        taken = reader.channel.take(after, self.manner.projection, self.manner.types)
        if taken is None or taken.cursor != reader.cursor:
            return False
        self.adopt([outlet])
        if taken.wire:
            self._frame, self._unserved = Frame(taken.wire), [outlet]
            if not self.flow(time.monotonic() + SLICE_SECONDS):
                self._home.schedule(self)
        return True

    def drop(self, outlet: Outlet) -> None:
        """See `outlet.Holder`. Who leaves in the midst of a send is dropped when it is over: it
        may be hypercorn's last one, which waits for a client that does not read.
        """
        if self.is_blocked:
            self._has_left = True
        elif outlet in self.members:
            self.members.remove(outlet)
            self._home.dropped(self)

    def wake(self, reader: Subscription) -> None:
        """There may be something new."""
        if self._task is not None:
            return
        if not self.is_due and not reader.has_aside and reader.end is None:
            self._home.settle(self)
        if self.members:
            self._home.schedule(self)

    def part(self) -> None:
        """The last of its watchers has left. What it was sending goes now, not when the collector
        comes by: that counts objects, and these few hold much.
        """
        self._frame = None
        self._unserved = []
        self.reader.part()

    def leave(self) -> None:
        """The server goes away: end the stream properly, and soon."""
        if self._pulse.leave(time.monotonic()):
            self.reader.close(End.SHUTDOWN)
            self._home.arm(self, self._pulse.deadline)

    # --- sending ---------------------------------------------------------------------

    def flow(self, until: float) -> bool:
        """See `rounds.Due`."""
        if self._task is not None or not self.members:
            return True
        if self._frame is None:
            chunk = b"" if self.reader.end is not None else self._taken()
            if chunk is None:
                self._task = asyncio.ensure_future(self._catch_up())
                return True
            if not self._frame_of(chunk):
                return self._rests()
        if not self._serve(until):
            return False
        if self._rest is not None:
            self._task = asyncio.ensure_future(self._catch_up())
            return True
        return self._is_through()

    def _frame_of(self, chunk: bytes) -> bool:
        """Begin to send; whether there is anything."""
        if chunk:
            self._begin(Frame(chunk))
        elif self.reader.end is not None:
            hint = RETRY_AFTER_SHUTDOWN_MS if self.reader.end is End.SHUTDOWN else None
            self._begin(Frame(self.manner.projection.closing(hint), is_last=True))
        return self._frame is not None

    def _begin(self, frame: Frame) -> None:
        self._frame = frame
        self._unserved = list(self.members)
        self._pulse.sent(time.monotonic())

    def _serve(self, until: float) -> bool:
        """Give the frame to whoever has not had it; whether all have."""
        frame, unserved = self._frame, self._unserved
        while frame is not None and unserved:
            for _ in range(min(_WRITES, len(unserved))):
                outlet = unserved.pop()
                rest = outlet.push(frame)
                if rest is not None:
                    self._leave_behind(outlet, rest)
            if unserved and time.monotonic() > until:
                return False
        return True

    def _is_through(self) -> bool:
        """The frame is sent; whether nothing follows at once."""
        frame, self._frame = self._frame, None
        if frame is None or not frame.is_last:
            return self._rests()
        for outlet in tuple(self.members):
            outlet.close(self.reader.end or End.FINISHED)
            outlet.left()
        return True

    def _rests(self) -> bool:
        if self.reader.is_ready:
            return False
        self._home.settle(self)
        return True

    def _leave_behind(self, outlet: Outlet, rest: Awaitable[None]) -> None:
        if len(self.members) == 1:
            self._rest = rest
            return
        self.members.discard(outlet)
        alone = Cohort(self._home, self.manner, self.lane)
        alone.reader = self._home.fork(self.reader, alone)
        alone.adopt([outlet])
        alone._frame = self._frame
        alone._rest = rest
        if self.reader.end is End.SHUTDOWN:
            alone.leave()
        alone._task = asyncio.ensure_future(alone._catch_up())

    async def _catch_up(self) -> None:
        """Wait for the watcher, or for the log, until nothing is left to wait for."""
        try:
            await self._drained()
            while self.members and not self._is_through():
                chunk = b"" if self.reader.end is not None else await self._pulled()
                if not self.members or not self._frame_of(chunk):
                    break
                while not self._serve(time.monotonic() + SLICE_SECONDS):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await self._drained()
                # A send into an empty buffer does not suspend; without this a long replay
                # would freeze everybody else.
                await asyncio.sleep(0)
        except BaseException:
            # What can be told of was told: nobody shall wait for the rest in vain.
            self._let_go()
            raise
        finally:
            self._task = None
        if self.members:
            self._home.schedule(self)

    def _taken(self) -> bytes | None:
        try:
            return self.reader.take()
        except Exception as error:  # noqa: BLE001 - an event that cannot be told, or read
            return self._told(error)

    async def _pulled(self) -> bytes:
        try:
            return await self.reader.pull()
        except Exception as error:  # noqa: BLE001
            return self._told(error)

    def _told(self, error: Exception) -> bytes:
        """The last word to watchers of what cannot be told: in silence they would come back for
        ever.
        """
        if not isinstance(error, TailraceError):
            logger.error("%s cannot be told", self.reader.run, exc_info=error)
            error = TailraceError(
                "The run has an event that cannot be told in this format.",
                fix="Watch it in another one, such as ?format=events.",
            )
        self.reader.close(End.FINISHED)
        return self.manner.projection.control(events.ERROR, document(error))

    async def _drained(self) -> None:
        rest, self._rest = self._rest, None
        if rest is None:
            return
        self._pulse.block(time.monotonic())
        self._home.arm(self, self._pulse.deadline)
        try:
            await rest
        except Exception as error:
            if not is_gone(error):
                raise
            self._has_left = True
        finally:
            self._pulse.unblock()
            # Its next sign of life may be due before what was its deadline.
            self._home.arm(self, time.monotonic())
        if self._has_left:
            self._let_go()

    def _let_go(self) -> None:
        for outlet in tuple(self.members):
            outlet.left()
            self.drop(outlet)

    # --- the clock -------------------------------------------------------------------

    def beat(self, now: float) -> float | None:
        """See `rounds.Timed`."""
        act, again = self._pulse.beat(now)
        match act:
            case Act.TICK:
                self.reader.interject(self.manner.ticked())
            case Act.HEARTBEAT:
                self.reader.interject(self.manner.projection.heartbeat)
            case Act.CUT:
                for outlet in tuple(self.members):
                    outlet.cut()
            case Act.CANCEL if self._task is not None:
                self._task.cancel()
            case _:
                pass
        return again if self.members else None
