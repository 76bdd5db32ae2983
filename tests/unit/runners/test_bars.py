"""tqdm's words, told to a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tailrace.errors import RunCancelled
from tailrace.runners import bars
from tailrace.runners.bars import tqdm
from tailrace.runners.contract import AMBIENT
from tests.unit.runners.sinks import Recorder

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
    token = AMBIENT.set(None)  # type: ignore[arg-type]
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
