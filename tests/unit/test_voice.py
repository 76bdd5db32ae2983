from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.errors import RunCancelled
from tailrace.runners.contract import AMBIENT
from tailrace.voice import Track, Voice, joined
from tests.unit.runners.sinks import Recorder
from tests.waiting import soon, until


class Spoken(Recorder, Voice):
    """Keeps what it is told; `ebbs` counts who waited for room."""

    def __init__(self) -> None:
        super().__init__()
        self.ebbs = 0

    async def ebb(self) -> None:
        self.ebbs += 1


@pytest.fixture
def voice() -> Spoken:
    return Spoken()


def test_progress(voice: Spoken) -> None:
    voice.progress(3, 8)
    voice.progress(0, 10, "starting")
    voice.progress(5, step="half", percent=12.5)
    voice.progress(message="waiting")
    voice.progress(3, 0)
    voice.progress(1, 3, percent=99)
    assert [payload for _, payload in voice.told] == [
        {"current": 3, "total": 8, "percent": 37.5},
        {"current": 0, "total": 10, "percent": 0.0, "message": "starting"},
        {"current": 5, "percent": 12.5, "step": "half"},
        {"message": "waiting"},
        {"current": 3, "total": 0},
        {"current": 1, "total": 3, "percent": 99},
    ]


def test_log_output_and_result(voice: Spoken) -> None:
    voice.log("hello")
    voice.log("careful", "warning", rows=3, why="few")
    voice.output("one\n")
    voice.output("two\n", stream="stderr")
    voice.result({"rows": 3})
    voice.result(None)
    assert voice.told == [
        ("log", {"level": "info", "message": "hello"}),
        ("log", {"level": "warning", "message": "careful", "details": {"rows": 3, "why": "few"}}),
        ("output", {"stream": "stdout", "text": "one\n"}),
        ("output", {"stream": "stderr", "text": "two\n"}),
        ("result", {"result": {"rows": 3}}),
        ("result", {"result": None}),
    ]


# --- track -----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which stand still unless a test says otherwise."""
    now = [100.0]
    stopped = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr("tailrace.voice.time", stopped)
    return now


def progresses(told: list[tuple[str, dict[str, Any]]]) -> list[tuple[Any, ...]]:
    assert {type_ for type_, _ in told} <= {"progress"}
    return [(p.get("current"), p.get("total"), p.get("step")) for _, p in told]


def test_a_loop_tells_how_far_it_is(voice: Spoken, clock: list[float]) -> None:
    seen = []
    for item in voice.track("abcd", "Crunching"):
        seen.append(item)
        clock[0] += 1
    assert seen == list("abcd")
    told = voice.told
    assert progresses(told) == [(n, 4, "Crunching") for n in (1, 2, 3, 4)]
    assert [payload["percent"] for _, payload in told] == [25.0, 50.0, 75.0, 100.0]


def test_it_tells_the_first_and_the_last_and_not_too_often(
    voice: Spoken, clock: list[float]
) -> None:
    for _ in voice.track(range(1000)):
        clock[0] += 0.001
    counts = [count for count, *_ in progresses(voice.told)]
    assert counts[0] == 1
    assert counts[-1] == 1000
    assert counts.count(1000) == 1
    assert 18 <= len(counts) <= 22


@pytest.mark.parametrize(
    ("items", "total", "expected"),
    [
        (range(0), None, [(0, 0)]),
        (iter([1, 2]), None, [(1, None), (2, None)]),
        (iter([1, 2]), 2, [(1, 2), (2, 2)]),
        ([1, 2], 4, [(1, 4), (2, 4)]),
        ([1], None, [(1, 1)]),
        ([1, 2, 3], 1, [(2, 1), (3, 1)]),
    ],
)
def test_how_many_there_are(
    voice: Spoken, clock: list[float], items: Any, total: int | None, expected: list[Any]
) -> None:
    for _ in voice.track(items, total=total):
        clock[0] += 0 if len(expected) == 1 else 1
    found = [(count, of) for count, of, _ in progresses(voice.told)]
    assert list(dict.fromkeys(found)) == expected


def test_a_loop_left_early_tells_no_end(voice: Spoken, clock: list[float]) -> None:
    for item in voice.track(range(10)):
        clock[0] += 1
        if item == 2:
            break
    assert [count for count, *_ in progresses(voice.told)] == [1, 2]


def test_a_loop_in_a_thread_is_left_when_it_should_stop(voice: Spoken) -> None:
    seen: list[int] = []

    def work() -> None:
        for item in voice.track(range(10)):
            seen.append(item)
            if item == 3:
                voice.request_stop()

    with pytest.raises(RunCancelled):
        work()
    assert seen == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_a_loop_in_a_coroutine(voice: Spoken, clock: list[float]) -> None:
    seen = []
    async for item in voice.track(["a", "b"], "Crunching"):
        seen.append(item)
        clock[0] += 1
    assert seen == ["a", "b"]
    assert progresses(voice.told) == [(1, 2, "Crunching"), (2, 2, "Crunching")]


@pytest.mark.anyio
async def test_a_loop_over_what_comes(voice: Spoken, clock: list[float]) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    seen = []
    async for item in voice.track(numbers(), total=3):
        seen.append(item)
        clock[0] += 1
    assert seen == [0, 1, 2]
    assert [count for count, *_ in progresses(voice.told)] == [1, 2, 3]


@pytest.mark.anyio
async def test_a_plain_iterable_does_not_starve_the_loop(voice: Spoken) -> None:
    """The body never waits, and yet others go on and a cancel arrives."""
    turns_of_others = 0

    async def count() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await asyncio.sleep(0)

    def forever() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async def work() -> None:
        async for _ in voice.track(forever()):
            pass

    counting, working = asyncio.create_task(count()), asyncio.create_task(work())
    await until(lambda: turns_of_others >= 3)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(working)
    counting.cancel()
    assert voice.ebbs


def test_a_coroutine_that_nobody_interrupts_looks_by_itself(voice: Spoken) -> None:
    seen: list[int] = []

    async def work(*, is_checked: bool) -> None:
        async for item in Track(voice, range(5), None, None, is_checked=is_checked):
            seen.append(item)
            if item == 2:
                voice.request_stop()

    with pytest.raises(RunCancelled):
        asyncio.run(work(is_checked=True))
    assert seen == [0, 1, 2]
    seen.clear()

    # The first one has been told; what interrupts an operation's coroutine is its cancellation.
    asyncio.run(work(is_checked=False))
    assert seen == [0, 1, 2, 3, 4]


def test_steps(voice: Spoken) -> None:
    voice.steps(2).next_step("Load")
    ((type_, payload),) = voice.told
    assert (type_, payload["step_name"], payload["total_steps"]) == ("progress", "Load", 2)


def test_entered(voice: Spoken) -> None:
    with voice.entered():
        assert AMBIENT.get() is voice
    assert AMBIENT.get(None) is None


def test_joined() -> None:
    assert joined({"a": 1, "b": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert joined([1], {"b": 2}) == {"value": [1], "b": 2}
