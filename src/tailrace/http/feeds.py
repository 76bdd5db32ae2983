"""Streams that have a pace of their own: many runs as one, a playback, a plain generator.

The request's own task sends, and a small one waits for the client to leave. Whatever is timed
(heartbeats, ticks, the deadline of a send) comes from the hub's one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tailrace import time
from tailrace.cohort import Manner
from tailrace.errors import TailraceError
from tailrace.http import cut
from tailrace.http.outlets import listening
from tailrace.hub import Hub
from tailrace.outlet import End, is_gone
from tailrace.protocol import events
from tailrace.protocol.access import caller
from tailrace.protocol.problems import document
from tailrace.protocol.wire import RETRY_AFTER_SHUTDOWN_MS, STREAM_HEADERS
from tailrace.pulse import LEAVE_SECONDS, Act, Pulse


class Feed(Protocol):
    """What a connection sends: a `Subscription`, or several as one."""

    end: End | None

    @property
    def is_behind(self) -> bool:
        """Whether there is more to have at once."""

    def close(self, end: End) -> None:
        """Stop after what was already handed out."""

    def interject(self, frame: bytes) -> None:
        """Send something that is no event."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks to send."""


class Connection:
    """One open stream: what is sent, and since when."""

    def __init__(  # noqa: PLR0917 - made in one place
        self, hub: Hub, feed: Feed, manner: Manner, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._arm = hub.clock.arm
        self._feed = feed
        self._manner = manner
        self._scope = scope
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._pulse = Pulse(time.monotonic(), manner.tick)
        self.is_cancelled = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        await self._tell({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self._tell({"type": "http.response.body", "body": chunk, "more_body": more})

    def beat(self, now: float) -> float:
        """See `rounds.Timed`."""
        act, again = self._pulse.beat(now)
        match act:
            case Act.TICK:
                self._feed.interject(self._manner.ticked())
            case Act.HEARTBEAT:
                self._feed.interject(self._manner.projection.heartbeat)
            case Act.CUT:
                cut.cut(self._scope, self._receive)
            case Act.CANCEL if self._task and not self.is_cancelled:
                self.is_cancelled = True
                self._task.cancel()
            case _:
                pass
        return again

    def leave(self) -> None:
        """See `rounds.Timed`."""
        if self._pulse.leave(time.monotonic()):
            self._feed.close(End.SHUTDOWN)
            self._arm(self, self._pulse.deadline)

    async def _tell(self, message: Message) -> None:
        """Send; the clock watches how long it takes."""
        self._pulse.block(time.monotonic())
        self._arm(self, self._pulse.deadline)
        try:
            await self._send(message)
        finally:
            self._pulse.unblock()
            # The next sign of life may be due before what was the deadline.
            self._arm(self, time.monotonic())


class Streaming(Response):
    """A response whose body is a feed. What is told of is the subclass's business."""

    def __init__(
        self,
        hub: Hub,
        manner: Manner,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, manner.projection.media_type)
        del self.headers["content-length"]
        self.raw_headers += STREAM_HEADERS
        self._hub = hub
        self._manner = manner

    async def stream(
        self, feed: Feed, scope: Scope, receive: Receive, send: Send, watchers: int = 0
    ) -> None:
        """Send `feed` to its end, or until the client leaves or the server goes away. `watchers`:
        how many its run has, with this one. Raises TooManyRequests, before anything is sent.
        """
        who = caller(scope).name
        self._hub.seats.check(who, watchers)
        seat = self._hub.seats.take(who)
        connection = Connection(self._hub, feed, self._manner, scope, receive, send)
        self._hub.connect(connection)
        try:
            async with listening(receive, partial(feed.close, End.LEFT)):
                await connection.start(self.status_code, self.raw_headers)
                await connection.body(self._manner.projection.opening)
                try:
                    await self.tell(feed, connection)
                except TailraceError as error:
                    told = self._manner.projection.control(events.ERROR, document(error))
                    await connection.body(told)
                if feed.end is not End.LEFT:
                    hint = RETRY_AFTER_SHUTDOWN_MS if feed.end is End.SHUTDOWN else None
                    await connection.body(self._manner.projection.closing(hint), more=False)
                if feed.end is End.SHUTDOWN:
                    # What was just sent may wait, in the server, for a client that does not read,
                    # and the server with it.
                    loop = asyncio.get_running_loop()
                    loop.call_later(LEAVE_SECONDS, cut.cut_unless_read, scope)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not connection.is_cancelled or task is None or task.uncancel():
                raise
        except Exception as error:
            if not is_gone(error):
                raise
        finally:
            self._hub.disconnect(connection)
            seat.free()

    async def tell(self, feed: Feed, connection: Connection) -> None:
        """Send the feed's chunks."""
        chunks = aiter(feed)
        async with contextlib.aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                await connection.body(chunk)
                if feed.is_behind:
                    # A send into an empty buffer does not suspend; without this a long
                    # replay would freeze everybody else, and never see its client go.
                    await asyncio.sleep(0)
