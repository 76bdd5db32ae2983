from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections import stream
from tailrace.projections.chat import Accumulated, Chat, text_before
from tailrace.projections.typed import Typed
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.sse import Decoder
from tests.turns import (
    CANCELLED,
    FAILED,
    LOST,
    PLAIN,
    SCRIPT,
    THINKING,
    THREAD,
    TOOLS,
    TURNS,
    Told,
    Turn,
    block,
    blocks,
    complete,
    text,
    tool,
)

AT = "2023-11-14T22:13:20.000Z"


def said(turn: Turn, projection: Chat | None = None) -> list[dict[str, Any]]:
    wire = (projection or Chat()).tell(block(turn), None)
    return [orjson.loads(event.data) for event in Decoder().feed(wire)]


def one(told: Told) -> dict[str, Any]:
    (body,) = said([told])
    assert body.pop("timestamp") == AT
    return body


# --- the words -----------------------------------------------------------------------


def test_a_turn_with_tools() -> None:
    assert [body["type"] for body in said(TOOLS)] == [
        "session_start", "routed",
        "iteration_start", "text_chunk", "text_chunk",
        "tool_detected", "tool_detected", "tools_executing",
        *["tool_progress"] * 5, "tools_completed",
        "iteration_start", "text_chunk", "text_chunk",
        "complete",
    ]  # fmt: skip


def test_each_has_the_id_and_the_time_of_its_event() -> None:
    wire = Chat().tell(block(PLAIN, epoch=2), None)
    told = Decoder().feed(wire)
    assert [event.id for event in told][:3] == ["2-2", "2-3", "2-4"]
    assert orjson.loads(told[0].data)["timestamp"] == "2023-11-14T22:13:20.100Z"
    assert {event.event for event in told} == {"message"}


def test_the_words_of_the_session() -> None:
    assert one(TOOLS[1]) == {
        "type": "session_start",
        "thread": THREAD,
        "model": "openai:gpt-x",
        "tools": ["count_employees", "average_salary"],
        "maxIterations": 10,
    }
    noted = (TOOLS[1][0], {**TOOLS[1][1], "thread": None, "note": "built in"})
    assert one(noted)["note"] == "built in"
    assert "thread" not in one(noted), "and no null"


def test_chunks() -> None:
    assert one(text("1.0", "wörld", position=7)[1]) == {
        "type": "text_chunk", "chunk": "wörld", "position": 7,
    }  # fmt: skip
    assert [b["chunk"] for b in said(THINKING) if b["type"] == "thinking_chunk"] == [
        "They greet ", "me.", "More?",
    ]  # fmt: skip


def test_calls() -> None:
    told = said(TOOLS)
    assert [(b["toolName"], b["toolCallId"]) for b in told if b["type"] == "tool_detected"] == [
        ("count_employees", "call_1"), ("average_salary", "call_2"),
    ]  # fmt: skip
    (executing,) = (b for b in told if b["type"] == "tools_executing")
    assert (executing["count"], executing["tools"][0]) == (
        2, {"id": "call_1", "name": "count_employees", "input": {"department": "Sales"}},
    )  # fmt: skip
    (completed,) = (b for b in told if b["type"] == "tools_completed")
    del completed["timestamp"]
    assert completed == {
        "type": "tools_completed", "completedCount": 1, "errorCount": 1, "totalCount": 2,
        "executionTime": 500,
    }  # fmt: skip


def test_how_far_the_calls_are() -> None:
    told = [b for b in said(TOOLS) if b["type"] == "tool_progress"]
    for body in told:
        del body["timestamp"]
    first = {"type": "tool_progress", "toolCallId": "call_1", "toolName": "count_employees"}
    second = {"type": "tool_progress", "toolCallId": "call_2", "toolName": "average_salary"}
    assert told == [
        {**first, "status": "executing", "progress": "1/2"},
        {**second, "status": "executing", "progress": "2/2"},
        {**first, "status": "executing", "progress": "1/2",
         "current": 1, "total": 2, "percent": 50.0, "message": "Half of it"},
        {**second, "status": "failed", "progress": "1/2", "executionTime": 123,
         "error": "There is no department Moon."},
        {**first, "status": "completed", "progress": "2/2", "executionTime": 250,
         "resultPreview": '{"department":"Sales","count":12}'},
    ]  # fmt: skip


def test_of_a_long_result_there_is_the_beginning() -> None:
    body = one(tool("a", "b", "completed", result="x" * 1000, finished=1, duration_seconds=0.0))
    assert body["resultPreview"] == "x" * 199 + "…"
    assert body["executionTime"] == 0


def test_the_end_has_all_the_text() -> None:
    *_, body = said(TOOLS)
    del body["timestamp"]
    assert body == {
        "type": "complete",
        "iterations": 2,
        "totalText": "Let me look.Twelve people.",
        "textLength": 26,
        "usage": {"inputTokens": 24, "outputTokens": 10},
        "model": "openai:gpt-x",
        "thread": THREAD,
    }
    *_, body = said(PLAIN)
    assert body["textLength"] == len("Hello, wörld 👋\ndata: x"), "in code points"
    assert "thread" not in one(complete("", [], 1, thread=None))


def test_other_ends() -> None:
    *_, body = said(LOST)
    assert (body["type"], body["reason"]) == ("error", "lost")
    assert body["error"].startswith("The run was lost")
    *_, body = said(FAILED)
    assert (body["type"], body["error"], body["reason"]) == (
        "error", "The model said 500.", "failed",
    )  # fmt: skip
    assert one(CANCELLED)["type"] == "cancelled"


def test_what_is_no_word_of_a_turn_is_told_as_typed_tells_it() -> None:
    some = block(SCRIPT).after(1)
    assert Chat().tell(some, None) == Typed().tell(some, None)
    ended: list[Told] = [("complete", {"status": "completed", "result": {"text": "mine"}})]
    assert Chat().tell(block(ended), None) == Typed().tell(block(ended), None)


@pytest.mark.parametrize(
    "payload",
    [
        {"status": "completed", "result": None, "duration_seconds": "long"},
        {"status": "failed", "duration_seconds": 1e300},
        {"status": 5, "id": [], "index": {}},
        {},
    ],
)
def test_anybody_may_emit_an_event_of_such_a_type(payload: dict[str, Any]) -> None:
    body = one(("tool_progress", payload))
    assert body["type"] == "tool_progress"
    assert "executionTime" not in body


def test_a_control_frame_has_the_same_shape() -> None:
    frame = stream("chat").control("gap", {"from": 1, "to": 2})
    assert frame == b'data: {"type":"gap","from":1,"to":2}\n\n'


# --- all the text so far -------------------------------------------------------------


def told_so_far(bodies: list[dict[str, Any]]) -> list[tuple[str, int, str | None]]:
    return [
        (body["chunk"], body["position"], body.get("accumulated"))
        for body in bodies
        if body["type"] == "text_chunk"
    ]


def test_chunks_of_a_block_are_told_as_one() -> None:
    assert told_so_far(said(TOOLS, Accumulated())) == [
        ("Let me look.", 0, "Let me look."),
        ("Twelve people.", 12, "Let me look.Twelve people."),
    ]
    wire = Accumulated().tell(block(TOOLS), None)
    last = next(event for event in Decoder().feed(wire) if "Twelve" in event.data)
    event = max(n for n, (type_, _) in enumerate(TOOLS, 1) if type_ == "text_chunk")
    assert last.id == str(event)
    assert orjson.loads(last.data)["timestamp"] == f"2023-11-14T22:13:22.{event - 21}00Z"


def test_each_by_itself_has_all_the_text_before_it() -> None:
    projection = Accumulated()
    wire = b"".join(projection.tell(some, None) for some in blocks(PLAIN, 1))
    told = [orjson.loads(event.data) for event in Decoder().feed(wire)]
    assert told_so_far(told) == [
        ("Hel", 0, "Hel"),
        ("lo, ", 3, "Hello, "),
        ("wörld 👋\n", 7, "Hello, wörld 👋\n"),
        ("data: x", 15, "Hello, wörld 👋\ndata: x"),
    ]


def test_everything_else_is_told_as_ever() -> None:
    for turn in TURNS.values():
        plain = [body for body in said(turn) if body["type"] != "text_chunk"]
        assert [b for b in said(turn, Accumulated()) if b["type"] != "text_chunk"] == plain


def test_it_goes_on_from_what_was_before() -> None:
    seq = next(n for n, (_, p) in enumerate(TOOLS, 1) if p.get("chunk") == "Twelve ")
    projection = Accumulated(text_before(blocks(TOOLS, 4), seq))
    wire = projection.tell(block(TOOLS).after(seq), None)
    told = [orjson.loads(event.data) for event in Decoder().feed(wire)]
    assert told_so_far(told) == [("people.", 19, "Let me look.Twelve people.")]


def test_text_is_folded_a_page_at_a_time() -> None:
    some = blocks(TOOLS, 3)
    first = text_before(some[:2], 100)
    assert first == "Let me "
    assert text_before(some[2:], 100, first) == "Let me look.Twelve people."


@pytest.mark.parametrize("before", [None, ""])
def test_where_text_is_missing_none_is_made_up(before: str | None) -> None:
    late = text("1.0", "b", "c", position=1)
    assert told_so_far(said(late, Accumulated(before))) == [("bc", 1, None)]
    assert text_before([block(late)], 9) == ""


def test_to_be_told_again_changes_nothing() -> None:
    projection = Accumulated()
    some = blocks(PLAIN, 1)
    first = [projection.tell(one, None) for one in some]
    assert [projection.tell(one, None) for one in some] == first
    # And in any order, once it was known.
    assert [projection.tell(one, None) for one in reversed(some)] == first[::-1]


def test_to_be_told_a_part_again_forgets_nothing() -> None:
    """What was encoded already may come from the channel, so that it is not asked."""
    projection = Accumulated()
    some = blocks(PLAIN, 1)
    for one in [*some[:7], some[5], some[7]]:
        told = projection.tell(one, None)
    (event,) = Decoder().feed(told)
    assert orjson.loads(event.data)["accumulated"] == "Hello, wörld 👋\n"


def test_other_words_under_the_same_position_win() -> None:
    projection = Accumulated()
    projection.tell(block(text("1.0", "abc", "def")), None)
    again = text("1.0", "abX", position=0)
    assert told_so_far(said(again, projection)) == [("abX", 0, "abX")]


def test_each_response_has_a_name_of_its_own() -> None:
    assert len({Accumulated().name, Accumulated().name, Chat().name}) == 3


def test_a_text_that_was_cut_says_so() -> None:
    for more, says in (({}, None), ({"truncated": True}, True)):
        parts = [{"type": "text", "part": "1.0", "text": "abc", **more}]
        drafts = [draft("complete", {"result": {"parts": parts, "iterations": 1}}, 0.0)]
        block = Block("run_a", 1, 1, pack(1, drafts))
        (event,) = Decoder().feed(Chat().tell(block, None))
        told = orjson.loads(event.data)
        assert (told["totalText"], told.get("truncated")) == ("abc", says)
