"""Cutting the connection of a client that does not read.

ASGI has no word for it, and every server closes politely: it waits for the client to take
what is in its buffer, which is for ever. So the connection is cut below the server. uvicorn's
request cycle knows its transport; elsewhere, and behind middleware that wraps `receive`, the
socket is found among this process's descriptors by the address of the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from starlette.types import Receive, Scope

if sys.platform != "win32":
    import fcntl
    import termios

_DESCRIPTORS: Final = Path("/dev/fd")
# Closing sends a reset. Otherwise the kernel would go on for minutes to offer what it holds,
# up to 4 MB for each client.
_RESET: Final = struct.pack("ii", 1, 0)

_Peer = tuple[str, int]

# What is to be cut, and whether certainly or only if it does not read.
_asked: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Peer, bool]] = WeakKeyDictionary()


def cut(scope: Scope, receive: Receive) -> None:
    """Cut the connection of this request. The server then sees a client that has left."""
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        _ask(scope, is_certain=True)
        return
    reader = transport.get_extra_info("socket")
    if reader is not None:
        with contextlib.suppress(OSError), _duplicate(reader.fileno()) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def cut_unless_read(scope: Scope) -> None:
    """Cut the connection of this request if its client has not taken all it was sent."""
    _ask(scope, is_certain=False)


def _ask(scope: Scope, *, is_certain: bool) -> None:
    client = scope.get("client")
    # A server behind a proxy may know the host, from a header, and no port.
    if not client or not client[1]:
        return
    loop = asyncio.get_running_loop()
    asked = _asked.setdefault(loop, {})
    if not asked:
        # Stalled clients come in crowds, at a shutdown above all: one look for all of them.
        loop.call_soon(_go, asked)
    peer = (str(client[0]), int(client[1]))
    asked[peer] = asked.get(peer, False) or is_certain


def _go(asked: dict[_Peer, bool]) -> None:
    peers = dict(asked)
    asked.clear()
    threading.Thread(target=_cut_all, args=(peers,), name="tailrace-cut", daemon=True).start()


def _cut_all(peers: Mapping[_Peer, bool]) -> None:
    for found in _sockets():
        with contextlib.suppress(OSError):
            address = found.getpeername()
            is_certain = peers.get(tuple(address[:2]))
            if is_certain is not None and (is_certain or _unread(found)):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                found.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[socket.socket]:
    if not _DESCRIPTORS.is_dir():
        return
    for place in _DESCRIPTORS.iterdir():
        number = int(place.name)
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with _duplicate(number) as found:
                    yield found


def _duplicate(number: int) -> socket.socket:
    """The same connection under a number of our own: the server may close its one at any
    moment, and the next connection may get it.
    """
    own = os.dup(number)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _unread(connection: socket.socket) -> int:
    """How many bytes the kernel holds that the client has not acknowledged."""
    if sys.platform == "win32":
        return 0
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)
