"""Sockets that a server handed over: written to without a task, a transport or a coroutine.

One epoll set tells of clients that leave and of sockets that can be written to again. So a
watcher that is idle costs one small object and what the kernel keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Awaitable
from typing import Any, ClassVar, Final

from tailrace.outlet import End, Frame, Outlet
from tailrace.perloop import PerLoop

_IDLE: Final = getattr(select, "EPOLLIN", 0) | getattr(select, "EPOLLRDHUP", 0)
_WRITABLE: Final = getattr(select, "EPOLLOUT", 0)
# Edge-triggered: once it was blocked, a socket tells each time that it can be written to again,
# and needs no word of ours for it.
_BLOCKED: Final = _IDLE | _WRITABLE | getattr(select, "EPOLLET", 0)
_GONE: Final = (
    getattr(select, "EPOLLRDHUP", 0)
    | getattr(select, "EPOLLHUP", 0)
    | getattr(select, "EPOLLERR", 0)
)

# Closing sends a reset, instead of offering for minutes what the client does not read.
_RESET: Final = struct.pack("ii", 1, 0)

_JUNK_BYTES: Final = 4096


class Sockets(PerLoop):
    """The handed-over sockets of one event loop. Without any it holds no descriptor."""

    count: ClassVar[int] = 0
    """How many are open in this process."""

    def __init__(self) -> None:
        self._outlets: dict[int, SocketOutlet] = {}
        self._epoll: Any = None

    def __len__(self) -> int:
        """How many are open."""
        return len(self._outlets)

    def adopt(self, descriptor: int, unsent: bytes = b"") -> SocketOutlet:
        """An outlet for a connected socket that does not block. It is closed with the outlet.
        `unsent` goes first; it must be little.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._look)
        self._epoll.register(descriptor, _IDLE)
        outlet = self._outlets[descriptor] = SocketOutlet(self, descriptor)
        Sockets.count += 1
        if unsent:
            outlet.begin(unsent)
        return outlet

    def mind(self, descriptor: int) -> None:
        """Have it told from now on when `descriptor` can be written to again."""
        self._epoll.modify(descriptor, _BLOCKED)

    def release(self, descriptor: int, *, is_gone: bool) -> None:
        """Let go of it, and close it; `is_gone`: its client has closed it."""
        if not is_gone:
            # Not left to its closing: the server may still hold the same connection under
            # another number, and then it would stay in the set. By the time that a client's
            # leaving is noticed the server has closed its own.
            self._epoll.unregister(descriptor)
        del self._outlets[descriptor]
        Sockets.count -= 1
        os.close(descriptor)
        if not self._outlets:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _look(self) -> None:
        for descriptor, mask in self._epoll.poll(0, 256):
            outlet = self._outlets.get(descriptor)
            if outlet is None:
                continue
            if mask & _GONE or (mask & _IDLE and not _is_there(descriptor)):
                outlet.gone()
            elif mask & _WRITABLE:
                outlet.unblock()


def _is_there(descriptor: int) -> bool:
    """Throw away what a client says after its request; whether it is still there."""
    try:
        return bool(os.read(descriptor, _JUNK_BYTES))
    except BlockingIOError:
        return True
    except OSError:
        return False


class SocketOutlet(Outlet):
    """Straight to the socket, framed as chunks of HTTP/1.1."""

    __slots__ = ("_descriptor", "_is_minded", "_sockets", "_waiting")

    def __init__(self, sockets: Sockets, descriptor: int) -> None:
        super().__init__()
        self._sockets = sockets
        self._descriptor = descriptor
        self._waiting: asyncio.Future[None] | None = None
        self._is_minded = False

    def begin(self, unsent: bytes) -> None:
        """Send what comes before all frames: a few KiB, into a connection that is empty."""
        try:
            is_whole = os.write(self._descriptor, unsent) == len(unsent)
        except OSError:
            is_whole = False
        if not is_whole:
            # Gone already, or a kernel without memory; in the midst of a head there is no way on.
            self.left()

    def push(self, frame: Frame) -> Awaitable[None] | None:
        """See `outlet.Outlet`."""
        chunk = frame.chunk
        try:
            written = os.write(self._descriptor, chunk)
        except BlockingIOError:
            written = 0
        except OSError:
            self.left()
            return None
        if written == len(chunk):
            return None
        return self._rest(memoryview(chunk)[written:])

    async def _rest(self, chunk: memoryview) -> None:
        while self._descriptor >= 0 and chunk:
            self._waiting = asyncio.get_running_loop().create_future()
            if not self._is_minded:
                self._is_minded = True
                self._sockets.mind(self._descriptor)
            await self._waiting
            try:
                chunk = chunk[os.write(self._descriptor, chunk) :]
            except BlockingIOError:
                pass
            except OSError:
                self.left()

    def unblock(self) -> None:
        """It can be written to."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def left(self) -> None:
        """See `outlet.Outlet`."""
        self._part(is_gone=False)

    def gone(self) -> None:
        """The client has closed the connection."""
        self._part(is_gone=True)

    def _part(self, *, is_gone: bool) -> None:
        super().left()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._sockets.release(descriptor, is_gone=is_gone)
        self.unblock()

    def close(self, end: End) -> None:
        """See `outlet.Outlet`. The socket itself is closed by `left`, which follows."""
        # What is unread at its closing would make it a reset, and cost the client our end.
        _is_there(self._descriptor)

    def cut(self) -> None:
        """See `outlet.Outlet`."""
        with contextlib.suppress(OSError):
            own = socket.socket(fileno=os.dup(self._descriptor))
            with own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.left()
