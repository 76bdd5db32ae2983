import asyncio
import time

import pytest

from tailrace import clock as clocks
from tailrace import rounds
from tailrace.clock import Clock
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Stream:
    """Asks to be looked at again at once, unless it is told when."""

    def __init__(self, again: float | None = 0.0) -> None:
        self.beats: list[float] = []
        self.farewells = 0
        self.again = again

    def beat(self, now: float) -> float | None:
        self.beats.append(now)
        return self.again

    def leave(self) -> None:
        self.farewells += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (clocks, rounds):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.001)


async def test_it_looks_at_once_and_again_until_parted() -> None:
    clock, stream = Clock(), Stream()
    clock.connect(stream)
    assert len(stream.beats) == 1
    await until(lambda: len(stream.beats) > 3)
    clock.disconnect(stream)
    seen = len(stream.beats)
    await until(lambda: clock._timer is None)
    assert len(stream.beats) == seen


async def test_who_wants_no_more_is_left_alone() -> None:
    clock, stream = Clock(), Stream(again=None)
    clock.connect(stream)
    assert clock._timer is None
    clock.arm(stream, time.monotonic())
    await until(lambda: len(stream.beats) == 2)
    await until(lambda: clock._timer is None)


async def test_a_sign_drains_once_and_whoever_comes_late_leaves_too() -> None:
    clock, stream, late = Clock(), Stream(), Stream()
    signs = [False]
    clock.begin([lambda: signs[0]])
    clock.connect(stream)
    await until(lambda: len(stream.beats) > 2)
    assert not stream.farewells
    signs[0] = True
    await until(lambda: stream.farewells)
    await until(lambda: len(stream.beats) > 6)
    clock.connect(late)
    assert (clock.is_draining, stream.farewells, late.farewells) == (True, 1, 1)
    clock.begin()
    assert not clock.is_draining
    clock.stop()


async def test_a_fault_is_told_and_harms_nobody() -> None:
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, why: told.append(why["exception"]))

    class Faulty(Stream):
        def beat(self, now: float) -> float | None:
            super().beat(now)
            raise ZeroDivisionError

    clock, faulty, stream = Clock(), Faulty(), Stream()
    clock.connect(faulty)
    clock.connect(stream)
    await until(lambda: len(faulty.beats) > 3 and len(stream.beats) > 3)
    loop.set_exception_handler(None)
    clock.abandon()
    assert {type(error) for error in told} == {ZeroDivisionError}


async def test_time_that_was_set_forward_and_back_is_looked_at_again() -> None:
    clock, first, second = Clock(), Stream(again=None), Stream(again=None)
    clock.connect(first)
    clock.beat(time.monotonic() + 3600)
    clock.connect(second)
    clock.arm(second, time.monotonic())
    await until(lambda: len(second.beats) == 2)
    clock.stop()
