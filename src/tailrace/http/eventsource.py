"""Server-sent events from a generator, for a stream that needs no log: nothing is kept, so a
client that comes back starts the generator anew. What must not be lost is a run.

Everything the generator yields without waiting leaves in one send. A stream that was idle sends
at once, a busy one at most every 5 ms.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.http.items import threaded
from tailrace.http.outlets import AsgiOutlet, begun, listening
from tailrace.http.pump import OPENING, Pump, Pumps
from tailrace.protocol.wire import EVENT_STREAM, HEARTBEAT_SECONDS, STREAM_HEADERS


class EventSourceResponse(Response):
    """Streams what `content` yields as server-sent events.

        @app.get("/numbers")
        async def numbers() -> EventSourceResponse:
            return EventSourceResponse(count())

    `content` is an async iterable, or a plain one, which is walked in a thread. An item is text
    or bytes (its `data`), a mapping with `data` and any of `event`, `id`, `retry`, `comment`, a
    `ServerSentEvent` of FastAPI or sse-starlette, or anything else, which is told as JSON.
    `ping` is the silence after which a comment is sent, in seconds (default 15).

    The generator is cancelled when the client leaves, when it does not read for 25 s, and when
    the server goes away; then the stream still ends properly, with a hint to come back. What
    the generator raises ends the connection without an end, and is the server's to log.
    """

    def __init__(
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        background: BackgroundTask | None = None,
        ping: float = HEARTBEAT_SECONDS,
    ) -> None:
        media_type = f"{EVENT_STREAM}; charset=utf-8"
        super().__init__(None, status_code, headers, media_type, background)
        del self.headers["content-length"]
        given = {name for name, _ in self.raw_headers}
        self.raw_headers += [header for header in STREAM_HEADERS if header[0] not in given]
        self._content = content
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        is_plain = await begun(send, self.status_code, self.raw_headers, OPENING)
        outlet = AsgiOutlet(scope, receive, send, steps=is_plain)
        content = self._content
        items = content if isinstance(content, AsyncIterable) else threaded(content)
        pumps = Pumps.here()
        pump = Pump(outlet, items, pumps.clock, self._ping)
        pumps.join(pump)
        try:
            async with listening(receive, pump.drop):
                await pump.run()
        finally:
            pumps.part(pump)
        if self.background is not None:
            await self.background()
