from __future__ import annotations

from typing import Any

import pytest

from tailrace.projections.text import Text, line
from tailrace.protocol import events
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import CONTROL_TYPES, TERMINAL_TYPES, draft
from tailrace.protocol.sse import Decoder


@pytest.mark.parametrize(
    ("type_", "payload", "expected"),
    [
        ("output", {"stream": "stdout", "text": "one\n"}, "one"),
        ("output", {"text": "one\n\n"}, "one\n"),
        ("output", {"text": "50 %"}, "50 %"),
        ("output", {"text": "dos\r\n"}, "dos"),
        ("output", {"text": "40 %\r"}, "40 %"),
        ("output", {"text": "one\r\n\r\n"}, "one\r\n"),
        ("output", {}, ""),
        ("message", {"value": "hello"}, "hello"),
        ("message", {"value": 5, "timestamp": "t"}, '{"value":5}'),
        ("message", {"a": [1]}, '{"a":[1]}'),
        ("log", {"level": "warning", "message": "no rows"}, "[warning] no rows"),
        ("log", {}, "[info] "),
        ("progress", {"current": 3, "total": 10, "percent": 30.0, "step": "s"}, "[3/10] s"),
        ("progress", {"current": 0, "total": 10}, "[0/10]"),
        ("progress", {"percent": 12.5, "message": "m", "step": "s"}, "[12.5%] m"),
        ("progress", {"current": 7}, "[7]"),
        ("progress", {"step": "waiting"}, "[…] waiting"),
        ("start", {"operation": "crunch", "input": {}}, "Starting execution of crunch…"),
        ("start", {"operation": "script", "title": "a.py"}, "Starting execution of a.py…"),
        ("status", {"status": "cancelling"}, "[cancelling]"),
        ("status", {"status": "queued"}, "[queued]"),
        ("status", {"status": "queued", "position": 1}, "[queued, next]"),
        ("status", {"status": "queued", "position": 3}, "[queued, 2 before it]"),
        ("complete", {"duration_seconds": 1.25, "result": {}}, "*** Execution completed ***"),
        ("cancelled", {"reason": "abandoned"}, "*** Execution cancelled: abandoned ***"),
        ("gap", {"from": 3, "to": 9}, "[events 3 to 9 are no longer kept]"),
        ("reset", {"from": 3, "to": 9}, "[events 3 to 9 were lost]"),
        ("tick", {"elapsed_seconds": 62.0}, "[62 s]"),
        ("thought", {"text": "hm", "timestamp": "t"}, '[thought] {"text":"hm"}'),
        ("result", {"result": 1}, '[result] {"result":1}'),
    ],
)
def test_what_a_person_sees(type_: str, payload: dict[str, Any], expected: str) -> None:
    assert line(type_, payload) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"reason": "timed_out", "error": "too long"}, "*** Execution timed out: too long ***"),
        ({"reason": "lost", "error": "it is gone"}, "*** Execution lost: it is gone ***"),
        ({"error": "no"}, "*** Execution failed: no ***"),
        ({"error": "no", "exit_code": 3}, "*** Execution failed: no (exit code 3) ***"),
        ({"exit_code": 3}, "*** Execution failed: (exit code 3) ***"),
        (
            {"error": "It exited with code 3.", "exit_code": 3},
            "*** Execution failed: It exited with code 3. ***",
        ),
        (
            {"error": "It exited with code 30.", "exit_code": 3},
            "*** Execution failed: It exited with code 30. (exit code 3) ***",
        ),
        (
            {"error": "not found", "failure": "r(601);", "exit_code": 0},
            "*** Execution failed: not found (r(601);) ***",
        ),
        (
            {"error": "not found: r(601);", "failure": "r(601);"},
            "*** Execution failed: not found: r(601); ***",
        ),
        (
            {"code": "log-corrupt", "status": 500, "detail": "No log."},
            "[the stream broke off: No log.]",
        ),
    ],
)
def test_why_it_failed(payload: dict[str, Any], expected: str) -> None:
    assert line("error", payload) == expected


def test_every_type_with_a_meaning_has_its_line() -> None:
    named = vars(events).items()
    types = {value for name, value in named if name.isupper() and isinstance(value, str)}
    assert types >= TERMINAL_TYPES | CONTROL_TYPES
    without = {type_ for type_ in types if line(type_, {}).startswith(f"[{type_}] {{")}
    assert without == {"result"}


def test_lines_keep_their_shape_on_the_way() -> None:
    text = "a\nb\r\n\u2028c\n\n"
    drafts = [draft("output", {"text": text}, 0.0), draft("log", {"message": "m"}, 0.0)]
    told = Text().tell(Block("run_a", 4, 5, pack(4, drafts)), None)
    first, second = Decoder().feed(told)
    assert (first.id, first.event, first.data) == ("4", "message", "a\nb\n\u2028c\n")
    assert second.data == "[info] m"
    assert b"event:" not in told


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("type_", "key", "around"),
    [
        ("output", "text", "{}"),
        ("start", "title", "Starting execution of {}…"),
        ("error", "error", "*** Execution failed: {} ***"),
        ("log", "message", "[info] {}"),
    ],
)
def test_no_text_breaks_out_of_its_message(type_: str, key: str, around: str, end: str) -> None:
    """Whatever a line holds, each of its lines is a `data` of the one message."""
    text = end.join(["one", "id: 99", "event: complete", "", "data: two", ": end", "retry: 1"])
    block = Block("run_a", 1, 1, pack(1, [draft(type_, {key: text}, 0.0)]))
    told = Text().tell(block, None)
    (event,) = Decoder().feed(told)
    assert (event.id, event.event) == ("1", "message")
    assert event.data == around.format(text).replace(end, "\n")
    head, *lines = told.decode().removesuffix("\n\n").split("\n")
    assert head == "id: 1"
    assert len(lines) == 7
    assert all(line.startswith("data: ") for line in lines)
    assert b"\r" not in told


def test_a_control_frame_is_a_line() -> None:
    assert Text().control("gap", {"from": 1, "to": 2}) == (
        b"data: [events 1 to 2 are no longer kept]\n\n"
    )
