from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from tailrace.errors import LogClosed
from tailrace.lifetime import Lifetime, beside

pytestmark = pytest.mark.anyio


class Noted:
    def __init__(self, fault: Exception | None = None) -> None:
        self.said: list[str] = []
        self.fault = fault
        self.life = Lifetime(self.begin, self.note("abandoned"))

    def note(self, word: str) -> Callable[[], None]:
        return lambda: self.said.append(word)

    async def begin(self, stack: AsyncExitStack) -> None:
        self.said.append("begun")
        stack.callback(self.note("ended"))
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault


async def test_many_starts_are_one() -> None:
    noted = Noted()
    await asyncio.gather(*(noted.life.start() for _ in range(5)))
    assert noted.said == ["begun"]
    assert noted.life.is_open
    await asyncio.gather(noted.life.close(), noted.life.close())
    assert noted.said == ["begun", "ended"]
    assert not noted.life.is_open


async def test_what_fails_to_begin_is_undone_and_may_begin_again() -> None:
    noted = Noted(OSError("no"))
    with pytest.raises(OSError, match="no"):
        await noted.life.start()
    assert noted.said == ["begun", "ended"]
    noted.fault = None
    await noted.life.start()
    assert noted.life.is_open


async def test_an_end_that_fails_is_an_end() -> None:
    def fail() -> None:
        raise OSError("no end")

    async def begin(stack: AsyncExitStack) -> None:
        stack.callback(fail)

    life = Lifetime(begin, fail)
    await life.start()
    with pytest.raises(OSError, match="no end"):
        await life.close()
    assert not life.is_open


async def test_what_never_began_ends_at_once() -> None:
    noted = Noted()
    noted.life.is_owned = True
    await noted.life.close()
    assert noted.said == []
    assert not noted.life.is_owned


async def test_it_is_open_until_its_end_is_over() -> None:
    seen: list[bool] = []

    async def begin(stack: AsyncExitStack) -> None:
        async def ending() -> None:
            seen.append(life.is_open)
            # As runs do it in their grace; it must not wait for itself.
            await life.start()

        stack.push_async_callback(ending)

    life = Lifetime(begin, lambda: None)
    await life.start()
    async with asyncio.timeout(5):
        await life.close()
    assert seen == [True]


def test_loops() -> None:
    noted = Noted()

    async def elsewhere() -> None:
        await noted.life.start()
        with pytest.raises(LogClosed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, noted.life.start())

    asyncio.run(elsewhere())
    assert noted.said == ["begun"]
    # That loop has ended, and what was open in it cannot be closed any more.
    asyncio.run(noted.life.start())
    assert noted.said == ["begun", "abandoned", "begun"]
    asyncio.run(noted.life.close())
    assert noted.said == ["begun", "abandoned", "begun", "ended"]


async def test_who_must_be_left_where_they_were_entered() -> None:
    said: list[object] = []

    @asynccontextmanager
    async def guest() -> AsyncIterator[None]:
        said.append(asyncio.current_task())
        async with anyio.create_task_group() as group:
            yield
            group.cancel_scope.cancel()
        said.append(asyncio.current_task())

    stack = AsyncExitStack()
    await asyncio.create_task(beside(stack, guest()))
    assert len(said) == 1
    await asyncio.create_task(stack.aclose())
    assert said[0] is said[1]
    assert said[0] is not None


async def test_who_cannot_be_entered() -> None:
    said: list[str] = []

    @asynccontextmanager
    async def guest() -> AsyncIterator[None]:
        if not said:
            raise OSError("no room")
        yield

    async with AsyncExitStack() as stack:
        with pytest.raises(OSError, match="no room"):
            await beside(stack, guest())


async def test_who_gives_up_waiting_leaves_nobody_behind() -> None:
    left = asyncio.Event()

    @asynccontextmanager
    async def guest() -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    stack = AsyncExitStack()
    waiting = asyncio.create_task(beside(stack, guest()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await left.wait()
