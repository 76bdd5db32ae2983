"""A watcher that sees what goes over the wire: HTTP/1.1 on a bare socket, chunk by chunk."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tailrace.protocol.sse import Decoder, ServerSentEvent


class Watcher(asyncio.Protocol):
    """One connection. What it has received so far is in `status`, `headers` and `body`.

    `chunks` are the sizes of the chunks, `is_complete` tells that the last one came (the
    zero-length one of RFC 9112 §7.1), `is_closed` that the connection has ended. `arrivals`
    says when (seconds since 1970) how many bytes of the body were there.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.received = 0
        self.chunks: list[int] = []
        self.arrivals: list[tuple[float, int]] = []
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
            # RFC 9112 §6.3: no body, and no length needed to say so.
            is_empty = self.status in (204, 304)
            self.is_complete = is_empty or (length is not None and self.received >= int(length))
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
            self.arrivals.append((time.time(), self.received))

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

    def delays(self, type: str) -> list[float]:
        """Seconds from when each event of `type` was `sent` (a field of its payload) to here."""
        found: list[float] = []
        arrivals = iter(self.arrivals)
        at, there = next(arrivals)
        end = self.body.find(b"\n\n") + 2
        for event in self.events:
            while there < end:
                at, there = next(arrivals)
            if event.event == type:
                found.append(at - float(json.loads(event.data)["sent"]))
            end = self.body.find(b"\n\n", end) + 2
        return found

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
        # The server may have been first, and have ended what it had sent all of.
        with contextlib.suppress(OSError):
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


class Stalled(socket.socket):
    """A watcher that asks and never reads. Its own buffer is small."""

    def __init__(self, port: int, target: str) -> None:
        super().__init__()
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connect(("127.0.0.1", port))
        self.ports = (port, self.getsockname()[1])
        self.sendall(request(target, "GET", {}, b""))


async def drained(connection: Stalled) -> bytes:
    """The body that somebody got who did not read: what is in their own buffer now that the
    connection is over.
    """
    watcher = Watcher()
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while part := await loop.sock_recv(connection, 65536):
                watcher.data_received(part)
    return bytes(watcher.body)


def pent_up(connections: Sequence[Stalled]) -> list[int]:
    """How many bytes the kernel holds, at the server's end, for those who do not read."""
    held: dict[tuple[int, int], int] = {}
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        ports = int(local[-4:], 16), int(remote[-4:], 16)
        held[ports] = int(queues.partition(":")[0], 16)
    return [held.get(connection.ports, 0) for connection in connections]


async def stuck(connections: Sequence[Stalled], within: float = 10.0) -> int:
    """Wait until nothing moves any more towards those who do not read; how much they hold up."""
    async with asyncio.timeout(within):
        while True:
            before = await asyncio.to_thread(pent_up, connections)
            await asyncio.sleep(0.2)
            if all(before) and before == await asyncio.to_thread(pent_up, connections):
                return sum(before)


async def drip(connection: Stalled, add: Callable[[int], None]) -> None:
    """Add (so many) to what somebody is sent who does not read, until the kernel takes no more
    of it, and once more.
    """
    add(50)
    async with asyncio.timeout(60):
        while True:
            before = pent_up([connection])
            add(1)
            await asyncio.sleep(0.01)
            if any(before) and before == pent_up([connection]):
                await asyncio.sleep(0.3)
                if before == pent_up([connection]):
                    return


def decoded(body: bytes) -> list[tuple[str, str, str]]:
    """The events of a body, as triples."""
    return [(event.id, event.event, event.data) for event in Decoder().feed(body)]
