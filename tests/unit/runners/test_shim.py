"""One shim, started as a server starts it, and looked at through its folder alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tailrace.runners.shim import (
    AHEAD_BYTES,
    ANEW,
    KILL,
    ORDERS,
    READ,
    READ_BYTES,
    TERMINATE,
    WAKE,
)
from tailrace.runners.spool import EXIT, FRAMES, STDERR, STDOUT, Frame, Reader
from tests import jobs
from tests.waiting import until_here

CODE = (
    "import sys; sys.path.append({home!r}); "
    "from tailrace.runners.shim import main; main({folder!r}, {wake}, {orders})"
)
HOME = str(Path(__file__).parents[3] / "src")
IS_ROOT = os.geteuid() == 0


class Started:
    """A shim, and our ends of what connects us with it."""

    def __init__(self, folder: Path, *given: int, **job: Any) -> None:
        folder.mkdir()
        self.folder = folder
        for name in (WAKE, ORDERS):
            os.mkfifo(folder / name)
        self.wake = os.open(folder / WAKE, os.O_RDONLY | os.O_NONBLOCK)
        orders = os.open(folder / ORDERS, os.O_RDONLY | os.O_NONBLOCK)
        self.orders = os.open(folder / ORDERS, os.O_WRONLY | os.O_NONBLOCK)
        wake = os.open(folder / WAKE, os.O_WRONLY | os.O_NONBLOCK)
        code = CODE.format(home=HOME, folder=str(folder), wake=wake, orders=orders)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            pass_fds=(wake, orders, *given),
        )
        os.close(wake)
        os.close(orders)
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(json.dumps(job).encode())
        stdin.close()
        until_here((folder / FRAMES).exists, "begun")
        self._spool = Reader(folder)
        self.frames: list[Frame] = []

    def look(self) -> None:
        while frames := list(self._spool.read(1 << 20)):
            self.frames += frames

    def written(self, kind: int = STDOUT) -> bytes:
        self.look()
        return b"".join(frame.content for frame in self.frames if frame.kind == kind)

    @property
    def end(self) -> dict[str, Any] | None:
        self.look()
        if not self.frames or self.frames[-1].kind != EXIT:
            return None
        end: dict[str, Any] = json.loads(self.frames[-1].content)
        return end

    def ended(self, within: float = 10.0) -> dict[str, Any]:
        """How it ended."""
        until_here(lambda: self.process.poll() is not None, "ended", within)
        assert self.end is not None
        return self.end

    def order(self, what: bytes) -> None:
        os.write(self.orders, what)

    def let_go(self) -> None:
        os.close(self.orders)
        self.orders = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._spool.close()
        for fd in (self.wake, self.orders):
            if fd >= 0:
                os.close(fd)


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        count = 0

        def starting(
            *argv: str, given: Sequence[int] = (), folder: Path | None = None, **more: Any
        ) -> Started:
            nonlocal count
            count += 1
            job = jobs.job(argv, **{"cwd": str(tmp_path), **more})
            shim = Started(folder or tmp_path / f"shim{count}", *given, **job)
            stack.callback(shim.close)
            return shim

        yield starting


def python(code: str) -> Sequence[str]:
    return (sys.executable, "-I", "-S", "-c", code)


def sh(code: str) -> Sequence[str]:
    return ("/bin/sh", "-c", code)


def by_itself(code: int | None, number: int | None = None) -> dict[str, Any]:
    return {"code": code, "signal": number, "reason": None}


def because(reason: str) -> dict[str, Any]:
    return {"code": None, "signal": signal.SIGKILL, "reason": reason}


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A zombie nobody has collected yet is dead all the same.
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "Z"
    return True


def pids(shim: Started, count: int) -> list[int]:
    """What the program wrote first: the numbers of processes, a line each."""
    until_here(lambda: shim.written().count(b"\n") >= count)
    return [int(line) for line in shim.written().split(b"\n")[:count]]


# --- how it ends -----------------------------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("exit 0", by_itself(0)),
        ("exit 3", by_itself(3)),
        ("exit 255", by_itself(255)),
        ("kill -TERM $$", by_itself(None, signal.SIGTERM)),
        ("kill -KILL $$", by_itself(None, signal.SIGKILL)),
    ],
)
def test_how_a_program_ended(start: Start, code: str, end: dict[str, Any], pty: bool) -> None:
    assert start(*sh(code), pty=pty).ended() == end


@pytest.mark.parametrize(
    ("argv", "number"),
    [
        (("/no/such/program",), errno.ENOENT),
        (("no-such-program",), errno.ENOENT),
        (("/etc",), errno.EACCES),
        (("/bin/sh", "a\0b"), errno.EINVAL),
    ],
)
def test_what_cannot_be_started(start: Start, argv: Sequence[str], number: int) -> None:
    shim = start(*argv)
    assert shim.ended() == {"errno": number, "error": os.strerror(number)}
    assert [frame.kind for frame in shim.frames] == [EXIT]


def test_a_folder_that_is_not_there(start: Start) -> None:
    end = start(*sh("echo one"), cwd="/no/such/folder").ended()
    assert end["errno"] == errno.ENOENT


def test_nobody_is_left_behind(start: Start) -> None:
    """Neither in the background, nor in a session of its own."""
    code = """
import os, time
def tell(): os.write(1, b"%d\\n" % os.getpid())
if not os.fork(): tell(); time.sleep(60)
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    tell(); time.sleep(60)
while not os.path.exists("go"): time.sleep(.001)
os._exit(4)
"""
    shim = start(*python(code))
    found = pids(shim, 2)
    (shim.folder.parent / "go").touch()
    assert shim.ended() == by_itself(4)
    assert all(map(gone, found))


# --- what it writes --------------------------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize("size", [1, 4095, 4096, 65535, 65536, 65537, 262144, 262145])
def test_any_bytes_come_as_they_are(start: Start, pty: bool, size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "content").write_bytes(content)
    shim = start("/bin/cat", "content", pty=pty)
    assert shim.ended() == by_itself(0)
    assert shim.written() == content


def test_a_terminal_changes_nothing(start: Start) -> None:
    content = b"\n\r\t\x00\x03\x04\x08\x11\x13\x1a\x1b[A\r\n\n\n" + bytes(range(256))
    shim = start(*python(f"import os; os.write(1, {content!r})"), pty=True)
    assert shim.ended() == by_itself(0)
    assert shim.written() == content


def test_only_stdout_is_a_terminal(start: Start) -> None:
    code = "import os; print(*map(os.isatty, range(3)), os.get_terminal_size(1))"
    shim = start(*python(code), pty=True, size=[7, 33])
    assert shim.ended() == by_itself(0)
    assert shim.written() == b"False True False os.terminal_size(columns=33, lines=7)\n"


@pytest.mark.parametrize("pty", [False, True])
def test_merged_they_are_in_order(start: Start, pty: bool) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d ' % n)"
    shim = start(*python(code), pty=pty, merge=True)
    assert shim.ended() == by_itself(0)
    assert shim.written() == b"".join(b"%d " % n for n in range(2000))
    assert shim.written(STDERR) == b""


def test_a_chatty_program_makes_few_frames(start: Start) -> None:
    code = "import os\nfor n in range(5000): os.write(1, b'x')"
    shim = start(*python(code))
    shim.ended()
    assert shim.written() == b"x" * 5000
    assert len(shim.frames) < 500


def test_frames_have_their_time(start: Start) -> None:
    before = time.time()
    shim = start(*sh("echo one; echo two >&2; exit 1"))
    shim.ended()
    times = [frame.at for frame in shim.frames]
    assert before <= times[0] <= times[-1] <= time.time()
    assert times == sorted(times)


def test_every_frame_is_announced(start: Start) -> None:
    shim = start(*sh("echo one; read line; sleep 60"))

    def woken() -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            return os.read(shim.wake, 100)
        return None

    until_here(woken, "woken")
    until_here(lambda: shim.written() == b"one\n")
    shim.order(KILL)
    assert shim.ended() == because("killed")
    until_here(lambda: woken() == b"", "the end of it")


def test_who_closes_its_output_goes_on(start: Start) -> None:
    for pty in (False, True):
        shim = start(*sh("exec >/dev/null 2>&1; sleep .05; exit 7"), pty=pty)
        assert shim.ended() == by_itself(7)


# --- what it may use -------------------------------------------------------------------


def test_no_more_is_kept_than_allowed(start: Start) -> None:
    shim = start(*sh("yes"), output_bytes=100_001)
    assert shim.ended() == because("output")
    assert shim.written() == (b"y\n" * 60_000)[:100_001]


def test_exactly_as_much_as_allowed_is_no_fault(start: Start) -> None:
    code = "import os; os.write(1, b'x' * 5000); os.write(2, b'y' * 5000)"
    shim = start(*python(code), output_bytes=10_000)
    assert shim.ended() == by_itself(0)
    assert len(shim.written()) + len(shim.written(STDERR)) == 10_000


def test_the_streams_share_what_is_allowed(start: Start) -> None:
    code = "import os; os.write(1, b'x' * 6000); os.write(2, b'y' * 6000)"
    shim = start(*python(code), output_bytes=10_000)
    assert shim.ended()["reason"] == "output"
    assert len(shim.written()) + len(shim.written(STDERR)) == 10_000


def test_nothing_may_be_allowed(start: Start) -> None:
    assert start(*sh("exit 0"), output_bytes=0).ended() == by_itself(0)
    shim = start(*sh("echo; sleep 60"), output_bytes=0)
    assert shim.ended() == because("output")
    assert shim.written() == b""


def test_the_time_of_a_busy_program_is_bounded(start: Start) -> None:
    shim = start(*sh("while :; do :; done"), limits={"RLIMIT_CPU": 1})
    assert shim.ended() == by_itself(None, signal.SIGXCPU)


def test_the_size_of_its_files_is_bounded(start: Start, tmp_path: Path) -> None:
    # The spool is no file of the program's.
    shim = start(
        *sh("dd if=/dev/zero bs=1000 count=20 2>/dev/null; exec cat /dev/zero > big"),
        limits={"RLIMIT_FSIZE": 10_000},
    )
    assert shim.ended() == by_itself(None, signal.SIGXFSZ)
    assert (tmp_path / "big").stat().st_size == 10_000
    assert len(shim.written()) == 20_000


@pytest.mark.skipif(IS_ROOT, reason="the kernel does not count the processes of root")
def test_the_number_of_its_processes_is_bounded(start: Start) -> None:
    shim = start(*python("import os; os.fork()"), limits={"RLIMIT_NPROC": 1})
    assert shim.ended() != by_itself(0)


def test_a_bound_is_never_beyond_our_own(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    shim = start(*python(code), limits={"RLIMIT_NOFILE": hard + 10})
    assert shim.ended() == by_itself(0)
    assert shim.written() == b"%d %d\n" % (hard, hard)


# --- what it has of ours ---------------------------------------------------------------


def test_it_has_no_descriptors_of_ours(start: Start) -> None:
    """Not even those that whoever started us meant to be inherited."""
    # The lowest are those that it needs.
    given = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 100)
    try:
        for more in ({}, {"pty": True}, {"survives": True}, {"tail": "log"}):
            code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
            shim = start(*python(code), given=(given,), **more)
            assert shim.ended() == by_itself(0)
            # 3 is the list itself.
            assert shim.written() == b"[0, 1, 2, 3]\n"
    finally:
        os.close(given)


def test_its_stdin_is_empty(start: Start) -> None:
    code = "import os; print(os.read(0, 10), os.readlink('/proc/self/fd/0'))"
    shim = start(*python(code))
    assert shim.ended() == by_itself(0)
    assert shim.written() == b"b'' /dev/null\n"


def test_no_signal_is_ignored_or_blocked(start: Start) -> None:
    """Though Python ignores some, and others may have been ignored when it was started."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        shim = start("/bin/grep", "Sig[BI]", "/proc/self/status")
    finally:
        signal.signal(signal.SIGQUIT, before)
    assert shim.ended() == by_itself(0)
    # 32 and 33 are the C library's own: nobody may set them, so they are as they were.
    ours = ~(0b11 << 31)
    assert {int(line.split()[1], 16) & ours for line in shim.written().splitlines()} == {0}


def test_it_has_a_group_of_its_own(start: Start) -> None:
    shim = start(*sh("echo $$; exec sleep 60"))
    [pid] = pids(shim, 1)
    assert os.getpgid(pid) == pid
    assert os.getpgid(shim.process.pid) != pid


# --- stopping --------------------------------------------------------------------------

POLITE = "trap 'echo bye; exit 5' {}; echo $$; while :; do sleep .01; done"


def test_asked_by_order(start: Start) -> None:
    shim = start(*sh(POLITE.format("TERM")))
    pids(shim, 1)
    shim.order(TERMINATE)
    assert shim.ended() == by_itself(5)
    assert shim.written().endswith(b"bye\n")


def test_asked_by_a_signal_to_the_shim(start: Start) -> None:
    """A service that is stopped, a container."""
    shim = start(*sh(POLITE.format("INT")), stop=int(signal.SIGINT))
    pids(shim, 1)
    shim.process.terminate()
    assert shim.ended() == by_itself(5)


def test_other_signals_to_the_shim_do_nothing(start: Start) -> None:
    shim = start(*sh(POLITE.format("TERM")))
    pids(shim, 1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        shim.process.send_signal(number)
    shim.order(TERMINATE)
    assert shim.ended() == by_itself(5)


GROUP = """
import os, signal, sys, time
def heard(*_): os.write(1, b"heard\\n")
signal.signal(signal.SIGINT, heard)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
    while True: time.sleep(60)
os.write(1, b"%d\\n" % os.getpid())
while True: time.sleep(60)
"""


@pytest.mark.parametrize("once", [False, True])
def test_how_often_and_how_many_are_asked(start: Start, once: bool) -> None:
    shim = start(*python(GROUP), stop=int(signal.SIGINT), once=once)
    first, second = pids(shim, 2)
    for count in (1, 2):
        shim.order(TERMINATE)
        expected = 1 if once else 2 * count
        until_here(lambda: shim.written().count(b"heard") >= expected)  # noqa: B023
    # Whoever was not to hear of it would have by now: signals come before this word does.
    shim.process.terminate()
    expected = 1 if once else 6
    until_here(lambda: shim.written().count(b"heard") >= expected)
    leader = next(pid for pid in (first, second) if os.getpgid(pid) == pid)
    os.kill(leader, signal.SIGTERM)
    assert shim.ended() == by_itself(0)
    assert shim.written().count(b"heard") == expected


def test_one_that_is_stopped_is_woken_to_end(start: Start) -> None:
    for order, end in ((TERMINATE, by_itself(5)), (KILL, because("killed"))):
        shim = start(*sh(POLITE.format("TERM")))
        [pid] = pids(shim, 1)
        os.kill(pid, signal.SIGSTOP)
        shim.order(order)
        assert shim.ended() == end


def test_killed_by_order(start: Start) -> None:
    shim = start(*sh("trap '' TERM; echo $$; while :; do sleep .01; done"))
    [pid] = pids(shim, 1)
    shim.order(TERMINATE)
    shim.order(KILL)
    assert shim.ended() == because("killed")
    assert gone(pid)


def test_a_shim_that_is_killed_takes_its_program_along(start: Start) -> None:
    shim = start(*sh("trap '' TERM INT HUP; echo $$; while :; do sleep .01; done"))
    [pid] = pids(shim, 1)
    shim.process.kill()
    until_here(partial(gone, pid), "gone")
    assert shim.end is None


# --- without a server ------------------------------------------------------------------


def test_who_may_not_survive_ends_with_the_orders(start: Start) -> None:
    shim = start(*sh("trap '' TERM; echo $$; while :; do sleep .01; done"))
    [pid] = pids(shim, 1)
    shim.let_go()
    assert shim.ended() == because("orphaned")
    assert gone(pid)


def test_who_may_not_survive_ends_with_the_server(start: Start) -> None:
    """Though somebody else still has an end of `orders`: a process that the server forked."""
    server = subprocess.Popen(["/bin/sleep", "60"])
    try:
        shim = start(*sh("echo $$; exec sleep 60"), server=server.pid)
        [pid] = pids(shim, 1)
    finally:
        server.kill()
        server.wait()
    assert shim.ended() == because("orphaned")
    assert gone(pid)


def somebody_has(wake: int) -> bool:
    """Whether the other end is open. What was not read before is still there."""
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 100):
            pass
        return False
    return True


def test_who_survives_goes_on(start: Start, tmp_path: Path) -> None:
    code = "echo one; while ! [ -e go ]; do sleep .005; done; echo two; exit 7"
    shim = start(*sh(code), survives=True)
    until_here(lambda: shim.written() == b"one\n")
    shim.let_go()
    os.close(shim.wake)
    # It takes orders from the next one, and is found by the end of its `wake`.
    shim.orders = os.open(shim.folder / ORDERS, os.O_WRONLY | os.O_NONBLOCK)
    shim.wake = os.open(shim.folder / WAKE, os.O_RDONLY | os.O_NONBLOCK)
    assert somebody_has(shim.wake)
    (tmp_path / "go").touch()
    assert shim.ended() == by_itself(7)
    assert shim.written() == b"one\ntwo\n"


def test_without_a_server_it_rests(start: Start) -> None:
    """A poll that comes back at once, for ever, would take a core."""
    shim = start(*sh("echo $$; exec sleep 60"), survives=True)
    pids(shim, 1)
    shim.let_go()
    switches = Path(f"/proc/{shim.process.pid}/status")

    def count() -> int:
        lines = switches.read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def used() -> int:
        return sum(map(int, Path(f"/proc/{shim.process.pid}/stat").read_text().split()[13:15]))

    until_here(lambda: Path(f"/proc/{shim.process.pid}/wchan").read_text() != "0")
    before, ticks = count(), used()
    subprocess.run(["/bin/sleep", "0.2"], check=True)
    assert count() - before < 20
    assert used() - ticks <= 1


# --- ahead of its reader ---------------------------------------------------------------

MUCH = 3 * AHEAD_BYTES
WRITING = f"head -c {MUCH} /dev/zero; exit 3"


def kept(shim: Started) -> int:
    return (shim.folder / FRAMES).stat().st_size


def waits(shim: Started, up_to: int) -> bool:
    """Whether it is as far ahead as it may be, and no further."""
    size = kept(shim)
    assert size < up_to + READ_BYTES
    return size > up_to


def test_a_program_waits_for_its_reader(start: Start) -> None:
    shim = start(*sh(WRITING))
    until_here(lambda: waits(shim, AHEAD_BYTES))
    shim.order(READ * 2)
    until_here(lambda: waits(shim, AHEAD_BYTES + 2 * READ_BYTES))
    # Another one. What there is already has been waited for.
    before = kept(shim)
    shim.order(ANEW)
    until_here(lambda: waits(shim, before + AHEAD_BYTES))
    assert shim.end is None
    shim.order(READ * (MUCH // READ_BYTES))
    assert shim.ended() == by_itself(3)
    assert len(shim.written()) == MUCH


def test_who_waits_can_be_ended(start: Start) -> None:
    for order, number in ((TERMINATE, signal.SIGTERM), (KILL, signal.SIGKILL)):
        shim = start("/usr/bin/yes")
        until_here(lambda: waits(shim, AHEAD_BYTES))  # noqa: B023
        shim.order(order)
        assert shim.ended()["signal"] == number


def test_without_a_reader_nobody_waits(start: Start) -> None:
    shim = start(*sh(WRITING), survives=True)
    os.close(shim.wake)
    shim.wake = -1
    assert shim.ended() == by_itself(3)
    assert len(shim.written()) == MUCH


# --- a full disk -----------------------------------------------------------------------


@contextlib.contextmanager
def full(shim: Started, size: int) -> Iterator[None]:
    """Let the shim have no file that is larger."""
    number = resource.RLIMIT_FSIZE
    before = resource.prlimit(shim.process.pid, number)
    resource.prlimit(shim.process.pid, number, (size, before[1]))
    try:
        yield
    finally:
        if shim.process.poll() is None:
            resource.prlimit(shim.process.pid, number, before)


def filled(shim: Started, size: int) -> bool:
    return (shim.folder / FRAMES).stat().st_size == size


COUNTED = """
import os, time
while not os.path.exists("go"): time.sleep(.001)
for n in range(200): os.write(1, b"%05d" % n * 2000)
os.write(2, b"err")
{}
"""


@pytest.mark.parametrize("size", [1, 14, 100_000])
def test_a_full_disk_is_waited_for(start: Start, tmp_path: Path, size: int) -> None:
    shim = start(*python(COUNTED.format("os._exit(3)")))
    with full(shim, size):
        (tmp_path / "go").touch()
        until_here(partial(filled, shim, size), "full")
        assert shim.process.poll() is None
    assert shim.ended() == by_itself(3)
    assert shim.written() == b"".join(b"%05d" % n * 2000 for n in range(200))
    assert shim.written(STDERR) == b"err"


def test_a_program_that_has_ended_meanwhile(start: Start, tmp_path: Path) -> None:
    """Its last words and its end are waited for."""
    shim = start(*sh("while ! [ -e go ]; do sleep .001; done; echo $$; exit 3"))
    with full(shim, 0):
        (tmp_path / "go").touch()
        until_here(lambda: not children(shim), "ended")
        assert shim.written() == b""
    assert shim.ended() == by_itself(3)
    assert shim.written().strip().isdigit()


def children(shim: Started) -> bytes:
    pid = shim.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_bytes()


def test_too_much_output_on_a_full_disk(start: Start, tmp_path: Path) -> None:
    shim = start(*python(COUNTED.format("time.sleep(60)")), output_bytes=50_000)
    with full(shim, 20_000):
        (tmp_path / "go").touch()
        until_here(partial(filled, shim, 20_000), "full")
        until_here(lambda: not children(shim), "ended")
    assert shim.ended() == because("output")
    assert shim.written() == b"".join(b"%05d" % n * 2000 for n in range(200))[:50_000]


@pytest.mark.parametrize("last", ["time.sleep(60)", "os._exit(0)"])
def test_an_order_to_end_does_not_wait_for_space(start: Start, tmp_path: Path, last: str) -> None:
    shim = start(*python(COUNTED.format(last)))
    with full(shim, 20_000):
        (tmp_path / "go").touch()
        until_here(partial(filled, shim, 20_000), "full")
        shim.order(KILL)
        until_here(lambda: shim.process.poll() is not None, "ended")
    assert shim.end is None


def test_asked_while_the_disk_is_full(start: Start, tmp_path: Path) -> None:
    code = "trap 'echo bye; exit 5' TERM; while :; do echo more; sleep .001; done"
    shim = start(*sh(code))
    until_here(shim.written)
    with full(shim, 500):
        until_here(partial(filled, shim, 500), "full")
        shim.order(TERMINATE)
        until_here(lambda: not children(shim), "ended")
    assert shim.ended() == by_itself(5)
    assert shim.written().endswith(b"more\nbye\n")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    ) if IS_ROOT else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("only root, and not in every container, may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(start: Start, small: Path, tmp_path: Path) -> None:
    shim = start(*python(COUNTED.format("os._exit(3)")), folder=small / "spool")
    (tmp_path / "go").touch()
    until_here(lambda: os.statvfs(small).f_bavail == 0, "full")
    assert not shim.end
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    assert shim.ended() == by_itself(3)
    assert shim.written() == b"".join(b"%05d" % n * 2000 for n in range(200))


# --- a file instead of stdout ----------------------------------------------------------


def test_a_file_is_told_while_it_grows(start: Start, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("of an earlier run\n")
    code = "echo one > log; while ! [ -e go ]; do sleep .005; done; echo two >> log; exit 2"
    shim = start(*sh(code), tail="log")
    until_here(lambda: shim.written() == b"one\n")
    (tmp_path / "go").touch()
    assert shim.ended() == by_itself(2)
    assert shim.written() == b"one\ntwo\n"


def test_a_large_file_is_told_to_its_end(start: Start) -> None:
    code = "open('log', 'wb').write(b''.join(b'%07d\\n' % n for n in range(400_000)))"
    shim = start(*python(code), tail="log")
    assert shim.ended() == by_itself(0)
    assert shim.written() == b"".join(b"%07d\n" % n for n in range(400_000))


def test_a_file_that_grows_faster_than_it_is_told_holds_no_order_up(start: Start) -> None:
    shim = start(*sh("exec yes > log"), tail="log", limits={"RLIMIT_FSIZE": 1 << 28})
    until_here(shim.written)
    shim.order(KILL)
    assert shim.ended() == because("killed")


def test_a_file_has_no_more_than_allowed(start: Start) -> None:
    code = "head -c 100000 /dev/zero > log; exec sleep 60"
    shim = start(*sh(code), tail="log", output_bytes=70_000)
    assert shim.ended() == because("output")
    assert shim.written() == bytes(70_000)


def test_a_large_file_on_a_full_disk(start: Start, tmp_path: Path) -> None:
    """What does not fit is left where it is, and not held in memory."""
    code = "while ! [ -e go ]; do sleep .001; done; head -c 5000000 /dev/zero > log"
    shim = start(*sh(code), tail="log")
    with full(shim, 1000):
        (tmp_path / "go").touch()
        until_here(lambda: not children(shim), "ended")
        assert resident(shim) < 60 * 1024
    assert shim.ended() == by_itself(0)
    assert shim.written() == bytes(5_000_000)


def resident(shim: Started) -> int:
    """In KiB."""
    lines = Path(f"/proc/{shim.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


# --- where it runs ---------------------------------------------------------------------


@pytest.fixture
def beneath(tmp_path: Path) -> list[Any]:
    """A root, a folder below it, and a file there."""
    folder = tmp_path / "root" / "folder"
    folder.mkdir(parents=True)
    (folder / "file").write_text("pwd")
    found = (folder / "file").stat()
    return [str(tmp_path / "root"), "folder", "file", found.st_dev, found.st_ino]


def test_beside_its_file(start: Start, beneath: list[Any], tmp_path: Path) -> None:
    shim = start("/bin/sh", "file", beneath=beneath, cwd="/")
    assert shim.ended() == by_itself(0)
    assert shim.written().decode() == f"{tmp_path.resolve()}/root/folder\n"


def test_another_file_in_its_place(start: Start, beneath: list[Any], tmp_path: Path) -> None:
    other = tmp_path / "root" / "other"
    other.write_text("pwd")
    other.rename(tmp_path / "root" / "folder" / "file")
    end = start("/bin/sh", "file", beneath=beneath).ended()
    assert end == {"refused": "another file has taken its place"}


@pytest.mark.parametrize("place", ["root", "root/folder", "root/folder/file"])
def test_a_link_in_its_place(start: Start, beneath: list[Any], tmp_path: Path, place: str) -> None:
    (tmp_path / place).rename(tmp_path / "moved")
    (tmp_path / place).symlink_to(tmp_path / "moved")
    shim = start("/bin/sh", "file", beneath=beneath)
    assert "refused" in shim.ended()
    assert shim.written() == b""


def test_a_file_that_is_gone(start: Start, beneath: list[Any], tmp_path: Path) -> None:
    (tmp_path / "root" / "folder" / "file").unlink()
    end = start("/bin/sh", "file", beneath=beneath).ended()
    assert end == {"refused": "No such file or directory"}
