"""A file that a program writes instead of its stdout, read as it grows.

Only the standard library: the shim has nothing else.
"""

from __future__ import annotations

import os
from typing import Final

TAIL_SECONDS: Final = 0.05
"""How often to look."""

_Identity = tuple[int, int, int, int]


class Tail:
    """The file `name` of the current folder, which need not exist yet.

    One that is there before the program starts is of an earlier run: it counts from its
    beginning, once it has been touched. One that is replaced, or cut and begun anew, goes on
    where the new one begins.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd = -1
        self._at = 0
        self._stale = self._look()

    def _look(self) -> _Identity | None:
        try:
            found = os.stat(self._name)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of what is new; nothing if there is nothing, or no file."""
        found = self._look()
        if self._fd < 0 and (found is None or found == self._stale):
            return b""
        chunk = b""
        if self._fd >= 0:
            chunk = self._next(limit)
        if chunk or found is None or not self._is_other(found):
            return chunk
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._at = 0
        return self._next(limit)

    def _next(self, limit: int) -> bytes:
        chunk = os.pread(self._fd, limit, self._at)
        self._at += len(chunk)
        return chunk

    def _is_other(self, found: _Identity) -> bool:
        """Whether what is there now is not what we read."""
        if self._fd < 0:
            return True
        ours = os.fstat(self._fd)
        return (ours.st_dev, ours.st_ino) != found[:2] or ours.st_size < self._at
