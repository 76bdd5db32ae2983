from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace import upkeep as upkeeps
from tailrace.errors import LogError, LogFull, RunUnknown
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.hub import Hub
from tailrace.projections import stream
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tailrace.runners.script import MARK, sweep
from tailrace.testing.logbook import ended, kept, new_run, record, started, using
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


async def test_a_run_that_lost_its_process_ends_as_lost(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [await started(log) for _ in range(2)]
    queued = (await log.create(new_run())).id
    await log.append(Append(runs[1], move=(State.RUNNING, State.CANCELLING)))
    log.lost = [await record(log, run) for run in (*runs, queued)]
    upkeep = Upkeep(log, Hub(log))
    await upkeep.reap()
    states = [(await record(log, run)).state for run in (*runs, queued)]
    assert states == [State.LOST, State.CANCELLED, State.LOST]
    assert [event.type for event in await kept(log, runs[0])] == ["error"]
    assert caplog.messages[0] == f"{runs[0]} was lost with its process"


async def test_only_one_of_many_reapers_tells_of_it(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    run = await started(log)
    log.lost = [await record(log, run)]
    upkeeps_ = [Upkeep(log, Hub(log)) for _ in range(5)]
    await soon(asyncio.gather(*(upkeep.reap() for upkeep in upkeeps_)))
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
        await Upkeep(log, Hub(log)).reap()
        assert left.wait(10) == -9


async def test_one_that_cannot_be_ended_does_not_stop_the_others(
    log: Orphaned, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [await started(log) for _ in range(3)]
    log.lost = [await record(log, run) for run in runs]
    log.faults.extend([LogFull("no space"), RunUnknown("forgotten")])
    await soon(Upkeep(log, Hub(log)).reap())
    states = [(await record(log, run)).state for run in runs]
    assert states == [State.RUNNING, State.RUNNING, State.LOST]
    assert f"{runs[0]} cannot be ended yet: no space" in caplog.text


async def test_a_log_that_cannot_be_read_is_told(log: Orphaned) -> None:
    log.orphan_faults.append(LogError("cannot read"))
    with pytest.raises(LogError):
        await Upkeep(log, Hub(log)).reap()


async def test_it_goes_round_whatever_goes_wrong(
    log: Orphaned, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeeps, "_SWEEP_EVERY", 3)
    old = await ended(log, 1.0)
    log.orphan_faults += [ZeroDivisionError("oh"), LogError("cannot read"), LogFull("no space")]
    keeping = asyncio.create_task(Upkeep(log, Hub(log)).keep())
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
    keeping = asyncio.create_task(Upkeep(log, hub).keep())
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
            upkeep = Upkeep(log, Hub(log))
            await upkeep.reap()
            assert (await record(log, run)).state is State.RUNNING
            other.kill()
            await asyncio.to_thread(other.wait)
            await upkeep.reap()
            assert (await record(log, run)).state is State.LOST
