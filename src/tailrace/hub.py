"""Live fan-out in one process: from the log's commits to every watcher.

The hub keeps a channel for each run that somebody watches here, and none for the others.
One timer serves all watchers: heartbeats, ticks, and the deadline of a send that a watcher
does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

from tailrace.channel import Channel
from tailrace.errors import LogError, RunUnknown
from tailrace.eventlog.contract import EventLog
from tailrace.projections.contract import Projection, Types
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor, Resume, resume
from tailrace.protocol.runs import RunRecord
from tailrace.subscription import End, Subscription

BEAT_SECONDS: Final = 0.25
"""How often the timer looks."""

LATE_SECONDS: Final = 1.0
"""How late the log may tell of what a snapshot shows, before the snapshot is believed."""


class Connection(Protocol):
    """A watcher's connection, as the timer sees it."""

    def beat(self, now: float) -> None:
        """Do what is due at `now` (monotonic seconds): heartbeat, tick, write deadline."""

    def leave(self) -> None:
        """The server goes away: end the stream properly, and soon."""


class Hub:
    """Live fan-out of one log's runs. `ready`, where given, opens the log if need be."""

    def __init__(self, log: EventLog, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        self._log = log
        self._ready = ready
        self._channels: dict[str, Channel] = {}
        self._subscriptions: set[Subscription] = set()
        self._connections: set[Connection] = set()
        self._touching: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._signs: Sequence[Callable[[], bool]] = ()
        self.is_draining = False

    def publish(self, block: Block) -> None:
        """Take a committed block from the log."""
        channel = self._channels.get(block.run)
        if channel is not None:
            channel.publish(block)

    def watchers(self, run: str) -> int:
        """How many subscriptions a run has in this process."""
        channel = self._channels.get(run)
        return 0 if channel is None else len(channel.readers)

    def watched(self) -> list[str]:
        """The runs with watchers here whose owner wants to know (`abandon_after`)."""
        return [run for run, c in self._channels.items() if c.readers and c.wants_watchers]

    @contextlib.asynccontextmanager
    async def channel(self, run: str) -> AsyncIterator[tuple[Channel, RunRecord]]:
        """A run's channel, and its snapshot. Raises RunUnknown."""
        if self._ready is not None:
            await self._ready()
        channel = self._channels.get(run)
        if channel is None:
            channel = self._channels[run] = Channel(run)
        # The channel takes in blocks from here on, so whatever is committed after the
        # snapshot is read reaches it, and whatever was before is in the snapshot.
        channel.users += 1
        try:
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
            yield channel, record
        finally:
            channel.users -= 1
            if not channel.users and self._channels.get(run) is channel:
                del self._channels[run]
                if channel.is_followed:
                    self._log.unfollow(run)

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
            if isinstance(cursor, str):
                cursor = Cursor(record.epoch, record.last_seq)
            start = resume(cursor, record.extent)
            subscription = Subscription(self._log, channel, start, projection, types, woken)
            subscription.epoch = record.epoch
            channel.readers.add(subscription)
            self._subscriptions.add(subscription)
            try:
                yield subscription, start
            finally:
                subscription.close(End.LEFT)
                channel.readers.discard(subscription)
                self._subscriptions.discard(subscription)

    # --- the one timer ---------------------------------------------------------------

    def begin(self, signs: Sequence[Callable[[], bool]] = ()) -> None:
        """Be open, again if need be. The timer looks at the signs that the server is about
        to go.
        """
        self.is_draining = False
        self._signs = signs
        self._stop_timer()

    def abandon(self) -> None:
        """Forget everybody: their event loop has ended, and they with it."""
        self._timer = None
        self._channels.clear()
        self._subscriptions.clear()
        self._connections.clear()

    def end(self) -> None:
        """Let go of every reader that is left: the log has nothing more to tell here."""
        self._stop_timer()
        for subscription in tuple(self._subscriptions):
            subscription.close(End.SHUTDOWN)
        # Whoever still holds one of them must not keep it for readers to come.
        self._channels.clear()

    def connect(self, connection: Connection) -> None:
        """Have the timer care for a connection."""
        self._connections.add(connection)
        if self.is_draining:
            connection.leave()
        if self._timer is None:
            self._schedule()

    def disconnect(self, connection: Connection) -> None:
        """Stop caring."""
        self._connections.discard(connection)

    def drain(self) -> None:
        """End every stream: the server goes away. Their watchers will come back."""
        self.is_draining = True
        for connection in tuple(self._connections):
            connection.leave()

    @property
    def connections(self) -> int:
        """How many streams are open."""
        return len(self._connections)

    @property
    def channels(self) -> int:
        """How many runs are watched."""
        return len(self._channels)

    @property
    def is_idle(self) -> bool:
        """Whether no connection is left."""
        return not self._connections

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = None
        if not self._connections:
            return
        # First, so that no connection's fault ends the care for all others.
        self._schedule()
        if not self.is_draining and any(sign() for sign in self._signs):
            self.drain()
        now = time.monotonic()
        for connection in tuple(self._connections):
            connection.beat(now)
