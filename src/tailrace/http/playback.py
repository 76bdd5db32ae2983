"""A finished run, told again with its own timing."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tailrace.eventlog.contract import EventLog
from tailrace.http.stream import Connection, Feed, RunStream, Telling
from tailrace.hub import Hub
from tailrace.projections.contract import chosen
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import GAP, Draft, seconds
from tailrace.subscription import End, Subscription

_SLICE_SECONDS: Final = 0.25


class Playback(RunStream):
    """Waits between two events as long as their timestamps say, divided by `speed`."""

    def __init__(self, hub: Hub, log: EventLog, run: str, telling: Telling, speed: float) -> None:
        super().__init__(hub, run, telling)
        self._log = log
        self._speed = speed

    async def tell(self, feed: Feed, connection: Connection) -> None:
        """Send the events one by one."""
        subscription = cast("Subscription", feed)
        projection, types = subscription.projection, self._telling.types
        previous: float | None = None
        while subscription.end is None:
            blocks = await self._log.read(self._run, subscription.cursor)
            if not blocks:
                subscription.end = End.FINISHED
            for block in blocks:
                if block.first > subscription.cursor + 1:
                    lost = {"from": subscription.cursor + 1, "to": block.first - 1}
                    await connection.body(projection.control(GAP, lost))
                for event in chosen(block, types):
                    at = seconds(str(event.payload.get("timestamp")))
                    if at is not None:
                        pause = 0.0 if previous is None else (at - previous) / self._speed
                        await self._pause(pause, subscription, connection)
                        previous = at
                    if subscription.end is not None:
                        return
                    wire = pack(event.seq, (Draft(event.type, event.data),), block.epoch)
                    alone = Block(self._run, event.seq, event.seq, wire, block.epoch)
                    await connection.body(projection.tell(alone, types))
                subscription.cursor = block.last

    async def _pause(self, left: float, subscription: Subscription, to: Connection) -> None:
        """Wait in slices: a watcher may leave, and a long silence needs its heartbeats."""
        while left > 0 and subscription.end is None:
            await asyncio.sleep(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS
            for frame in subscription.aside():
                await to.body(frame)
