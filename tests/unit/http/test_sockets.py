"""Handed-over sockets: real ones, with a client at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tailrace.http.sockets import SocketOutlet, Sockets
from tailrace.outlet import End, Frame
from tests.waiting import soon, turns, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's"),
]

BIG: Final = b"0123456789abcdef" * 65536


@pytest.fixture(
    scope="module",
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Holds:
    def __init__(self) -> None:
        self.dropped: list[Any] = []

    def drop(self, outlet: Any) -> None:
        self.dropped.append(outlet)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(400)
        # Inherited by what is accepted, so that little is enough to fill it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        yield listener


class Pair:
    """A client, and the outlet to it."""

    def __init__(self, listener: socket.socket) -> None:
        self.client = socket.socket()
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.client.connect(listener.getsockname())
        self.client.setblocking(False)
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        self.descriptor = accepted.detach()
        self.outlet: SocketOutlet = Sockets.here().adopt(self.descriptor)
        self.holder = Holds()
        self.outlet.holder = self.holder

    async def read(self, count: int) -> bytes:
        got = bytearray()
        async with asyncio.timeout(10):
            while len(got) < count:
                part = await asyncio.get_running_loop().sock_recv(self.client, 65536)
                assert part, f"over after {len(got)} bytes"
                got += part
        return bytes(got)

    async def rest(self) -> bytes:
        """Up to the end of the connection."""
        got = bytearray()
        async with asyncio.timeout(10):
            while part := await asyncio.get_running_loop().sock_recv(self.client, 65536):
                got += part
        return bytes(got)

    async def dropped(self) -> None:
        await until(lambda: self.holder.dropped, "noticed")
        assert self.holder.dropped == [self.outlet]


@pytest.fixture
async def pair(listener: socket.socket) -> AsyncIterator[Pair]:
    pair = Pair(listener)
    yield pair
    pair.outlet.left()
    pair.client.close()
    assert not len(Sockets.here())
    assert Sockets.here()._epoll is None


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# --- sending ---------------------------------------------------------------------------


async def test_bytes_leave_at_once_as_chunks(pair: Pair) -> None:
    assert pair.outlet.push(Frame(b"hello")) is None
    assert pair.outlet.push(Frame(b"bye", is_last=True)) is None
    assert await pair.read(23) == b"5\r\nhello\r\n3\r\nbye\r\n0\r\n\r\n"
    pair.outlet.close(End.FINISHED)
    pair.outlet.left()
    assert await pair.rest() == b""


async def test_the_end_comes_after_all_that_was_sent(pair: Pair) -> None:
    """Also where much is still in the kernel when the socket is closed."""
    frame = Frame(BIG[:10_000], is_last=True)
    assert pair.outlet.push(frame) is None
    pair.outlet.close(End.FINISHED)
    pair.outlet.left()
    assert await pair.rest() == frame.chunk


async def test_what_does_not_fit_is_awaited(pair: Pair) -> None:
    frame = Frame(BIG)
    rest = pair.outlet.push(frame)
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    await turns()
    assert not sending.done()
    assert await pair.read(len(frame.chunk)) == frame.chunk
    await soon(sending)
    assert pair.outlet.push(Frame(b"more")) is None
    assert await pair.read(9) == b"4\r\nmore\r\n"


async def test_a_socket_that_takes_nothing_at_all(pair: Pair) -> None:
    held = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            held += os.write(pair.descriptor, BIG)
    rest = pair.outlet.push(Frame(b"hello"))
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    await turns()
    assert not sending.done()
    assert (await pair.read(held + 10))[held:] == b"5\r\nhello\r\n"
    await soon(sending)


async def test_one_that_waits_costs_no_time(pair: Pair) -> None:
    """A set that told again and again of what cannot be written would burn the processor."""
    looks: list[None] = []
    look = Sockets._look

    class Counting(Sockets):
        def _look(self) -> None:
            looks.append(None)
            look(self)

    Sockets.here().__class__ = Counting
    rest = pair.outlet.push(Frame(BIG))
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    await turns(200)
    Sockets.here().__class__ = Sockets
    assert len(looks) < 10
    pair.outlet.left()
    await soon(sending)


async def test_many_share_a_frame(listener: socket.socket) -> None:
    pairs = [Pair(listener) for _ in range(50)]
    assert len(Sockets.here()) == 50
    frame = Frame(b"to all")
    assert [pair.outlet.push(frame) for pair in pairs] == [None] * 50
    for pair in pairs:
        assert await pair.read(11) == b"6\r\nto all\r\n"
        pair.client.close()
    for pair in pairs:
        await pair.dropped()
    assert Sockets.here()._epoll is None


# --- clients that leave ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half", "junk and close"])
@pytest.mark.parametrize("is_sending", [False, True])
async def test_leaving_is_noticed_at_once(pair: Pair, how: str, is_sending: bool) -> None:
    sending: asyncio.Future[None] | None = None
    if is_sending:
        rest = pair.outlet.push(Frame(BIG))
        assert rest is not None
        sending = asyncio.ensure_future(rest)
        await turns()
    match how:
        case "close":
            pair.client.close()
        case "reset":
            reset(pair.client)
        case "half":
            pair.client.shutdown(socket.SHUT_WR)
        case _:
            pair.client.send(b"GET / HTTP/1.1\r\n\r\n")
            pair.client.close()
    await pair.dropped()
    if sending is not None:
        await soon(sending)
    assert pair.outlet.push(Frame(b"more")) is None, "and is no fault"
    pair.outlet.left()
    assert pair.holder.dropped == [pair.outlet]


async def test_a_send_shows_it_as_well(pair: Pair) -> None:
    """Before anybody has looked."""
    reset(pair.client)
    assert pair.outlet.push(Frame(b"hello")) is None
    assert pair.holder.dropped == [pair.outlet]
    await turns()
    assert pair.holder.dropped == [pair.outlet]


async def test_what_a_client_says_afterwards_is_thrown_away(pair: Pair) -> None:
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            pair.client.send(b"junk" * 1000)
        await asyncio.sleep(0)
    assert pair.outlet.push(Frame(b"hello")) is None
    assert await pair.read(10) == b"5\r\nhello\r\n"
    assert not pair.holder.dropped


async def test_nor_does_it_disturb_a_send(pair: Pair) -> None:
    frame = Frame(BIG)
    rest = pair.outlet.push(frame)
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    for _ in range(20):
        pair.client.send(b"junk")
        await turns(3)
    assert not sending.done()
    assert await pair.read(len(frame.chunk)) == frame.chunk
    await soon(sending)


async def test_what_was_said_does_not_cost_the_client_its_end(pair: Pair) -> None:
    """Bytes that are unread when a socket is closed make it a reset."""
    pair.client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert pair.outlet.push(Frame(b"bye", is_last=True)) is None
    pair.outlet.close(End.FINISHED)
    pair.outlet.left()
    assert await pair.rest() == b"3\r\nbye\r\n0\r\n\r\n"


# --- clients that are made to ----------------------------------------------------------


async def test_a_cut_is_a_reset(pair: Pair) -> None:
    rest = pair.outlet.push(Frame(BIG))
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    await turns()
    pair.outlet.cut()
    assert pair.holder.dropped == [pair.outlet]
    await soon(sending)
    with pytest.raises(ConnectionResetError):
        await pair.rest()
    pair.outlet.cut()


async def test_a_send_that_is_cancelled(pair: Pair) -> None:
    rest = pair.outlet.push(Frame(BIG))
    assert rest is not None
    sending = asyncio.ensure_future(rest)
    await turns()
    sending.cancel()
    await turns()
    pair.outlet.left()
    assert sending.cancelled()
    assert pair.holder.dropped == [pair.outlet]


# --- what is kept ----------------------------------------------------------------------


async def test_nothing_leaks(listener: socket.socket) -> None:
    before = descriptors()
    for number in range(300):
        pair = Pair(listener)
        if number % 3:
            pair.outlet.push(Frame(b"hello", is_last=True))
        if number % 2:
            pair.outlet.left()
            pair.client.close()
        else:
            (reset if number % 4 else socket.socket.close)(pair.client)
            await pair.dropped()
        assert not len(Sockets.here())
    assert descriptors() == before
    assert Sockets.here()._epoll is None


async def test_the_set_knows_nobody_who_left(listener: socket.socket) -> None:
    """Where the server holds the same connection under another number, closing ours would not
    take it out; the next one under that number must not hear of it.
    """
    pair = Pair(listener)
    other = Pair(listener)
    twin = os.dup(pair.descriptor)
    pair.outlet.left()
    pair.client.close()
    fresh = Pair(listener)
    assert fresh.descriptor == pair.descriptor, "the number is used again"
    await turns(20)
    assert not fresh.holder.dropped
    os.close(twin)
    for one in (fresh, other):
        assert one.outlet.push(Frame(b"x")) is None
        assert await one.read(6) == b"1\r\nx\r\n"
        one.client.close()
        await one.dropped()


async def test_the_last_one_may_leave_while_others_are_looked_at(
    listener: socket.socket,
) -> None:
    """All at once: the set is closed in the midst of what it told."""
    pairs = [Pair(listener) for _ in range(5)]
    for pair in pairs:
        pair.client.close()

    class Takes(Holds):
        def drop(self, outlet: Any) -> None:
            super().drop(outlet)
            for pair in pairs:
                pair.outlet.left()

    pairs[0].outlet.holder = Takes()
    await until(lambda: not len(Sockets.here()))
    assert Sockets.here()._epoll is None
    assert Path(f"/proc/self/fd/{pairs[0].descriptor}").exists() is False
