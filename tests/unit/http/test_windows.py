from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.aio.strategies import MovingWindowRateLimiter

from tailrace.http.windows import Windows

pytestmark = pytest.mark.anyio


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def done(awaited: Coroutine[Any, Any, Any]) -> Any:
    """Of what never waits."""
    with pytest.raises(StopIteration) as end:
        awaited.send(None)
    return end.value.value


HITS = st.lists(st.tuples(st.sampled_from([0, 0.5, 1, 2.5, 7]), st.sampled_from("ab")), max_size=60)


@given(HITS, st.integers(1, 5))
def test_in_no_window_are_more_than_the_limit(hits: list[tuple[float, str]], limit: int) -> None:
    clock, expiry = Time(), 5
    windows = Windows(clock=clock)
    let_in: dict[str, list[float]] = {"a": [], "b": []}
    for pause, key in hits:
        clock.now += pause
        recent = [at for at in let_in[key] if at >= clock.now - expiry]
        admitted = done(windows.acquire_entry(key, limit, expiry))
        assert admitted is (len(recent) < limit), "as many as fit, and a refused one does not count"
        if admitted:
            let_in[key].append(clock.now)
            recent.append(clock.now)
        began, count = done(windows.get_moving_window(key, limit, expiry))
        assert count == len(recent)
        assert began == pytest.approx(time.time() - (clock.now - recent[0]), abs=0.5)


async def test_a_limiter_takes_it() -> None:
    clock = Time()
    limiter = MovingWindowRateLimiter(Windows(clock=clock))
    rate = parse("10/minute")
    assert [await limiter.hit(rate, "run", "x") for _ in range(11)] == [True] * 10 + [False]
    assert await limiter.hit(rate, "run", "y")
    clock.now += 59.9
    assert not await limiter.test(rate, "run", "x")
    clock.now += 0.2
    assert await limiter.hit(rate, "run", "x", cost=10)
    await limiter.clear(rate, "run", "x")
    assert await limiter.hit(rate, "run", "x")


async def test_it_takes_no_more_than_it_may() -> None:
    windows = Windows(most=100_000, clock=Time())
    for number in range(5_000):
        assert await windows.acquire_entry(f"address:{number}", 10, 60)
    assert 100 < len(windows) < 400
    # Those that were looked at the longest ago are forgotten, and the others not.
    assert await windows.get("address:4999") == 1
    assert await windows.get("address:0") == 0
    # One that has much to count cannot take it all either.
    for _ in range(20_000):
        assert await windows.acquire_entry("busy", 10**6, 60)
    assert len(windows) == 1
    assert await windows.acquire_entry("another", 10, 60)
    assert await windows.get("busy") == 0


async def test_who_is_refused_again_and_again_is_not_forgotten() -> None:
    windows = Windows(most=100_000, clock=Time())
    assert await windows.acquire_entry("hasty", 1, 60)
    for number in range(5_000):
        await windows.acquire_entry(f"address:{number}", 10, 60)
        assert not await windows.acquire_entry("hasty", 1, 60)


async def test_what_is_over_is_forgotten_as_others_come() -> None:
    clock = Time()
    windows = Windows(clock=clock)
    for number in range(1_000):
        await windows.acquire_entry(f"address:{number}", 10, 60)
    assert len(windows) == 1_000
    clock.now += 61
    for number in range(1_000):
        await windows.acquire_entry(f"other:{number}", 10, 60)
    assert len(windows) == 1_000
    assert await windows.get("address:999") == 0


async def test_a_large_window_does_not_grow_for_ever() -> None:
    clock = Time()
    windows = Windows(clock=clock)
    for _ in range(1_000):
        clock.now += 1
        assert await windows.acquire_entry("one", 100, 10)
    assert await windows.get("one") <= 11


async def test_it_needs_no_thread() -> None:
    before = threading.active_count()
    windows = Windows()
    await windows.acquire_entry("one", 1, 1)
    assert threading.active_count() == before


async def test_what_a_storage_has_besides() -> None:
    clock = Time()
    windows = Windows(clock=clock)
    assert await windows.check()
    assert await windows.get_expiry("one") == pytest.approx(time.time(), abs=1)
    await windows.acquire_entry("one", 5, 60, amount=3)
    assert await windows.get("one") == 3
    assert await windows.get_expiry("one") == pytest.approx(time.time() + 60, abs=1)
    assert not await windows.acquire_entry("one", 5, 60, amount=3)
    assert await windows.get("one") == 3
    await windows.clear("two")
    await windows.clear("one")
    assert len(windows) == 0
    await windows.acquire_entry("one", 5, 60)
    assert await windows.reset() == 1
    began, count = await windows.get_moving_window("one", 5, 60)
    assert began == pytest.approx(time.time(), abs=1)
    assert count == 0
    with pytest.raises(NotImplementedError):
        await windows.incr("one", 60)


def test_each_loop_may_have_one() -> None:
    windows = Windows()
    for _ in range(2):
        assert asyncio.run(windows.acquire_entry("one", 2, 60))
    assert not asyncio.run(windows.acquire_entry("one", 2, 60))
