from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import stat
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tailrace.runners import lifeline as lifelines
from tailrace.runners.lifeline import Lifeline
from tailrace.runners.shim import KILL, ORDERS, TERMINATE, WAKE, Job
from tailrace.runners.spool import EXIT, FRAMES, STDOUT, Frame
from tailrace.runners.sweep import MARK, sweep
from tests import jobs
from tests.processes import marked
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def run() -> Iterator[str]:
    run = f"run_{uuid.uuid4().hex}"
    yield run
    sweep(run)


def job(*argv: str, **more: Any) -> Job:
    return jobs.job(argv, "/", env={"PATH": os.environ["PATH"]}, **more)


def sh(code: str, **more: Any) -> Job:
    return job("/bin/sh", "-c", code, **more)


class Start:
    """Starts shims, each in a folder of its own."""

    def __init__(self, run: str, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._open: list[Lifeline] = []
        self._count = 0

    def __call__(self, job: Job) -> Lifeline:
        line = Lifeline.start(self._folder / f"{self._count}", self._run, job)
        self._count += 1
        self._open.append(line)
        return line

    async def let_go(self, line: Lifeline) -> None:
        self._open.remove(line)
        await line.close()

    async def close(self) -> None:
        for line in self._open:
            line.order(KILL)
            await line.close()


@pytest.fixture
async def start(run: str, tmp_path: Path) -> AsyncIterator[Start]:
    start = Start(run, tmp_path / "spools")
    yield start
    await start.close()


class Read:
    """All that a shim wrote."""

    def __init__(self, line: Lifeline) -> None:
        self.line = line
        self.frames: list[Frame] = []

    def look(self) -> None:
        self.frames += self.line.spool.read(1 << 20)

    def has(self, content: bytes) -> bool:
        self.look()
        return self.written == content

    def ends_with(self, content: bytes) -> bool:
        self.look()
        return self.written.endswith(content)

    @property
    def written(self) -> bytes:
        return b"".join(frame.content for frame in self.frames if frame.kind == STDOUT)

    async def to_the_end(self) -> Any:
        while not self.line.is_over:
            await soon(self.line.woken())
        self.look()
        assert self.frames[-1].kind == EXIT
        return json.loads(self.frames[-1].content)


def by_itself(code: int) -> dict[str, Any]:
    return {"code": code, "signal": None, "reason": None}


async def test_from_its_start_to_its_end(start: Start, tmp_path: Path) -> None:
    line = start(sh("echo one; exit 3"))
    read = Read(line)
    assert await read.to_the_end() == by_itself(3)
    assert read.written == b"one\n"
    assert line.complaint() == ""


async def test_only_we_may_look_into_its_folder(start: Start, tmp_path: Path) -> None:
    start(sh("sleep 60"))
    folder = tmp_path / "spools" / "0"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (FRAMES, WAKE, ORDERS, "complaint"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


async def test_what_is_new_wakes(start: Start, tmp_path: Path) -> None:
    line = start(
        sh(f"for n in 1 2 3; do while ! [ -e {tmp_path}/$n ]; do sleep .005; done; echo; done")
    )
    read = Read(line)
    for number in (1, 2, 3):
        (tmp_path / f"{number}").touch()
        while not read.has(b"\n" * number):
            await soon(line.woken())
    assert await read.to_the_end() == by_itself(0)


async def test_nothing_new_is_waited_for_only_so_long(start: Start) -> None:
    line = start(sh("sleep 60"))
    await soon(line.woken(0.001))
    await soon(line.woken(0.001))
    assert not line.is_over


async def test_orders_are_passed_on(start: Start) -> None:
    code = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep .01; done"
    read = Read(start(sh(code)))
    await until(partial(read.has, b"ready\n"))
    read.line.order(TERMINATE)
    assert await read.to_the_end() == by_itself(5)
    read = Read(start(sh("trap '' TERM; echo ready; while :; do sleep .01; done")))
    await until(partial(read.has, b"ready\n"))
    read.line.order(KILL)
    assert (await read.to_the_end())["reason"] == "killed"
    # Nobody is there any more.
    read.line.order(TERMINATE)


async def test_a_job_that_is_longer_than_a_pipe(start: Start) -> None:
    line = start(job("/bin/sh", "-c", 'echo "$#"', *["x" * 50_000] * 30))
    read = Read(line)
    assert await read.to_the_end() == by_itself(0)
    assert read.written == b"29\n"


async def test_a_shim_that_ends_before_it_has_heard_all(
    start: Start, run: str, tmp_path: Path
) -> None:
    line = start(job("/bin/sh", "-c", ":", *["x" * 100_000] * 100))
    assert line._pid is not None
    os.kill(line._pid, signal.SIGKILL)
    while not line.is_over:
        await soon(line.woken())
    assert list(line.spool.read(1 << 20)) == []


async def test_the_same_folder_twice(start: Start, run: str, tmp_path: Path) -> None:
    start(sh("sleep 60"))
    with pytest.raises(FileExistsError):
        Lifeline.start(tmp_path / "spools" / "0", run, sh("sleep 60"))


async def test_it_is_alone(start: Start, run: str) -> None:
    """Away from the terminal, its signals, and all but one variable of ours."""
    line = start(sh("sleep 60"))
    pid = line._pid
    assert pid is not None
    await until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text())
    assert os.getsid(pid) == pid != os.getsid(0)
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert environ.rstrip(b"\0") == f"{MARK}={run}".encode()
    links = {fd.name: str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    assert (links["0"], links["1"]) == ("/dev/null", "/dev/null")
    assert links["2"].endswith("/complaint")


async def test_an_interpreter_finds_its_libraries(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the program does not hear of it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    line = start(sh("env; echo end; exec sleep 60"))
    read = Read(line)
    await until(partial(read.ends_with, b"end\n"))
    assert b"LD_LIBRARY_PATH" not in read.written
    environ = Path(f"/proc/{line._pid}/environ").read_bytes()
    assert b"LD_LIBRARY_PATH=/opt/python/lib\0" in environ


async def test_what_lies_beside_us_hides_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where packages are installed there may be old copies of standard modules."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "tailrace").symlink_to(Path(lifelines._HOME) / "tailrace")
    (home / "typing.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.setattr(lifelines, "_HOME", str(home))
    read = Read(start(sh("exit 0")))
    assert await read.to_the_end() == by_itself(0)


# --- when something is wrong -----------------------------------------------------------


async def test_a_shim_that_breaks_down_says_why(start: Start) -> None:
    line = start(sh("sleep 60", pty=True, size=["a", "b"]))
    while not line.is_over:
        await soon(line.woken())
    assert line.complaint().startswith("struct.error: ")
    assert "\n" not in line.complaint()


async def test_no_interpreter(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        Lifeline.start(tmp_path / "one", run, sh("exit 0"))
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def few(free: int) -> Iterator[None]:
    """So many descriptors can still be had."""
    number = resource.RLIMIT_NOFILE
    limits = resource.getrlimit(number)
    highest = max(int(place.name) for place in Path("/proc/self/fd").iterdir())
    taken: list[int] = []
    resource.setrlimit(number, (highest + 20, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(number, limits)
        for fd in taken:
            os.close(fd)


async def test_too_few_descriptors(run: str, tmp_path: Path) -> None:
    """Those that were there are given back."""
    before = descriptors()
    failed = 0
    for free in range(16):
        with few(free):
            try:
                line = Lifeline.start(tmp_path / f"{free}", run, sh("sleep 60"))
            except OSError:
                failed += 1
                continue
        line.order(KILL)
        await line.close()
    await until(lambda: descriptors() <= before)
    assert failed > 5


# --- attaching -------------------------------------------------------------------------


async def test_another_one_goes_on(start: Start, tmp_path: Path) -> None:
    code = f"echo one; while ! [ -e {tmp_path}/go ]; do sleep .005; done; echo two; exit 7"
    first = Read(start(sh(code, survives=True)))
    await until(partial(first.has, b"one\n"))
    await start.let_go(first.line)
    second = Read(Lifeline.attach(tmp_path / "spools" / "0"))
    assert not second.line.is_over
    await until(partial(second.has, b"one\n"))
    (tmp_path / "go").touch()
    assert await second.to_the_end() == by_itself(7)
    assert second.written == b"one\ntwo\n"
    await second.line.close()


async def test_orders_from_another_one(start: Start, tmp_path: Path) -> None:
    first = start(sh("trap 'exit 5' TERM; echo ready; while :; do sleep .01; done", survives=True))
    await until(partial(Read(first).has, b"ready\n"))
    second = Read(Lifeline.attach(tmp_path / "spools" / "0"))
    second.line.order(TERMINATE)
    assert await second.to_the_end() == by_itself(5)
    await second.line.close()


async def test_what_has_ended_can_still_be_read(start: Start, tmp_path: Path) -> None:
    first = Read(start(sh("echo one; exit 3")))
    await first.to_the_end()
    second = Read(Lifeline.attach(tmp_path / "spools" / "0"))
    assert second.line.is_over
    assert await second.to_the_end() == by_itself(3)
    assert second.written == b"one\n"
    second.line.order(KILL)
    await second.line.close()


async def test_nothing_to_attach_to(start: Start, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="of another version"):
        Lifeline.attach(tmp_path / "none")
    assert descriptors() == before
    await Read(start(sh("exit 0"))).to_the_end()
    before = descriptors()
    (tmp_path / "spools" / "0" / FRAMES).unlink()
    with pytest.raises(FileNotFoundError):
        Lifeline.attach(tmp_path / "spools" / "0")
    assert descriptors() == before


# --- letting go ------------------------------------------------------------------------


async def test_letting_go_ends_one_that_may_not_survive(start: Start, run: str) -> None:
    line = start(sh("trap '' TERM; sleep 60"))
    pid = line._pid
    assert pid is not None
    await start.let_go(line)
    await until(lambda: not marked(run))
    # Collected, too.
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_letting_go_leaves_one_that_survives(start: Start, run: str, tmp_path: Path) -> None:
    line = start(sh("sleep 60", survives=True))
    pid = line._pid
    await until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text())
    await start.let_go(line)
    # Its child has the mark until it has become the program.
    await until(lambda: marked(run) == [pid])
    second = Lifeline.attach(tmp_path / "spools" / "0")
    second.order(KILL)
    while not second.is_over:
        await soon(second.woken())
    await second.close()
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_nothing_stays_open(start: Start, run: str, tmp_path: Path) -> None:
    before = descriptors()
    for number in range(3):
        line = Lifeline.start(tmp_path / f"{number}", run, sh("exit 0"))
        await Read(line).to_the_end()
        await line.close()
        again = Lifeline.attach(tmp_path / f"{number}")
        await again.close()
    assert descriptors() == before
    with contextlib.suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


async def test_the_loop_is_left_as_it_was(start: Start) -> None:
    """A descriptor that is closed while the loop watches it makes it hang."""
    loop = asyncio.get_running_loop()
    line = start(sh("sleep 60"))
    wake = line._wake
    await start.let_go(line)
    assert loop.remove_reader(wake) is False
