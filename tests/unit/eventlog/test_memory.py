"""What is peculiar to the log that forgets; the rest is in tests/contracts."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.logbook import Heard, ended, logs, record, seqs, started, using

pytestmark = pytest.mark.anyio


async def test_what_was_kept_stays_readable_after_close() -> None:
    async with using(MemoryLog()) as log:
        run = await started(log)
        await log.append(Append(run, logs(3)))
    assert await seqs(log, run) == [1, 2, 3]
    assert (await record(log, run)).last_seq == 3
    assert [found.id for found in await log.find(RunQuery())] == [run]


async def test_it_can_be_opened_again() -> None:
    log = MemoryLog()
    async with using(log):
        run = await started(log)
    async with using(log):
        await log.append(Append(run, logs(1)))
        assert await seqs(log, run) == [1]


async def test_nothing_outlives_its_owner() -> None:
    async with using(MemoryLog()) as log:
        await started(log, worker="somebody who is dead")
        assert await log.orphans() == []


async def test_each_log_is_a_worker_of_its_own() -> None:
    assert MemoryLog().worker != MemoryLog().worker


async def test_a_late_follower_is_told_once_and_in_order() -> None:
    async with using(MemoryLog()) as log:
        heard = Heard()
        log.listen(heard)
        run = await started(log)
        await log.append(Append(run, logs(4)))
        log.follow(run, 2)
        # Commits before the loop has come round to telling of the first four.
        await log.append(Append(run, logs(1)))
        await asyncio.sleep(0)
        assert [(block.first, block.last) for block in heard.blocks] == [(3, 4), (5, 5)]


async def test_closing_lets_go_of_followers() -> None:
    log = MemoryLog()
    heard = Heard()
    log.listen(heard)
    async with using(log):
        run = await started(log)
        log.follow(run, 0)
    async with using(log):
        await log.append(Append(run, logs(1)))
        await asyncio.sleep(0)
    assert heard.blocks == []


async def test_no_listener_is_no_trouble() -> None:
    async with using(MemoryLog()) as log:
        run = await ended(log, 1.0)
        log.follow(run, 0)
        await asyncio.sleep(0)
        await log.forget(run)
        log.unfollow(run)


async def test_a_snapshot_is_made_when_it_is_asked_for() -> None:
    async with using(MemoryLog()) as log:
        run = await started(log)
        await log.append(Append(run, logs(2), patch={"progress": b"1"}))
        await log.append(Append(run, logs(1), patch={"attempt": 4}))
        one = await record(log, run)
        assert (one.last_seq, one.progress, one.attempt) == (3, b"1", 4)
        assert one.size == sum(len(block.wire) for block in await log.read(run, 0))
        assert await log.get(run) is one
        await log.touch([run], 5.0)
        other = await record(log, run)
        assert (other.watched_at, other.progress, one.watched_at) == (5.0, b"1", None)


async def test_a_thread_is_found_without_looking_at_other_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    matches = RunQuery.matches

    def noted(query: RunQuery, run: RunRecord) -> bool:
        looked.append(run.id)
        return matches(query, run)

    monkeypatch.setattr(RunQuery, "matches", noted)
    async with using(MemoryLog()) as log:
        mine = [await ended(log, 1.0, thread="t") for _ in range(3)]
        for number in range(20):
            await ended(log, 1.0, thread=f"u{number}")
        assert len(await log.find(RunQuery(principal="ada", thread="t"))) == 3
        assert looked == mine[::-1]


async def test_nothing_is_left_of_threads_whose_runs_are_forgotten() -> None:
    log = MemoryLog()
    async with using(log):
        runs = [await ended(log, 1.0, thread=thread) for thread in ("t", "t", "u")]
        for run in runs:
            await log.forget(run)
        assert log._threads == {}
