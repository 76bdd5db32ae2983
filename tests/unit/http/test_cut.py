import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace.http import cut

pytestmark = pytest.mark.anyio


class Peer(asyncio.Protocol):
    """The server's end of a connection."""

    def __init__(self) -> None:
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def receive(self) -> Any:
        """As uvicorn's request cycle: a bound method of what has the transport."""


@asynccontextmanager
async def connected(host: str = "127.0.0.1") -> AsyncIterator[tuple[Peer, socket.socket]]:
    loop = asyncio.get_running_loop()
    peer = Peer()
    server = await loop.create_server(lambda: peer, host, 0)
    client = socket.socket(server.sockets[0].family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    try:
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await asyncio.wait_for(peer.made.wait(), 5)
        yield peer, client
    finally:
        client.close()
        peer.transport.abort()
        await asyncio.wait_for(peer.lost.wait(), 5)
        server.close()
        await server.wait_closed()


def scope(client: socket.socket, port: Any = None) -> dict[str, Any]:
    host, own, *_ = client.getsockname()
    return {"client": (host, own if port is None else port)}


async def nothing() -> Any:
    """A `receive` that middleware has wrapped."""


async def fill(peer: Peer) -> None:
    """More than the kernel takes."""
    peer.transport.write(b"x" * 16_000_000)
    await asyncio.sleep(0)
    assert peer.transport.get_write_buffer_size() > 0


async def is_reset(client: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    try:
        while await asyncio.wait_for(loop.sock_recv(client, 65536), 5):
            pass
    except ConnectionResetError:
        return True
    return False


async def test_a_transport_that_is_known() -> None:
    async with connected() as (peer, client):
        await fill(peer)
        cut.cut({"client": None}, peer.receive)
        await asyncio.wait_for(peer.lost.wait(), 5)
        assert await is_reset(client)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_that_is_looked_for(host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with connected(host) as (peer, client), connected(host) as (other, _):
        await fill(peer)
        cut.cut(scope(client), nothing)
        await asyncio.wait_for(peer.lost.wait(), 5)
        assert await is_reset(client)
        assert not other.lost.is_set()


async def test_a_port_may_be_text() -> None:
    """granian's is."""
    async with connected() as (peer, client):
        cut.cut(scope(client, str(client.getsockname()[1])), nothing)
        await asyncio.wait_for(peer.lost.wait(), 5)


async def test_many_are_cut_with_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    sockets = cut._sockets

    def counted() -> Any:
        looks.append(1)
        return sockets()

    monkeypatch.setattr(cut, "_sockets", counted)
    async with connected() as (one, first), connected() as (two, second):
        cut.cut(scope(first), nothing)
        cut.cut(scope(second), nothing)
        cut.cut_unless_read(scope(first))
        for peer in (one, two):
            await asyncio.wait_for(peer.lost.wait(), 5)
    assert len(looks) == 1


async def test_one_who_reads_is_not_cut() -> None:
    async with connected() as (slow, unread), connected() as (quick, read):
        await fill(slow)
        quick.transport.write(b"all of it")
        assert await asyncio.get_running_loop().sock_recv(read, 100) == b"all of it"
        cut.cut_unless_read(scope(read))
        cut.cut_unless_read(scope(unread))
        await asyncio.wait_for(slow.lost.wait(), 5)
        assert not quick.lost.is_set()


@pytest.mark.parametrize("client", [None, ("1.2.3.4", 0), ("testclient", 50000)])
async def test_a_client_that_cannot_be_found_is_nobodys_end(client: Any) -> None:
    async with connected() as (peer, own):
        cut.cut({"client": client}, nothing)
        cut.cut_unless_read({"client": client})
        # Asked for later, so done later.
        async with connected() as (other, its):
            cut.cut(scope(its), nothing)
            await asyncio.wait_for(other.lost.wait(), 5)
        assert not peer.lost.is_set()
        assert own.fileno() >= 0
