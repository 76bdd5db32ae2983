from __future__ import annotations

import dataclasses
from typing import Any

from tailrace.agent.calls import MAX_ERROR, Asked, Calls, jsonable
from tailrace.agent.parts import MAX_SAID_BYTES
from tailrace.protocol import agent
from tailrace.protocol.events import MAX_EVENT_BYTES, to_json


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    def __init__(self, *inputs: Any) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.finished: list[int] = []
        self.clock = Clock()
        asked = [
            Asked(f"3.{n}", 4 + n, f"c{n}", f"t{n}", input_) for n, input_ in enumerate(inputs, 1)
        ]
        self.calls = Calls(self.say, 3, asked, self.finish, clock=self.clock)

    def say(self, type: str, told: dict[str, Any]) -> None:
        self.events.append((type, told))

    def finish(self) -> None:
        self.finished.append(3)

    def call(self, id: str) -> Any:
        return self.calls.find(id)


def test_calls_are_told_in_the_order_in_which_they_end() -> None:
    told = Told({"a": 1}, {})
    told.calls.execute()
    one, two = told.call("c1"), told.call("c2")
    told.calls.begin(one)
    told.clock.now = 0.5
    told.calls.begin(two, run="run_x")
    told.calls.progress(two, {"current": 1, "total": 2})
    told.clock.now = 2.0
    told.calls.complete(two, {"x": 1})
    assert told.finished == []
    told.calls.fail(one, "no")
    assert told.events == [
        ("tools_executing", {"iteration": 3, "count": 2, "tools": [
            {"id": "c1", "name": "t1", "input": {"a": 1}}, {"id": "c2", "name": "t2", "input": {}},
        ]}),
        ("tool_progress", {"part": "3.1", "item": 5, "id": "c1", "name": "t1",
                           "status": "executing", "iteration": 3,
                           "index": 1, "count": 2}),
        ("tool_progress", {"part": "3.2", "item": 6, "id": "c2", "name": "t2",
                           "status": "executing", "iteration": 3,
                           "index": 2, "count": 2, "run": "run_x"}),
        ("tool_progress", {"part": "3.2", "item": 6, "id": "c2", "name": "t2",
                           "status": "progressing", "iteration": 3,
                           "index": 2, "count": 2, "current": 1, "total": 2}),
        ("tool_progress", {"part": "3.2", "item": 6, "id": "c2", "name": "t2",
                           "status": "completed", "iteration": 3,
                           "index": 2, "count": 2, "input": {}, "result": {"x": 1}, "finished": 1,
                           "duration_seconds": 1.5}),
        ("tool_progress", {"part": "3.1", "item": 5, "id": "c1", "name": "t1",
                           "status": "failed", "iteration": 3,
                           "index": 1, "count": 2, "input": {"a": 1}, "error": "no", "finished": 2,
                           "duration_seconds": 2.0}),
        ("tools_completed", {"iteration": 3, "completed": 1, "failed": 1, "total": 2,
                             "duration_seconds": 2.0}),
    ]  # fmt: skip
    assert told.finished == [3]


def test_what_comes_after_the_end_of_a_call_is_not_told() -> None:
    told = Told({}, {})
    told.calls.execute()
    one = told.call("c1")
    told.calls.complete(one, 1)
    before = len(told.events)
    told.calls.complete(one, 2)
    told.calls.fail(one, "late")
    told.calls.progress(one, {"current": 1})
    told.calls.begin(one, run="late")
    assert len(told.events) == before
    assert told.call("c1") is None
    assert [call.id for call in told.calls.open] == ["c2"]


def test_calls_that_are_never_made_end_without_having_been_executed() -> None:
    told = Told({})
    told.calls.fail(told.call("c1"), "")
    assert [type_ for type_, _ in told.events] == ["tool_progress"]
    assert told.events[0][1]["error"]
    assert told.finished == []


def test_inputs_that_make_no_event_together_are_left_out() -> None:
    told = Told({"small": 1}, *({"x": "y" * 60_000} for _ in range(6)))
    told.calls.execute()
    ((_, executing),) = told.events
    assert len(to_json(executing)) < MAX_EVENT_BYTES
    assert executing["count"] == 7
    assert executing["tools"][0] == {"id": "c1", "name": "t1", "input": {"small": 1}}
    assert executing["tools"][-1] == {"id": "c7", "name": "t7", "input": {}, "omitted": True}


def test_a_large_result_is_cut_and_says_so() -> None:
    told = Told({}, {})
    told.calls.complete(told.call("c1"), ["x" * 100_000])
    told.calls.fail(told.call("c2"), "e" * 100_000)
    completed, failed = (said for _, said in told.events)
    assert completed["truncated"]
    assert completed["result"].startswith('["xxx')
    assert len(failed["error"]) == MAX_ERROR


def test_the_end_of_a_call_is_one_event_however_large_it_is() -> None:
    told = Told("\0" * (MAX_SAID_BYTES // 6))
    told.calls.complete(told.call("c1"), ["\0" * 100_000])
    ((_, completed),) = told.events
    assert len(to_json(completed)) < MAX_EVENT_BYTES


def test_any_result_has_a_form_in_json() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    class Odd:
        def __repr__(self) -> str:
            return "Odd!"

    loop: list[Any] = []
    loop.append(loop)
    assert jsonable(Point(1)) == {"x": 1}
    assert jsonable({1: {2}}) == {"1": [2]}
    assert jsonable(Odd()) == "Odd!"
    assert jsonable(float("nan")) is None
    assert isinstance(jsonable(loop), str)
    assert jsonable(2**70) == float(2**70)
    assert agent.text_of(jsonable(b"\xff")) is not None
