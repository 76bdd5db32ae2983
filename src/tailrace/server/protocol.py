"""uvicorn's protocol for HTTP, with what streams need: the hand-over of a response's socket, a
deadline for requests that never end, bounds of their heads, and a count of everybody who is
connected.

uvicorn takes such a class as `http=` (its documented extension point). The hand-over is an ASGI
extension, `scope["extensions"]["tailrace.direct"]`: once the head and the first bytes of a
response have left, `take(first_bytes)` answers a descriptor of the connection, and the request
is over for the server. It answers None whenever anything stands between the two that would be
passed over: TLS, compression, middleware that changes or holds back what is sent.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailrace.http.outlets import DIRECT
from tailrace.http.sockets import Sockets
from tailrace.perloop import PerLoop

REQUEST_SECONDS: Final = 20.0
"""How long the head of a request may take, or BODY_BYTES of its body."""

BODY_BYTES: Final = 8 * 1024

HEAD_BYTES: Final = 64 * 1024
"""How large the target and the headers of a request may be in sum, names and values."""

MAX_HEADERS: Final = 100
"""How many headers a request may have."""

MAX_HALF_OPEN: Final = 1000
"""How many connections may owe us the rest of a head."""

# With what stands between the parts of a head.
_RAW_HEAD_BYTES: Final = HEAD_BYTES + 1024

_LOOK_SECONDS: Final = 1.0
# What whoever comes has in any case to send its request, however many come at once.
_FRESH_SECONDS: Final = 1.0
# The messages of a response that can be handed over: its head, and its first bytes.
_PLAIN: Final = 2

_BUSY: Final = b"503 Service Unavailable", b"The server has as many connections as it takes.\n"
_LATE: Final = b"408 Request Timeout", b"The request did not come to its end in time.\n"
_LARGE: Final = (
    b"431 Request Header Fields Too Large",
    b"The address and the headers are at most %d bytes, in %d headers.\n"
    % (HEAD_BYTES, MAX_HEADERS),
)

# The hub's epoll set is Linux's; elsewhere responses are sent through ASGI.
_IS_OFFERED: Final = sys.platform == "linux"


class Patience(PerLoop):
    """How long each connection of one event loop has owed us the rest of a request.

    In the order in which they began to, so that a look at the first ones is enough. Of those that
    owe the rest of a head, which costs a client nothing, there is a bound: beyond it the one that
    owes the longest is ended, so that a flood of them never takes the place of whole requests.
    """

    def __init__(self) -> None:
        self._since: dict[Protocol, float] = {}
        # A dict for its order, which is that of the other.
        self._heads: dict[Protocol, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, protocol: Protocol) -> None:
        """It owes us something, from now on."""
        self._since.pop(protocol, None)
        self._since[protocol] = time.monotonic()
        if self._timer is None:
            self._timer = protocol.loop.call_later(_LOOK_SECONDS, self.look)

    def begin_head(self, protocol: Protocol) -> None:
        """It owes us all of a request, from now on."""
        self.begin(protocol)
        self._heads.pop(protocol, None)
        self._heads[protocol] = None
        if len(self._heads) > Protocol.max_half_open:
            self._thin()

    def end_head(self, protocol: Protocol) -> None:
        """It owes us no more than a body."""
        self._heads.pop(protocol, None)

    def end(self, protocol: Protocol) -> None:
        """It owes us nothing."""
        self._since.pop(protocol, None)
        self._heads.pop(protocol, None)

    def make_room(self) -> bool:
        """Somebody comes, and there is no place: end who owes a head the longest, if there are too
        many of them, or it had its time; whether one was ended.
        """
        oldest = next(iter(self._heads), None)
        if oldest is None:
            return False
        is_fresh = self._since[oldest] > time.monotonic() - _FRESH_SECONDS
        if is_fresh and len(self._heads) <= Protocol.max_half_open:
            return False
        self._refuse(oldest)
        return True

    def _thin(self) -> None:
        """End who owes a head the longest, as long as there are too many. But not whoever has just
        come: their requests may be on their way.
        """
        before = time.monotonic() - _FRESH_SECONDS
        while len(self._heads) > Protocol.max_half_open:
            oldest = next(iter(self._heads))
            if self._since[oldest] > before:
                break
            self._refuse(oldest)

    def _refuse(self, protocol: Protocol) -> None:
        self.end(protocol)
        protocol.refuse(*_LATE)

    def look(self) -> None:
        """Refuse whoever took too long."""
        self._timer = None
        since = time.monotonic() - Protocol.patience
        for protocol in [one for one, began in self._since.items() if began <= since]:
            if protocol.flow.read_paused:
                # It is the app that keeps the client waiting.
                self.begin(protocol)
            else:
                self._refuse(protocol)
        self._thin()
        if self._timer is None and self._since:
            loop = next(iter(self._since)).loop
            self._timer = loop.call_later(_LOOK_SECONDS, self.look)


class _Held:
    """Stands in for a transport, and keeps what is written, to leave in one write."""

    __slots__ = ("_transport", "parts")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.parts: list[bytes] = []

    def write(self, written: bytes) -> None:
        """See `asyncio.WriteTransport`."""
        self.parts.append(written)

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)


class Offer:
    """The hand-over of one response. It sees what reaches the server of what the app sends, and
    so whether something in between would be passed over.
    """

    __slots__ = ("_count", "_cycle", "_encoded", "_held", "_last", "_protocol", "_send")

    def __init__(self, protocol: Protocol, cycle: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._send: Callable[[Any], Any] = cycle.send
        self._held: _Held | None = None
        self._count = 0
        self._encoded = False
        self._last = b""

    async def send(self, message: Any) -> None:
        """ASGI, on behalf of the request's cycle."""
        self._count += 1
        if self._count <= _PLAIN:
            # Not what follows: a cycle would keep it for long after its watcher has left.
            self._last = message.get("body", b"")
        if message["type"] == "http.response.start":
            self._encoded = any(name == b"content-encoding" for name, _ in message["headers"])
        await self._send(message)

    def hold(self) -> None:
        """Keep what is sent until `take`, which must follow: head and first bytes are one write."""
        self._held = self._cycle.transport = _Held(self._cycle.transport)

    def take(self, sent: bytes) -> tuple[int, bytes] | None:
        """A descriptor of the connection, now the caller's to close, and what has to be written
        first, if head and `sent` are all that was sent, and have come here as they are. Otherwise
        None, and what was held goes its way.
        """
        cycle, transport = self._cycle, self._protocol.transport
        held = [] if self._held is None else self._held.parts
        cycle.transport, self._held = transport, None
        descriptor = self._descriptor() if self._is_plain(sent) else None
        if descriptor is None:
            if held:
                transport.write(b"".join(held))
            return None
        # Or uvicorn would complain of a response without an end.
        cycle.disconnected = True
        self._protocol.server_state.total_requests += 1
        transport.abort()
        return descriptor, b"".join(held)

    def _is_plain(self, sent: bytes) -> bool:
        protocol, cycle = self._protocol, self._cycle
        transport = protocol.transport
        # Of nothing it would not show that it was changed.
        return bool(sent) and not (
            self._count != _PLAIN
            or self._last != sent
            or self._encoded
            or protocol.cycle is not cycle
            or protocol.pipeline
            or cycle.more_body
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
            or transport.is_closing()
            or transport.get_write_buffer_size()
            or transport.get_extra_info("sslcontext") is not None
        )

    def _descriptor(self) -> int | None:
        try:
            # A number of our own: the server's is free once it has closed its side, and the
            # next connection that gets it would be sent this one's events.
            return os.dup(self._protocol.transport.get_extra_info("socket").fileno())
        except OSError:
            # None is left. The connection that is there can still be sent to.
            return None


class Protocol(HttpToolsProtocol):
    """See the module. `max_connections` counts those that were handed over as well; whoever
    comes beyond it is answered 503, unless somebody owes the rest of a head (`max_half_open`).
    """

    max_connections: ClassVar[int | None] = None
    max_half_open: ClassVar[int] = MAX_HALF_OPEN
    patience: ClassVar[float] = REQUEST_SECONDS

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._patience = Patience.here()
        self._body_seen = self._head_seen = 0
        limit = self.max_connections
        is_full = limit is not None and len(self.connections) + Sockets.count > limit
        if is_full and not self._patience.make_room():
            self.refuse(*_BUSY)
        else:
            self._patience.begin_head(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._patience.end(self)
        super().connection_lost(exc)
        # Request, parser and task refer to each other; an idle watcher must not wait for the
        # collector to be small.
        self.scope = self.cycle = self.headers = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        # The parser has no bound of its own: of what it keeps until a header is complete, nor of
        # headers that follow a chunked body.
        self._head_seen += len(data)
        super().data_received(data)
        if self._head_seen and not self.transport.is_closing():
            count = 0 if self.headers is None else len(self.headers)
            if self._head_seen > _RAW_HEAD_BYTES or count > MAX_HEADERS:
                self._patience.end(self)
                self.refuse(*_LARGE)

    def on_message_begin(self) -> None:
        """See uvicorn."""
        super().on_message_begin()
        self._patience.begin_head(self)

    def on_headers_complete(self) -> None:
        """See uvicorn."""
        self._head_seen = 0
        self._patience.end_head(self)
        if _is_large(self.url, self.headers):
            self._patience.end(self)
            self.refuse(*_LARGE)
            # To the parser, which reads no further.
            raise ValueError("The head is too large.")
        scope = self.scope
        before = self.cycle
        if _IS_OFFERED:
            scope["extensions"] = {}
        super().on_headers_complete()
        if _IS_OFFERED and self.cycle is not before:
            offer = Offer(self, self.cycle)
            self.cycle.send = offer.send  # type: ignore[method-assign]
            scope["extensions"][DIRECT] = {"hold": offer.hold, "take": offer.take}

    def on_body(self, body: bytes) -> None:
        """See uvicorn."""
        super().on_body(body)
        self._head_seen = 0
        self._body_seen += len(body)
        if self._body_seen > BODY_BYTES:
            self._body_seen = 0
            self._patience.begin(self)

    def on_message_complete(self) -> None:
        """See uvicorn."""
        super().on_message_complete()
        self._head_seen = 0
        self._patience.end(self)

    def handle_websocket_upgrade(self) -> None:
        """See uvicorn."""
        self._patience.end(self)
        super().handle_websocket_upgrade()

    def refuse(self, status: bytes, said: bytes) -> None:
        """End the connection, with an answer where none has begun."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(said), said)
            )
        self.transport.close()


def _is_large(target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    if len(headers) > MAX_HEADERS:
        return True
    size = len(target)
    for name, value in headers:
        size += len(name) + len(value)
    return size > HEAD_BYTES
