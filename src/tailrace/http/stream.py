"""The streaming response: one run, told live to one watcher, on any ASGI server.

The server's own task sends; one small task waits for the client to leave. Everything timed
(heartbeats, ticks, the deadline of a send) comes from the hub's one timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tailrace.errors import CursorFromFuture, LogError, RunUnknown, TailraceError
from tailrace.http import cut, problems
from tailrace.hub import Hub
from tailrace.projections.contract import Projection, Types
from tailrace.protocol import events
from tailrace.protocol.cursor import Cursor, Kind
from tailrace.protocol.wire import (
    HEARTBEAT_SECONDS,
    LAST_EVENT_ID,
    RETRY_AFTER_SHUTDOWN_MS,
    STREAM_HEADERS,
    WRITE_DEADLINE_SECONDS,
)
from tailrace.subscription import End

_LEAVE_SECONDS: Final = 1.0
"""How long a stalled send may keep a server that goes away."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How a watcher wants to be told: after which cursor, in which format, which types,
    and with a `tick` of the elapsed time every so many seconds since `began`.
    """

    cursor: Cursor | str
    projection: Projection
    types: Types = None
    tick: float | None = None
    began: float | None = None


class Connection:
    """One open stream: what is sent, and since when."""

    write_deadline: ClassVar[float] = WRITE_DEADLINE_SECONDS

    def __init__(
        self, feed: Feed, telling: Telling, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._feed = feed
        self._telling = telling
        self._scope = scope
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._sending_since: float | None = None
        self._sent_at = self._ticked_at = time.monotonic()
        self._leaving_since: float | None = None
        self._cut_at: float | None = None
        self.is_cancelled = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        await self._tell({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self._tell({"type": "http.response.body", "body": chunk, "more_body": more})

    def beat(self, now: float) -> None:
        """See `hub.Connection`."""
        if self._sending_since is not None:
            late = now - self._sending_since > self.write_deadline
            leaving = self._leaving_since is not None and now - self._leaving_since > _LEAVE_SECONDS
            if late or leaving:
                self._cut(now)
            return
        tick = self._telling.tick
        if tick is not None and now - self._ticked_at >= tick:
            self._ticked_at = now
            self._feed.interject(self._tick())
        elif now - self._sent_at >= HEARTBEAT_SECONDS:
            self._sent_at = now
            self._feed.interject(self._telling.projection.heartbeat)

    def leave(self) -> None:
        """See `hub.Connection`."""
        self._leaving_since = self._leaving_since or time.monotonic()
        self._feed.close(End.SHUTDOWN)

    def _tick(self) -> bytes:
        began = self._telling.began or time.time()
        elapsed = {"elapsed_seconds": round(time.time() - began, 1)}
        return self._telling.projection.control(events.TICK, elapsed)

    async def _tell(self, message: Message) -> None:
        """Send; the timer watches how long it takes."""
        self._sending_since = self._sent_at = time.monotonic()
        try:
            await self._send(message)
        finally:
            self._sending_since = None

    def _cut(self, now: float) -> None:
        if self._cut_at is None:
            self._cut_at = now
            cut.cut(self._scope, self._receive)
        elif now - self._cut_at > _LEAVE_SECONDS and self._task and not self.is_cancelled:
            # The connection was not found. A last resort, and not the first one, because
            # granian deadlocks when the send that is cancelled fails at the same time.
            self.is_cancelled = True
            self._task.cancel()


class Streaming(Response):
    """A response whose body is a feed. What is told of is the subclass's business."""

    def __init__(
        self,
        hub: Hub,
        telling: Telling,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, telling.projection.media_type)
        del self.headers["content-length"]
        self.raw_headers += STREAM_HEADERS
        self._hub = hub
        self._telling = telling

    async def stream(self, feed: Feed, scope: Scope, receive: Receive, send: Send) -> None:
        """Send `feed` to its end, or until the client leaves or the server goes away."""
        connection = Connection(feed, self._telling, scope, receive, send)
        self._hub.connect(connection)
        listening = asyncio.create_task(_listen(receive, feed))
        try:
            await connection.start(self.status_code, self.raw_headers)
            await connection.body(self._telling.projection.opening)
            try:
                await self.tell(feed, connection)
            except TailraceError as error:
                told = self._telling.projection.control(events.ERROR, problems.document(error))
                await connection.body(told)
            if feed.end is not End.LEFT:
                hint = RETRY_AFTER_SHUTDOWN_MS if feed.end is End.SHUTDOWN else None
                await connection.body(self._telling.projection.closing(hint), more=False)
            if feed.end is End.SHUTDOWN:
                # What was just sent may wait, in the server, for a client that does not read,
                # and the server with it.
                loop = asyncio.get_running_loop()
                loop.call_later(_LEAVE_SECONDS, cut.cut_unless_read, scope)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not connection.is_cancelled or task is None or task.uncancel():
                raise
        except OSError:
            # The server's way to say that the client is gone (granian, hypercorn).
            pass
        finally:
            self._hub.disconnect(connection)
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

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


class RunStream(Streaming):
    """A response that streams a run. A client that leaves and comes back with the last id
    it has gets exactly the rest; 204 when there is none and never will be.
    """

    def __init__(self, hub: Hub, run: str, telling: Telling, **options: Any) -> None:
        super().__init__(hub, telling, **options)
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        telling = self._telling
        try:
            async with self._hub.subscribe(
                self._run, telling.cursor, telling.projection, telling.types
            ) as (subscription, start):
                if start.kind is Kind.FINISHED:
                    await Response(status_code=204)(scope, receive, send)
                else:
                    # For whoever asked for `latest`: a cut before the first event would
                    # otherwise leave them without a cursor to come back with.
                    self.headers[LAST_EVENT_ID] = str(Cursor(subscription.epoch, start.after))
                    await self.stream(subscription, scope, receive, send)
        except (RunUnknown, CursorFromFuture, LogError) as error:
            # Raised before anything was sent: later ones are told within the stream.
            await problems.response(error)(scope, receive, send)


async def _listen(receive: Receive, feed: Feed) -> None:
    """Wait for the client to leave."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        # Also where a server, or middleware, raises to say so.
        feed.close(End.LEFT)
