from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections import stream
from tailrace.projections.aisdk import AiSdk
from tailrace.projections.rest import resting
from tailrace.protocol import agent
from tailrace.protocol.cursor import parse
from tailrace.protocol.sse import Decoder
from tests.turns import (
    CANCELLED_IN_ARGS,
    CANCELLED_IN_TEXT,
    LOST,
    PLAIN,
    RUN,
    SCRIPT,
    THINKING,
    TOOLS,
    TURNS,
    WAITED,
    Turn,
    block,
    blocks,
    start,
)

Json = dict[str, Any]

all_turns = pytest.mark.parametrize("turn", [*TURNS.values(), SCRIPT], ids=[*TURNS, "script"])

# The types of ai 7 that are told, with what each must have as text.
KNOWN = {
    "start": ("messageId",),
    "start-step": (),
    "finish-step": (),
    "finish": ("finishReason",),
    "abort": ("reason",),
    "error": ("errorText",),
    "text-start": ("id",),
    "text-delta": ("id", "delta"),
    "text-end": ("id",),
    "reasoning-start": ("id",),
    "reasoning-delta": ("id", "delta"),
    "reasoning-end": ("id",),
    "tool-input-start": ("toolCallId", "toolName"),
    "tool-input-delta": ("toolCallId", "inputTextDelta"),
    "tool-input-available": ("toolCallId", "toolName"),
    "tool-input-error": ("toolCallId", "toolName", "errorText"),
    "tool-output-available": ("toolCallId",),
    "tool-output-error": ("toolCallId", "errorText"),
}


def wire(turn: Turn, size: int | None = None, epoch: int = 0) -> bytes:
    return b"".join(AiSdk().tell(some, None) for some in blocks(turn, size, epoch=epoch))


def told(turn: Turn) -> list[Json]:
    data = [event.data for event in Decoder().feed(wire(turn))]
    return [orjson.loads(chunk) for chunk in data if chunk != "[DONE]"]


def kinds(turn: Turn) -> list[str]:
    return [chunk["type"] for chunk in told(turn)]


def named(turn: Turn, name: str) -> list[Json]:
    return [chunk for chunk in told(turn) if chunk["type"] == name]


@all_turns
def test_only_what_the_client_knows_is_told(turn: Turn) -> None:
    for chunk in told(turn):
        if chunk["type"].startswith("data-"):
            assert "data" in chunk
            continue
        for word in KNOWN[chunk["type"]]:
            assert isinstance(chunk[word], str)
        # A null where something is optional ends the client. An output may be one.
        optional = {word: value for word, value in chunk.items() if word not in ("input", "output")}
        assert None not in optional.values()


@all_turns
def test_nothing_is_said_of_what_was_not_begun(turn: Turn) -> None:
    pieces: set[str] = set()
    calls: set[str] = set()
    for chunk in told(turn):
        kind = chunk["type"]
        if kind in ("text-start", "reasoning-start"):
            assert chunk["id"] not in pieces
            pieces.add(chunk["id"])
        elif kind.endswith("-delta") and "id" in chunk:
            assert chunk["id"] in pieces
        elif kind in ("text-end", "reasoning-end"):
            pieces.remove(chunk["id"])
        elif kind == "tool-input-start":
            calls.add(chunk["toolCallId"])
        elif kind.startswith("tool-"):
            assert chunk["toolCallId"] in calls


@all_turns
def test_it_begins_and_ends_as_the_protocol_asks(turn: Turn) -> None:
    first, *_, last = Decoder().feed(wire(turn))
    assert orjson.loads(first.data) == {"type": "start", "messageId": RUN}
    assert last.data == "[DONE]"
    assert last.id == str(len(turn))
    assert kinds(turn).count("start") == 1
    assert kinds(turn)[-1] in ("finish", "abort", "error")


@all_turns
def test_what_is_told_does_not_depend_on_the_blocks(turn: Turn) -> None:
    whole = wire(turn)
    assert wire(turn, 1) == whole
    assert wire(turn, 3) == whole
    assert b"\r" not in whole


@all_turns
def test_whoever_is_cut_after_any_frame_gets_the_rest(turn: Turn) -> None:
    whole = Decoder().feed(wire(turn))
    for cut, event in enumerate(whole, 1):
        at = parse(event.id)
        rest = [some.after(at.complete) for some in blocks(turn, 4) if some.last > at.complete]
        projection = resting(AiSdk(), at)
        again = Decoder().feed(b"".join(projection.tell(some, None) for some in rest))
        assert [(one.id, one.data) for one in again] == [(one.id, one.data) for one in whole[cut:]]


def test_the_parts_of_a_text_are_its_text() -> None:
    deltas = [chunk["delta"] for chunk in named(PLAIN, "text-delta")]
    assert "".join(deltas) == "Hello, wörld 👋\ndata: x"
    assert {chunk["id"] for chunk in named(PLAIN, "text-delta")} == {"1.0"}


def test_thoughts_are_reasoning() -> None:
    deltas = [(chunk["id"], chunk["delta"]) for chunk in named(THINKING, "reasoning-delta")]
    assert deltas == [("1.0", "They greet "), ("1.0", "me."), ("1.2", "More?")]


def test_a_turn_in_two_steps() -> None:
    assert [kind for kind in kinds(TOOLS) if not kind.startswith("data-")] == [
        "start",
        "start-step",
        *("text-start", "text-delta", "text-delta", "text-end"),
        *("tool-input-start", "tool-input-delta", "tool-input-delta", "tool-input-available"),
        *("tool-input-start", "tool-input-delta", "tool-input-available"),
        "tool-output-error",
        "tool-output-available",
        "finish-step",
        "start-step",
        *("text-start", "text-delta", "text-delta", "text-end"),
        "finish-step",
        "finish",
    ]


def test_a_page_is_not_asked_to_run_a_tool() -> None:
    for name in ("tool-input-start", "tool-input-available", "tool-output-available"):
        chunks = named(TOOLS, name)
        assert chunks
        assert all(chunk["dynamic"] and chunk["providerExecuted"] for chunk in chunks)


def test_what_calls_answer() -> None:
    (done,) = named(TOOLS, "tool-output-available")
    assert (done["toolCallId"], done["output"]) == ("call_1", {"department": "Sales", "count": 12})
    (failed,) = named(TOOLS, "tool-output-error")
    assert (failed["toolCallId"], failed["errorText"]) == ("call_2", "There is no department Moon.")


def test_the_progress_of_a_call_is_one_bar() -> None:
    bars = [chunk for chunk in named(TOOLS, "data-tool-progress") if chunk["id"] == "1.1"]
    assert [bar["data"]["status"] for bar in bars] == ["executing", "progressing", "completed"]
    assert bars[1]["data"] == {
        "toolCallId": "call_1",
        "toolName": "count_employees",
        "status": "progressing",
        "iteration": 1,
        "index": 1,
        "count": 2,
        "current": 1,
        "total": 2,
        "percent": 50.0,
        "message": "Half of it",
    }
    # The result has a chunk of its own.
    assert "result" not in bars[2]["data"]


def test_a_call_that_is_no_json_is_an_error() -> None:
    (chunk,) = named(CANCELLED_IN_ARGS, "tool-input-error")
    assert chunk["input"] == '{"depart'


def test_how_a_turn_ends() -> None:
    assert told(PLAIN)[-1] == {
        "type": "finish",
        "finishReason": "stop",
        "messageMetadata": {
            "model": "openai:gpt-x",
            "route": "default",
            "thread": "thread-1",
            "iterations": 1,
            "usage": {"input_tokens": 12, "output_tokens": 5},
        },
    }
    assert told(CANCELLED_IN_TEXT)[-1] == {"type": "abort", "reason": "requested"}
    assert told(LOST)[-1]["errorText"] == "The run was lost: the process that ran it is gone."


def test_a_turn_that_waits_begins_all_the_same() -> None:
    assert kinds(WAITED)[:3] == ["start", "data-status", "data-session-start"]


def test_any_run_can_be_told() -> None:
    chunks = told(SCRIPT)
    assert [chunk["type"] for chunk in chunks] == [
        *("start", "data-output", "data-log", "data-progress", "data-result", "finish"),
    ]
    assert chunks[1]["data"]["text"] == "one\ntwo\r\n"
    assert chunks[3]["id"] == "progress"
    done = ("complete", {"status": "completed", "result": {"rows": 3}})
    assert told([start(), done])[1] == {"type": "data-result", "data": {"rows": 3}}


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (agent.TEXT_CHUNK, {"chunk": "x"}),
        (agent.TEXT_CHUNK, {"part": "1.0", "chunk": None}),
        (agent.TOOL_PROGRESS, {"id": 5, "name": "a", "status": "executing"}),
    ],
)
def test_what_is_no_word_of_an_agent_is_data(type_: str, payload: Json) -> None:
    _, chunk = told([start(), (type_, payload)])
    assert chunk["type"] == f"data-{type_.replace('_', '-')}"
    assert {key: chunk["data"][key] for key in payload} == payload


def test_a_filter_keeps_the_end() -> None:
    events = Decoder().feed(AiSdk().tell(block(PLAIN), frozenset()))
    assert [event.data == "[DONE]" for event in events] == [False, True]


def test_ids_have_their_epoch() -> None:
    ids = [event.id for event in Decoder().feed(wire(TOOLS, epoch=2))]
    assert ids[0] == "2-1"
    assert ids[-2:] == [f"2-{len(TOOLS)}.1", f"2-{len(TOOLS)}"]


def test_a_control_frame_is_in_no_message() -> None:
    frame = AiSdk().control("gap", {"from": 1, "to": 5})
    assert frame == (b'data: {"type":"data-gap","data":{"from":1,"to":5},"transient":true}\n\n')


@pytest.mark.parametrize(
    ("payload", "said"), [({"detail": "Too long."}, "Too long."), ({}, "The stream broke off.")]
)
def test_a_fault_of_the_stream_is_an_error(payload: Json, said: str) -> None:
    (event,) = Decoder().feed(AiSdk().control("error", payload))
    assert orjson.loads(event.data) == {"type": "error", "errorText": said}


def test_it_is_found_by_its_name() -> None:
    assert isinstance(stream("ai-sdk"), AiSdk)
