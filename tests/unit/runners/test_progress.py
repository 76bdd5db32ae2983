"""Steps, told from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.runners.contract import AMBIENT
from tailrace.runners.progress import ProgressLogger
from tests.unit.runners.sinks import Recorder
from tests.waiting import WAIT_SECONDS

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
    assert steps.percent == 99.9
    steps.complete()
    begun = [told["current_step"] for told in progress[:-1]]
    assert begun == sorted(set(begun))
    assert progress[-1]["percent"] == 100.0


class Held:
    """Is told, and held up at that."""

    def __init__(self) -> None:
        self.told: list[Payload] = []
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, payload: Payload) -> None:
        self.began.set()
        assert self.may_go_on.wait(WAIT_SECONDS)
        self.told.append(payload)


def in_thread(act: Callable[..., object], *given: object) -> threading.Thread:
    thread = threading.Thread(target=act, args=given, daemon=True)
    thread.start()
    return thread


def test_who_is_held_up_in_telling_progress_holds_up_nobody() -> None:
    held = Held()
    logs: list[Payload] = []
    steps = ProgressLogger(4, logs.append, held)
    teller = in_thread(steps.next_step, "Load")
    assert held.began.wait(WAIT_SECONDS)

    def others() -> None:
        assert steps.percent == 0.0
        steps.next_step("Compute")
        steps.log("still here")
        steps.next_step("Save")
        steps.complete("Done")

    other = in_thread(others)
    other.join(WAIT_SECONDS / 2)
    is_held_up = other.is_alive()
    held.may_go_on.set()
    teller.join(WAIT_SECONDS)
    assert not is_held_up
    assert [told["message"] for told in logs] == ["still here"]
    # What came in the meantime is told after it, as one.
    assert [(told["percent"], told.get("message")) for told in held.told] == [
        (0.0, None),
        (100.0, "Done"),
    ]


def test_who_is_held_up_in_telling_a_log_holds_up_nobody() -> None:
    held = Held()
    progress: list[Payload] = []
    steps = ProgressLogger(2, held, progress.append)
    teller = in_thread(steps.log, "too much")
    assert held.began.wait(WAIT_SECONDS)
    other = in_thread(steps.next_step)
    other.join(WAIT_SECONDS / 2)
    is_held_up = other.is_alive()
    held.may_go_on.set()
    teller.join(WAIT_SECONDS)
    assert not is_held_up
    assert len(progress) == 1


def test_nobody_tells_for_the_others_for_ever() -> None:
    told: list[Payload] = []

    def tell(payload: Payload) -> None:
        # As if another thread always came in the meantime.
        told.append(payload)
        assert len(told) < 1_000_000
        in_its_turn = threading.Thread(target=steps.next_step)
        in_its_turn.start()
        in_its_turn.join()

    steps = ProgressLogger(on_progress=tell)
    steps.next_step()
    begun = len(told)
    assert begun > 1
    # Nor is anything lost by that: the next of them tells it.
    steps._on_progress = told.append
    steps.update(0.0)
    assert told[-1]["current_step"] == begun + 1


def test_a_callback_may_use_it() -> None:
    told: list[Payload] = []

    def tell(payload: Payload) -> None:
        told.append(payload)
        if len(told) == 1:
            steps.next_step("Second")

    steps = ProgressLogger(2, on_progress=tell)
    steps.next_step("First")
    assert [payload["step_name"] for payload in told] == ["First", "Second"]


def test_a_callback_that_fails_is_called_again() -> None:
    told: list[Payload] = []

    def tell(payload: Payload) -> None:
        told.append(payload)
        if len(told) == 1:
            raise OSError("no space left")

    steps = ProgressLogger(2, on_progress=tell)
    with pytest.raises(OSError, match="no space"):
        steps.next_step()
    steps.next_step()
    assert [payload["current_step"] for payload in told] == [1, 2]


def test_the_last_share_is_told_however_soon() -> None:
    progress: list[Payload] = []
    steps = ProgressLogger(2, on_progress=progress.append)
    steps.next_step("Load")
    steps.update(0.5)
    steps.update(1.0)
    steps.update(1.0)
    assert [told["percent"] for told in progress] == [0.0, 50.0]
    steps.next_step("Save")
    steps.update(0.9)
    steps.complete()
    assert [told["percent"] for told in progress] == [0.0, 50.0, 50.0, 100.0]


def test_steps_within_a_step_end_however_soon_and_say_so() -> None:
    progress: list[Payload] = []
    outer = ProgressLogger(2, on_progress=progress.append)
    outer.next_step("Load")
    inner = outer.steps(2)
    inner.next_step("first")
    inner.complete("All of it is read")
    outer.next_step("Save")
    assert [(told["percent"], told["step"], told.get("message")) for told in progress] == [
        (0.0, "Load", None),
        (50.0, "Load / first", "All of it is read"),
        (50.0, "Save", None),
    ]


def test_steps_within_a_step_of_an_unknown_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.runners.progress.PACE_SECONDS", 0.0)
    progress: list[Payload] = []
    outer = ProgressLogger(2, on_progress=progress.append)
    outer.next_step("Load")
    outer.update(0.5)
    inner = outer.steps(None)
    inner.next_step("first")
    inner.complete()
    assert [(told["percent"], told["step"]) for told in progress] == [
        (0.0, "Load"),
        (25.0, "Load"),
        (25.0, "Load / first"),
        (50.0, "Load / first"),
    ]
    outer.complete()
    inner.steps().next_step("late")
    outer.steps(3).next_step("late")
    assert progress[-1]["percent"] == 100.0


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
