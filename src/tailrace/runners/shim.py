"""The tiny process that owns one program: what it writes is kept, and nothing of it survives.

Only the standard library, so that it starts in a few milliseconds. It outlives whatever becomes
of the server: without it a server that starts again could never learn the exit code of a program
that it did not start itself, and the broken pipes would have killed the program.

The two of them share a folder:

    frames    what the program wrote, as it came: appended here, read there (`spool`)
    wake      a FIFO from here: a byte whenever there is more, and its end is our end
    orders    a FIFO to here: `T` asks the program to stop, `K` ends everything, `+` and `0`
              tell how far the server has read

Where the program must not outlive its server, that `orders` ends is the end of everything, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from typing import Any, Final, TypedDict

from tailrace.runners.beneath import Refused, enter
from tailrace.runners.family import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, Family, prctl
from tailrace.runners.spool import EXIT, STDOUT, Writer
from tailrace.runners.streams import GATHER_BYTES, Streams
from tailrace.runners.tail import TAIL_SECONDS, Tail

if sys.platform != "win32":
    import resource

TERMINATE: Final = b"T"
KILL: Final = b"K"
READ: Final = b"+"
"""A server has read a further READ_BYTES of the spool."""
ANEW: Final = b"0"
"""A server begins to read the spool, in which there is already all that is there."""

READ_BYTES: Final = 1024 * 1024
AHEAD_BYTES: Final = 8 * READ_BYTES
"""How far a program may be ahead of the server that reads it; without one it may go on."""

WAKE: Final = "wake"
ORDERS: Final = "orders"

LINGER_SECONDS: Final = 0.01
"""What is written so soon after the last frame waits, and comes together with the next."""

_BUSY_SECONDS: Final = 0.001
# A terminal holds no more than that: who writes a lot must not be made to wait for room.
_BUSY_BYTES: Final = 16 * 1024

_FULL_SECONDS: Final = 0.1
_LAST_SECONDS: Final = 0.5


class Job(TypedDict):
    """What a shim is told, as JSON on its stdin."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    beneath: list[Any] | None
    """Instead of `cwd`: a root, folders below it, a file's name, its device and inode."""
    pty: bool
    size: list[int]
    """Of the terminal: rows and columns."""
    merge: bool
    tail: str | None
    stop: int
    once: bool
    limits: dict[str, int]
    """Names of the module `resource` and their values."""
    files: int
    """How many it may have open."""
    output_bytes: int | None
    survives: bool
    server: int


class Shim:
    """One program, from its start to its last descendant."""

    def __init__(self, folder: str, wake: int, orders: int, job: Job) -> None:
        self._job = job
        self._spool = Writer(folder)
        self._wake = wake
        self._orders = orders
        self.family = Family(0)
        self._streams = Streams()
        self._tail: Tail | None = None
        self._is_behind = False
        self._written = self._read = 0
        self._left = job["output_bytes"]
        self._rests_until = 0.0
        self._is_asked = False
        self._reason: str | None = None
        for fd in (wake, orders):
            os.set_blocking(fd, False)
            # The program must neither hold our end open nor give orders.
            os.set_inheritable(fd, False)
        self._signals = _signals()
        self._server = self._lifeline(folder)

    def _lifeline(self, folder: str) -> tuple[int, ...]:
        """A descriptor that is readable once the server is gone, or none."""
        if self._job["survives"]:
            # An end of our own: without any writer a poll would come back at once, for ever.
            os.open(os.path.join(folder, ORDERS), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        elif hasattr(os, "pidfd_open"):
            # Besides the end of `orders`, which a process that the server forked may hold.
            with contextlib.suppress(OSError):
                return (os.pidfd_open(self._job["server"]),)
        return ()

    def run(self) -> None:
        """See the program to its end, and everybody it leaves behind."""
        try:
            self._start()
        except Refused as error:
            end: dict[str, Any] = {"refused": str(error)}
        except OSError as error:
            end = {"errno": error.errno, "error": error.strerror}
        else:
            end = self._attend()
        self._put(EXIT, json.dumps(end).encode())
        self._may_tell()

    def _attend(self) -> dict[str, Any]:
        """Until nobody is left and all is kept. How it ended: `code` or `signal`, and `reason`
        if it was not by itself: `output` (too much of it), `killed` (as ordered), `orphaned` (the
        server is gone). In their place an end has `errno` and `error`, if the program could not
        be started, or `refused`, and why.
        """
        while self.family.status is None and self._reason is None:
            self._turn()
        # Who is left may have something to say yet: `exec > >(tee log)`.
        until = time.monotonic() + _LAST_SECONDS
        while self._has_listeners() and time.monotonic() < until:
            self._turn(LINGER_SECONDS)
        self.family.end()
        for fd in tuple(self._streams.open):
            # Only what is there: somebody we could not end may hold the other end.
            while fd in self._streams.open and self._may_tell() and self._take(fd):
                pass
        while self._may_tell() and self._follow():
            pass
        status = self.family.status
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return {
            "code": None if code is None or code < 0 else code,
            "signal": None if code is None or code >= 0 else -code,
            "reason": self._reason,
        }

    # --- the program -------------------------------------------------------------------

    def _start(self) -> None:
        """Start it. Raises OSError, or Refused."""
        job = self._job
        if job["beneath"] is None:
            os.chdir(job["cwd"])
        else:
            enter(job["beneath"])
        out, err = self._streams.make(job["size"] if job["pty"] else None, merge=job["merge"])
        if job["tail"]:
            self._tail = Tail(job["tail"])
        report, report_end = os.pipe()
        ours = os.getpid()
        pid = os.fork()
        if not pid:
            self._become(ours, out, err, report_end)
        for fd in {out, err, report_end}:
            os.close(fd)
        with open(report, "rb") as reported:
            failed = reported.read()
        self.family = Family(pid)
        if failed:
            self.family.end()
            raise OSError(int(failed), os.strerror(int(failed)))

    def _become(self, shim: int, out: int, err: int, report: int) -> None:
        """In the child: become the program."""
        try:
            os.setpgid(0, 0)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != shim:
                os._exit(1)
            os.dup2(out, 1)
            os.dup2(err, 2)
            signal.set_wakeup_fd(-1)
            # What is ignored is inherited: by Python, and by whatever started the server.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            # A server raises it for its watchers; programs may go through all numbers there can be.
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._job["files"], hard))
            for name, limit in self._job["limits"].items():
                number = getattr(resource, name)
                hard = resource.getrlimit(number)[1]
                # One more: at the hard limit of RLIMIT_CPU comes SIGKILL, which says nothing.
                most = limit + 1 if hard == resource.RLIM_INFINITY else min(limit + 1, hard)
                resource.setrlimit(number, (min(limit, most), most))
            argv, env = self._job["argv"], self._job["env"]
            os.execvpe(argv[0], argv, env)  # noqa: S606 - argv from a checked job, never a shell
        except OSError as error:
            os.write(report, b"%d" % (error.errno or errno.EINVAL))
        except ValueError:
            # A NUL among the arguments.
            os.write(report, b"%d" % errno.EINVAL)
        finally:
            os._exit(127)

    def _stop(self) -> None:
        """Ask the program to end."""
        once = self._job["once"]
        if not (once and self._is_asked):
            self._is_asked = True
            self.family.signal(self._job["stop"], alone=once)
        # A stopped process cannot act on it.
        self.family.signal(signal.SIGCONT)

    # --- what it writes ----------------------------------------------------------------

    def _put(self, kind: int, *chunks: bytes) -> None:
        self._written += self._spool.put(kind, *chunks)
        self._poke()

    def _retry(self) -> None:
        self._spool.retry()
        self._poke()

    def _poke(self) -> bool:
        """Wake the server; whether there is one."""
        try:
            os.write(self._wake, b".")
        except BlockingIOError:
            # A full pipe is as good as one more byte in it.
            return True
        except BrokenPipeError:
            return False
        return True

    def _is_ahead(self) -> bool:
        """Whether the program must wait for its reader: what is cancelled would otherwise go on
        telling what it has written already, for long.
        """
        return self._written - self._read > AHEAD_BYTES and self._poke()

    def _may_tell(self) -> bool:
        """Wait for space, as long as somebody wants to know; whether more is wanted, and fits."""
        while self._spool.is_full and self._reason in (None, "output"):
            time.sleep(_FULL_SECONDS)
            self._obey()
            self._retry()
        return not self._spool.is_full and self._reason != "output"

    def _take(self, fd: int) -> int:
        """Keep what can be read at once; how many bytes that were."""
        return self._tell(self._streams.open[fd], self._streams.take(fd))

    def _follow(self) -> int:
        """Keep what is new in the file that the program writes; how many bytes that were."""
        chunk = b""
        if self._tail is not None:
            with contextlib.suppress(OSError):
                chunk = self._tail.read(GATHER_BYTES)
        return self._tell(STDOUT, [chunk])

    def _tell(self, kind: int, chunks: list[bytes]) -> int:
        """Keep output, up to the limit; how many bytes there were."""
        size = sum(map(len, chunks))
        if self._left is not None:
            if size > self._left:
                chunks = [b"".join(chunks)[: self._left]]
                self._reason = "output"
            self._left = max(self._left - size, 0)
        if size:
            self._put(kind, *chunks)
        return size

    # --- the way of things -------------------------------------------------------------

    def _has_listeners(self) -> bool:
        """Whether somebody may still write, and nobody has asked for an end."""
        is_asked = self._is_asked or self._reason is not None
        return not is_asked and bool(self._streams.open) and self.family.reap()

    def _turn(self, longest: float | None = None) -> None:
        """Wait for something to happen, at most so many seconds, and see to it."""
        heard = [self._signals, self._orders, *self._server]
        rest = self._rests_until - time.monotonic()
        wait = None if self._tail is None else 0 if self._is_behind else TAIL_SECONDS
        if self._spool.is_full or self._is_ahead():
            wait = _FULL_SECONDS
        elif rest > 0:
            wait = rest
        else:
            heard += self._streams.open
        poll = select.poll()
        for fd in heard:
            poll.register(fd, select.POLLIN)
        waits = [seconds for seconds in (wait, longest) if seconds is not None]
        ready = {fd for fd, _ in poll.poll(max(1, min(waits) * 1000) if waits else None)}
        if self._signals in ready:
            self.family.reap()
            if signal.SIGTERM in os.read(self._signals, 4096):
                # Whoever ends all they find: a service that is stopped, a container.
                self._stop()
        if self._orders in ready:
            self._obey()
        if not ready.isdisjoint(self._server):
            self._reason = "orphaned"
        if self._spool.is_full:
            self._retry()
            return
        taken = [self._take(fd) for fd in tuple(self._streams.open) if fd in ready]
        most = max(taken, default=GATHER_BYTES)
        if most < GATHER_BYTES:
            rest = LINGER_SECONDS if most < _BUSY_BYTES else _BUSY_SECONDS
            self._rests_until = time.monotonic() + rest
        self._is_behind = self._reason is None and self._follow() > 0

    def _obey(self) -> None:
        try:
            orders = os.read(self._orders, 4096)
        except BlockingIOError:
            return
        if not orders:
            if not self._job["survives"]:
                self._reason = "orphaned"
            return
        if ANEW in orders:
            # It counts from here on. A program must not wait for what is only read again.
            self._read = self._written
        self._read += READ_BYTES * orders.rpartition(ANEW)[2].count(READ)
        if KILL in orders:
            self._reason = "killed"
        elif TERMINATE in orders:
            self._stop()


def _signals() -> int:
    """A descriptor from which the signals can be read that have come."""
    signals, alarm = os.pipe()
    for fd in (signals, alarm):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return signals


def _close_from(first: int) -> None:
    """A server's listening socket may be inheritable: who survives it would hold its port. Not by
    `closerange`: in a container there may be a thousand million numbers, and it may try them all.
    """
    for name in os.listdir("/dev/fd"):
        if int(name) >= first:
            # The one that the folder was read with is gone already.
            with contextlib.suppress(OSError):
                os.close(int(name))


def main(folder: str, wake: int, orders: int) -> None:
    """Read the job from stdin, and do it."""
    with open(0, "rb", closefd=False) as stdin:
        job = json.loads(stdin.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _close_from(max(wake, orders) + 1)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    shim = Shim(folder, wake, orders, job)
    try:
        shim.run()
    except BaseException:
        # A disk that fails, or a fault of ours. Nobody would be left who ends the others.
        shim.family.end()
        raise
