from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
)
from pydantic_ai.usage import RequestUsage

from tailrace.agent.parts import MAX_WHOLE_BYTES
from tailrace.agent.teller import MOST_CHARACTERS, STOPPED, Teller
from tailrace.errors import RunEnded
from tailrace.protocol.events import emitted
from tests.nesting import Nesting

SESSION: dict[str, Any] = {"thread": None, "model": "m", "tools": [], "max_iterations": 3}


class Told(Teller):
    """A teller that remembers, and whose events are well nested, or else it fails."""

    def __init__(self) -> None:
        super().__init__(self.keep)
        self.nesting = Nesting()
        self.nesting.add("session_start", SESSION)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def keep(self, type: str, told: dict[str, Any]) -> None:
        emitted(type, told, 0.0)
        self.nesting.add(type, told)
        self.events.append((type, told))

    @property
    def types(self) -> list[str]:
        return [type_ for type_, _ in self.events]

    def of(self, *types: str) -> list[dict[str, Any]]:
        return [told for type_, told in self.events if type_ in types]

    def hears(self, *events: Any) -> None:
        for event in events:
            self.hear(event)

    def has(self, *parts: ModelResponsePart, known: Iterable[str] = ("n",)) -> ModelResponse:
        usage = RequestUsage(input_tokens=3, output_tokens=2)
        return self.answered(ModelResponse(parts=parts, usage=usage), known)


@pytest.fixture
def teller() -> Told:
    teller = Told()
    teller.begin()
    return teller


def starts(index: int, part: ModelResponsePart) -> PartStartEvent:
    return PartStartEvent(index=index, part=part)


def text(index: int, chunk: str) -> PartDeltaEvent:
    return PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=chunk))


def ends(index: int, part: ModelResponsePart) -> PartEndEvent:
    return PartEndEvent(index=index, part=part)


def args(index: int, delta: Any, **more: Any) -> PartDeltaEvent:
    return PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=delta, **more))


def call(args: Any = None, id: str = "c", name: str = "n") -> ToolCallPart:
    return ToolCallPart(name, args, id)


# --- text and thoughts -------------------------------------------------------------------------


def test_text_is_told_as_it_comes(teller: Told) -> None:
    teller.hears(starts(0, TextPart("a👋")), text(0, "b"), text(0, ""), ends(0, TextPart("a👋b")))
    teller.has(TextPart("a👋b"))
    teller.begin()
    teller.hears(starts(0, TextPart("")), text(0, "c"))
    teller.has(TextPart("c"))
    assert teller.events == [
        ("iteration_start", {"iteration": 1}),
        ("text_start", {"part": "1.0", "item": 0}),
        ("text_chunk", {"part": "1.0", "item": 0, "chunk": "a👋", "position": 0}),
        ("text_chunk", {"part": "1.0", "item": 0, "chunk": "b", "position": 2}),
        ("text_end", {"part": "1.0", "item": 0, "length": 3, "text": "a👋b"}),
        ("iteration_end", {"iteration": 1, "reason": "answer",
                           "usage": {"input_tokens": 3, "output_tokens": 2}}),
        ("iteration_start", {"iteration": 2}),
        ("text_start", {"part": "2.0", "item": 1}),
        ("text_chunk", {"part": "2.0", "item": 1, "chunk": "c", "position": 3}),
        ("text_end", {"part": "2.0", "item": 1, "length": 1, "text": "c"}),
        ("iteration_end", {"iteration": 2, "reason": "answer",
                           "usage": {"input_tokens": 3, "output_tokens": 2}}),
    ]  # fmt: skip
    assert teller.parts.text(2) == "c"
    assert (teller.input_tokens, teller.output_tokens) == (6, 4)


def test_thoughts_are_apart_from_text(teller: Told) -> None:
    thought = ThinkingPart("hm")
    more = PartDeltaEvent(index=0, delta=ThinkingPartDelta(content_delta=" so"))
    sealed = PartDeltaEvent(index=0, delta=ThinkingPartDelta(signature_delta="x"))
    teller.hears(starts(0, thought), more, sealed, ends(0, thought), starts(1, TextPart("yes")))
    teller.has(thought, TextPart("yes"))
    assert teller.types[1:-1] == [
        "thinking_start", "thinking_chunk", "thinking_chunk", "thinking_end",
        "text_start", "text_chunk", "text_end",
    ]  # fmt: skip
    assert teller.of("thinking_end") == [{"part": "1.0", "item": 0, "text": "hm so"}]
    assert teller.of("text_chunk") == [{"part": "1.1", "item": 1, "chunk": "yes", "position": 0}]


def test_empty_parts_are_not_told(teller: Told) -> None:
    teller.hears(starts(0, TextPart("")), ends(0, TextPart("")), starts(1, ThinkingPart("")))
    teller.has(TextPart(""), ThinkingPart(""))
    assert teller.types == ["iteration_start", "iteration_end"]


def test_a_long_chunk_is_split(teller: Told) -> None:
    long = "é" * (MOST_CHARACTERS + 1)
    teller.hears(starts(0, TextPart(long)), text(0, long))
    teller.has(TextPart(long + long))
    chunks = teller.of("text_chunk")
    assert [len(told["chunk"]) for told in chunks] == [MOST_CHARACTERS, 1] * 2
    assert chunks[-1]["position"] == 2 * MOST_CHARACTERS + 1
    assert teller.parts.text(1) == long + long


@pytest.mark.parametrize(
    ("whole", "is_repeated"),
    [
        ("x" * (MAX_WHOLE_BYTES - 2), True),
        ("x" * (MAX_WHOLE_BYTES - 1), False),
        ("é" * (MAX_WHOLE_BYTES // 2), False),
        ("\n" * (MAX_WHOLE_BYTES // 2), False),
    ],
    ids=["all of it", "a byte more", "wide", "escaped"],
)
@pytest.mark.parametrize("part", [TextPart, ThinkingPart])
def test_a_text_that_is_too_long_is_not_repeated(
    teller: Told, part: Any, whole: str, is_repeated: bool
) -> None:
    teller.has(part(whole))
    (told,) = teller.of("text_end", "thinking_end")
    assert told.get("text") == (whole if is_repeated else None)


def test_half_a_character_does_not_end_the_turn(teller: Told) -> None:
    teller.hears(starts(0, TextPart("a\ud83d")), text(0, "\ude00b"))
    teller.has(TextPart("x"))
    assert teller.parts.text(1) == teller.of("text_end")[0]["text"] == "a??b"


def test_what_goes_on_after_its_end_is_another_part(teller: Told) -> None:
    teller.hears(
        starts(0, TextPart("a")), ends(0, TextPart("a")), starts(1, call()), text(0, "b"),
        starts(0, TextPart("anew")),
    )  # fmt: skip
    teller.has(TextPart("anew"), call())
    assert [told["chunk"] for told in teller.of("text_chunk")] == ["a", "b", "anew"]
    assert [told["part"] for told in teller.of("text_start")] == ["1.0", "1.2", "1.3"]


def test_what_came_without_events_is_told_from_the_answer(teller: Told) -> None:
    teller.has(ThinkingPart("hm"), TextPart("a"), call('{"x":1}'))
    assert teller.types[1:-1] == [
        "thinking_start", "thinking_chunk", "thinking_end", "text_start", "text_chunk", "text_end",
        "tool_detected", "tool_args", "tool_ready",
    ]  # fmt: skip


# --- calls being written -----------------------------------------------------------------------


def test_a_call_is_told_as_it_is_written(teller: Told) -> None:
    teller.hears(
        starts(0, TextPart("a")), starts(1, call("")), args(1, '{"x"'), args(1, ": 1}"),
        ends(1, call('{"x": 1}')),
    )  # fmt: skip
    answer = teller.has(TextPart("a"), call('{"x": 1}'))
    named = {"part": "1.1", "item": 1, "id": "c", "name": "n"}
    assert teller.events[3:] == [
        ("text_end", {"part": "1.0", "item": 0, "length": 1, "text": "a"}),
        ("tool_detected", named),
        ("tool_args", {**named, "chunk": '{"x"'}),
        ("tool_args", {**named, "chunk": ": 1}"}),
        ("tool_ready", {**named, "input": {"x": 1}}),
        ("tools_executing", {"iteration": 1, "count": 1,
                             "tools": [{"id": "c", "name": "n", "input": {"x": 1}}]}),
    ]  # fmt: skip
    assert answer.parts[1] == call('{"x": 1}')


@pytest.mark.parametrize(
    ("given", "input", "chunks"),
    [
        (None, {}, []),
        ("", {}, []),
        ({"x": 1}, {"x": 1}, ['{"x":1}']),
        ("[1]", "[1]", ["[1]"]),
        ('{"x"', '{"x"', ['{"x"']),
        ("x" * (MOST_CHARACTERS + 1), "x" * (MOST_CHARACTERS + 1), ["x" * MOST_CHARACTERS, "x"]),
    ],
)
def test_an_input_has_any_form(teller: Told, given: Any, input: Any, chunks: list[str]) -> None:
    teller.hears(starts(0, call(given)), ends(0, call(given)))
    teller.has(call(given))
    assert [told["chunk"] for told in teller.of("tool_args")] == chunks
    assert [told["input"] for told in teller.of("tool_ready")] == [input]


def test_a_name_and_an_id_may_come_late(teller: Told) -> None:
    late = PartDeltaEvent(index=0, delta=ToolCallPartDelta(tool_name_delta="ame"))
    teller.hears(starts(0, call("")), late, args(0, "{}", tool_call_id="late"))
    answer = teller.has(call("{}", id="late", name="name"), known=["name"])
    assert teller.of("tool_detected") == [{"part": "1.0", "item": 0, "id": "c", "name": "name"}]
    (part,) = answer.parts
    assert isinstance(part, ToolCallPart)
    assert part.tool_call_id == "c"


def test_calls_may_be_written_at_the_same_time(teller: Told) -> None:
    teller.hears(
        starts(0, call('{"x":', id="a")), ends(0, call('{"x":', id="a")),
        starts(1, call('{"y":', id="b")), args(0, "1}"), args(1, "2}"),
    )  # fmt: skip
    teller.has(call('{"x":1}', id="a"), call('{"y":2}', id="b"))
    ready = {told["id"]: told["input"] for told in teller.of("tool_ready")}
    assert ready == {"a": {"x": 1}, "b": {"y": 2}}


def test_items_are_counted_as_they_are_told(teller: Told) -> None:
    # The first of them is told last: until then its name may go on.
    teller.hears(starts(0, call("", id="a")), starts(1, call("", id="b")), args(1, "{}"))
    teller.has(call(id="a"), call("{}", id="b"), TextPart("x"), known=())
    teller.begin()
    teller.has(TextPart("y"))
    items = [(told["part"], told["item"]) for told in teller.of("tool_detected", "text_start")]
    assert items == [("1.1", 0), ("1.2", 1), ("1.0", 2), ("2.0", 3)]


def test_each_call_of_a_turn_has_an_id_of_its_own(teller: Told) -> None:
    answer = teller.has(call(id="a"), call(id="a"), call(id=""), call(id="x" * 500))
    ids = [part.tool_call_id for part in answer.parts if isinstance(part, ToolCallPart)]
    assert ids[:3] == ["a", "a_2", "call"]
    assert len(ids[3]) == 200
    assert [told["id"] for told in teller.of("tool_ready")] == ids
    teller.close()
    teller = Told()
    teller.begin()
    teller.has(call(id="a"), known=())
    teller.begin()
    teller.has(call(id="a"), known=())
    assert [told["id"] for told in teller.of("tool_ready")] == ["a", "a_2"]


def test_a_large_input_is_cut_where_it_is_told(teller: Told) -> None:
    answer = teller.has(call({"x": "y" * 100_000}))
    (ready,) = teller.of("tool_ready")
    assert ready["truncated"]
    assert ready["input"].startswith('{"x":"yyy')
    assert answer.parts[0] == call({"x": "y" * 100_000})
    teller.close()
    (failed,) = teller.of("tool_progress")
    assert failed["input"] == ready["input"]
    assert failed["input_truncated"]
    assert "truncated" not in failed


# --- results -----------------------------------------------------------------------------------


def test_a_tool_that_the_model_invents_has_failed(teller: Told) -> None:
    teller.has(call(id="a"), call(id="b", name="other"))
    (told,) = teller.of("tool_progress")
    assert told["id"] == "b"
    assert told["error"] == "There is no tool 'other'. There are: n."
    assert teller.calls is not None
    assert [one.id for one in teller.calls.open] == ["a"]


def test_what_the_loop_answers_itself_is_told_when_it_goes_on(teller: Told) -> None:
    teller.has(call(id="a"), call(id="b"))
    told = [
        ToolReturnPart("n", "Skipped.", "a"),
        ToolReturnPart("n", [{"msg": "no"}], "b", outcome="retried"),
    ]
    teller.settle([ModelRequest(parts=told)])
    assert teller.types[-2:] == ["tools_completed", "iteration_end"]
    completed, failed = teller.of("tool_progress")
    assert completed["result"] == "Skipped."
    assert failed["error"] == '[{"msg":"no"}]'
    teller.settle([ModelRequest(parts=told)])
    assert teller.of("tool_progress") == [completed, failed]


# --- the end -----------------------------------------------------------------------------------


def test_what_is_open_is_closed(teller: Told) -> None:
    teller.hears(starts(0, TextPart("a")))
    teller.close()
    assert teller.types[-2:] == ["text_end", "iteration_end"]
    assert teller.of("iteration_end")[0]["reason"] == "stopped"
    before = len(teller.events)
    teller.hears(text(0, "late"), starts(1, TextPart("late")))
    teller.has(TextPart("late"))
    teller.begin()
    teller.close()
    assert len(teller.events) == before


def test_a_call_that_is_not_whole_is_closed(teller: Told) -> None:
    teller.hears(starts(0, call('{"x":', id="a")), starts(1, call(id="b")))
    teller.close()
    assert teller.types[1:] == [
        "tool_detected", "tool_args", "tool_ready", "tool_detected", "tool_ready",
        "tool_progress", "tool_progress", "iteration_end",
    ]  # fmt: skip
    assert [told["input"] for told in teller.of("tool_ready")] == ['{"x":', {}]
    assert {told["error"] for told in teller.of("tool_progress")} == {STOPPED}


def test_a_call_that_is_being_made_is_closed(teller: Told) -> None:
    teller.has(call(id="a"), call(id="b"))
    calls = teller.calls
    assert calls is not None
    one = calls.open[0]
    calls.begin(one)
    teller.close("It broke.")
    assert teller.types[-3:] == ["tool_progress", "tools_completed", "iteration_end"]
    assert teller.of("iteration_end")[0]["reason"] == "stopped"
    assert teller.of("tool_progress")[-1]["error"] == "It broke."
    before = len(teller.events)
    calls.complete(one, "late")
    assert len(teller.events) == before


def test_an_iteration_that_is_begun_anew_is_closed_first(teller: Told) -> None:
    teller.hears(starts(0, TextPart("a")))
    teller.begin()
    assert teller.types[-3:] == ["text_end", "iteration_end", "iteration_start"]


def test_nothing_can_be_told_of_a_run_that_was_given_up() -> None:
    def gone(type: str, told: dict[str, Any]) -> None:
        if told.get("reason"):
            raise RunEnded("It has ended.")

    teller = Teller(gone)
    teller.begin()
    teller.close()
    teller.begin()
