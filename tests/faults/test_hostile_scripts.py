"""Scripts that do all they can to outlive their cancel: none does, and none holds it up."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tailrace.protocol.lifecycle import TERMINAL
from tailrace.protocol.runs import seconds
from tailrace.runners.family import descendants
from tests.processes import Served, serving, until

pytestmark = pytest.mark.slow

SCRIPTS: Final = 200
GRACE: Final = 0.3

# More than the server runs at once: the others are cancelled soon after their wait.
AT_ONCE: Final = 14

# What a script leaves about. `{t}` is the argument by which every one of its processes is found,
# `{here}` the file that says that it is there.
COMPANY: Final = {
    "a child": "sleep {t} & : > {here}",
    "nohup": "nohup sleep {t} > /dev/null 2>&1 & : > {here}",
    "setsid": "setsid sh -c ': > {here}; exec sleep {t}' &",
    "a daemon": "(setsid sh -c '(: > {here}; exec sleep {t}) & exit' &)",
    "no environment": "env -i setsid /bin/sh -c ': > {here}; exec /bin/sleep {t}' &",
    "deaf": """setsid sh -c 'trap "" TERM HUP INT; : > {here}; while :; do sleep {t}; done' &""",
    "nothing open": "setsid sh -c 'exec <&- >&- 2>&-; : > {here}; exec sleep {t}' &",
    "holds what we read": "setsid sh -c 'exec 7>&1 8>&2; : > {here}; exec sleep {t}' &",
    "elsewhere": '(here="$PWD/{here}"; cd /; : > "$here"; exec setsid sleep {t}) &',
    "stopped": "setsid sh -c ': > {here}; kill -STOP $$; exec sleep {t}' &",
    "frozen": "setsid sleep {t} & kill -STOP $!; : > {here}",
    "born of the signal": "trap 'setsid sleep {t} & nohup sleep {t} &' TERM INT; : > {here}",
    "a chatterbox": "setsid sh -c ': > {here}; while sleep .02; do echo {t}; done' &",
    "a flood": "setsid sh -c ': > {here}; exec yes {t}' &",
}

# Without who watches over it, whoever has shed the mark as well is found by nobody: it is alone.
LONELY: Final = {
    "ends its watcher": "trap 'setsid sleep {t} & kill -9 $PPID' TERM; : > {here}\n",
}

# How it goes on itself.
GOINGS: Final = {
    "sleeps": "while :; do sleep {t}; done",
    "turns": "while sleep .01; do :; done",
    "stops itself": "kill -STOP $$; while :; do sleep {t}; done",
    "stops its group": "{there}; kill -STOP 0; while :; do sleep {t}; done",
    "is replaced": "exec sleep {t}",
    "starts more": "while sleep .01; do setsid sh -c 'sleep .05; exec sleep .1' {t} & done",
}

DEAF: Final = "trap '' TERM HUP INT\n"

PYTHON: Final = """\
import fcntl, os, signal, sys, threading, time
def here(): open({here!r}, "w").close()
def forked():
    return not os.fork()
def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, 1)
def sleep():
    while True: time.sleep(60)
"""

# In Python, all of whose processes have the script's own name for an argument.
PYTHONS: Final = {
    "a storm": """
# At most 64 at once: one that lives in each slot, and one that waits for its death to take its
# place, and to bear the next. A lock ends with its process, and no child inherits it.
deaf()
slots = os.open({t!r} + ".slots", os.O_RDWR | os.O_CREAT)
lives = os.open({t!r} + ".lives", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def live(slot):
    while True:
        if slot % 3 == os.getpid() % 3: os.setsid()
        fcntl.lockf(slots, fcntl.LOCK_EX, 1, slot)
        if os.fork():
            os.write(lives, b"x")
            sleep()
for slot in range(32):
    if forked(): live(slot)
while os.fstat(lives).st_size < 32: time.sleep(.005)
here()
sleep()
""",
    "a house of its own": """
# Orphans are not ours but those of a grandchild that wants them.
import ctypes
if forked():
    deaf()
    os.setsid()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for _ in range(3):
        if forked():
            os.setsid()
            if forked(): sleep()
            os._exit(0)
    here()
    sleep()
sleep()
""",
    "children of a thread": """
def bear():
    if forked():
        deaf()
        sleep()
    here()
    sleep()
threading.Thread(target=bear).start()
sleep()
""",
    "all signals blocked": """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
if forked(): os.setsid(), sleep()
here()
sleep()
""",
    "many generations": """
deaf()
for _ in range(20):
    if os.fork(): sleep()
    os.setsid()
here()
sleep()
""",
    "orphans": """
# Everybody between it and us is gone at once.
while True:
    if forked():
        os.setsid()
        if forked():
            deaf()
            here()
            time.sleep(.3)
        os._exit(0)
    time.sleep(.02)
""",
    "a mark shed": """
if forked():
    os.setsid()
    if forked(): os.execve("/bin/sh", ["sh", "-c", ": > {here}; sleep {t}; : {t}"], dict())
    os._exit(0)
sleep()
""",
}


@dataclass
class Hostile:
    """One script. `t` is in the arguments of each of its processes, and of nobody else's."""

    t: str
    what: str
    file: str
    text: str
    here: list[str]

    @classmethod
    def drawn(cls, ours: str, number: int, chance: random.Random) -> "Hostile":
        """The first ones are of each kind, the others mixed."""
        # A number, as `sleep` wants it.
        t = f"{ours}{number:04d}"
        if number % 5 == 0:
            name = list(PYTHONS)[number // 5 % len(PYTHONS)]
            first = f"{t}.0.here"
            text = (PYTHON + PYTHONS[name]).format(t=t, here=first)
            return cls(t, name, f"{t}.py", text, [first])
        kinds = list(COMPANY)
        # Floods are enough work for a server on two cores when they are few.
        quiet = [kind for kind in kinds if kind != "a flood"]
        company = [kinds[number % len(kinds)], *chance.sample(quiet, chance.randrange(4))]
        if number % 20 == 1:
            company = chance.sample(list(LONELY), 1)
        going = chance.choice(list(GOINGS))
        is_deaf = chance.random() < 0.5
        here = [f"{t}.{place}.here" for place in range(len(company))]
        lines = [
            {**COMPANY, **LONELY}[name].format(t=t, here=there)
            for name, there in zip(company, here, strict=True)
        ]
        # Who is stopped before it has left the group would never be there.
        there = f"until [ $(ls {t}.*.here | wc -l) = {len(here)} ]; do sleep .01; done"
        lines.append(GOINGS[going].format(t=t, there=there))
        text = (DEAF if is_deaf else "") + "\n".join(lines)
        what = ", ".join([*company, going, *(["deaf"] if is_deaf else [])])
        return cls(t, what, f"{t}.sh", text, here)


def survivors(t: str, run: str = "") -> list[int]:
    """Whoever has `t` in its arguments, whatever has become of its parent or environment, or
    belongs to `run` by its environment.
    """
    found: list[int] = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            shown = place.joinpath("cmdline").read_bytes()
            if t.encode() in shown or (
                run and run.encode() in place.joinpath("environ").read_bytes()
            ):
                found.append(int(place.name))
    return found


@dataclass
class Ending:
    """How one has ended: `took` seconds after it was asked to, and who was `left` then."""

    what: str
    state: str
    took: float
    left: list[int]

    @property
    def is_right(self) -> bool:
        return self.state == "cancelled" and self.took < GRACE + 1 and not self.left


def cancelled(served: Served, folder: Path, hostile: Hostile, wanted: int) -> Ending:
    """Run it, cancel it once `wanted` of its company are there, and look for survivors."""
    (folder / hostile.file).write_text(hostile.text)
    run = served.start("script", file=hostile.file)

    def is_there() -> bool:
        there = sum((folder / here).exists() for here in hostile.here)
        return there >= wanted or served.show(run)["state"] in TERMINAL

    def has_ended() -> bool:
        time.sleep(0.02)
        return served.show(run)["state"] in TERMINAL

    until(is_there, f"there: {hostile.what}", 30)
    status, _ = served.ask("POST", f"/runs/{run}/cancel")
    asked = time.time()
    assert status == 202, (status, hostile.what)
    until(has_ended, f"over: {hostile.what}", GRACE + 10)
    left = survivors(hostile.t, run)
    told = served.show(run)
    ended = seconds(told["ended_at"])
    assert ended is not None
    return Ending(hostile.what, told["state"], ended - asked, left)


@pytest.fixture
def ours() -> Iterator[str]:
    """What the arguments of all of them begin with. A failure must not fill the machine."""
    begins = f"{900_000 + os.getpid() % 90_000}."
    yield begins
    for _ in range(100):
        left = survivors(begins)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break


def test_none_survives_its_cancel(tmp_path: Path, ours: str) -> None:
    chance = random.Random(20)
    hostiles = [Hostile.drawn(ours, number, chance) for number in range(SCRIPTS)]
    # One in ten is cancelled while it waits or starts, one in three when the first is there.
    wanted = [
        0 if number % 10 == 9 else 1 if number % 3 == 0 else len(hostile.here)
        for number, hostile in enumerate(hostiles)
    ]
    began = time.monotonic()
    with serving("tailrace", tmp_path / "log.db", grace=GRACE) as served:
        folder = tmp_path / "scripts"
        with ThreadPoolExecutor(AT_ONCE) as pool:
            going = [
                pool.submit(cancelled, served, folder, hostile, number)
                for hostile, number in zip(hostiles, wanted, strict=True)
            ]
        endings = [each.result() for each in going]
        left = survivors(ours)
        # The shims are gone, too, and nobody was left to the server.
        until(lambda: descendants(served.process.pid) == [], "without children")
    took = sorted(ending.took for ending in endings)
    print(
        f"{SCRIPTS} hostile scripts in {time.monotonic() - began:.0f} s: from cancel to end "
        f"p50 {took[SCRIPTS // 2]:.3f} s, p99 {took[SCRIPTS * 99 // 100]:.3f} s, "
        f"max {took[-1]:.3f} s (grace {GRACE:g} s); survivors: {len(left)}"
    )
    assert [ending for ending in endings if not ending.is_right] == []
    assert left == []
