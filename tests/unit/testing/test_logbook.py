"""The words tests of logs are written in."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.errors import LogClosed
from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.lifecycle import State
from tailrace.testing import logbook
from tailrace.testing.logbook import (
    Heard,
    ended,
    ending,
    kept,
    logs,
    new_run,
    record,
    seqs,
    started,
    using,
)

pytestmark = pytest.mark.anyio


def test_every_new_run_is_another() -> None:
    assert new_run().id != new_run().id
    assert new_run(principal="bob", timeout=3.0).timeout == 3.0


def test_drafts_are_told_apart() -> None:
    assert len(set(logs(5))) == 5
    assert logs(2) == logs(2)


async def test_a_log_is_open_only_inside() -> None:
    log = MemoryLog()
    async with using(log):
        await log.create(new_run())
    with pytest.raises(LogClosed):
        await log.create(new_run())


async def test_runs_are_filled_and_read_back() -> None:
    async with using(MemoryLog()) as log:
        run = await started(log, operation="sum")
        assert (await record(log, run)).state is State.RUNNING
        await log.append(Append(run, logs(3)))
        await log.append(Append(run, logs(2)))
        assert await seqs(log, run) == [1, 2, 3, 4, 5]
        assert [event.seq for event in await kept(log, run, 3)] == [4, 5]
        await log.append(ending(run, 7.0))
        assert (await record(log, run)).ended_at == 7.0
        assert (await record(log, await ended(log, 3.0))).ended
        with pytest.raises(AssertionError):
            await record(log, "unknown")


async def test_what_is_heard_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    blocks = [
        Block(run, seq, seq, pack(seq, logs(1))) for run, seq in (("a", 1), ("b", 1), ("a", 2))
    ]
    waiting = asyncio.ensure_future(heard.until("a", 2))
    for block in blocks:
        heard(block)
    assert await waiting == [blocks[0], blocks[2]]
    monkeypatch.setattr(logbook, "WAIT_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await heard.until("a", 3)
