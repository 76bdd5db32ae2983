"""Events as a generator yielded them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.projections.plain import Plain
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.sse import Decoder

TIME = 1_800_000_000.0


def told(*events: tuple[str, Any]) -> bytes:
    drafts = [draft(type, payload, TIME) for type, payload in events]
    return Plain().tell(Block("run_x", 1, len(drafts), pack(1, drafts, 0)), None)


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (("message", "hi"), b"id: 1\ndata: hi\n\n"),
        (("message", "two\nlines"), b"id: 1\ndata: two\ndata: lines\n\n"),
        (("message", 7), b"id: 1\ndata: 7\n\n"),
        (("message", None), b"id: 1\ndata: null\n\n"),
        (("message", [1, "a"]), b'id: 1\ndata: [1,"a"]\n\n'),
        (("tick", 7), b"id: 1\nevent: tick\ndata: 7\n\n"),
        (("start", {"input": {}}), b"id: 1\n\n"),
        (("complete", {"result": 1}), b"id: 1\n\n"),
    ],
)
def test_what_is_told(event: tuple[str, Any], wire: bytes) -> None:
    assert told(event) == wire


def test_an_object_keeps_its_time() -> None:
    (event,) = Decoder().feed(told(("message", {"a": 1})))
    assert json.loads(event.data).keys() == {"a", "timestamp"}
    (event,) = Decoder().feed(told(("message", {"value": 1, "more": 2})))
    assert json.loads(event.data).keys() == {"value", "more", "timestamp"}


def test_an_error_is_told() -> None:
    (event,) = Decoder().feed(told(("error", {"error": "no", "reason": "failed"})))
    assert event.event == "error"
    assert json.loads(event.data)["error"] == "no"


def test_a_filter_lets_the_end_through() -> None:
    drafts = [draft("a", 1, TIME), draft("b", 2, TIME), draft("complete", {}, TIME)]
    wire = Plain().tell(Block("run_x", 1, 3, pack(1, drafts, 0)), frozenset({"a"}))
    assert wire == b"id: 1\nevent: a\ndata: 1\n\nid: 3\n\n"


@pytest.mark.parametrize(
    ("payload", "wire"),
    [
        ({"value": "x", "event": "status"}, b"id: 1\nevent: status\ndata: x\n\n"),
        ({"value": {"value": 1, "timestamp": 2}}, b'id: 1\ndata: {"value":1,"timestamp":2}\n\n'),
        ({"value": {"a": 1}, "event": "my event"}, b'id: 1\nevent: my event\ndata: {"a":1}\n\n'),
        ({"value": {1: "a", "1": "b"}}, b'id: 1\ndata: {"1":"a","1":"b"}\n\n'),
        ({"value": None, "timestamp": "t"}, b"id: 1\ndata: null\n\n"),
    ],
)
def test_what_a_generator_yielded(payload: dict[str, Any], wire: bytes) -> None:
    assert told(("message", payload)) == wire


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "", 7, None])
def test_nobody_forges_a_name(name: object) -> None:
    (event,) = Decoder().feed(told(("message", {"value": "x", "event": name})))
    assert event.event == "message"
    assert json.loads(event.data)["event"] == name


def test_a_name_is_one_beside_a_message_only() -> None:
    (event,) = Decoder().feed(told(("log", {"value": "x", "event": "y"})))
    assert event.event == "log"
    assert json.loads(event.data)["event"] == "y"
