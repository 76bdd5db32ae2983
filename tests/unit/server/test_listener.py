import contextlib
import errno
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.errors import AddressUnusable
from tailrace.server import listener


def test_a_chosen_port() -> None:
    with listener.listen("127.0.0.1", 0) as found:
        assert listener.url(found) == f"http://127.0.0.1:{found.getsockname()[1]}"
        assert found.getsockname()[1] > 0


def test_a_name_for_this_machine() -> None:
    with listener.listen("localhost", 0) as found:
        assert found.getsockname()[0] == "127.0.0.1"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    try:
        found = listener.listen("::1", 0)
    except AddressUnusable:
        pytest.skip("no IPv6 loopback here")
    with found:
        assert listener.url(found).startswith("http://[::1]:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_nothing_but_loopback(host: str) -> None:
    with pytest.raises(AddressUnusable, match="there is no key to ask for") as caught:
        listener.listen(host, 4000)
    assert "127.0.0.1" in caught.value.fix


def test_a_port_that_is_taken() -> None:
    with listener.listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        with pytest.raises(AddressUnusable, match=f":{port}: another program") as caught:
            listener.listen("127.0.0.1", port)
    assert "--port 0" in caught.value.fix


def test_a_name_that_is_none() -> None:
    with pytest.raises(AddressUnusable, match="no address of this machine"):
        listener.listen("no such host", 4000)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "privileges"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_other_reasons(number: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            raise OSError(number, "Too many open files")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(AddressUnusable, match=said):
        listener.listen("127.0.0.1", 4000)


# ------------------------------------------------------------------ what connections inherit


@contextlib.contextmanager
def accepted() -> Iterator[tuple[socket.socket, socket.socket]]:
    with listener.listen("127.0.0.1", 0) as found, socket.socket() as client:
        found.setblocking(True)
        client.connect(found.getsockname())
        server, _ = found.accept()
        with server:
            yield server, client


def test_an_event_does_not_wait_for_the_one_before() -> None:
    with accepted() as (server, _):
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's options")
def test_the_kernel_keeps_little_for_who_does_not_read() -> None:
    with accepted() as (server, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        server.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += server.send(b"x" * 4096)
        assert sent < 1024 * 1024


def test_it_is_taken_at_once() -> None:
    """Or another server could bind the same port before this one listens."""
    with listener.listen("127.0.0.1", 0) as found, socket.socket() as other:
        assert not found.getblocking()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(found.getsockname())


# ------------------------------------------------------------------ descriptors


class Limits:
    """What the system says of descriptors."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == self.RLIMIT_NOFILE
        assert limits[1] == self.now[1], "the hard limit is not ours"
        self.now = limits


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize(
    ("soft", "hard", "then", "connections"),
    [
        (1024, 4096, 4096, 3840),
        (1024, 1024, 1024, 768),
        (1024, 1_000_000, 65_536, 65_280),
        (1024, -1, 65_536, 65_280),
        # More than that was asked for by somebody: it stays.
        (100_000, 1_000_000, 100_000, 99_744),
        # Little is shared.
        (256, 256, 256, 128),
        (64, 64, 64, 32),
    ],
)
def test_as_many_as_it_may_have(
    soft: int, hard: int, then: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(listener, "resource", limits)
    assert listener.raise_limit() == connections
    assert limits.now == (then, hard)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize("hard", [-1, 1_000_000])
def test_no_limit_at_all(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(-1, hard)
    monkeypatch.setattr(listener, "resource", limits)
    found = listener.raise_limit()
    assert limits.now == (-1, hard), "it is not lowered"
    assert found is None or found > 1000
