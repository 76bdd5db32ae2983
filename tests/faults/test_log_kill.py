"""A process that is killed while it writes: what it was told is kept, is kept."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.runs import RunQuery
from tailrace.testing.logbook import kept, new_run, using

CYCLES = 24
RUNS = 4
PATIENCE_SECONDS = 60.0

# Appends batches of eight to each run, several at once, and prints every commit that was
# acknowledged: "run first last". The line is out before the next append is made.
WRITER = """
import asyncio, sys
from tailrace.eventlog.contract import Append
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.events import Draft

path, cycle, *runs = sys.argv[1:]

async def write(log, run, writer):
    batch = 0
    while True:
        batch += 1
        names = [f"{cycle}-{writer}-{batch}-{number}" for number in range(8)]
        drafts = [Draft("log", b'{"name":"%s"}' % name.encode()) for name in names]
        commit = await log.append(Append(run, drafts))
        print(run, commit.first, commit.last, f"{cycle}-{writer}-{batch}", flush=True)

async def main():
    log = SqliteLog(path)
    await log.open()
    async with asyncio.TaskGroup() as group:
        for run in runs:
            for writer in range(2):
                group.create_task(write(log, run, writer))

asyncio.run(main())
"""


def killed_at_random(path: Path, cycle: int, runs: list[str], chance: random.Random) -> list[str]:
    """Let a writer work until it is killed; the lines it got out."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), f"c{cycle}", *runs],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        # A number of lines, so that it is in the thick of it whatever the machine's speed,
        # and then a moment more, so that the kill may hit any instruction.
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 150))]
        threading.Event().wait(chance.random() * 0.005)
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
    finally:
        watchdog.cancel()
    assert lines[0], "it never got to write"
    # The kill may have cut the last line.
    return [line for line in lines if line.endswith("\n")]


async def made(path: Path) -> list[str]:
    async with using(SqliteLog(path)) as log:
        return [(await log.create(new_run())).id for _ in range(RUNS)]


async def found(path: Path) -> dict[str, list[str]]:
    """The names of every run's events; they are numbered without a gap."""
    names: dict[str, list[str]] = {}
    async with using(SqliteLog(path)) as log:
        for run in await log.find(RunQuery()):
            events = await kept(log, run.id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert run.last_seq == len(events)
            names[run.id] = [event.payload["name"] for event in events]
    return names


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_doubled_or_moved(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "log.db"
    runs = asyncio.run(made(path))
    acknowledged: list[tuple[str, int, int, str]] = []
    before: dict[str, list[str]] = {run: [] for run in runs}
    for cycle in range(CYCLES):
        for line in killed_at_random(path, cycle, runs, chance):
            run, first, last, batch = line.split()
            acknowledged.append((run, int(first), int(last), batch))
        events = asyncio.run(found(path))
        for run, names in events.items():
            assert names[: len(before[run])] == before[run], "the past never changes"
            assert len(set(names)) == len(names), "nothing twice"
            assert len(names) % 8 == 0, "a batch is kept whole or not at all"
        for run, start, end, batch in acknowledged:
            expected = [f"{batch}-{number}" for number in range(8)]
            assert events[run][start - 1 : end] == expected, "acknowledged, and lost"
        before = events
    assert len(acknowledged) >= CYCLES
