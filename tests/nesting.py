"""Whether the events of a turn are well nested, as `tailrace.protocol.agent` says: what opens is
closed, in its order, and nothing is told of what is not open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tailrace.agent.parts import MAX_WHOLE_BYTES
from tailrace.protocol import agent
from tailrace.protocol.events import TERMINAL_TYPES, to_json

Told = tuple[str, Mapping[str, Any]]


class Nesting:
    """A fold over the events of one turn. `add` asserts that the next one may come."""

    def __init__(self) -> None:
        self.is_begun = self.is_over = False
        self.iteration = 0
        self.in_iteration = False
        self.open_text: str | None = None
        self.length = self.position = 0
        self.whole = ""
        # The number of each part of the turn.
        self.parts: dict[str, int] = {}
        self.ids: set[str] = set()
        # Of the iteration: each call is "detected", "ready", "executing", or "over".
        self.calls: dict[str, str] = {}
        self.named: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        self.is_executing = self.are_completed = False
        self.ends: list[str] = []
        self.text = ""

    def add(self, type: str, told: Mapping[str, Any]) -> None:
        assert not self.is_over, f"{type} after the end"
        if type in TERMINAL_TYPES:
            assert not self.in_iteration, f"{type} in an open iteration"
            self.is_over = True
            return
        step = _STEPS.get(type)
        if step is None:
            return
        assert self.is_begun == (type != agent.SESSION_START), type
        if type not in (agent.SESSION_START, agent.ROUTED, agent.ITERATION_START):
            assert self.in_iteration, f"{type} outside of an iteration"
        if "iteration" in told and type != agent.ITERATION_START:
            assert told["iteration"] == self.iteration, type
        if "part" in told and told["part"] in self.parts:
            assert told["item"] == self.parts[told["part"]]
        step(self, told)

    def session(self, told: Mapping[str, Any]) -> None:
        assert {"thread", "model", "tools", "max_iterations"} <= told.keys()
        self.is_begun = True

    def routed(self, told: Mapping[str, Any]) -> None:
        assert self.iteration == 0

    def iteration_start(self, told: Mapping[str, Any]) -> None:
        assert not self.in_iteration
        self.iteration += 1
        assert told["iteration"] == self.iteration
        self.in_iteration = True
        self.calls, self.named, self.inputs, self.ends = {}, {}, {}, []
        self.is_executing = self.are_completed = False

    def iteration_end(self, told: Mapping[str, Any]) -> None:
        assert self.open_text is None, "an open text"
        assert all(state == "over" for state in self.calls.values()), self.calls
        assert self.is_executing == self.are_completed
        assert told["usage"].keys() == {"input_tokens", "output_tokens"}
        match told["reason"]:
            case "tools":
                assert self.are_completed
            case "answer":
                assert not self.calls
            case reason:
                assert reason == "stopped"
        self.in_iteration = False

    def begin(self, told: Mapping[str, Any]) -> None:
        assert self.open_text is None
        assert not self.is_executing
        self._new(told)
        self.open_text, self.length, self.whole = told["part"], 0, ""

    def _new(self, told: Mapping[str, Any]) -> None:
        part = told["part"]
        assert part not in self.parts
        assert agent.iteration(part) == self.iteration
        assert told["item"] == len(self.parts), "the items are counted"
        self.parts[part] = told["item"]

    def thought(self, told: Mapping[str, Any]) -> None:
        assert told["part"] == self.open_text
        assert told["chunk"]
        self.whole += told["chunk"]

    def chunk(self, told: Mapping[str, Any]) -> None:
        self.thought(told)
        assert told["position"] == self.position
        self.position += len(told["chunk"])
        self.length += len(told["chunk"])
        self.text += told["chunk"]

    def thinking_end(self, told: Mapping[str, Any]) -> None:
        assert told["part"] == self.open_text
        if "text" in told or len(to_json(self.whole)) <= MAX_WHOLE_BYTES:
            assert told["text"] == self.whole
        self.open_text = None

    def text_end(self, told: Mapping[str, Any]) -> None:
        assert told["length"] == self.length > 0
        self.thinking_end(told)

    def detected(self, told: Mapping[str, Any]) -> None:
        assert self.open_text is None
        assert not self.is_executing
        self._new(told)
        assert told["id"] not in self.ids
        self.ids.add(told["id"])
        self.named[told["id"]] = (told["part"], told["name"])
        self.calls[told["id"]] = "detected"

    def _same(self, told: Mapping[str, Any]) -> None:
        part, name = self.named[told["id"]]
        assert told["part"] == part
        # Its name may go on while it is written.
        assert told["name"].startswith(name)

    def args(self, told: Mapping[str, Any]) -> None:
        self._same(told)
        assert self.calls[told["id"]] == "detected"
        assert told["chunk"]

    def ready(self, told: Mapping[str, Any]) -> None:
        self._same(told)
        assert self.calls[told["id"]] == "detected"
        self.calls[told["id"]] = "ready"
        self.inputs[told["id"]] = told["input"]
        assert not told.get("truncated") or isinstance(told["input"], str)

    def executing(self, told: Mapping[str, Any]) -> None:
        assert self.open_text is None
        assert not self.is_executing
        assert set(self.calls.values()) == {"ready"}
        assert told["count"] == len(told["tools"]) == len(self.calls)
        given = {one["id"]: one["input"] for one in told["tools"] if not one.get("omitted")}
        assert given.items() <= self.inputs.items() or given == self.inputs
        self.is_executing = True

    def progress(self, told: Mapping[str, Any]) -> None:
        id_, status = told["id"], told["status"]
        state = self.calls[id_]
        self._same(told)
        assert told["count"] == len(self.calls)
        # As the answer has them: the name of one may be told later than that of the next.
        assert sorted(self.calls, key=self._place)[told["index"] - 1] == id_
        if status == agent.EXECUTING:
            assert self.is_executing
            assert state == "ready"
            self.calls[id_] = "executing"
        elif status == agent.PROGRESSING:
            assert state == "executing"
        else:
            assert state in ("ready", "executing")
            assert ("result" in told) == (status == agent.COMPLETED)
            assert ("error" in told) == (status == agent.FAILED)
            assert told["duration_seconds"] >= 0
            assert told["input"] == self.inputs[id_]
            self.calls[id_] = "over"
            self.ends.append(status)
            assert told["finished"] == len(self.ends)

    def _place(self, id: str) -> int:
        return int(self.named[id][0].rpartition(".")[2])

    def completed(self, told: Mapping[str, Any]) -> None:
        assert self.is_executing
        assert not self.are_completed
        assert told["total"] == len(self.ends) == len(self.calls)
        assert told["failed"] == self.ends.count(agent.FAILED)
        assert told["completed"] == self.ends.count(agent.COMPLETED)
        self.are_completed = True


_STEPS: Final = {
    agent.SESSION_START: Nesting.session,
    agent.ROUTED: Nesting.routed,
    agent.ITERATION_START: Nesting.iteration_start,
    agent.ITERATION_END: Nesting.iteration_end,
    agent.THINKING_START: Nesting.begin,
    agent.THINKING_CHUNK: Nesting.thought,
    agent.THINKING_END: Nesting.thinking_end,
    agent.TEXT_START: Nesting.begin,
    agent.TEXT_CHUNK: Nesting.chunk,
    agent.TEXT_END: Nesting.text_end,
    agent.TOOL_DETECTED: Nesting.detected,
    agent.TOOL_ARGS: Nesting.args,
    agent.TOOL_READY: Nesting.ready,
    agent.TOOLS_EXECUTING: Nesting.executing,
    agent.TOOL_PROGRESS: Nesting.progress,
    agent.TOOLS_COMPLETED: Nesting.completed,
}


def check(events: Iterable[Told], *, ends: bool = True) -> Nesting:
    """Assert that a whole turn is well nested; what it came to. `ends`: with its terminal event."""
    nesting = Nesting()
    for type_, told in events:
        nesting.add(type_, told)
    assert nesting.is_over == ends
    assert not nesting.in_iteration
    return nesting
