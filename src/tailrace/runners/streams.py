"""Where a program writes, a terminal or pipes: both ends, and what there is to read of it.

Only the standard library: the shim has nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import sys
import time
from typing import Final

from tailrace.runners.spool import STDERR, STDOUT

if sys.platform != "win32":
    import fcntl
    import termios

GATHER_BYTES: Final = 256 * 1024
"""How much is read at once, and then at the most 64 KiB more; and how much a pipe holds, where
the system allows it."""

_READ_BYTES: Final = 64 * 1024
# Unbuffered Python writes each word of a line, and its end, by itself.
_LINE_SECONDS: Final = 0.01
_ENDINGS: Final = (b"\n", b"\r")


class Streams:
    """Our ends of what a program has as stdout and stderr."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        """Those that have not ended, and the kinds of their frames."""

    def make(self, terminal: list[int] | None, *, merge: bool) -> tuple[int, int]:
        """The program's stdout and stderr, which are the same if they `merge`. `terminal`: its
        rows and columns, if stdout is to be one. Raises OSError.
        """
        ours, stdout = _pipe() if terminal is None else _pty(terminal)
        self.open[ours] = STDOUT
        stderr = stdout
        if not merge:
            ours, stderr = _pipe()
            self.open[ours] = STDERR
        for fd in self.open:
            os.set_blocking(fd, False)
        return stdout, stderr

    def take(self, fd: int) -> list[bytes]:
        """What can be read at once, in pieces; none if there is nothing, or it has ended. Half a
        line waits a moment for the rest.
        """
        chunks: list[bytes] = []
        size = 0
        until = 0.0
        while size < GATHER_BYTES:
            try:
                chunk = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                if not chunks or chunks[-1].endswith(_ENDINGS):
                    break
                until = until or time.monotonic() + _LINE_SECONDS
                if not select.select((fd,), (), (), max(0.0, until - time.monotonic()))[0]:
                    break
                continue
            except OSError:
                # EIO: nobody has the other end of the terminal any more.
                chunk = b""
            if not chunk:
                del self.open[fd]
                os.close(fd)
                break
            chunks.append(chunk)
            size += len(chunk)
        return chunks


def _pipe() -> tuple[int, int]:
    ours, theirs = os.pipe()
    # More than a user may have in pipes (pipe(7)), or no Linux.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, GATHER_BYTES)
    return ours, theirs


def _pty(size: list[int]) -> tuple[int, int]:
    """A terminal that changes nothing of what is written to it, and echoes nothing."""
    ours, theirs = os.openpty()
    mode = termios.tcgetattr(theirs)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    return ours, theirs
