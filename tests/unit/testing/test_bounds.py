from __future__ import annotations

import asyncio
import time

import pytest

from tailrace.testing.bounds import soon
from tailrace.testing.clock import ManualClock

pytestmark = pytest.mark.anyio


async def test_it_answers_what_comes_in_time() -> None:
    async def slow() -> int:
        await asyncio.sleep(0.01)
        return 3

    assert await soon(slow()) == 3
    assert await soon(asyncio.create_task(slow()), 5) == 3


async def test_it_raises_what_is_raised() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await soon(fails())


async def test_what_takes_too_long_is_cancelled() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(TimeoutError):
        await soon(endless(), 0.01)
    assert ended == ["cancelled"]


async def test_whoever_is_cancelled_cancels_it() -> None:
    waiting = asyncio.Event()
    waiter = asyncio.create_task(waiting.wait())
    outer = asyncio.create_task(soon(waiter))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert waiter.cancelled()


async def test_the_seconds_are_real_ones() -> None:
    news = asyncio.Event()
    with ManualClock() as clock:
        waiting = asyncio.create_task(soon(news.wait(), 5))
        await clock.advance(3600)
        assert not waiting.done()
        news.set()
        assert await waiting
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await soon(asyncio.Event().wait(), 0.02)
        assert time.monotonic() - began >= 0.02
