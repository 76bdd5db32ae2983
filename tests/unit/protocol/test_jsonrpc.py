"""A run as the messages of one MCP tool call."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.protocol.events import CONTROL_TYPES, TERMINAL_TYPES
from tailrace.protocol.jsonrpc import CODES, control, message, result

RUN = "run_" + "a" * 26


def params(type_: str, payload: dict[str, Any], seq: int = 7) -> dict[str, Any]:
    told = message(RUN, seq, type_, {**payload, "timestamp": "2026-11-20T09:30:00.000Z"})
    assert told["jsonrpc"] == "2.0"
    assert "id" not in told, "a notification has none (JSON-RPC 2.0, 4.1)"
    assert told["method"] == f"notifications/{'progress' if type_ == 'progress' else 'message'}"
    return dict(told["params"])


@pytest.mark.parametrize(
    ("type_", "payload"),
    [("start", {"run": RUN, "input": {"a": 1}}), ("status", {"status": "queued", "position": 2})],
)
def test_the_first_says_connected_and_nothing_of_the_run(
    type_: str, payload: dict[str, Any]
) -> None:
    assert message(RUN, 1, type_, payload) == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": RUN, "progress": 0, "message": "connected"},
    }
    assert params(type_, payload, 2) == {"level": "info", "logger": type_, "data": payload}


def test_a_first_event_with_content_keeps_it() -> None:
    assert params("log", {"message": "hi"}, 1)["data"] == "hi"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"current": 3, "total": 4, "percent": 75.0}, {"progress": 3, "total": 4}),
        ({"current": 0.5, "message": '{"news":[]}'}, {"progress": 0.5, "message": '{"news":[]}'}),
        ({"current": 1, "step": "load"}, {"progress": 1, "message": "load"}),
        ({"current": 1, "step": "load", "message": ""}, {"progress": 1, "message": ""}),
        ({"percent": 12.5}, {"progress": 12.5, "total": 100}),
        ({"step": "load"}, {"progress": 0, "message": "load"}),
        ({"current": "3", "total": True}, {"progress": 0}),
        ({"current": float("nan"), "percent": float("inf")}, {"progress": 0}),
        ({}, {"progress": 0}),
    ],
)
def test_progress(payload: dict[str, Any], expected: dict[str, Any]) -> None:
    assert params("progress", payload) == {"progressToken": RUN, **expected}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"message": "hi"}, ("info", "log", "hi")),
        ({"message": "hi", "level": "WARN"}, ("warning", "log", "hi")),
        ({"message": "hi", "level": "notice"}, ("notice", "log", "hi")),
        ({"message": "hi", "level": "odd"}, ("info", "log", "hi")),
        ({"message": "hi", "details": {"logger": "feeds"}}, ("info", "feeds", "hi")),
        (
            {"message": "hi", "details": {"logger": "feeds", "n": 1}},
            ("info", "feeds", {"message": "hi", "details": {"n": 1}}),
        ),
        (
            {"message": "hi", "details": {"n": 1}},
            ("info", "log", {"message": "hi", "details": {"n": 1}}),
        ),
    ],
)
def test_a_log_has_a_level_that_the_protocol_knows(
    payload: dict[str, Any], expected: tuple[str, str, Any]
) -> None:
    level, logger, data = expected
    assert params("log", payload) == {"level": level, "logger": logger, "data": data}


def test_everything_else_is_a_message_too() -> None:
    told = params("output", {"stream": "stderr", "text": "oops\n"})
    assert told == {"level": "info", "logger": "stderr", "data": "oops\n"}
    assert params("x:own", {"a": [1]}) == {"level": "info", "logger": "x:own", "data": {"a": [1]}}


BLOCK = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("value", "content", "structured"),
    [
        (None, [], None),
        ("done", [{"type": "text", "text": "done"}], None),
        ([BLOCK, {"type": "image", "data": "", "mimeType": "image/png"}], ..., None),
        ([], [], None),
        ({"a": 1}, [{"type": "text", "text": '{"a":1}'}], {"a": 1}),
        ({"result": "Stream complete"}, [{"type": "text", "text": "Stream complete"}], ...),
        ({"result": 3}, [{"type": "text", "text": '{"result":3}'}], ...),
        (3, [{"type": "text", "text": "3"}], {"result": 3}),
        ([1, BLOCK], [{"type": "text", "text": '[1,{"type":"text","text":"hi"}]'}],
         {"result": [1, BLOCK]}),
    ],
)  # fmt: skip
def test_a_result_is_that_of_a_tool(value: Any, content: Any, structured: Any) -> None:
    told = result(value)
    assert told["content"] == (value if content is ... else content)
    assert told.get("structuredContent") == (value if structured is ... else structured)
    assert told["isError"] is False


def test_the_end_answers_the_request_with_the_runs_id() -> None:
    payload = {"status": "completed", "result": {"rows": 2}, "duration_seconds": 1.5}
    assert message(RUN, 9, "complete", payload) == {
        "jsonrpc": "2.0",
        "id": RUN,
        "result": {
            "content": [{"type": "text", "text": '{"rows":2}'}],
            "structuredContent": {"rows": 2},
            "isError": False,
        },
    }


@pytest.mark.parametrize("how", ["failed", "timed_out", "lost"])
def test_a_failure_is_an_error(how: str) -> None:
    payload = {"status": how, "reason": how, "error": "No feed answers.", "type": "ToolFailed",
               "duration_seconds": 2.0, "timestamp": "…"}  # fmt: skip
    assert message(RUN, 9, "error", payload) == {
        "jsonrpc": "2.0",
        "id": RUN,
        "error": {
            "code": CODES[how],
            "message": "No feed answers.",
            "data": {"reason": how, "type": "ToolFailed", "duration_seconds": 2.0},
        },
    }


def test_a_cancel_is_an_error_of_its_own() -> None:
    told = message(RUN, 9, "cancelled", {"status": "cancelled", "reason": "requested"})
    assert told["id"] == RUN
    assert told["error"]["code"] == CODES["cancelled"] == -32800
    assert told["error"]["message"] == "The run was cancelled: requested."


def test_every_end_is_a_response_and_nothing_else_is() -> None:
    for type_ in ("start", "status", "progress", "log", "output", "result", "message", "x"):
        assert "id" not in message(RUN, 3, type_, {})
    for type_ in TERMINAL_TYPES:
        assert message(RUN, 1, type_, {})["id"] == RUN, "even as the only event that is left"


@pytest.mark.parametrize("type_", sorted(CONTROL_TYPES))
def test_a_control_frame_is_no_progress(type_: str) -> None:
    told = control(type_, {"from": 1, "to": 3})
    assert told["method"] == "notifications/message"
    assert told["params"]["logger"] == type_
    assert told["params"]["data"] == {"from": 1, "to": 3}
