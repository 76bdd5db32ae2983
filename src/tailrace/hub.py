"""Live fan-out in one process: from the log's commits to every watcher.

The hub keeps a channel for each run that somebody watches here, and none for the others.
Watchers of one run who are told alike form one cohort, its lane, as long as they keep step.
One clock serves everybody: heartbeats, ticks, and the deadline of a send that a watcher does
not read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from tailrace import time
from tailrace.channel import Channel
from tailrace.clock import Clock
from tailrace.cohort import Cohort, Manner
from tailrace.errors import CursorFromFuture, LogError, RunUnknown
from tailrace.eventlog.contract import EventLog
from tailrace.outlet import End, Outlet
from tailrace.projections.contract import Projection, Types
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor, Resume, resume
from tailrace.protocol.runs import RunRecord
from tailrace.rounds import SLICE_SECONDS, Due, Rounds, Timed
from tailrace.seats import Seats
from tailrace.subscription import Subscription

LATE_SECONDS: Final = 1.0
"""How late the log may tell of what a snapshot shows, before the snapshot is believed."""


class Hub:
    """Live fan-out of one log's runs. `ready`, where given, opens the log if need be."""

    def __init__(self, log: EventLog, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        self._log = log
        self._ready = ready
        self._channels: dict[str, Channel] = {}
        self._lanes: dict[tuple[object, ...], Cohort] = {}
        self._subscriptions: set[Subscription] = set()
        self._connections: set[Timed] = set()
        self._watchers = 0
        self._touching: set[asyncio.Future[None]] = set()
        self._rounds = Rounds()
        self.clock = Clock()
        self.seats = Seats()
        """How many streams may be open."""

    def publish(self, block: Block) -> None:
        """Take a committed block from the log."""
        channel = self._channels.get(block.run)
        if channel is not None:
            channel.publish(block)

    def watchers(self, run: str) -> int:
        """How many watchers a run has in this process."""
        channel = self._channels.get(run)
        return 0 if channel is None else channel.users

    def watched(self) -> list[str]:
        """The runs with watchers here whose owner wants to know (`abandon_after`)."""
        return [run for run, channel in self._channels.items() if channel.wants_watchers]

    @contextlib.asynccontextmanager
    async def channel(self, run: str) -> AsyncIterator[tuple[Channel, RunRecord]]:
        """A run's channel, and its snapshot. Raises RunUnknown."""
        channel, record = await self.hold(run)
        try:
            yield channel, record
        finally:
            self.release(channel)

    async def hold(self, run: str) -> tuple[Channel, RunRecord]:
        """`channel`, to be released by whoever holds it."""
        if self._ready is not None:
            await self._ready()
        channel = self._channels.get(run)
        if channel is None:
            channel = self._channels[run] = Channel(run)
        # The channel takes in blocks from here on, so whatever is committed after the
        # snapshot is read reaches it, and whatever was before is in the snapshot.
        channel.users += 1
        try:
            return channel, self.known(run) or await self._read(channel)
        except BaseException:
            self.release(channel)
            raise

    def known(self, run: str) -> RunRecord | None:
        """A run's snapshot as it was a moment ago, if the run is live here and its channel has
        what came since; so most of a crowd of watchers cost the log nothing.
        """
        channel = self._channels.get(run)
        if channel is None or not channel.is_followed or channel.ended:
            return None
        return channel.record if time.monotonic() - channel.read_at < LATE_SECONDS else None

    async def _read(self, channel: Channel) -> RunRecord:
        run = channel.run
        began = time.monotonic()
        record = await self._log.get(run)
        if record is None:
            raise RunUnknown(f"There is no run {run}.", fix="It may have been forgotten.")
        if not channel.is_followed:
            # One that is followed learns of each block in its turn; to hear of the head
            # from here as well would cost its watchers the tail they share.
            channel.settle(record.last_seq, ended=record.ended)
        elif record.last_seq > channel.head:
            # But a log may lose a wake-up, and the last of a run has no successor.
            settle = partial(channel.settle, record.last_seq, ended=record.ended)
            asyncio.get_running_loop().call_later(LATE_SECONDS, settle)
        channel.wants_watchers = record.abandon_after is not None and not record.ended
        if channel.wants_watchers:
            # At once: the next look of the house may come too late for the run.
            self._touch(run)
        if not channel.is_followed and not channel.ended:
            channel.is_followed = True
            self._log.follow(run, channel.head)
        channel.record, channel.read_at = record, began
        return record

    async def start(self, channel: Channel, record: RunRecord, cursor: Cursor | str) -> Resume:
        """Where a watcher begins who comes with `cursor`. Raises CursorFromFuture."""
        try:
            return begins(cursor, record, channel.head)
        except CursorFromFuture:
            # Another process of the same log may have told of events that we have not heard of.
            return begins(cursor, await self._read(channel), channel.head)

    def release(self, channel: Channel) -> None:
        """Undo a `hold`."""
        channel.users -= 1
        if not channel.users and self._channels.get(channel.run) is channel:
            del self._channels[channel.run]
            if channel.is_followed:
                self._log.unfollow(channel.run)

    def _touch(self, run: str) -> None:
        # Not awaited: the first byte must not wait for a commit.
        touching = asyncio.ensure_future(self._log.touch([run], time.time()))
        self._touching.add(touching)
        touching.add_done_callback(self._touched)

    def _touched(self, touching: asyncio.Future[None]) -> None:
        self._touching.discard(touching)
        if not touching.cancelled() and not isinstance(touching.exception(), LogError | None):
            touching.result()

    @contextlib.asynccontextmanager
    async def subscribe(
        self,
        run: str,
        cursor: Cursor | str,
        projection: Projection,
        types: Types = None,
        woken: Callable[[Subscription], None] | None = None,
    ) -> AsyncIterator[tuple[Subscription, Resume]]:
        """A reader of `run` from `cursor` (or from now on, for `latest`) on, while the block lasts.

        Raises RunUnknown, CursorFromFuture.
        """
        async with self.channel(run) as (channel, record):
            start = await self.start(channel, record, cursor)
            subscription = Subscription(self._log, channel, start, projection, types, woken)
            subscription.epoch = record.epoch
            self._join(channel, subscription)
            try:
                yield subscription, start
            finally:
                subscription.close(End.LEFT)
                self._part(channel, subscription)

    def _join(self, channel: Channel, reader: Subscription) -> None:
        channel.readers.add(reader)
        self._subscriptions.add(reader)

    def _part(self, channel: Channel, reader: Subscription) -> None:
        channel.readers.discard(reader)
        self._subscriptions.discard(reader)

    # --- cohorts ---------------------------------------------------------------------

    def watch(self, channel: Channel, start: Resume, manner: Manner, outlet: Outlet) -> None:
        """Send a run's events to `outlet`, to the end or until its watcher has left."""
        if outlet.has_left:
            # While the first bytes were sent.
            return
        channel.users += 1
        self._watchers += 1
        key = (channel, *manner.key)
        lane = self._lanes.get(key)
        if lane is not None and start.lost is None and lane.admit(start.after, outlet):
            return
        cohort = Cohort(self, manner, key)
        cohort.reader = Subscription(
            self._log, channel, start, manner.projection, manner.types, cohort.wake
        )
        self._join(channel, cohort.reader)
        cohort.adopt([outlet])
        self.clock.connect(cohort)
        # At once: what there is goes out with the first bytes.
        if not cohort.flow(time.monotonic() + SLICE_SECONDS):
            self.schedule(cohort)

    def schedule(self, due: Due) -> None:
        """See `cohort.Home`."""
        self._rounds.schedule(due)

    def arm(self, timed: Timed, at: float | None) -> None:
        """See `cohort.Home`."""
        self.clock.arm(timed, at)

    def fork(self, reader: Subscription, cohort: Cohort) -> Subscription:
        """See `cohort.Home`."""
        forked = reader.fork(cohort.wake)
        self._join(forked.channel, forked)
        self.arm(cohort, time.monotonic())
        return forked

    def settle(self, cohort: Cohort) -> None:
        """See `cohort.Home`."""
        if not cohort.members:
            return
        lane = self._lanes.get(cohort.lane)
        if lane is cohort:
            return
        if lane is None or lane.is_blocked or lane.reader.end is not None:
            self._lanes[cohort.lane] = cohort
        elif lane.reader.cursor == cohort.reader.cursor:
            lane.adopt(cohort.members)
            cohort.members.clear()
            self._retire(cohort)

    def dropped(self, cohort: Cohort) -> None:
        """See `cohort.Home`."""
        self._watchers -= 1
        if not cohort.members:
            self._retire(cohort)
        self.release(cohort.reader.channel)

    def _retire(self, cohort: Cohort) -> None:
        self._part(cohort.reader.channel, cohort.reader)
        # It may be in the midst of a long history, for nobody.
        cohort.part()
        self.clock.disconnect(cohort)
        if self._lanes.get(cohort.lane) is cohort:
            del self._lanes[cohort.lane]

    # --- begin and end ---------------------------------------------------------------

    def begin(self, signs: Sequence[Callable[[], bool]] = ()) -> None:
        """Be open, again if need be. The clock looks at the signs that the server is about
        to go.
        """
        self.clock.begin(signs)

    def abandon(self) -> None:
        """Forget everybody: their event loop has ended, and they with it."""
        self.clock.abandon()
        self._rounds = Rounds()
        self._channels.clear()
        self._lanes.clear()
        self._subscriptions.clear()
        self._connections.clear()
        self._watchers = 0
        self.seats = self.seats.anew()

    def end(self) -> None:
        """Let go of every reader that is left: the log has nothing more to tell here."""
        self.clock.stop()
        for subscription in tuple(self._subscriptions):
            subscription.close(End.SHUTDOWN)
        # Whoever still holds one of them must not keep it for readers to come.
        self._channels.clear()

    def connect(self, connection: Timed) -> None:
        """Count, and have the clock look after, a stream that sends by itself."""
        self._connections.add(connection)
        self.clock.connect(connection)

    def disconnect(self, connection: Timed) -> None:
        """Undo `connect`."""
        self._connections.discard(connection)
        self.clock.disconnect(connection)

    def drain(self) -> None:
        """End every stream: the server goes away. Their watchers will come back."""
        self.clock.drain()

    @property
    def is_draining(self) -> bool:
        """Whether the server is about to go."""
        return self.clock.is_draining

    @property
    def connections(self) -> int:
        """How many streams are open."""
        return len(self._connections) + self._watchers

    @property
    def channels(self) -> int:
        """How many runs are watched."""
        return len(self._channels)

    @property
    def is_idle(self) -> bool:
        """Whether no connection is left."""
        return not self.connections


def begins(cursor: Cursor | str, record: RunRecord, head: int = 0) -> Resume:
    """Where a watcher begins who comes with `cursor`, or wants to be told from now on. `head`
    is the last event that is known besides those of the snapshot.

    Raises CursorFromFuture.
    """
    extent = record.extent
    if head > extent.last:
        extent = replace(extent, last=head)
    if isinstance(cursor, str):
        cursor = Cursor(extent.epoch, extent.last)
    return resume(cursor, extent)
