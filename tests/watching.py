"""A watcher that sees what goes over the wire: HTTP/1.1 on a bare socket, chunk by chunk."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tailrace.protocol.sse import Decoder, ServerSentEvent


class Watcher(asyncio.Protocol):
    """One connection. What it has received so far is in `status`, `headers` and `body`.

    `chunks` are the sizes of the chunks, `is_complete` tells that the last one came (the
    zero-length one of RFC 9112 §7.1), `is_closed` that the connection has ended.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.received = 0
        self.chunks: list[int] = []
        self.is_complete = False
        self.is_closed = False
        self.transport: asyncio.Transport
        self._keeps = keeps
        self._raw = bytearray()
        self._left = 0
        self._waiting: asyncio.Event = asyncio.Event()
        self._decoder = Decoder()
        self._events: list[ServerSentEvent] = []
        self._decoded = 0

    @classmethod
    async def open(
        cls,
        port: int,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        keeps: bool = True,
    ) -> Self:
        """Connect and ask. `keeps=False` only counts, for what is too much to hold."""
        loop = asyncio.get_running_loop()
        _, watcher = await loop.create_connection(lambda: cls(keeps=keeps), "127.0.0.1", port)
        watcher.transport.write(request(target, method, headers or {}, body))
        return watcher

    # --- asyncio.Protocol ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self.status and not self._read_head():
            return
        if self.headers.get("transfer-encoding") == "chunked":
            while self._read_chunk():
                pass
        else:
            self._take(bytes(self._raw))
            self._raw.clear()
            length = self.headers.get("content-length")
            self.is_complete = length is not None and self.received >= int(length)
        self._waiting.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._waiting.set()

    def _read_head(self) -> bool:
        head, blank, rest = bytes(self._raw).partition(b"\r\n\r\n")
        if not blank:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._raw[:] = rest
        return True

    def _read_chunk(self) -> bool:
        if not self._left:
            line, end, _ = bytes(self._raw[:20]).partition(b"\r\n")
            if not end:
                return False
            self._left = int(line, 16) + 2
            self.chunks.append(self._left - 2)
            del self._raw[: len(line) + 2]
        if not self.chunks[-1]:
            self.is_complete = self._raw[:2] == b"\r\n"
            return False
        part = bytes(self._raw[: self._left])
        del self._raw[: len(part)]
        self._left -= len(part)
        # The last two bytes of a chunk are its line end.
        self._take(part if self._left >= 2 else part[: len(part) + self._left - 2])
        return not self._left and bool(self._raw)

    def _take(self, part: bytes) -> None:
        self.received += len(part)
        if self._keeps:
            self.body += part

    # --- for tests -------------------------------------------------------------------

    @property
    def events(self) -> list[ServerSentEvent]:
        """The events received so far."""
        self._events += self._decoder.feed(bytes(self.body[self._decoded :]))
        self._decoded = len(self.body)
        return self._events

    @property
    def last_event_id(self) -> str:
        """What to come back with."""
        return self.events[-1].id if self.events else ""

    async def until(self, done: Callable[[Self], Any], what: str, within: float = 10.0) -> Self:
        """Wait for a condition. Fails, too, when the connection ends before."""
        try:
            async with asyncio.timeout(within):
                while not done(self):
                    assert not self.is_closed, f"the connection ended before {what}: {self}"
                    self._waiting.clear()
                    await self._waiting.wait()
        except TimeoutError:
            raise AssertionError(f"after {within:g} s still not {what}: {self}") from None
        return self

    async def told(self, text: bytes, within: float = 10.0) -> Self:
        """Wait until `text` was received."""
        return await self.until(lambda w: text in w.body, repr(text), within)

    async def over(self, within: float = 10.0) -> Self:
        """Wait for the end of the body or of the connection."""
        return await self.until(lambda w: w.is_complete or w.is_closed, "over", within)

    def stall(self) -> None:
        """Read nothing more."""
        self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        self.transport.resume_reading()

    def leave(self) -> None:
        """Close."""
        self.transport.close()

    def vanish(self) -> None:
        """End with a reset, as a process that is killed does."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self.transport.abort()

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "closed" if self.is_closed else "open"
        return f"<Watcher {self.status} {state}, {self.received} bytes: …{self.body[-200:]!r}>"


def request(target: str, method: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


@contextlib.asynccontextmanager
async def watchers() -> AsyncIterator[list[Watcher]]:
    """A list; whoever is in it leaves at the end."""
    party: list[Watcher] = []
    try:
        yield party
    finally:
        for watcher in party:
            watcher.transport.abort()
        # Let the transports tell their ends, or they complain when collected.
        await asyncio.sleep(0)


def stalled(port: int, target: str, headers: Mapping[str, str] | None = None) -> socket.socket:
    """A watcher that asks and never reads. Its own buffer is small."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(request(target, "GET", headers or {}, b""))
    return connection


def pent_up(connection: socket.socket) -> int:
    """How many bytes the kernel holds, at the server's end, for somebody who does not read."""
    ours = connection.getsockname()[1]
    theirs = connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if (int(local[-4:], 16), int(remote[-4:], 16)) == (theirs, ours):
            return int(queues.partition(":")[0], 16)
    return 0


async def stuck(connections: Sequence[socket.socket], within: float = 10.0) -> None:
    """Wait until nothing moves any more towards watchers that do not read."""
    before: list[int] = []
    async with asyncio.timeout(within):
        while not before or not all(before):
            now = [pent_up(connection) for connection in connections]
            await asyncio.sleep(0.2)
            before = [one if one == pent_up(c) else 0 for one, c in zip(now, connections, strict=True)]


def decoded(body: bytes) -> list[tuple[str, str, str]]:
    """The events of a body, as triples."""
    return [(event.id, event.event, event.data) for event in Decoder().feed(body)]
