"""Server-sent events from a generator, for a stream that needs no log: nothing is kept, so a
client that comes back starts the generator anew. What must not be lost is a run.

Everything the generator yields without waiting leaves in one send. A stream that was idle sends
at once, a busy one at most every 5 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tailrace.http.items import threaded
from tailrace.http.outlets import AsgiOutlet, begun, listening
from tailrace.http.pump import OPENING, Care, Pump, Pumps, Settable
from tailrace.protocol.items import framed, framed_as_json
from tailrace.protocol.wire import EVENT_STREAM, HEARTBEAT_SECONDS, STREAM_HEADERS

logger = logging.getLogger("tailrace.http")

_SEPARATORS: Final = (None, "\r\n", "\r", "\n")


class EventSourceResponse(Response):
    """Streams what `content` yields as server-sent events. A drop-in for sse-starlette's.

        @app.get("/numbers")
        async def numbers() -> EventSourceResponse:
            return EventSourceResponse(count())

    `content` is an async iterable, or a plain one, which is walked in a thread. An item is text
    (its `data`), bytes (sent as they are), a mapping with any of `data`, `event`, `id`, `retry`,
    `comment`, a `ServerSentEvent` of ours, FastAPI's or sse-starlette's, or anything else, which is
    told as JSON. All times are seconds:

    - `ping`: the silence after which a comment is sent; 15 by default, 0 for never.
      `ping_message_factory` makes another item of it; once it fails, comments are sent.
    - `send_timeout`: how long a client may hold up a send by not reading, before its connection is
      cut; 25 by default.
    - `shutdown_event`: set when the server goes away (asyncio's, anyio's or threading's); then the
      generator has `shutdown_grace_period`, 0 by default, to say goodbye before it is cancelled.
    - `cleanup_timeout`: what the generator's closing may take; 30 by default, None for no bound.
      A thread cannot be interrupted: it ends after its next item, and is waited for as long.
    - `data_sender_callable`: a coroutine function that feeds `content`, for as long as it lasts;
      it is cancelled then, and has the same time.
    - `client_close_handler_callable`: awaited with ASGI's message when the client leaves.
    - `sep` is taken and checked, and lines end in LF whatever it says: every parser reads that, and
      some read nothing else.

    The generator is cancelled when the client leaves, when it does not read, and when the server
    goes away; then the stream still ends properly, with a hint to come back. What it raises is
    told, after all that it has yielded, as an `error` event with the error's type, and raised, for
    the server to log; so is what it raises once the client has left. Raises ValueError for a value
    that cannot be meant.
    """

    _tells_json: ClassVar[bool] = False

    def __init__(  # noqa: PLR0917 - the order is sse-starlette's
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = EVENT_STREAM,
        background: BackgroundTask | None = None,
        ping: float | None = None,
        sep: str | None = None,
        ping_message_factory: Callable[[], Any] | None = None,
        data_sender_callable: Callable[[], Awaitable[None]] | None = None,
        send_timeout: float | None = None,
        client_close_handler_callable: Callable[[Message], Awaitable[None]] | None = None,
        shutdown_event: Settable | None = None,
        shutdown_grace_period: float = 0,
        cleanup_timeout: float | None = 30.0,
    ) -> None:
        if sep not in _SEPARATORS:
            raise ValueError(f"sep must be one of CRLF, CR and LF, not {sep!r}.")
        for name, seconds in (
            ("ping", ping),
            ("send_timeout", send_timeout),
            ("shutdown_grace_period", shutdown_grace_period),
            ("cleanup_timeout", cleanup_timeout),
        ):
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"{name} must be a number of seconds, 0 or more, not {seconds!r}.")
        charset = "" if "charset=" in media_type else "; charset=utf-8"
        super().__init__(None, status_code, headers, f"{media_type}{charset}", background)
        del self.headers["content-length"]
        given = {name for name, _ in self.raw_headers}
        self.raw_headers += [header for header in STREAM_HEADERS if header[0] not in given]
        self._content = content
        self._sender = data_sender_callable
        self._left = client_close_handler_callable
        frame = framed_as_json if self._tells_json else framed
        self._care = Care(
            ping=HEARTBEAT_SECONDS if ping is None else ping,
            sign=None if ping_message_factory is None else lambda: frame(ping_message_factory()),
            deadline=send_timeout,
            farewell=shutdown_event,
            grace=shutdown_grace_period,
            cleanup=cleanup_timeout,
            frame=frame,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            # A handshake that is refused by a stream ("Websocket Denial Response").
            send = partial(_denied, send)
        if scope.get("method") == "HEAD":
            # The head is all of it; the generator is not begun.
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._stream(scope, receive, send)
        if self.background is not None:
            await self.background()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain = await begun(send, self.status_code, self.raw_headers, OPENING)
        outlet = AsgiOutlet(scope, receive, send, steps=is_plain)
        content = self._content
        items = content if isinstance(content, AsyncIterable) else threaded(content)
        pumps = Pumps.here()
        pump = Pump(outlet, items, pumps.clock, self._care)
        pumps.join(pump)
        try:
            async with listening(partial(self._heard, receive, pump), pump.drop), self._fed(pump):
                await pump.run()
        finally:
            pumps.part(pump)

    async def _heard(self, receive: Receive, pump: Pump) -> Message:
        """What the server says; the client's leaving is told on, as long as it has not all."""
        message = await receive()
        if message["type"] == "http.disconnect" and self._left is not None and not pump.is_over:
            await self._left(message)
        return message

    @contextlib.asynccontextmanager
    async def _fed(self, pump: Pump) -> AsyncIterator[None]:
        """Have whoever feeds the generator do so while the block lasts."""
        if self._sender is None:
            yield
            return
        feeding = asyncio.ensure_future(self._sender())

        def ended(feeding: asyncio.Future[None]) -> None:
            error = None if feeding.cancelled() else feeding.exception()
            if error is not None:
                pump.fail(error)

        feeding.add_done_callback(ended)
        try:
            yield
        finally:
            feeding.cancel()
            _, late = await asyncio.wait((feeding,), timeout=self._care.cleanup)
            if late:
                logger.warning("What feeds a generator took over %g s to end", self._care.cleanup)


class JSONEventSourceResponse(EventSourceResponse):
    """An `EventSourceResponse` that tells every item as JSON, also text: a drop-in for that of
    `fastapi.sse`, as a `response_class` too.

        @app.get("/items", response_class=JSONEventSourceResponse)
        async def items() -> AsyncIterable[Item]:
            yield Item(name="first")
    """

    _tells_json: ClassVar[bool] = True
    media_type = EVENT_STREAM


async def _denied(send: Send, message: Message) -> None:
    await send({**message, "type": f"websocket.{message['type']}"})


__all__ = ["EventSourceResponse", "JSONEventSourceResponse"]
