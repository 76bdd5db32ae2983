"""A finished run, told again with its own timing."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from starlette.types import Receive, Scope, Send

from tailrace.errors import CursorFromFuture, LogError, RunUnknown, TooManyRequests
from tailrace.eventlog.contract import EventLog
from tailrace.http import problems
from tailrace.http.feeds import Connection, Feed, Streaming
from tailrace.http.stream import Telling
from tailrace.hub import Hub
from tailrace.outlet import End
from tailrace.projections.contract import chosen
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.cursor import Kind
from tailrace.protocol.events import GAP, Draft, Event, seconds
from tailrace.protocol.runs import RunRecord
from tailrace.protocol.wire import LAST_EVENT_ID
from tailrace.subscription import Subscription

_SLICE_SECONDS: Final = 0.25


class Playback(Streaming):
    """Waits between two events as long as their timestamps say, divided by `speed`."""

    def __init__(
        self, hub: Hub, log: EventLog, record: RunRecord, telling: Telling, speed: float
    ) -> None:
        telling = telling.resting()
        super().__init__(hub, telling.manner)
        self._log = log
        self._record = record
        self._run = record.id
        self._telling = telling
        self._speed = speed
        self._clock: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        cursor, manner = self._telling
        try:
            async with self._hub.subscribe(self._run, cursor, manner.projection, manner.types) as (
                subscription,
                start,
            ):
                if start.kind is Kind.FINISHED:
                    await problems.nothing()(scope, receive, send)
                else:
                    last = self._telling.begun(start, subscription.epoch)
                    self.headers[LAST_EVENT_ID] = str(last)
                    watchers = self._hub.watchers(self._run)
                    await self.stream(subscription, scope, receive, send, watchers)
        except (RunUnknown, CursorFromFuture, LogError, TooManyRequests) as error:
            # Raised before anything was sent: later ones are told within the stream.
            await problems.response(error)(scope, receive, send)

    async def tell(self, feed: Feed, connection: Connection) -> None:
        """Send the events one by one."""
        subscription = cast("Subscription", feed)
        projection, types = subscription.projection, self._manner.types
        # What was missing from the start on comes before the first event.
        await self._pause(0.0, subscription, connection)
        while subscription.end is None:
            blocks = await self._log.read(self._run, subscription.cursor)
            for block in blocks:
                await self._miss(block.first - 1, subscription, connection)
                for event in chosen(block, types):
                    if not await self._pause(self._due(event), subscription, connection):
                        return
                    wire = pack(event.seq, (Draft(event.type, event.data),), block.epoch)
                    alone = Block(self._run, event.seq, event.seq, wire, block.epoch)
                    await connection.body(projection.tell(alone, types))
                subscription.cursor = block.last
            if not blocks:
                # Forgotten meanwhile, if that was not the last of it.
                await self._miss(self._record.last_seq, subscription, connection)
                subscription.close(End.FINISHED)

    async def _miss(self, last: int, subscription: Subscription, to: Connection) -> None:
        """Say so when events up to `last` are no longer kept."""
        if last > subscription.cursor:
            lost = {"run": self._run, "from": subscription.cursor + 1, "to": last}
            await to.body(subscription.projection.control(GAP, lost))
            subscription.cursor = last

    def _due(self, event: Event) -> float:
        """Seconds to wait before `event`."""
        at = seconds(str(event.payload.get("timestamp")))
        ended = self._record.ended_at
        if at is None or ended is None:
            return 0.0
        # A producer may stamp its events itself, and with any time at all.
        at = min(max(at, self._record.created_at), ended)
        before, self._clock = self._clock, max(at, self._clock or at)
        return 0.0 if before is None else max(0.0, at - before) / self._speed

    async def _pause(self, left: float, subscription: Subscription, to: Connection) -> bool:
        """Wait, and say whether to go on. In slices: a watcher may leave, and a long silence
        needs its heartbeats.
        """
        while True:
            for frame in subscription.aside():
                await to.body(frame)
            if left <= 0 or subscription.end is not None:
                return subscription.end is None
            await asyncio.sleep(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS
