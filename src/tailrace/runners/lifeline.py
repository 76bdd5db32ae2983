"""The server's end of what connects it with a shim: a folder, two FIFOs and a spool.

A shim is reached by its folder alone, never by its pid: the end of its `wake` is its own end,
so nobody else can be taken for it, whichever server looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tailrace.runners.shim import ANEW, ORDERS, READ, READ_BYTES, WAKE, Job
from tailrace.runners.spool import FRAMES, Frame, Reader
from tailrace.runners.spools import is_readable, note, note_marks, open_orders, rouse
from tailrace.runners.sweep import MARK

if sys.platform != "win32":
    import fcntl

# Beyond those that the shim will have.
_FREE_FD: Final = 10
_COMPLAINT: Final = "complaint"
# More than a frame has, so that a complete one is never mistaken for a part of one.
_CHUNK_BYTES: Final = 512 * 1024

# Without these an interpreter may not find its own libraries.
_NEEDED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# What the name `tailrace` is found by, last: what else is there must not hide the standard library.
_HOME: Final = str(Path(__file__).parents[2])
_CODE: Final = (
    "import sys; sys.path.append({home!r}); "
    "from tailrace.runners.shim import main; main({folder!r}, 3, 4)"
)


class Lifeline:
    """A shim, as a server sees it. Made with `start` or `attach`."""

    def __init__(self, folder: Path, wake: int, orders: int) -> None:
        self._folder = folder
        self._wake = wake
        self._orders = orders
        self._pid: int | None = None
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self.is_over = False
        self._told = 0
        self.spool = Reader(folder)
        self._loop.add_reader(wake, self._hear)
        # Nobody at the other end is no news to the event loop.
        self._hear()

    @classmethod
    def start(cls, folder: Path, run: str, job: Job, marks: Collection[str] = ()) -> Lifeline:
        """Start a shim in `folder`, which is made. `marks`: see `Spools.marks`. Raises OSError."""
        folder.mkdir(parents=True, mode=0o700)
        note_marks(folder, marks)
        (folder / FRAMES).touch(0o600)
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            wake, theirs_wake = _fifo(folder / WAKE, ours, theirs)
            theirs_orders, orders = _fifo(folder / ORDERS, theirs, ours)
            told, telling = os.pipe()
            theirs.callback(os.close, told)
            ours.callback(os.close, telling)
            complaint = os.open(folder / _COMPLAINT, os.O_WRONLY | os.O_CREAT, 0o600)
            theirs.callback(os.close, complaint)
            line = cls(folder, wake, orders)
            ours.callback(line.spool.close)
            ours.callback(line._loop.remove_reader, wake)
            line._pid = _spawn(folder, run, (told, theirs_wake, theirs_orders, complaint))
            # Without its job it ends, soon.
            ours.callback(_collect_later, line._pid)
            note(folder, line._pid, survives=job["survives"])
            line._tell(telling, json.dumps(job).encode())
            ours.pop_all()
        return line

    @classmethod
    def attach(cls, folder: Path) -> Lifeline:
        """Reach the shim that was started in `folder`, if it is still there; what it wrote is
        there in any case. Raises OSError if nothing is, or nothing that can be read.
        """
        if not is_readable(folder):
            raise OSError("it is not there any more, or of another version of Tailrace")
        with contextlib.ExitStack() as opened:
            wake = os.open(folder / WAKE, os.O_RDONLY | os.O_NONBLOCK)
            opened.callback(os.close, wake)
            orders = -1
            with contextlib.suppress(OSError):
                orders = open_orders(folder)
                opened.callback(os.close, orders)
            line = cls(folder, wake, orders)
            opened.pop_all()
        # What there is so far has been waited for once.
        line._told = (folder / FRAMES).stat().st_size
        line.order(ANEW)
        return line

    def _tell(self, fd: int, job: bytes) -> None:
        """Write the job, which may be longer than a pipe holds."""
        os.set_blocking(fd, False)
        left = job

        def go_on() -> None:
            nonlocal left
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                return
            except OSError:
                left = b""
            if not left:
                self._loop.remove_writer(fd)
                os.close(fd)

        self._loop.add_writer(fd, go_on)

    def _hear(self) -> None:
        while not self.is_over:
            try:
                self.is_over = not os.read(self._wake, 65536)
            except BlockingIOError:
                break
        if self.is_over:
            self._loop.remove_reader(self._wake)
        self._woken.set()

    async def woken(self, seconds: float | None = None) -> None:
        """Wait until there is something new, or `seconds` are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    def read(self) -> list[Frame]:
        """What is new, as far as it goes at once; the shim is told how far that is."""
        frames = list(self.spool.read(_CHUNK_BYTES))
        further = (self.spool.at - self._told) // READ_BYTES
        if further:
            self._told += further * READ_BYTES
            self._say(READ * further)
        return frames

    def order(self, what: bytes) -> None:
        """Tell the shim what to do (`shim.TERMINATE`, `shim.KILL`)."""
        self._say(what)
        rouse(self._folder)

    def _say(self, what: bytes) -> None:
        if self._orders >= 0:
            with contextlib.suppress(OSError):
                os.write(self._orders, what)

    def complaint(self) -> str:
        """The last thing a shim said that has broken down."""
        with contextlib.suppress(OSError):
            return (
                (self._folder / _COMPLAINT).read_text(errors="replace").strip().rpartition("\n")[2]
            )
        return ""

    async def close(self) -> None:
        """Let go of it. One that may not outlive its server takes that for the end."""
        if not self.is_over:
            self._loop.remove_reader(self._wake)
        for fd in (self._wake, self._orders):
            if fd >= 0:
                os.close(fd)
        self.spool.close()
        if self._pid is None:
            return
        if self.is_over:
            await asyncio.to_thread(_collect, self._pid)
        else:
            # It goes on.
            _collect_later(self._pid)


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _collect_later(pid: int) -> None:
    """Whenever it ends, nobody must find it undead."""
    threading.Thread(target=_collect, args=(pid,), daemon=True).start()


def _fifo(path: Path, reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
    """Make a FIFO and open both of its ends; each is closed by the stack of who has it."""
    os.mkfifo(path, 0o600)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    reads.callback(os.close, reading)
    writing = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    writes.callback(os.close, writing)
    return reading, writing


def _spawn(folder: Path, run: str, fds: tuple[int, int, int, int]) -> int:
    """Start the shim: it gets its job as stdin, then `wake`, `orders`, and its stderr."""
    with contextlib.ExitStack() as stack:
        # Out of the way of what they become: 0, 3, 4 and 2.
        high: list[int] = []
        for fd in fds:
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE_FD))
            stack.callback(os.close, high[-1])
        told, wake, orders, complaint = high
        code = _CODE.format(home=_HOME, folder=str(folder))
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", code],
            {MARK: run, **{name: os.environ[name] for name in _NEEDED if name in os.environ}},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, told, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, complaint, 2),
                (os.POSIX_SPAWN_DUP2, wake, 3),
                (os.POSIX_SPAWN_DUP2, orders, 4),
            ],
            # Away from the terminal's Ctrl-C, and from whoever ends our group.
            setsid=True,
            setsigmask=(),
        )
