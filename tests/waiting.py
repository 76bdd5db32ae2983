"""Waiting for what a test is about, with a bound: a hang is a failure, and nothing is slept for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

Made = TypeVar("Made")

WAIT_SECONDS: Final = 10.0


async def until(done: Callable[[], Any], what: str = "so", within: float = WAIT_SECONDS) -> None:
    """Wait on the event loop until `done()` is true."""
    ends = time.monotonic() + within
    while not done():
        assert time.monotonic() < ends, f"after {within:g} s still not {what}"
        await asyncio.sleep(0.001)


def until_here(done: Callable[[], Any], what: str = "so", within: float = WAIT_SECONDS) -> None:
    """Wait in a thread until `done()` is true."""
    ends = time.monotonic() + within
    while not done():
        assert time.monotonic() < ends, f"after {within:g} s still not {what}"
        time.sleep(0.001)


async def soon(awaited: Awaitable[Made], within: float = WAIT_SECONDS) -> Made:
    """What `awaited` answers."""
    async with asyncio.timeout(within):
        return await awaited


async def turns(count: int = 10) -> None:
    """Let everything that is ready go on."""
    for _ in range(count):
        await asyncio.sleep(0)
