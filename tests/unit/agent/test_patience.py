from __future__ import annotations

import asyncio

import pytest

from tailrace.agent import patience
from tailrace.agent.patience import ended, within
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FORCED_SECONDS", 0.02)


async def answers(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fails() -> int:
    raise ValueError("no")


async def test_what_is_in_time_answers() -> None:
    assert await within(answers(3), 10.0) == 3
    assert await within(answers(3), None) == 3
    with pytest.raises(ValueError, match="no"):
        await within(fails(), 10.0)


async def test_what_takes_too_long_is_cancelled() -> None:
    seen = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(TimeoutError, match=r"It took longer than 0\.01 s\."):
        await soon(within(slow(), 0.01))
    assert seen == ["cancelled"]


async def test_what_ignores_its_cancelling_is_left_behind() -> None:
    free = asyncio.Event()
    cancels = 0

    async def stubborn() -> None:
        nonlocal cancels
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancels += 1

    with pytest.raises(TimeoutError):
        await soon(within(stubborn(), 0.01))
    assert cancels == 2
    (left,) = [task for task in asyncio.all_tasks() if "stubborn" in repr(task.get_coro())]
    free.set()
    await until(left.done, "done")


async def test_whoever_waits_is_cancelled_with_it() -> None:
    begun = asyncio.Event()

    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(within(slow(), None))
    await soon(begun.wait())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(waiting)


async def test_a_second_cancel_is_handed_on_and_not_waited_for() -> None:
    cancels = 0

    async def twice() -> None:
        nonlocal cancels
        while cancels < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels += 1

    task = asyncio.create_task(twice())
    ending = asyncio.create_task(ended(task))
    await until(lambda: cancels == 1, "cancelled once")
    ending.cancel()
    await soon(ending)
    await until(task.done, "ended")
    assert cancels == 2


async def test_an_ending_that_fails_is_looked_at() -> None:
    async def breaks() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while it ends")

    task = asyncio.create_task(breaks())
    await asyncio.sleep(0)
    await soon(ended(task))
    assert isinstance(task.exception(), ValueError)
