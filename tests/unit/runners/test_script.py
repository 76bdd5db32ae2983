from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tailrace.errors import PathForbidden, RunEnded, RunLost, ScriptFailed
from tailrace.protocol.output import CHUNK_BYTES, raw
from tailrace.runners import script
from tailrace.runners.contract import Sink
from tailrace.runners.profiles import Profile
from tailrace.runners.script import Limits, Program, SoFar, environment, execute, locate
from tailrace.runners.sweep import MARK, sweep
from tailrace.runners.transcript import Told
from tests.processes import marked
from tests.waiting import soon, turns, until, until_here

pytestmark = pytest.mark.anyio


class Notes(Sink):
    """What was told of a program."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[dict[str, Any]] = []
        self.others: list[tuple[str, dict[str, Any]]] = []
        self.fault: Exception | None = None
        self.is_high = False

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        if self.fault is not None:
            raise self.fault
        if type == "output":
            self.payloads.append(payload)
        else:
            self.others.append((type, payload))

    async def ebb(self) -> None:
        await until(lambda: not self.is_high)

    async def drain(self) -> None:
        return

    def written(self, stream: str = "stdout") -> bytes:
        return b"".join(raw(told) for told in self.payloads if told["stream"] == stream)


@pytest.fixture
def sink() -> Notes:
    return Notes()


@pytest.fixture
def mark() -> Iterator[str]:
    """A run's name. Whatever it leaves behind is a failure."""
    run = f"run_{uuid.uuid4().hex}"
    yield run
    try:
        until_here(partial(swept, run), "gone")
    finally:
        sweep(run)


@pytest.fixture
def running(sink: Notes, mark: str, tmp_path: Path) -> Callable[..., asyncio.Task[dict[str, Any]]]:
    def start(*argv: str, **more: Any) -> asyncio.Task[dict[str, Any]]:
        return asyncio.create_task(execute(sink, program(argv, mark, tmp_path, **more), folder()))

    def folder() -> Path:
        """A new one for each."""
        return tmp_path / "spools" / uuid.uuid4().hex

    return start


PIPE = Profile(name="pipe", output="pipe")
PTY = Profile(name="pty", output="pty")


def program(argv: Sequence[str], mark: str, cwd: Path, **more: Any) -> Program:
    given = {"profile": PTY, "env": environment(mark, {}), "cwd": cwd, **more}
    return Program(argv=argv, **given)


Running = Callable[..., asyncio.Task[dict[str, Any]]]


def python(code: str) -> Sequence[str]:
    # Isolated and without site-packages: it starts in a few milliseconds.
    return (sys.executable, "-I", "-S", "-c", code)


def so_far(told: Told) -> SoFar:
    """What the log has."""

    async def found() -> Told:
        return told

    return found


def sh(code: str) -> Sequence[str]:
    return ("/bin/sh", "-c", code)


async def cancelled(task: asyncio.Task[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # A zombie nobody has collected yet is dead all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def swept(run: str) -> bool:
    """Whether nobody carries the run's mark. Who was killed may take a moment to be gone."""
    mark = f"{MARK}={run}".encode()
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in place.read_bytes().split(b"\0"):
                return False
    return True


def gone(pid: int) -> bool:
    return not alive(pid)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- output ----------------------------------------------------------------------------


async def test_what_is_written_is_told(sink: Notes, running: Running) -> None:
    assert await soon(running(*sh("echo out; echo err >&2; printf end"))) == {"exit_code": 0}
    assert sink.written() == b"out\nend"
    assert sink.written("stderr") == b"err\n"


async def test_lines_are_told_while_the_program_runs(
    sink: Notes, running: Running, tmp_path: Path
) -> None:
    """Each line waits until we have seen the one before."""
    task = running(
        *sh("for n in 1 2 3; do echo $n; while ! [ -e go$n ]; do sleep .001; done; done")
    )
    for number in "123":
        expected = f"{number}\n".encode()
        await until(partial(lambda end: sink.written().endswith(end), expected))
        assert not task.done()
        (tmp_path / f"go{number}").touch()
    await soon(task)
    assert sink.written() == b"1\n2\n3\n"


async def test_python_is_not_buffered(sink: Notes, running: Running) -> None:
    task = running(sys.executable, "-S", "-c", "print('now'); import time; time.sleep(60)")
    await until(lambda: sink.written() == b"now\n")
    task.cancel()
    await cancelled(task)


async def test_a_character_may_come_in_two_parts(
    sink: Notes, running: Running, tmp_path: Path
) -> None:
    task = running(
        *sh(r"printf 'a\342'; while ! [ -e go ]; do sleep .001; done; printf '\202\254'")
    )
    await until(sink.written)
    assert sink.written() == b"a"
    (tmp_path / "go").touch()
    await soon(task)
    assert [told["text"] for told in sink.payloads] == ["a", "€"]


async def test_half_a_character_is_told_at_the_end(sink: Notes, running: Running) -> None:
    task = running(*sh(r"printf 'a\342'; sleep 60"))
    await until(sink.written)
    task.cancel()
    await cancelled(task)
    assert sink.written() == b"a\xe2"


BYTES = bytes(range(256)) + b"\xff\xfe\x00\x00\xed\xa0\x80\xe2\x82"


async def test_bytes_that_are_no_text_are_exact(sink: Notes, running: Running) -> None:
    code = f"import os; os.write(1, {BYTES!r}); os.write(2, bytes(1000))"
    await soon(running(*python(code)))
    assert sink.written() == BYTES
    assert sink.written("stderr") == bytes(1000)


async def test_a_line_of_ten_megabytes(sink: Notes, running: Running) -> None:
    code = "import os\nfor n in range(160): os.write(1, bytes([n]) * 65536)"
    await soon(running(*python(code)))
    assert sink.written() == b"".join(bytes([n]) * 65536 for n in range(160))
    assert max(len(raw(told)) for told in sink.payloads) <= CHUNK_BYTES + 3


async def test_a_chatty_program_makes_few_events(sink: Notes, running: Running) -> None:
    await soon(running(*python("import os\nfor n in range(2000): os.write(1, b'%d\\n' % n)")))
    assert sink.written() == b"".join(b"%d\n" % n for n in range(2000))
    assert len(sink.payloads) < 500


async def test_a_slow_log_loses_nothing(sink: Notes, running: Running) -> None:
    """The program is long over; what it wrote still waits to be kept."""
    sink.is_high = True
    task = running(*python("import os; os.write(1, b'a' * 50_000); os.write(1, b'end')"))
    await until(lambda: sink.payloads)
    for _ in range(4):
        await asyncio.wait((task,), timeout=0.01)
    assert not task.done()
    sink.is_high = False
    await soon(task)
    assert sink.written() == b"a" * 50_000 + b"end"


async def test_a_run_that_can_tell_nothing_more_ends_its_program(
    sink: Notes, running: Running
) -> None:
    sink.fault = RunEnded("over")
    with pytest.raises(RunEnded):
        await soon(running(*sh("echo one; sleep 60")))


# --- ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("exit 3", 3, "The program exited with code 3."),
        ("exit 255", 255, "The program exited with code 255."),
        ("kill -9 $$", 137, "The program was ended by SIGKILL."),
        ("kill -15 $$", 143, "The program was ended by SIGTERM."),
        ("kill -40 $$", 168, "The program was ended by signal 40."),
    ],
)
async def test_another_exit_code_is_a_failure(
    running: Running, code: str, exit_code: int, said: str
) -> None:
    with pytest.raises(ScriptFailed) as failed:
        await soon(running(*sh(code)))
    assert failed.value.details == {"exit_code": exit_code}
    assert str(failed.value) == said


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        (("/no/such/program",), 127),
        (("/",), 126),
        (("/bin/sh", "a\0b"), 126),
        (("/bin/sh", "x" * 3_000_000), 126),
    ],
    ids=["missing", "folder", "nul", "long"],
)
async def test_what_cannot_be_started(
    running: Running, argv: Sequence[str], exit_code: int
) -> None:
    before = descriptors()
    for _ in range(3):
        with pytest.raises(ScriptFailed, match="cannot be started") as failed:
            await soon(running(*argv))
        assert failed.value.details == {"exit_code": exit_code}
    await turns()
    assert descriptors() <= before + 1


async def test_a_file_without_the_right_to_be_run(running: Running, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(ScriptFailed) as failed:
        await soon(running(str(tmp_path / "plain")))
    assert failed.value.details == {"exit_code": 126}


async def test_nothing_stays_open(running: Running) -> None:
    await soon(running(*sh("echo one")))
    before = descriptors()
    for _ in range(5):
        await soon(running(*sh("echo one; echo two >&2")))
    await turns()
    assert descriptors() <= before


async def test_a_program_reads_nothing_of_ours(sink: Notes, running: Running) -> None:
    await soon(running(*sh('read line; echo "[$line]"')))
    assert sink.written() == b"[]\n"


# --- stopping --------------------------------------------------------------------------


async def test_a_program_may_say_goodbye(sink: Notes, running: Running) -> None:
    code = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep .01; done"
    task = running(*sh(code))
    await until(lambda: sink.written() == b"ready\n")
    task.cancel()
    await cancelled(task)
    assert sink.written() == b"ready\nbye\n"


async def test_one_that_ignores_it_is_killed(sink: Notes, running: Running) -> None:
    task = running(*sh("trap '' TERM; echo $$; while :; do sleep .01; done"))
    await until(sink.written)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert not task.done()
    task.cancel()
    await cancelled(task)
    assert not alive(int(sink.written()))


async def test_one_that_is_stopped_hears_of_it(sink: Notes, running: Running) -> None:
    task = running(*sh("trap 'echo bye; exit' TERM; echo $$; while :; do sleep .01; done"))
    await until(sink.written)
    os.kill(int(sink.written()), signal.SIGSTOP)
    task.cancel()
    await cancelled(task)
    assert sink.written().endswith(b"bye\n")


async def test_a_stopped_grandchild_does_not_survive(sink: Notes, running: Running) -> None:
    code = "sleep 60 & echo $!; kill -STOP $!; while :; do sleep .01; done"
    task = running(*sh(code))
    await until(sink.written)
    task.cancel()
    await cancelled(task)
    await until(lambda: not alive(int(sink.written())))


DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork(): {parent}
os.setsid()
if os.fork(): os._exit(0)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(60)
"""


@pytest.mark.parametrize("parent", ["time.sleep(60)", "os._exit(0)"])
async def test_no_daemon_survives(sink: Notes, running: Running, parent: str) -> None:
    """setsid and a double fork, ignoring signals, and holding the pipes open."""
    task = running(*python(DAEMON.format(parent=parent)))
    if parent == "time.sleep(60)":
        await until(sink.written)
        task.cancel()
        await turns()
        task.cancel()
        await cancelled(task)
    else:
        await soon(task)
    for line in sink.written().split():
        await until(partial(gone, int(line)))


async def test_no_storm_survives(sink: Notes, running: Running, mark: str) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(5): os.fork(); os.setsid() if os.getpid() != os.getpgrp() else None
os.write(1, b"x")
time.sleep(60)
"""
    task = running(*python(code))
    await until(lambda: len(sink.written()) == 32)
    task.cancel()
    await turns()
    task.cancel()
    await cancelled(task)
    await until(partial(swept, mark))


async def test_a_daemon_may_be_just_about_to_leave(running: Running, mark: str) -> None:
    """Its parent ends the program at whatever moment of the double fork."""
    code = """
import os, sys, time
if os.fork():
    for _ in range({}): pass
    os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
time.sleep(60)
"""
    for spins in (0, 5_000, 20_000, 80_000):
        await soon(running(*python(code.format(spins))))
        await until(partial(swept, mark))


HIDDEN = """
import os, time
if os.fork():
    while not os.path.exists("ready"): time.sleep(.001)
    os._exit(0)
os.setsid()
os.execve("/bin/sh", ["/bin/sh", "-c", "echo $$; : > ready; {}"], dict(PATH="/bin:/usr/bin"))
"""


@pytest.mark.parametrize(
    "code", ["exec sleep 60", "while sleep .005; do echo more; done", "exec yes"]
)
async def test_a_pipe_held_open_holds_nothing_up(sink: Notes, running: Running, code: str) -> None:
    """By somebody who is found by nothing: another session, and the mark shed."""
    await soon(running(*python(HIDDEN.format(code))))
    pid = int(sink.written().split()[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def test_a_cancel_while_it_starts(running: Running, mark: str) -> None:
    for count in range(0, 12, 2):
        task = running(*sh("sleep 60"))
        await turns(count)
        task.cancel()
        await cancelled(task)
        await until(partial(swept, mark))


async def test_giving_up_while_the_last_words_are_waited_for(sink: Notes, running: Running) -> None:
    sink.is_high = True
    task = running(*sh("echo one"))
    await until(lambda: sink.payloads)

    await until(lambda: task.done() or not task.cancel())
    await cancelled(task)


def test_on_uvloop(tmp_path: Path, mark: str) -> None:
    sink = Notes()

    async def main() -> None:
        argv = sh("echo out; echo err >&2; sleep 60 & exit 0")
        await soon(execute(sink, program(argv, mark, tmp_path), tmp_path / "1"))
        sleeper = program(sh("sleep 60"), mark, tmp_path)
        hidden = asyncio.create_task(execute(sink, sleeper, tmp_path / "2"))
        await until(lambda: not swept(mark))
        hidden.cancel()
        await cancelled(hidden)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert (sink.written(), sink.written("stderr")) == (b"out\n", b"err\n")


# --- how it is understood --------------------------------------------------------------


async def test_what_comes_of_it(sink: Notes, running: Running) -> None:
    task = running(*sh("""echo '::log info x'; echo '[3/10] y'; echo '::result {"a": 1}'"""))
    assert await soon(task) == {"exit_code": 0, "result": {"a": 1}}
    assert [type for type, _ in sink.others] == ["log", "progress", "result"]
    assert (await soon(running(*sh("echo '::result null'"))))["result"] is None


async def test_a_program_that_says_that_it_failed(running: Running) -> None:
    """Whatever its exit code says; unless that says so itself."""
    profile = Profile(name="x", failure=r"^r\(\d+\);")
    with pytest.raises(ScriptFailed, match=r"says that it failed: r\(601\);") as failed:
        await soon(running(*sh("echo 'r(601);'"), profile=profile))
    assert failed.value.details == {"exit_code": 1, "failure": "r(601);"}
    with pytest.raises(ScriptFailed, match="exited with code 3"):
        await soon(running(*sh("echo 'r(601);'; exit 3"), profile=profile))


async def test_a_program_that_writes_a_file(sink: Notes, running: Running, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("r(1);\n")
    profile = Profile(name="x", output="file", log="{stem}.log", failure=r"^r\(\d+\);")
    code = "echo one > x.log; while ! [ -e go ]; do sleep .005; done; echo two >> x.log"
    task = running(*sh(code), profile=profile, tail="x.log")
    await until(lambda: sink.written() == b"one\n")
    (tmp_path / "go").touch()
    assert await soon(task) == {"exit_code": 0}
    assert sink.written() == b"one\ntwo\n"


async def test_progress_is_not_held_back_for_ever(sink: Notes, running: Running) -> None:
    task = running(*sh("echo '[1/10] x'; echo '[2/10] x'; sleep 60"))
    await until(lambda: len(sink.others) == 2)
    assert [payload["current"] for _, payload in sink.others] == [1, 2]
    task.cancel()
    await cancelled(task)


async def test_merged_they_are_in_order(sink: Notes, running: Running) -> None:
    code = "import os\nfor n in range(1000): os.write(1 + n % 2, b'%d ' % n)"
    for profile in (PTY, PIPE):
        sink.payloads.clear()
        await soon(running(*python(code), profile=profile, merge=True))
        assert sink.written() == b"".join(b"%d " % n for n in range(1000))


# --- limits ----------------------------------------------------------------------------


async def test_too_much_output(sink: Notes, running: Running) -> None:
    with pytest.raises(ScriptFailed, match=r"wrote more than 100,001 bytes") as failed:
        await soon(running("/usr/bin/yes", limits=Limits(output_bytes=100_001)))
    assert failed.value.details == {"exit_code": 153}
    assert "output_bytes" in failed.value.fix
    assert sink.written() == (b"y\n" * 60_000)[:100_001]


async def test_just_enough_output(sink: Notes, running: Running) -> None:
    task = running("/bin/echo", "123456789", limits=Limits(output_bytes=10))
    assert await soon(task) == {"exit_code": 0}


def test_only_wanted_bounds_are_set() -> None:
    assert Limits().resources == {}
    assert Limits(cpu_seconds=1, file_bytes=0, processes=3).resources == {
        "RLIMIT_CPU": 1,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 3,
    }


async def test_a_bound_that_is_passed(running: Running) -> None:
    with pytest.raises(ScriptFailed, match="ended by SIGXFSZ") as failed:
        await soon(running(*sh("exec cat /dev/zero > big"), limits=Limits(file_bytes=1000)))
    assert failed.value.details == {"exit_code": 153}


# --- without its shim, or its server ---------------------------------------------------


def shims(run: str) -> list[int]:
    return [pid for pid in marked(run) if b"runners.shim" in command(pid)]


def command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


HIDING = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(60)
"""


async def test_the_shim_is_killed(sink: Notes, running: Running, mark: str) -> None:
    """The program dies with it, and who has hidden is found."""
    task = running(*python(HIDING))
    await until(lambda: sink.written().count(b"\n") == 2)
    [shim] = shims(mark)
    os.kill(shim, signal.SIGKILL)
    with pytest.raises(RunLost, match="is gone, and so was the program"):
        await soon(task)
    for line in sink.written().split():
        await until(partial(gone, int(line)))


async def test_a_shim_that_breaks_down(running: Running) -> None:
    with pytest.raises(RunLost, match=r"struct\.error"):
        await soon(running(*sh("exit 0"), size=("a", "b")))


async def test_a_spool_that_is_not_there(sink: Notes, mark: str, tmp_path: Path) -> None:
    lost = execute(sink, program(sh("exit 0"), mark, tmp_path), tmp_path / "none", so_far(Told()))
    with pytest.raises(RunLost, match="cannot be read: it is not there any more"):
        await soon(lost)


async def test_another_file_by_now(running: Running, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("exit 0")
    beneath = locate("script", [tmp_path]).beneath
    (tmp_path / "other").write_text("exit 0")
    (tmp_path / "other").rename(tmp_path / "script")
    with pytest.raises(PathForbidden, match="'script' is not what it was a moment ago"):
        await soon(running("/bin/sh", "script", beneath=beneath))


COUNTING = "n=0; while ! [ -e go ]; do n=$((n+1)); echo $n é; sleep .002; done; echo $n; exit 7"


def counted(sink: Notes) -> bool:
    """Whether each number is there once, in order, and nothing else; the last one twice."""
    *lines, last = sink.written().decode().splitlines()
    return lines == [f"{n} é" for n in range(1, len(lines) + 1)] and int(last) == len(lines)


async def test_it_goes_on_when_it_is_released(sink: Notes, mark: str, tmp_path: Path) -> None:
    it = program(sh(COUNTING), mark, tmp_path, survives=True)
    task = asyncio.create_task(execute(sink, it, tmp_path / "spool"))
    await until(lambda: len(sink.payloads) > 3)
    # Any number of them, one after the other.
    for _ in range(3):
        sink.release()
        task.cancel()
        await cancelled(task)
        assert shims(mark)
        known = so_far(Told(sink.payloads[-1]["offset"]))
        before = len(sink.payloads)
        sink._is_released = False
        task = asyncio.create_task(execute(sink, it, tmp_path / "spool", known))
        await until(lambda: len(sink.payloads) > before + 3)  # noqa: B023
    (tmp_path / "go").touch()
    with pytest.raises(ScriptFailed, match="exited with code 7"):
        await soon(task)
    assert counted(sink)


async def test_who_is_released_and_may_not_survive(
    sink: Notes, running: Running, mark: str
) -> None:
    task = running(*sh("trap '' TERM; echo one; sleep 60"))
    await until(sink.written)
    sink.release()
    task.cancel()
    await cancelled(task)
    await until(partial(swept, mark))


async def test_one_that_was_taken_up_can_be_stopped(sink: Notes, mark: str, tmp_path: Path) -> None:
    code = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep .01; done"
    it = program(sh(code), mark, tmp_path, survives=True)
    task = asyncio.create_task(execute(sink, it, tmp_path / "spool"))
    await until(lambda: sink.written() == b"ready\n")
    sink.release()
    task.cancel()
    await cancelled(task)
    sink._is_released = False
    task = asyncio.create_task(execute(sink, it, tmp_path / "spool", so_far(Told(6))))
    await turns()
    task.cancel()
    await cancelled(task)
    assert sink.written() == b"ready\nbye\n"


SERVER = """
import asyncio, json, os, sys
from pathlib import Path
from tailrace.runners.contract import Sink
from tailrace.runners.profiles import Profile
from tailrace.runners.script import Limits, Program, SoFar, environment, execute, locate

class Kept(Sink):
    def emit(self, type, payload=None, /, **fields):
        os.write(1, json.dumps([type, payload]).encode() + b"\\n")
    async def ebb(self): pass
    async def drain(self): pass

run, cwd, folder, code, survives = sys.argv[1:]
program = Program(
    argv=["/bin/sh", "-c", code], env=environment(run, {}), cwd=Path(cwd),
    profile=Profile(name="x"), survives=survives == "True",
)
asyncio.run(execute(Kept(), program, Path(folder)))
"""


@contextlib.asynccontextmanager
async def served(
    sink: Notes, run: str, cwd: Path, code: str, *, survives: bool
) -> AsyncIterator[None]:
    """A server that is killed at the end; the sink then has all that it has kept."""
    kept = cwd / "kept"
    with kept.open("wb") as out:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, run, str(cwd), str(cwd / "spool"), code, str(survives),
            stdout=out,
        )  # fmt: skip
    try:
        await until(lambda: kept.read_bytes().count(b"\n") > 3)
        yield
    finally:
        server.kill()
        await server.wait()
    for line in kept.read_text().splitlines():
        sink.emit(*json.loads(line))


async def test_a_server_is_killed_and_another_goes_on(
    sink: Notes, mark: str, tmp_path: Path
) -> None:
    async with served(sink, mark, tmp_path, COUNTING, survives=True):
        pass
    assert shims(mark)
    told = so_far(Told(sink.payloads[-1]["offset"]))
    before = len(sink.payloads)
    it = program(sh(COUNTING), mark, tmp_path, survives=True)
    task = asyncio.create_task(execute(sink, it, tmp_path / "spool", told))
    await until(lambda: len(sink.payloads) > before + 3)
    (tmp_path / "go").touch()
    with pytest.raises(ScriptFailed, match="exited with code 7"):
        await soon(task)
    assert counted(sink)


async def test_a_program_ends_while_there_is_no_server(
    sink: Notes, mark: str, tmp_path: Path
) -> None:
    async with served(sink, mark, tmp_path, COUNTING, survives=True):
        pass
    (tmp_path / "go").touch()
    await until(partial(swept, mark))
    it = program(sh(COUNTING), mark, tmp_path, survives=True)
    told = so_far(Told(sink.payloads[-1]["offset"]))
    for _ in range(2):
        # And a second time: who took it up may have been killed before it said how it ended.
        with pytest.raises(ScriptFailed, match="exited with code 7"):
            await soon(execute(sink, it, tmp_path / "spool", told))
        assert counted(sink)
        told = so_far(Told(sink.payloads[-1]["offset"]))


async def test_a_server_is_killed_and_all_is_gone(sink: Notes, mark: str, tmp_path: Path) -> None:
    code = f"trap '' TERM INT HUP; (trap '' TERM HUP; sleep 60) & {COUNTING}"
    async with served(sink, mark, tmp_path, code, survives=False):
        assert shims(mark)
    await until(partial(swept, mark))
    it = program(sh(code), mark, tmp_path)
    with pytest.raises(RunLost, match="was gone"):
        await soon(execute(sink, it, tmp_path / "spool", so_far(Told(sink.payloads[-1]["offset"]))))
    lines = sink.written().decode().splitlines()
    assert lines == [f"{n} é" for n in range(1, len(lines) + 1)]


# --- the environment -------------------------------------------------------------------


async def test_our_secrets_are_not_shared(
    sink: Notes, running: Running, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/hunter2")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    await soon(running("/usr/bin/env"))
    told = dict(line.split("=", 1) for line in sink.written().decode().splitlines())
    assert "hunter2" not in sink.written().decode()
    assert told[MARK] == mark
    assert (told["LC_ALL"], told["PATH"]) == ("C.UTF-8", os.environ["PATH"])
    assert (told["TERM"], told["NO_COLOR"], told["PYTHONUNBUFFERED"]) == ("dumb", "1", "1")
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"}
    pagers = {"PAGER", "GIT_PAGER", "MANPAGER", "SYSTEMD_PAGER"}
    assert {told[name] for name in pagers} == {"cat"}
    forced = {MARK, "TERM", "NO_COLOR", "PYTHONUNBUFFERED", *pagers}
    ours = {name for name in told if not name.startswith("LC_") and name not in ("PWD", "_")}
    assert ours <= allowed | forced


def test_the_terminal_shares_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTHING", "yes")
    monkeypatch.setenv("TERM", "xterm")
    env = environment("run_a", {}, inherit=True, plain=False)
    assert (env["ANYTHING"], env["TERM"], env[MARK]) == ("yes", "xterm", "run_a")
    assert env["PYTHONUNBUFFERED"] == "1"


# --- which file ------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "sub", other, tmp_path / "root-sibling", tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / "file.py").touch()
    (root / "file.py").touch()
    (root / "out").symlink_to(tmp_path / "outside" / "file.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "sub" / "file.py")
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(root / "nothing")
    os.mkfifo(root / "fifo")
    return [root, other]


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("file.py", "root/file.py"),
        ("sub/file.py", "root/sub/file.py"),
        ("./sub/../file.py", "root/file.py"),
        ("inside", "root/sub/file.py"),
        ("{}/root/file.py", "root/file.py"),
    ],
)
def test_a_file_below_a_root(roots: list[Path], tmp_path: Path, file: str, found: str) -> None:
    assert locate(file.format(tmp_path), roots).path == (tmp_path / found).resolve()


def test_the_first_root_that_has_it(roots: list[Path]) -> None:
    (roots[1] / "only.py").touch()
    assert locate("only.py", roots).path == roots[1] / "only.py"
    assert locate("file.py", roots).path == roots[0] / "file.py"
    assert locate("file.py", roots[::-1]).path == roots[1] / "file.py"


def test_a_root_may_be_a_link(roots: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(roots[0])
    assert locate("file.py", [tmp_path / "link"]).path == roots[0] / "file.py"


ESCAPES = [
    "missing.py", "../outside/file.py", "sub/../../outside/file.py", "/etc/passwd",
    "{}/outside/file.py", "out", "folder/file.py", "../root-sibling/file.py",
    "{}/root-sibling/file.py", "file.py\0", "\0", "sub", ".", "", "..", "/", "loop", "dangling",
    "fifo", "file.py/x", "x" * 5000, "\ud800", "~/file.py", "file.py ",
]  # fmt: skip


@pytest.mark.parametrize("file", ESCAPES, ids=lambda file: repr(file)[:30])
def test_no_other_file_and_always_the_same_words(
    roots: list[Path], tmp_path: Path, file: str
) -> None:
    file = file.format(tmp_path)
    with pytest.raises(PathForbidden) as forbidden:
        locate(file, roots)
    assert str(forbidden.value) == f"{file[:200]!r} is not a file below an allowed folder."
    assert "--allow-root" in forbidden.value.fix
    str(forbidden.value).encode()


def test_without_a_root_there_is_no_file(roots: list[Path]) -> None:
    with pytest.raises(PathForbidden):
        locate(str(roots[0] / "file.py"), [])


async def test_who_stops_his_own_shim_is_ended_all_the_same(
    sink: Notes, running: Running, tmp_path: Path
) -> None:
    waits = "while ! [ -e go ]; do sleep .01; done"
    task = running(*sh(f"echo $PPID; {waits}; kill -STOP $PPID; exec sleep 60"))
    await until(sink.written)
    shim = int(sink.written())
    (tmp_path / "go").touch()
    status = Path(f"/proc/{shim}/stat")
    await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    task.cancel()
    await cancelled(task)
    assert gone(shim)


async def test_a_shim_is_killed_while_its_program_is_asked_to_stop(
    sink: Notes, running: Running, mark: str
) -> None:
    code = """trap '' TERM; echo $PPID; setsid sh -c "trap '' TERM; sleep 60" & wait; wait"""
    task = running(*sh(code))
    await until(sink.written)
    task.cancel()
    await turns()
    os.kill(int(sink.written()), signal.SIGKILL)
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert swept(mark)


async def test_who_still_has_something_to_say_may_say_it(sink: Notes, running: Running) -> None:
    """A shell does not wait for what it redirects its output into."""
    code = "exec > >(sleep .05; cat) 2>&1; echo one; echo two; exit 3"
    with pytest.raises(ScriptFailed) as failed:
        await soon(running("/bin/bash", "-c", code))
    assert failed.value.details == {"exit_code": 3}
    assert sink.written() == b"one\ntwo\n"


async def test_a_program_may_open_as_many_files_as_before(
    sink: Notes, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many its server needs."""
    monkeypatch.setattr(script, "_FILES", 512)
    await soon(running(*sh("ulimit -Sn; ulimit -Hn")))
    soft, hard = sink.written().split()
    assert (soft, hard) == (b"512", str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]).encode())
