from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tailrace import upkeep as upkeeps
from tailrace.errors import LogError, LogFull, RunUnknown
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.hub import Hub
from tailrace.operations import Operation, Traits
from tailrace.projections import stream
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tailrace.registry import Operations
from tailrace.runners.sweep import MARK, sweep
from tailrace.testing.logbook import ended, kept, logs, new_run, record, started, using
from tailrace.upkeep import Upkeep
from tests.faultylog import FaultyLog
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeeps, "_ROUND_SECONDS", 0.002)
    monkeypatch.setattr(upkeeps, "sweep", lambda *runs: 0)


class Orphaned(FaultyLog):
    """A log some of whose runs have lost their process."""

    def __init__(self, inner: EventLog) -> None:
        super().__init__(inner)
        self.lost: list[RunRecord] = []
        self.orphan_faults: list[Exception] = []
        self.looks = 0
        self.swept = 0

    async def orphans(self) -> list[RunRecord]:
        self.looks += 1
        if self.orphan_faults:
            raise self.orphan_faults.pop()
        return self.lost

    async def sweep(self, at: float) -> int:
        self.swept += 1
        return await super().sweep(at)


@pytest.fixture
async def log() -> AsyncIterator[Orphaned]:
    async with using(MemoryLog(Retention(max_age=5.0))) as log:
        yield Orphaned(log)


def upkeep(
    log: EventLog,
    hub: Hub | None = None,
    submitted: list[str] | None = None,
    traits: Traits | None = None,
) -> Upkeep:
    """One that knows the operation `crunch` if it has traits."""
    operations = Operations()

    async def never(*_: Any) -> None:
        raise AssertionError

    async def submit(run: str) -> None:
        assert submitted is not None
        submitted.append(run)

    if traits is not None:
        operations.add(Operation(lambda: None, never, name="crunch", traits=traits))
    return Upkeep(log, hub or Hub(log), operations, submit)


async def test_a_run_that_lost_its_process_ends_as_lost(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [await started(log) for _ in range(2)]
    queued = (await log.create(new_run())).id
    await log.append(Append(runs[1], move=(State.RUNNING, State.CANCELLING)))
    log.lost = [await record(log, run) for run in (*runs, queued)]
    await upkeep(log).reap()
    states = [(await record(log, run)).state for run in (*runs, queued)]
    assert states == [State.LOST, State.CANCELLED, State.LOST]
    assert [event.type for event in await kept(log, runs[0])] == ["error"]
    assert caplog.messages[0] == f"{runs[0]} was lost with its process"


async def test_only_one_of_many_reapers_tells_of_it(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    run = await started(log)
    log.lost = [await record(log, run)]
    await soon(asyncio.gather(*(upkeep(log).reap() for _ in range(5))))
    assert [event.type for event in await kept(log, run)] == ["error"]
    assert len(caplog.messages) == 1


async def test_what_a_lost_run_left_behind_is_killed(
    log: Orphaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeeps, "sweep", sweep)
    run = await started(log)
    log.lost = [await record(log, run)]
    with subprocess.Popen(
        ["/bin/sleep", "60"], env={**os.environ, MARK: run}, start_new_session=True
    ) as left:
        await upkeep(log).reap()
        assert left.wait(10) == -9


async def test_one_that_cannot_be_ended_does_not_stop_the_others(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [await started(log) for _ in range(3)]
    log.lost = [await record(log, run) for run in runs]
    log.faults.extend([LogFull("no space"), RunUnknown("forgotten")])
    await soon(upkeep(log).reap())
    states = [(await record(log, run)).state for run in runs]
    assert states == [State.RUNNING, State.RUNNING, State.LOST]
    assert f"{runs[0]} cannot be ended yet: no space" in caplog.text


async def test_a_log_that_cannot_be_read_is_told(log: Orphaned) -> None:
    log.orphan_faults.append(LogError("cannot read"))
    with pytest.raises(LogError):
        await upkeep(log).reap()


async def test_it_goes_round_whatever_goes_wrong(
    log: Orphaned, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeeps, "_SWEEP_EVERY", 3)
    old = await ended(log, 1.0)
    log.orphan_faults += [ZeroDivisionError("oh"), LogError("cannot read"), LogFull("no space")]
    keeping = asyncio.create_task(upkeep(log).keep())
    await until(lambda: log.looks >= 9)
    assert log.swept >= 1
    assert await log.get(old) is None
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert "The log could not be kept in order: cannot read" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_who_is_watched_is_noted(log: Orphaned) -> None:
    hub = Hub(log)
    run = await started(log, abandon_after=5.0)
    keeping = asyncio.create_task(upkeep(log, hub).keep())
    await until(lambda: log.looks >= 2)
    assert log.touched == []
    async with hub.subscribe(run, Cursor(0, 0), stream("events")):
        await until(lambda: len(log.touched) >= 4)
    seen = log.looks
    await until(lambda: log.looks >= seen + 2)
    touched = len(log.touched)
    await until(lambda: log.looks >= seen + 6)
    assert len(log.touched) == touched
    assert set(log.touched) == {run}
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_a_process_that_is_gone(tmp_path: Path) -> None:
    """Known by its lock, which the kernel drops with the process."""
    path = tmp_path / "log.db"
    code = (
        "import asyncio, sys\n"
        "from tailrace.eventlog.sqlite import SqliteLog\n"
        "from tailrace.testing.logbook import started\n"
        "async def main():\n"
        f"    log = SqliteLog({str(path)!r})\n"
        "    await log.open()\n"
        "    print(await started(log, worker=log.worker), flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        run = (await asyncio.to_thread(other.stdout.readline)).decode().strip()
        async with using(SqliteLog(path)) as log:
            here = upkeep(log)
            await here.reap()
            assert (await record(log, run)).state is State.RUNNING
            other.kill()
            await asyncio.to_thread(other.wait)
            await here.reap()
            assert (await record(log, run)).state is State.LOST


# --- taking up again -------------------------------------------------------------------


def note(swept: list[str], *runs: str) -> int:
    swept += runs
    return 0


async def left(log: Orphaned, **given: Any) -> str:
    """A running run of a process that is gone."""
    run = await started(log, worker="gone", **given)
    await log.append(Append(run, logs(1), patch={"attempt": 1, "started_at": 1.0}))
    return run


async def test_a_run_that_can_go_on_is_taken_up(log: Orphaned) -> None:
    asked: list[tuple[str, bool]] = []
    home = threading.get_ident()

    def resumes(run: str) -> bool:
        # In a thread: it may have to look at the disk.
        asked.append((run, threading.get_ident() != home))
        return True

    run = await left(log)
    log.lost = [await record(log, run)]
    submitted: list[str] = []
    await upkeep(log, submitted=submitted, traits=Traits(resumes=resumes)).reap()
    now = await record(log, run)
    assert (now.state, now.attempt, now.worker) == (State.RUNNING, 2, log.worker)
    assert (submitted, asked) == ([run], [(run, True)])
    told = (await kept(log, run))[-1]
    assert (told.type, told.payload["status"]) == ("status", "running")
    assert told.payload["reason"] == "taken up again: the process that ran it is gone"


async def test_one_that_is_asked_to_stop_is_taken_up_as_such(log: Orphaned) -> None:
    run = await left(log)
    await log.append(Append(run, move=(State.RUNNING, State.CANCELLING)))
    log.lost = [await record(log, run)]
    submitted: list[str] = []
    await upkeep(log, submitted=submitted, traits=Traits(resumes=lambda _: True)).reap()
    assert (await record(log, run)).state is State.CANCELLING
    assert (await kept(log, run))[-1].payload["status"] == "cancelling"
    assert submitted == [run]


@pytest.mark.parametrize("traits", [Traits(survives=True), Traits(resumes=lambda _: False)])
async def test_one_that_was_queued_is_taken_over(log: Orphaned, traits: Traits) -> None:
    run = (await log.create(new_run(worker="gone"))).id
    await log.append(Append(run, logs(1), patch={"progress": b'{"position":2}'}))
    log.lost = [await record(log, run)]
    submitted: list[str] = []
    await upkeep(log, submitted=submitted, traits=traits).reap()
    now = await record(log, run)
    assert (now.state, now.attempt, now.worker) == (State.QUEUED, 1, log.worker)
    assert (now.progress, submitted) == (None, [run])
    told = (await kept(log, run))[-1].payload
    assert told["status"] == "queued"
    assert told["reason"].startswith("taken up again: the process that queued it")


async def test_those_that_go_on_come_before_those_that_wait(log: Orphaned) -> None:
    queued = (await log.create(new_run(worker="gone"))).id
    running = await left(log)
    log.lost = [await record(log, run) for run in (queued, running)]
    submitted: list[str] = []
    await upkeep(log, submitted=submitted, traits=Traits(resumes=lambda _: True)).reap()
    assert submitted == [running, queued]


async def test_what_cannot_go_on_is_lost_and_swept(
    log: Orphaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[str] = []
    monkeypatch.setattr(upkeeps, "sweep", partial(note, swept))
    for traits in (Traits(resumes=lambda _: False), Traits(survives=True), Traits()):
        run = await left(log)
        log.lost = [await record(log, run)]
        await upkeep(log, submitted=[], traits=traits).reap()
        assert (await record(log, run)).state is State.LOST
        assert swept.pop() == run
    queued = (await log.create(new_run(worker="gone"))).id
    log.lost = [await record(log, queued)]
    await upkeep(log, submitted=[], traits=Traits()).reap()
    assert (await record(log, queued)).state is State.LOST


async def test_where_nobody_can_tell_it_is_asked_again(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [OSError("no descriptors"), None]

    def resumes(run: str) -> bool:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return True

    run = await left(log)
    log.lost = [await record(log, run)]
    submitted: list[str] = []
    here = upkeep(log, submitted=submitted, traits=Traits(resumes=resumes))
    await here.reap()
    assert (await record(log, run)).worker == "gone"
    assert f"Whether {run} goes on cannot be found out" in caplog.text
    await here.reap()
    assert submitted == [run]


@pytest.mark.parametrize("ours", [True, False], ids=["can", "cannot"])
async def test_another_was_quicker(
    log: Orphaned, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes late must neither end what goes on elsewhere, nor kill it."""
    swept: list[str] = []
    monkeypatch.setattr(upkeeps, "sweep", partial(note, swept))
    run = await left(log)
    log.lost = [await record(log, run)]
    first: list[str] = []
    second: list[str] = []
    await upkeep(log, submitted=first, traits=Traits(resumes=lambda _: True)).reap()
    await upkeep(log, submitted=second, traits=Traits(resumes=lambda _: ours)).reap()
    assert (await record(log, run)).state is State.RUNNING
    assert (first, second, swept) == ([run], [], [])


async def test_of_many_at_once_one_takes_it_up(log: Orphaned) -> None:
    run = await left(log)
    log.lost = [await record(log, run)]
    submitted: list[str] = []
    traits = Traits(resumes=lambda _: True)
    reaping = (upkeep(log, submitted=submitted, traits=traits).reap() for _ in range(5))
    await soon(asyncio.gather(*reaping))
    assert submitted == [run]
    assert [event.type for event in await kept(log, run)] == ["log", "status"]


async def test_a_wish_that_came_meanwhile_is_seen_the_next_time(log: Orphaned) -> None:
    run = await left(log)
    log.lost = [await record(log, run)]
    await log.append(Append(run, move=(State.RUNNING, State.CANCELLING)))
    submitted: list[str] = []
    here = upkeep(log, submitted=submitted, traits=Traits(resumes=lambda _: True))
    await here.reap()
    assert submitted == []
    log.lost = [await record(log, run)]
    await here.reap()
    assert submitted == [run]


async def test_a_full_log_can_wait(log: Orphaned, caplog: pytest.LogCaptureFixture) -> None:
    run = await left(log)
    log.lost = [await record(log, run)]
    log.faults.append(LogFull("no space"))
    submitted: list[str] = []
    here = upkeep(log, submitted=submitted, traits=Traits(resumes=lambda _: True))
    await here.reap()
    assert f"{run} cannot be taken up yet: no space" in caplog.text
    await here.reap()
    assert submitted == [run]
