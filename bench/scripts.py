"""What it costs to run programs, and how soon what they print is on a watcher's screen.

    python -m bench.scripts              about two minutes; one line for each figure

Three figures, each beside what it is compared with, in the same run:

    reading    CPU for 100 MB of a script's output: `cat` through a loop of 64 KiB reads in Python
               is the floor; then the shim alone (all of it is in the spool), the server (all of it
               is in the log), and both. Pairs, medians; startups are in all of them.
    lines      CPU for a line that is looked through for progress and markers
    screen     how long after a program has written a line a watcher has it, over HTTP: p50, p99
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tailrace.builtin import Terminal
from tailrace.engine import Engine
from tailrace.protocol.lifecycle import State
from tailrace.runners.lifeline import Lifeline
from tailrace.runners.output import Reading
from tailrace.runners.profiles import Profiles, read
from tailrace.runners.script import Program, environment
from tailrace.runners.spool import EXIT

ROUNDS = 5
MEGABYTES = 100
LINES = 200
EVERY_SECONDS = 0.05
PROGRAMS = Path(__file__).parents[1] / "tests" / "programs"

LINE = b"%07d 2026-11-20 09:00:00 INFO worker processed the item without any trouble, and goes on\n"
MIX = ["2026-11-20 09:00:00 INFO epoch: loss went down, saved /data/model.bin"] * 4 + [
    "Epoch 1:  30%|███   | 3/10 [00:01<00:02,  1.9it/s]"
]


def spent(*whose: int) -> float:
    used = [resource.getrusage(who) for who in whose]
    return sum(one.ru_utime + one.ru_stime for one in used)


# ------------------------------------------------------------------ reading


LOOP = """
import os, sys
ours, theirs = os.pipe()
if not os.fork():
    os.dup2(theirs, 1)
    os.execvp("cat", ["cat", sys.argv[1]])
os.close(theirs)
size = 0
while chunk := os.read(ours, 65536):
    size += len(chunk)
os.wait()
assert size == os.stat(sys.argv[1]).st_size
"""


def floor(path: Path) -> float:
    """In a process of its own, as the shim is: in an old one, memory is not so quickly had."""
    before = spent(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-S", "-c", LOOP, str(path)], check=True)
    return spent(resource.RUSAGE_CHILDREN) - before


def profiles(output: str) -> Profiles:
    return read({"program": {"output": output}})


async def shim(path: Path, folder: Path, output: str) -> float:
    """`cat` and the shim, up to the spool, which is read and given up."""
    profile = profiles(output)["program"]
    env = environment("run_bench", {})
    program = Program(argv=["cat", str(path)], env=env, profile=profile, cwd=folder)
    before = spent(resource.RUSAGE_CHILDREN)
    line = Lifeline.start(folder / "spool", "run_bench", program.job)
    kinds: list[int] = []
    size = 0
    is_last = False
    while not is_last:
        await line.woken()
        is_last = line.is_over
        while frames := line.read():
            kinds += (frame.kind for frame in frames)
            size += sum(len(frame.content) for frame in frames if frame.kind != EXIT)
    await line.close()
    assert kinds[-1] == EXIT
    assert size == path.stat().st_size
    return spent(resource.RUSAGE_CHILDREN) - before


async def whole(path: Path, log: str, output: str) -> tuple[float, float]:
    """The server's CPU and that of shim and `cat`, for all of it in the log."""
    async with Engine(log) as engine:
        terminal = Terminal(
            spools=engine.spools, cwd=Path(tempfile.gettempdir()), profiles=profiles(output)
        )
        engine.offer(terminal.command, name="command")
        ours, theirs = spent(resource.RUSAGE_SELF), spent(resource.RUSAGE_CHILDREN)
        record, _ = await engine.submit("command", {"argv": ["cat", str(path)]})
        while not (ended := await engine.record(record.id)).ended:
            await asyncio.sleep(0.02)
        ours = spent(resource.RUSAGE_SELF) - ours
        theirs = spent(resource.RUSAGE_CHILDREN) - theirs
        assert ended.state is State.COMPLETED
        assert ended.size > path.stat().st_size
        return ours, theirs


def reading() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "output"
        path.write_bytes(b"".join(LINE % n for n in range(MEGABYTES * 10**6 // len(LINE % 0))))
        # A page that was just written costs more to read.
        os.sync()
        floor(path)
        for output in ("pipe", "pty"):
            measured: dict[str, list[float]] = {}
            for number in range(ROUNDS):
                least = floor(path)
                place = folder / f"{output}{number}"
                place.mkdir()
                took: dict[str, float] = {"shim, spooled": asyncio.run(shim(path, place, output))}
                for log in ("memory:", str(place / "log.db")):
                    server, others = asyncio.run(whole(path, log, output))
                    kind = "memory" if log == "memory:" else "SQLite"
                    took[f"server, {kind}"] = server
                    took[f"all, {kind}"] = server + others
                shutil.rmtree(place)
                measured.setdefault("floor", []).append(least)
                for what, seconds in took.items():
                    measured.setdefault(what, []).append(seconds)
                    measured.setdefault(f"{what}, ratio", []).append(seconds / least)
            for what, seconds in measured.items():
                if not what.endswith("ratio"):
                    ratio = statistics.median(measured.get(f"{what}, ratio", [1.0]))
                    middle = statistics.median(seconds) * 1000
                    told = f"{what:15} {middle:7.0f} ms  × {ratio:.1f}"
                    print(f"reading {MEGABYTES} MB, {output:4}  {told}")


# ------------------------------------------------------------------ lines


def lines() -> None:
    def cost(lines: list[str]) -> float:
        text = "\n".join(lines * 2000) + "\n"
        took: list[float] = []
        for _ in range(ROUNDS):
            look = Reading()
            began = time.process_time()
            for start in range(0, len(text), 32768):
                look.feed("stdout", text[start : start + 32768], start / 1e6)
            took.append((time.process_time() - began) / (2000 * len(lines)))
        return statistics.median(took) * 1e6

    print(f"lines, 1 of 5 is a bar     {cost(MIX):.2f} µs")
    print(f"lines, none tells anything {cost([(LINE % 7).decode().rstrip()]):.2f} µs")


# ------------------------------------------------------------------ on the screen

PYTHON = """
import time
for _ in range({n}):
    print("at", repr(time.time()))
    time.sleep({s})
"""
SHELL = "for i in $(seq {n}); do echo at $(date +%s.%N); sleep {s}; done\n"
R = """
for (i in 1:{n}) {{
    cat("at", sprintf("%.6f", as.numeric(Sys.time())), "\\n")
    Sys.sleep({s})
}}
"""
STATA = """
forvalues i = 1/{n} {{
    display "at $now"
    sleep {ms}
}}
"""
SCRIPTS = {"late.py": PYTHON, "late.sh": SHELL, "late.R": R, "late.do": STATA}


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    words = [
        "serve",
        "--no-auth",
        "--rate",
        "run=none",
        "--port",
        "0",
        "--log",
        str(folder / "log.db"),
        "--allow-root",
        str(folder),
    ]
    env = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tailrace.cli.main", *words],
        env=env, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        found = re.search(rb":(\d+)$", process.stderr.readline().strip())
        assert found is not None
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def late(port: int, name: str) -> list[float]:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/run_file?file_path={name}")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    delays: list[float] = []
    for line in answer:
        now = time.time()
        found = re.match(rb"data: at ([0-9.]+)", line)
        if found:
            delays.append(now - float(found[1]))
    connection.close()
    assert len(delays) == LINES, len(delays)
    return delays


def screen() -> None:
    given = {"n": LINES, "s": EVERY_SECONDS, "ms": int(EVERY_SECONDS * 1000)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in SCRIPTS.items():
            (folder / file).write_text(text.format(**given), encoding="utf-8")
        with serving(folder) as port:
            for file in SCRIPTS:
                if file.endswith(".R") and shutil.which("Rscript") is None:
                    print("screen .R   (there is no Rscript)")
                    continue
                delays = sorted(delay * 1000 for delay in late(port, file))
                middle, worst = statistics.median(delays), delays[int(len(delays) * 0.99) - 1]
                print(f"screen {Path(file).suffix:4} p50 {middle:6.1f} ms   p99 {worst:6.1f} ms")


def main() -> None:
    figures: dict[str, Callable[[], None]] = {"reading": reading, "lines": lines, "screen": screen}
    for name in sys.argv[1:] or figures:
        figures[name]()


if __name__ == "__main__":
    main()
