"""What a program wrote, on disk, as frames: the shim appends them, a server reads them.

Only the standard library: the shim has nothing else.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

STDOUT: Final = 1
STDERR: Final = 2
EXIT: Final = 3
"""The last frame: how the program ended, as JSON (`shim.Shim`)."""

FRAMES: Final = "frames"
"""The file's name in a run's folder."""

# The kind, when it was read (seconds since 1970), how many bytes follow.
_HEAD: Final = struct.Struct("<BdI")
# So many pieces can be written at once (IOV_MAX, with the head as one of them).
_PIECES: Final = 1023
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Frame(NamedTuple):
    """Bytes that were read at once. `end`: how many bytes of the spool there are up to here."""

    kind: int
    at: float
    content: bytes
    end: int


class Writer:
    """The shim's end. What a full disk does not take is kept, and offered again."""

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, FRAMES)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._waiting = b""

    @property
    def is_full(self) -> bool:
        """Whether something waits for space."""
        return bool(self._waiting)

    def put(self, kind: int, *chunks: bytes) -> int:
        """Append a frame; its size. Raises OSError for a disk that fails, not for one that is
        full.
        """
        size = sum(map(len, chunks))
        head = _HEAD.pack(kind, time.time(), size)
        size += len(head)
        if self._waiting:
            self._waiting += head + b"".join(chunks)
            return size
        if len(chunks) > _PIECES:
            chunks = (b"".join(chunks),)
        try:
            written = os.writev(self._fd, [head, *chunks])
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            written = 0
        if written < size:
            self._waiting = b"".join((head, *chunks))[written:]
        return size

    def retry(self) -> None:
        """Offer again what there was no space for. Raises OSError, as `put` does."""
        try:
            self._waiting = self._waiting[os.write(self._fd, self._waiting) :]
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise


class Reader:
    """The server's end: the frames that are there, from the first one on."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises OSError if there is no spool."""
        self._fd = os.open(os.path.join(folder, FRAMES), os.O_RDONLY | os.O_CLOEXEC)
        self.at = 0
        """How many bytes of complete frames were read."""
        self._held = b""

    @property
    def rest(self) -> bytes:
        """A frame that is not complete: it is being written, or its writer was killed."""
        return self._held

    def read(self, limit: int) -> Iterator[Frame]:
        """The frames among the next `limit` bytes; none if there is nothing new."""
        fresh = os.pread(self._fd, limit, self.at + len(self._held))
        there = self._held + fresh if self._held else fresh
        at, size = 0, len(there)
        while size - at >= _HEAD.size:
            kind, when, length = _HEAD.unpack_from(there, at)
            end = at + _HEAD.size + length
            if end > size:
                break
            yield Frame(kind, when, there[at + _HEAD.size : end], self.at + end)
            at = end
        self._held = there[at:]
        self.at += at

    def torn(self) -> Frame | None:
        """What there is of a frame whose writer was killed; None if it is no output."""
        if len(self._held) <= _HEAD.size:
            return None
        kind, when, _ = _HEAD.unpack_from(self._held)
        if kind == EXIT:
            return None
        content = self._held[_HEAD.size :]
        return Frame(kind, when, content, self.at + len(self._held))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
