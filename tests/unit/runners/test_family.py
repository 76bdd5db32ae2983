from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tailrace.runners import family as families
from tailrace.runners.family import Family, descendants
from tests.waiting import until_here

HOME = str(Path(__file__).parents[3] / "src")

# A process of its own: a family collects every child there is.
PARENT = """
import os, signal, sys, time
sys.path.append({home!r})
from tailrace.runners.family import PR_SET_CHILD_SUBREAPER, Family, prctl
prctl(PR_SET_CHILD_SUBREAPER, 1)

def tell(*words): os.write(1, " ".join(map(str, words)).encode() + b"\\n")
def rest():
    while True: time.sleep(60)
def born(*steps):
    pid = os.fork()
    if pid: return pid
    for step in steps: step()
    os._exit(0)
def leave():
    if os.fork(): os._exit(0)
def named():
    tell(os.getpid())

{code}
"""


def family(code: str) -> list[list[str]]:
    """What a process says that has a family."""
    source = PARENT.format(home=HOME, code=code)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, timeout=20, check=False
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return [line.split() for line in done.stdout.decode().splitlines()]


def gone(pid: str) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_how_the_eldest_ended() -> None:
    code = """
other = born(lambda: os._exit(3))
eldest = born(os.setsid, lambda: os._exit(5))
family = Family(eldest)
tell(family.status)
while family.reap(): time.sleep(.001)
tell(os.waitstatus_to_exitcode(family.status))
tell(family.reap())
"""
    assert family(code) == [["None"], ["5"], ["False"]]


def test_whether_anybody_is_left() -> None:
    code = """
other = born(rest)
eldest = born(os.setsid)
family = Family(eldest)
while family.status is None: tell(family.reap()); time.sleep(.001)
tell(family.reap())
os.kill(other, signal.SIGKILL)
while family.reap(): time.sleep(.001)
"""
    assert {word for [word] in family(code)} == {"True"}


def test_the_end_of_all() -> None:
    """Whoever ignores signals, is stopped, has left the group, or lost the parent."""
    code = """
def deaf():
    for number in signal.SIGTERM, signal.SIGHUP, signal.SIGINT:
        signal.signal(number, signal.SIG_IGN)
def stop(): os.kill(os.getpid(), signal.SIGSTOP)
def household():
    for steps in (
        (named, rest), (deaf, named, rest), (named, stop),
        (os.setsid, named, rest), (os.setsid, leave, named, rest),
        (os.setsid, leave, deaf, named, stop), (lambda: born(named, rest), named),
    ): born(*steps)
gate, ready = os.pipe()
eldest = born(lambda: os.setpgid(0, 0), household, lambda: os.write(ready, b"."), rest)
os.read(gate, 1)
family = Family(eldest)
family.end()
tell(os.waitstatus_to_exitcode(family.status), family.reap())
"""
    *names, last = family(code)
    assert last == ["-9", "False"]
    assert all(gone(pid) for [pid] in names)


def test_the_end_of_whom_the_eldest_has_left() -> None:
    code = """
gate, ready = os.pipe()
def household():
    born(named, lambda: os.write(ready, b"."), rest)
    born(os.setsid, leave, named, lambda: os.write(ready, b"."), rest)
eldest = born(lambda: os.setpgid(0, 0), household)
for _ in range(2): os.read(gate, 1)
family = Family(eldest)
while family.status is None: family.reap(); time.sleep(.001)
family.end()
tell(os.waitstatus_to_exitcode(family.status), family.reap())
"""
    *names, last = family(code)
    assert last == ["0", "False"]
    assert len(names) == 2
    assert all(gone(pid) for [pid] in names)


def test_a_signal_to_the_group_or_to_one() -> None:
    code = """
gate, ready = os.pipe()
def listen():
    signal.signal(signal.SIGUSR1, lambda *_: tell("heard"))
    signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
def child(): born(listen, lambda: os.write(ready, b"."), rest)
eldest = born(lambda: os.setpgid(0, 0), child, listen, lambda: os.write(ready, b"."), rest)
for _ in range(2): os.read(gate, 1)
family = Family(eldest)
family.signal(signal.SIGUSR1, alone=True)
family.signal(signal.SIGUSR2)
while family.reap(): time.sleep(.001)
"""
    assert family(code) == [["heard"]]


def test_who_is_below() -> None:
    code = "sh -c 'sleep 60 & sleep 60' & sleep 60 & echo; wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            said: IO[bytes] | None = process.stdout
            assert said is not None
            said.readline()
            until_here(lambda: len(descendants(process.pid)) == 4)
            found = descendants(process.pid)
            # The children of children are before them.
            assert {parent(pid) for pid in found[2:]} == {process.pid}
            assert {parent(pid) for pid in found[:2]} <= set(found[2:])
            assert descendants(found[0]) == []
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    for pid in found:
        until_here(partial(gone, str(pid)))
    assert descendants(process.pid) == []


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that would have been sent."""
    signals: list[tuple[int, int]] = []
    for name in ("kill", "killpg"):
        monkeypatch.setattr(os, name, lambda *sent: signals.append(sent))
    return signals


def test_nobody_hears_of_it_without_an_eldest(sent: list[tuple[int, int]]) -> None:
    """0 would be ourselves, and all of our group."""
    nobody = Family(0)
    nobody.signal(signal.SIGTERM)
    nobody.signal(signal.SIGTERM, alone=True)
    assert sent == []


def test_a_number_that_is_free_again_is_not_used(sent: list[tuple[int, int]]) -> None:
    family = Family(12345)
    family.signal(signal.SIGTERM)
    family.signal(signal.SIGINT, alone=True)
    assert sent == [(12345, signal.SIGTERM), (12345, signal.SIGINT)]
    family.status = 0
    family.signal(signal.SIGTERM)
    family.signal(signal.SIGTERM, alone=True)
    assert len(sent) == 2


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_who_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, error: type[OSError]) -> None:
    def refuse(pid: int, number: int) -> None:
        raise error

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(os, "killpg", refuse)
    Family(12345).signal(signal.SIGTERM)
    Family(12345).signal(signal.SIGTERM, alone=True)
    # Those of another user are not waited for; those who are gone will be collected.
    assert families._killed([1, 2]) is (error is ProcessLookupError)
    assert families._killed([])


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_LINUX", False)
    families.prctl(-1, -1)
    with contextlib.suppress(ChildProcessError):
        # Nothing to collect that is not ours.
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)
        pytest.skip("this process has children of its own")
    process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    family = Family(process.pid)
    family.end()
    assert family.status == signal.SIGKILL
    process.returncode = -signal.SIGKILL
