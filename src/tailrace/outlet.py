"""The way out to one watcher: a port, because there are two ways to send.

Whoever sends to many makes a `Frame` of the bytes and gives the same one to every outlet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from enum import StrEnum
from typing import Final, Protocol

from anyio import BrokenResourceError, ClosedResourceError

from tailrace.seats import Seat

_GONE: Final = (OSError, BrokenResourceError, ClosedResourceError)
_CLOSED: Final = "handler is closed"


def is_gone(error: Exception) -> bool:
    """Whether `send` says with it that the client is gone, as granian and hypercorn do by an
    OSError, BaseHTTPMiddleware, which hands on through a stream of anyio's, by that stream's
    errors, and uvloop, in the moment before it has told the server, by a RuntimeError.
    """
    return isinstance(error, _GONE) or (isinstance(error, RuntimeError) and _CLOSED in str(error))


class End(StrEnum):
    """Why a watcher gets nothing more."""

    FINISHED = "finished"
    LEFT = "left"
    SHUTDOWN = "shutdown"


class Frame:
    """Bytes for any number of watchers; `is_last` says that nothing follows. `chunk` is the same
    as a chunk of HTTP/1.1 (RFC 9112 §7.1), made at the first need, once for all.
    """

    __slots__ = ("body", "chunk", "is_last")

    chunk: bytes

    def __init__(self, body: bytes, *, is_last: bool = False) -> None:
        self.body = body
        self.is_last = is_last

    def __getattr__(self, name: str) -> bytes:
        # Only for what is not there yet; a property would be called for each watcher.
        if name != "chunk":
            raise AttributeError(name)
        framed = b"%x\r\n%b\r\n" % (len(self.body), self.body) if self.body else b""
        self.chunk = framed + b"0\r\n\r\n" if self.is_last else framed
        return self.chunk


class Holder(Protocol):
    """Who sends to an outlet."""

    def drop(self, outlet: Outlet) -> None:
        """Send nothing more to it: its watcher has left. Harmless if it was dropped before."""


class Outlet(ABC):
    """One watcher's way out, held by one `holder` at a time."""

    __slots__ = ("has_left", "holder", "seat")

    def __init__(self) -> None:
        self.holder: Holder | None = None
        self.has_left = False
        self.seat: Seat | None = None

    @abstractmethod
    def push(self, frame: Frame) -> Awaitable[None] | None:
        """Send at once what can be; None if that was all, or if the watcher has left, otherwise
        what has to be awaited for the rest, before anything else is pushed.
        """

    @abstractmethod
    def close(self, end: End) -> None:
        """All was sent, the last frame too."""

    @abstractmethod
    def cut(self) -> None:
        """The watcher does not read: end its connection, whatever is still on the way."""

    def left(self) -> None:
        """The watcher has left."""
        self.has_left = True
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.drop(self)
        seat, self.seat = self.seat, None
        if seat is not None:
            seat.free()
