"""tqdm's words, told to a run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tailrace.errors import RunCancelled, RunEnded
from tailrace.runners import bars
from tailrace.runners.bars import tqdm
from tailrace.runners.contract import AMBIENT
from tests.unit.runners.sinks import Recorder
from tests.waiting import turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(bars, "PACE_SECONDS", 0.0)
    sink = Recorder()
    token = AMBIENT.set(sink)
    yield sink
    AMBIENT.reset(token)


def payloads(sink: Recorder) -> list[dict[str, Any]]:
    assert {kind for kind, _ in sink.told} <= {"progress"}
    return [payload for _, payload in sink.told]


def test_a_loop(sink: Recorder) -> None:
    assert list(tqdm(range(4), desc="Reading", leave=False, ncols=80)) == [0, 1, 2, 3]
    assert payloads(sink)[-1] == {"current": 4, "total": 4, "percent": 100.0, "step": "Reading"}
    assert [told["current"] for told in payloads(sink)] == [1, 2, 3, 4]


def test_no_more_often_than_one_can_read() -> None:
    sink = Recorder()
    token = AMBIENT.set(sink)
    for _ in tqdm(range(20_000)):
        pass
    AMBIENT.reset(token)
    assert len(sink.told) < 2000
    assert sink.told[-1][1]["current"] == 20_000


def test_by_hand(sink: Recorder) -> None:
    bar: tqdm[Any]
    with tqdm(total=10, initial=2) as bar:
        bar.update(3)
        bar.set_description("Training: ")
        bar.set_postfix(loss=0.12345, epoch=2)
        bar.update()
        bar.set_postfix_str("bye", refresh=False)
        bar.clear()
        assert (len(bar), bar.n) == (10, 6)
    assert payloads(sink) == [
        {"current": 5, "total": 10, "percent": 50.0},
        {"current": 5, "total": 10, "percent": 50.0, "step": "Training"},
        {"current": 5, "total": 10, "percent": 50.0, "step": "Training",
         "message": "epoch=2, loss=0.123"},
        {"current": 6, "total": 10, "percent": 60.0, "step": "Training",
         "message": "epoch=2, loss=0.123"},
        {"current": 6, "total": 10, "percent": 60.0, "step": "Training", "message": "bye"},
    ]  # fmt: skip


def test_without_a_total(sink: Recorder) -> None:
    bar: tqdm[int] = tqdm(iter([1, 2]), postfix="x")
    assert list(bar) == [1, 2]
    assert payloads(sink)[-1] == {"current": 2, "message": "x"}
    bar.reset(total=5)
    assert payloads(sink)[-1] == {"current": 0, "total": 5, "percent": 0.0, "message": "x"}


def test_a_postfix_of_figures(sink: Recorder) -> None:
    tqdm(total=1, postfix={"loss": 1.0}).refresh()
    assert payloads(sink)[0]["message"] == "loss=1"


async def test_asynchronously(sink: Recorder) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    assert [item async for item in tqdm(items(), total=2)] == [1, 2]
    assert payloads(sink)[-1]["percent"] == 100.0


def test_something_to_read(sink: Recorder) -> None:
    tqdm.write("hello")
    assert sink.told == [("log", {"level": "info", "message": "hello"})]


def test_disabled_or_outside_of_a_run(sink: Recorder) -> None:
    assert list(tqdm([1, 2], disable=True)) == [1, 2]
    token = AMBIENT.set(None)
    assert list(tqdm([1, 2])) == [1, 2]
    tqdm.write("nobody")
    AMBIENT.reset(token)
    assert not sink.told


def test_a_loop_that_should_stop(sink: Recorder) -> None:
    items = iter(tqdm(range(10)))
    assert [next(items), next(items)] == [0, 1]
    sink.request_stop()
    with pytest.raises(RunCancelled):
        next(items)


def test_the_end_of_a_loop_that_was_left_swallows_no_wish_to_stop(
    sink: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "PACE_SECONDS", 1000.0)
    # An interpreter ends a generator as soon as it is left, and prints what that raises.
    for item in tqdm(range(10)):
        if item == 2:
            sink.request_stop()
            break
    gc.collect()
    assert payloads(sink)[-1]["current"] == 2
    with pytest.raises(RunCancelled):
        sink.emit("next")


@pytest.mark.parametrize("is_told", [False, True])
def test_closing_tells_and_leaves_the_wish_to_stop_to_others(
    sink: Recorder, *, is_told: bool
) -> None:
    bar: tqdm[Any]
    with tqdm(total=4) as bar:
        bar.n = 3
        sink.request_stop()
        if is_told:
            with pytest.raises(RunCancelled):
                sink.emit("x")
    assert payloads(sink) == [{"current": 3, "total": 4, "percent": 75.0}]
    with pytest.raises(RunCancelled) if not is_told else contextlib.nullcontext():
        sink.emit("next")


@pytest.mark.parametrize("by", ["close", "loop"])
def test_an_error_of_the_block_is_not_replaced(
    sink: Recorder, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    def ended(*_: object) -> None:
        raise RunEnded("It was given up.")

    def block() -> None:
        if by == "loop":
            for item in tqdm(range(3)):
                monkeypatch.setattr(sink, "emit", ended)
                raise ValueError(item)
        bar: tqdm[Any]
        with tqdm(total=3) as bar:
            bar.n = 2
            monkeypatch.setattr(sink, "emit", ended)
            raise ValueError(0)

    with pytest.raises(ValueError, match="0") as raised:
        block()
    assert raised.value.__context__ is None


def test_what_could_not_be_told_is_told_again(sink: Recorder) -> None:
    bar: tqdm[Any] = tqdm(total=3)
    sink.request_stop()
    with pytest.raises(RunCancelled):
        bar.update()
    bar.refresh()
    assert [told["current"] for told in payloads(sink)] == [1]


def stop_silently(sink: Recorder) -> None:
    """As on the event loop, and where work is done elsewhere: no emit says so."""
    sink.request_stop()
    sink._is_told = True


async def test_a_coroutine_that_should_stop(sink: Recorder) -> None:
    taken = []

    async def work() -> None:
        async for item in tqdm(range(10)):
            taken.append(item)
            if item == 1:
                stop_silently(sink)

    with pytest.raises(RunCancelled):
        await work()
    assert taken == [0, 1]


async def test_a_coroutine_that_was_interrupted_cleans_up_in_peace(sink: Recorder) -> None:
    taken = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            taken.extend([item async for item in tqdm(range(3))])

    task = asyncio.create_task(work())
    await turns()
    stop_silently(sink)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("is_disabled", [False, True])
async def test_a_plain_iterable_does_not_starve_the_loop(
    sink: Recorder, *, is_disabled: bool
) -> None:
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "had a turn")
    async for _ in tqdm(range(3), disable=is_disabled):
        pass
    assert others
    with pytest.raises(TypeError, match="not iterable"):
        await anext(aiter(tqdm()))


def test_whether_there_is_anything_to_do() -> None:
    assert tqdm(item for item in "ab")
    assert tqdm(total=1)
    assert tqdm()
    assert not tqdm([])
    assert not tqdm(total=0)


def test_what_libraries_call_means_nothing(sink: Recorder) -> None:
    # As tqdm.contrib.concurrent does.
    before = getattr(tqdm, "_lock", None)
    lock = before or tqdm.get_lock()
    tqdm.set_lock(lock)
    bar: tqdm[Any]
    with (
        ThreadPoolExecutor(2, initializer=tqdm.set_lock, initargs=(lock,)) as pool,
        tqdm(smoothing=0, total=3) as bar,
        lock,
    ):
        for done in [pool.submit(abs, item) for item in range(3)]:
            done.add_done_callback(lambda _: bar.update())
        pool.shutdown()
    tqdm.set_lock(before)
    assert tqdm.get_lock() is before
    assert bar.n == 3
    bar.display("x", pos=1)
    bar.moveto(2)
    bar.unpause()


def test_the_figures_of_a_bar() -> None:
    bar: tqdm[Any] = tqdm(total=10, initial=2, desc="Reading", postfix="x")
    assert bar.format_dict["rate"] is None
    bar.update(3)
    figures = bar.format_dict
    assert figures.pop("rate") == pytest.approx(3 / figures.pop("elapsed"))
    assert figures == {
        "n": 5, "total": 10, "initial": 2, "prefix": "Reading", "postfix": "x", "unit": "it",
    }  # fmt: skip
