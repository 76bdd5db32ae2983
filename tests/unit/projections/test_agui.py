from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections.agui import AgUi
from tailrace.protocol import sse
from tailrace.protocol.sse import Decoder
from tests.turns import (
    CANCELLED,
    CANCELLED_IN_ARGS,
    LOST,
    PLAIN,
    RUN,
    SCRIPT,
    THINKING,
    THREAD,
    TOOLS,
    TURNS,
    WAITED,
    Told,
    Turn,
    block,
    start,
    text,
)

Json = dict[str, Any]


def said(turn: Turn) -> list[Json]:
    return [orjson.loads(event.data) for event in Decoder().feed(AgUi().tell(block(turn), None))]


def types(turn: Turn) -> list[str]:
    return [one["name"] if one["type"] == "CUSTOM" else one["type"] for one in said(turn)]


def kind(turn: Turn, *names: str) -> list[Json]:
    return [one for one in said(turn) if one["type"] in names]


# --- the words -----------------------------------------------------------------------


def test_a_plain_answer() -> None:
    assert types(PLAIN) == [
        "RUN_STARTED", "session_start", "routed",
        "STEP_STARTED", "TEXT_MESSAGE_START", *["TEXT_MESSAGE_CONTENT"] * 4, "TEXT_MESSAGE_END",
        "STEP_FINISHED", "RUN_FINISHED",
    ]  # fmt: skip
    first, *_, last = said(PLAIN)
    assert first == {
        "type": "RUN_STARTED", "threadId": THREAD, "runId": RUN, "timestamp": 1_700_000_000_000,
    }  # fmt: skip
    assert {**last, "result": None} == {
        "type": "RUN_FINISHED",
        "threadId": THREAD,
        "runId": RUN,
        "outcome": {"type": "success"},
        "usage": [{"inputTokens": 12, "outputTokens": 5, "model": "openai:gpt-x"}],
        "result": None,
        "timestamp": 1_700_000_001_100,
    }
    assert last["result"]["text"] == "Hello, wörld 👋\ndata: x"
    assert "parts" not in last["result"], "they were told"


def test_text_and_calls_of_an_iteration_are_one_message() -> None:
    first = kind(TOOLS, "TEXT_MESSAGE_START")[0]["messageId"]
    assert first == f"{RUN}.1"
    assert {one["parentMessageId"] for one in kind(TOOLS, "TOOL_CALL_START")} == {first}
    assert kind(TOOLS, "TEXT_MESSAGE_START")[1]["messageId"] == f"{RUN}.2"
    assert len({one["messageId"] for one in kind(THINKING, "TEXT_MESSAGE_START")}) == 1


def test_calls() -> None:
    started = kind(TOOLS, "TOOL_CALL_START")
    assert [one["toolCallName"] for one in started] == ["count_employees", "average_salary"]
    for one in started:
        of = [n for n in said(TOOLS) if n.get("toolCallId") == one["toolCallId"]]
        assert [n["type"] for n in of if n["type"] != "TOOL_CALL_ARGS"] == [
            "TOOL_CALL_START", "TOOL_CALL_END", "TOOL_CALL_RESULT",
        ]  # fmt: skip
        orjson.loads("".join(n["delta"] for n in of if n["type"] == "TOOL_CALL_ARGS"))
    failed, completed = kind(TOOLS, "TOOL_CALL_RESULT")
    assert failed["content"] == "There is no department Moon."
    assert failed["metadata"] == {"status": "failed", "durationSeconds": 0.1234}
    assert completed["content"] == '{"department":"Sales","count":12}'
    assert completed["toolCallId"] == started[0]["toolCallId"]
    assert completed["messageId"] != failed["messageId"]


def test_the_same_id_of_a_model_is_not_the_same_call() -> None:
    """Some begin to count anew with each answer, and a client would write both into one."""
    calls: list[Told] = [
        ("tool_detected", {"part": part, "id": "0", "name": "x"}) for part in ("1.0", "2.0")
    ]
    ids = {one["toolCallId"] for one in kind([start(), *calls], "TOOL_CALL_START")}
    ids |= {
        orjson.loads(event.data)["toolCallId"]
        for event in Decoder().feed(AgUi().tell(block(calls, run="run_b"), None))
        if "toolCallId" in event.data
    }
    assert len(ids) == 4


def test_thoughts() -> None:
    told = [one for one in said(THINKING) if one["type"].startswith("REASONING")]
    assert [one["type"] for one in told[:6]] == [
        "REASONING_START", "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END", "REASONING_END",
    ]  # fmt: skip
    assert {one["messageId"] for one in told} == {f"{RUN}.1.0", f"{RUN}.1.2"}
    assert told[1]["role"] == "reasoning"


def test_what_has_no_word_keeps_its_own() -> None:
    custom = {one["name"]: one["value"] for one in kind(TOOLS, "CUSTOM")}
    assert set(custom) == {
        "session_start", "routed", "tools_executing", "tool_progress", "tools_completed",
    }  # fmt: skip
    assert custom["tool_progress"]["message"] == "Half of it"
    assert custom["tool_progress"]["toolCallId"] == kind(TOOLS, "TOOL_CALL_START")[0]["toolCallId"]
    assert "timestamp" not in custom["routed"]


def test_any_run_can_be_watched() -> None:
    assert types(SCRIPT) == ["RUN_STARTED", "output", "log", "progress", "result", "RUN_FINISHED"]
    assert said(SCRIPT)[0]["threadId"] == RUN, "it has no other"
    assert kind(SCRIPT, "CUSTOM")[2]["value"] == {"current": 1, "total": 3, "type": "own"}
    assert "result" not in said(SCRIPT)[-1], "no null"


# --- begin and end -------------------------------------------------------------------


def test_whatever_comes_first_begins_the_run() -> None:
    assert types(WAITED)[:3] == ["RUN_STARTED", "status", "session_start"]
    wire = AgUi().tell(block(WAITED), None)
    assert [event.id for event in Decoder().feed(wire)][:3] == ["1.1", "1", "3"]
    assert types([CANCELLED]) == ["RUN_STARTED", "RUN_FINISHED"]
    assert types(LOST[-1:]) == ["RUN_STARTED", "RUN_ERROR"]


def test_a_cancelled_run() -> None:
    last = said(CANCELLED_IN_ARGS)[-1]
    assert (last["type"], last["outcome"]) == ("RUN_FINISHED", {"type": "cancelled"})


def test_work_that_did_not_stop_has_closed_nothing() -> None:
    forced = ("cancelled", {**CANCELLED[1], "forced": True})
    *_, last = said([start(), *text("1.0", "a", ends=False), forced])
    assert (last["type"], last["code"]) == ("RUN_ERROR", "cancelled")


def test_a_run_that_went_wrong() -> None:
    last = said(LOST)[-1]
    assert (last["type"], last["code"]) == ("RUN_ERROR", "lost")
    assert last["message"].startswith("The run was lost")


# --- what its clients are strict about -----------------------------------------------


def nulls(value: object) -> bool:
    return isinstance(value, dict) and None in value.values()


@pytest.mark.parametrize("name", TURNS)
def test_the_grammar(name: str) -> None:
    """The rules of the official client's `verifyEvents`."""
    told = said(TURNS[name])
    assert told[0]["type"] == "RUN_STARTED"
    opened: dict[str, set[str]] = {"TEXT_MESSAGE": set(), "TOOL_CALL": set(), "STEP": set(),
                                   "REASONING": set(), "REASONING_MESSAGE": set()}  # fmt: skip
    for number, one in enumerate(told):
        assert not nulls(one), one
        assert isinstance(one["timestamp"], int)
        what, _, act = one["type"].rpartition("_")
        entity = str(one.get("messageId") or one.get("toolCallId") or one.get("stepName"))
        match act:
            case "STARTED" | "START" if what != "RUN":
                assert entity not in opened[what]
                opened[what].add(entity)
            case "CONTENT" | "ARGS":
                assert entity in opened[what]
            case "END":
                opened[what].remove(entity)
            case "FINISHED" if what == "STEP":
                opened[what].remove(entity)
            case "FINISHED":
                assert not any(opened.values())
                assert number == len(told) - 1
            case "ERROR":
                assert number == len(told) - 1
            case _:
                assert number == 0 or act == "RESULT" or one["type"] == "CUSTOM"


def test_it_splits_at_line_feeds_only() -> None:
    wire = AgUi().opening + AgUi().tell(block(TOOLS), None) + AgUi().closing(None)
    assert b"\r" not in wire


@pytest.mark.parametrize("stamped", [5, "soon", "2023-11-14T22:13:20", None, {"a": 1}], ids=str)
def test_a_time_that_is_none_is_left_out(stamped: object) -> None:
    (_, one) = said([("log", {"message": "x", "timestamp": stamped})])
    assert "timestamp" not in one


def test_a_time_of_another_zone() -> None:
    (_, one) = said([("log", {"message": "x", "timestamp": "2023-11-14T23:13:20.5+01:00"})])
    assert one["timestamp"] == 1_700_000_000_500


@pytest.mark.parametrize("type_", ["text_start", "text_chunk", "tool_detected", "tool_progress"])
def test_an_event_that_only_has_the_name(type_: str) -> None:
    assert types([start(), (type_, {"part": 5, "id": None})]) == ["RUN_STARTED", type_]


# --- besides the events --------------------------------------------------------------


def control(type_: str, payload: Json) -> list[Json]:
    frame = AgUi().control(type_, payload)
    assert b"id:" not in frame
    return [orjson.loads(event.data) for event in Decoder().feed(frame)]


def test_a_tick_is_a_comment_as_it_may_come_before_the_run() -> None:
    frame = AgUi().control("tick", {"elapsed_seconds": 2.0})
    assert frame == sse.comment('tick {"elapsed_seconds":2.0}')


def test_what_is_missing() -> None:
    lost = {"run": RUN, "from": 4, "to": 9}
    assert control("gap", lost) == [{"type": "CUSTOM", "name": "gap", "value": lost}]
    first = control("gap", {**lost, "from": 1})
    assert [one["type"] for one in first] == ["RUN_STARTED", "CUSTOM"], "its first is gone"
    assert first[0] == {"type": "RUN_STARTED", "threadId": RUN, "runId": RUN}


def test_a_stream_that_breaks_off() -> None:
    (one,) = control("error", {"title": "x", "detail": "The log is gone."})
    assert one == {"type": "RUN_ERROR", "message": "The log is gone.", "code": "stream"}
