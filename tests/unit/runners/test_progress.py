"""Steps, told from anywhere."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.runners.contract import AMBIENT
from tailrace.runners.progress import ProgressLogger
from tests.unit.runners.sinks import Recorder

Payload = dict[str, Any]


def without_time(payload: Payload) -> Payload:
    assert payload.pop("timestamp").endswith("Z")
    return payload


def test_the_whole_of_it() -> None:
    sink = Recorder()
    steps = ProgressLogger(4, run=sink)
    steps.set_step(1, "Load")
    steps.log("Read", "WARNING", {"rows": 3})
    steps.next_step("Compute")
    steps.complete("Done")
    assert [(kind, without_time(payload)) for kind, payload in sink.told] == [
        ("progress", {"current": 0, "total": 4, "percent": 0.0, "step": "Load",
                      "current_step": 1, "total_steps": 4, "step_name": "Load"}),
        ("log", {"level": "warning", "message": "Read", "details": {"rows": 3}}),
        ("progress", {"current": 1, "total": 4, "percent": 25.0, "step": "Compute",
                      "current_step": 2, "total_steps": 4, "step_name": "Compute"}),
        ("progress", {"current": 4, "total": 4, "percent": 100.0, "step": "Compute",
                      "message": "Done", "current_step": 4, "total_steps": 4,
                      "step_name": "Compute"}),
    ]  # fmt: skip


def test_callbacks_are_told_instead_of_the_run() -> None:
    sink = Recorder()
    logs: list[Payload] = []
    progress: list[Payload] = []
    steps = ProgressLogger(2, logs.append, progress.append, run=sink)
    steps.next_step("One")
    steps.log("hi")
    assert not sink.told
    assert without_time(logs[0]) == {"level": "info", "message": "hi"}
    assert progress[0]["percent"] == 0.0


def test_the_run_that_is_going_on() -> None:
    sink = Recorder()
    token = AMBIENT.set(sink)
    try:
        steps = ProgressLogger(1)
    finally:
        AMBIENT.reset(token)
    ProgressLogger(1).next_step("nobody is told")
    steps.next_step("x")
    assert [kind for kind, _ in sink.told] == ["progress"]


def test_an_unknown_number_of_steps() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(on_progress=progress.append)
    steps.next_step("A")
    steps.next_step("B")
    steps.complete()
    assert [told["current"] for told in progress] == [0, 1, 2]
    assert not any("percent" in told or "total" in told for told in progress)
    assert steps.percent is None


def test_a_step_too_many_is_the_last_one() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(1, on_progress=progress.append)
    steps.next_step()
    steps.next_step()
    assert (progress[-1]["current_step"], progress[-1]["total_steps"]) == (2, 2)
    assert progress[-1]["percent"] == 50.0


def test_nothing_is_told_after_the_end() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(2, on_progress=progress.append)
    steps.complete()
    steps.complete()
    steps.next_step()
    steps.update(0.5)
    assert [told["percent"] for told in progress] == [100.0]


def test_steps_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.runners.progress.PACE_SECONDS", 0.0)
    progress: list[Payload] = []
    outer = ProgressLogger(2, on_progress=progress.append)
    with outer.step("Load") as same:
        assert same is outer
        inner = outer.steps(4)
        inner.next_step("first")
        inner.next_step("second")
        inner.complete()
    outer.next_step("Save")
    assert [(told["percent"], told["step"]) for told in progress] == [
        (0.0, "Load"),
        (0.0, "Load / first"),
        (12.5, "Load / second"),
        (50.0, "Load / second"),
        (50.0, "Save"),
    ]


def test_a_share_of_a_step_is_told_now_and_then() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(1, on_progress=progress.append)
    for number in range(10_000):
        steps.update(number / 10_000)
    assert 1 <= len(progress) < 1000
    steps.update(7)
    assert steps.percent == 100.0


@pytest.mark.parametrize("total", [0, -1])
def test_no_steps_at_all_cannot_be(total: int) -> None:
    with pytest.raises(ValueError, match="total_steps"):
        ProgressLogger(total)


def test_nor_a_step_before_the_first() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        ProgressLogger(1).set_step(-1)


def test_threads() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(800, on_progress=progress.append)

    def work() -> None:
        for _ in range(100):
            steps.next_step()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [told["current_step"] for told in progress] == list(range(1, 801))


@given(
    st.integers(1, 20),
    st.lists(
        st.one_of(
            st.tuples(st.just("next"), st.just(0.0)), st.tuples(st.just("update"), st.floats(0, 1))
        )
    ),
)
def test_it_never_goes_back_within_its_steps(total: int, acts: list[tuple[str, float]]) -> None:
    steps = ProgressLogger(total)
    share = 0.0
    for act, value in acts:
        if act == "next":
            if steps._step >= total:
                break
            steps.next_step()
            share = 0.0
        else:
            share = max(share, value)
            before = steps.percent
            steps.update(share)
            assert steps.percent is not None
            assert before is not None
            assert 0 <= before <= steps.percent <= 100
    steps.complete()
    assert steps.percent == 100
