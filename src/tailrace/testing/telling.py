"""The part of an event log's contract that says what its listener hears."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tailrace.eventlog.contract import Append, EventLog
from tailrace.protocol.blocks import Block
from tailrace.protocol.runs import RunRecord
from tailrace.testing.logbook import WAIT_SECONDS, Heard, kept, logs, new_run, started


@pytest.mark.anyio
class TellingContract:
    """In order, complete or with a hole one can see, and never before the commit."""

    async def test_a_listener_hears_what_is_committed_in_order(self, log: EventLog) -> None:
        heard = Heard()
        known: list[asyncio.Task[RunRecord | None]] = []

        def listener(block: Block) -> None:
            known.append(asyncio.ensure_future(log.get(block.run)))
            heard(block)

        log.listen(listener)
        run, other = await started(log), await started(log)
        log.follow(run, 0)
        for _ in range(20):
            await asyncio.gather(*(log.append(Append(one, logs(2))) for one in (run, other)))
        blocks = await heard.until(run, 40)
        assert blocks == heard.blocks
        assert all(block.first > before.last for before, block in pairwise(blocks))
        events = await kept(log, run)
        for block, snapshot in zip(blocks, await asyncio.gather(*known), strict=True):
            assert list(block.events) == events[block.first - 1 : block.last]
            assert snapshot is not None
            assert snapshot.last_seq >= block.last, "told before it was committed"

    async def test_whoever_follows_late_hears_that_there_is_more(self, log: EventLog) -> None:
        heard = Heard()
        log.listen(heard)
        run, unborn = await started(log), new_run()
        for _ in range(3):
            await log.append(Append(run, logs(2)))
        log.follow(run, 3)
        log.follow(unborn.id, 0)
        await log.append(Append(run, logs(1)))
        blocks = await heard.until(run, 7)
        assert blocks[0].first > 3
        assert all(block.first > before.last for before, block in pairwise(blocks))
        await log.create(unborn)
        await log.append(Append(unborn.id, logs(1)))
        assert (await heard.until(unborn.id, 1))[0].first == 1

    async def test_nobody_hears_what_he_did_not_ask_for(self, log: EventLog) -> None:
        heard = Heard()
        log.listen(heard)
        run = await started(log)
        await log.append(Append(run, logs(1)))
        log.follow(run, 4)
        for _ in range(3):
            await log.append(Append(run, logs(2)))
        assert (await heard.until(run, 7))[0].first > 4

    async def test_follows_nest(self, log: EventLog) -> None:
        heard = Heard()
        log.listen(heard)
        run, other = await started(log), await started(log)
        log.follow(other, 0)
        log.follow(run, 0)
        log.follow(run, 0)
        log.unfollow(run)
        await log.append(Append(run, logs(1)))
        await heard.until(run, 1)
        log.unfollow(run)
        log.follow(run, 1)
        log.unfollow(run)
        await log.append(Append(run, logs(1)))
        await log.append(Append(other, logs(1)))
        await heard.until(other, 1)
        assert [block.last for block in heard.blocks if block.run == run] == [1]

    async def test_who_follows_second_hears_what_he_missed(self, log: EventLog) -> None:
        heard = Heard()
        log.listen(heard)
        run = await started(log)
        await log.append(Append(run, logs(2)))
        log.follow(run, 2)
        await log.append(Append(run, logs(1)))
        await heard.until(run, 3)
        heard.blocks.clear()
        log.follow(run, 1)
        # Nothing is appended any more: without being told he would wait for ever.
        await heard.until(run, 3)
        await log.append(Append(run, logs(1)))
        assert (await heard.until(run, 4))[-1].last == 4

    async def test_a_listener_that_fails_harms_no_append(self, log: EventLog) -> None:
        reported: list[Any] = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, why: reported.append(why))

        def listener(block: Block) -> None:
            raise ZeroDivisionError(block.last)

        try:
            log.listen(listener)
            run = await started(log)
            log.follow(run, 0)
            async with asyncio.timeout(WAIT_SECONDS):
                commits = [await log.append(Append(run, logs(1))) for _ in range(2)]
            assert [commit.last for commit in commits] == [1, 2]
            assert isinstance(reported[0]["exception"], ZeroDivisionError)
        finally:
            loop.set_exception_handler(before)

    async def test_many_writers_of_many_runs_keep_their_order(self, log: EventLog) -> None:
        heard = Heard()
        log.listen(heard)
        runs = [await started(log) for _ in range(20)]

        async def write(run: str) -> None:
            log.follow(run, 0)
            futures = []
            for number in range(30):
                futures.append(log.append(Append(run, logs(1 + number % 3, str(number)))))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            commits = await asyncio.gather(*futures)
            assert all(after.first == one.last + 1 for one, after in pairwise(commits))

        await asyncio.gather(*map(write, runs))
        expected = [f"{n} {part}" for n in range(30) for part in range(1 + n % 3)]
        for run in runs:
            assert [event.payload["message"] for event in await kept(log, run)] == expected
            blocks = await heard.until(run, len(expected))
            assert all(block.first > before.last for before, block in pairwise(blocks))
