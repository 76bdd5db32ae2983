"""What may be yielded, as bytes that are sent and as events of a run."""

from typing import Any

import fastapi.sse
import pytest
from pydantic import BaseModel

from tailrace.errors import FieldInvalid
from tailrace.http.items import JSONServerSentEvent
from tailrace.http.items import ServerSentEvent as OurEvent
from tailrace.protocol.items import Reader, framed, framed_as_json


class Point(BaseModel):
    x: int


class ServerSentEvent:
    """As sse-starlette has it."""

    def __init__(self, **members: Any) -> None:
        self.data = members.get("data")
        self.event = members.get("event")
        self.id = members.get("id")
        self.retry = members.get("retry")
        self.comment = members.get("comment")


@pytest.mark.parametrize(
    ("item", "wire"),
    [
        ("hi", b"data: hi\n\n"),
        (b"data: hi\n\n", b"data: hi\n\n"),
        (memoryview(b": hi\n"), b": hi\n"),
        ({"data": "hi", "sep": "\r\n"}, b"data: hi\n\n"),
        ("two\nlines", b"data: two\ndata: lines\n\n"),
        ({"data": "hi"}, b"data: hi\n\n"),
        ({"data": {"a": 1}}, b'data: {"a":1}\n\n'),
        (
            {"data": "hi", "event": "x", "id": 7, "retry": 100},
            b"id: 7\nevent: x\nretry: 100\ndata: hi\n\n",
        ),
        ({"comment": "a\nb"}, b": a\n: b\n"),
        ({"retry": 5}, b"retry: 5\n"),
        ({"event": "x"}, b"event: x\ndata: \n\n"),
        ({"a": 1}, b'data: {"a":1}\n\n'),
        ({}, b"data: {}\n\n"),
        ([1, 2], b"data: [1,2]\n\n"),
        (None, b"data: null\n\n"),
        (7, b"data: 7\n\n"),
        (Point(x=1), b'data: {"x":1}\n\n'),
        (ServerSentEvent(data="hi", id="1"), b"id: 1\ndata: hi\n\n"),
        (ServerSentEvent(comment="ping"), b": ping\n"),
        (fastapi.sse.ServerSentEvent(data={"a": 1}, event="x"), b'event: x\ndata: {"a":1}\n\n'),
        (fastapi.sse.ServerSentEvent(data="hi"), b'data: "hi"\n\n'),
        (fastapi.sse.ServerSentEvent(raw_data="hi"), b"data: hi\n\n"),
    ],
)
def test_what_may_be_yielded(item: object, wire: bytes) -> None:
    assert framed(item) == wire


@pytest.mark.parametrize(
    ("item", "wire"),
    [
        (OurEvent("hi", id="1", event="x"), b"id: 1\nevent: x\ndata: hi\n\n"),
        (OurEvent({"a": 1}, sep="\r\n"), b'data: {"a":1}\n\n'),
        (JSONServerSentEvent("hi", event="x"), b'event: x\ndata: "hi"\n\n'),
        (JSONServerSentEvent(comment="quiet"), b": quiet\n"),
    ],
)
def test_events_of_our_own(item: object, wire: bytes) -> None:
    assert framed(item) == wire
    assert framed_as_json(item) == wire


@pytest.mark.parametrize(
    ("item", "wire"),
    [
        ("hi", b'data: "hi"\n\n'),
        (7, b"data: 7\n\n"),
        (None, b"data: null\n\n"),
        ({"data": "hi"}, b'data: {"data":"hi"}\n\n'),
        (Point(x=1), b'data: {"x":1}\n\n'),
        (fastapi.sse.ServerSentEvent(data="hi"), b'data: "hi"\n\n'),
        (fastapi.sse.ServerSentEvent(raw_data="hi"), b"data: hi\n\n"),
    ],
)
def test_all_as_json(item: object, wire: bytes) -> None:
    assert framed_as_json(item) == wire


@pytest.mark.parametrize("item", [{"data": "x", "event": "a\nb"}, {"data": "x", "id": "\0"}])
def test_nobody_forges_a_frame(item: object) -> None:
    with pytest.raises(FieldInvalid):
        framed(item)
    with pytest.raises(FieldInvalid):
        framed(OurEvent(**item))  # type: ignore[arg-type]


# --- as events of a run --------------------------------------------------------------------


def kept(*items: Any) -> list[tuple[str, Any]]:
    reader = Reader()
    return [event for item in items for event in reader.read(item)]


@pytest.mark.parametrize(
    ("item", "event"),
    [
        ("hi", ("message", {"value": "hi"})),
        ('{"a":  1}', ("message", {"value": '{"a":  1}'})),
        (7, ("message", {"value": 7})),
        (None, ("message", {"value": None})),
        ({"a": 1}, ("message", {"value": {"a": 1}})),
        ({"value": 1, "timestamp": 2}, ("message", {"value": {"value": 1, "timestamp": 2}})),
        ({"data": [1], "event": "x", "id": 7, "retry": 9, "sep": "\n"}, ("x", {"value": [1]})),
        ({"data": '[1,  "a"]'}, ("message", {"value": '[1,  "a"]'})),
        ({"data": b"hi"}, ("message", {"value": "hi"})),
        ({"data": None}, ("message", {"value": "null"})),
        ({"event": "x"}, ("x", {"value": ""})),
        ({"data": "hi", "event": ""}, ("message", {"value": "hi"})),
        ({"data": "hi", "event": "message"}, ("message", {"value": "hi"})),
        ({"id": 1}, ("message", {"value": ""})),
        (OurEvent({"a": 1}, event="x"), ("x", {"value": {"a": 1}})),
        (JSONServerSentEvent({"a": 1}), ("message", {"value": {"a": 1}})),
        (JSONServerSentEvent("hi"), ("message", {"value": '"hi"'})),
        (fastapi.sse.ServerSentEvent(data={"a": 1}), ("message", {"value": {"a": 1}})),
        (fastapi.sse.ServerSentEvent(data="hi"), ("message", {"value": '"hi"'})),
        (fastapi.sse.ServerSentEvent(raw_data="hi"), ("message", {"value": "hi"})),
        (b"event: x\ndata: a\ndata: b\n\n", ("x", {"value": "a\nb"})),
        (memoryview(b"data: a\r\n\r\n"), ("message", {"value": "a"})),
    ],
)
def test_what_is_kept(item: object, event: object) -> None:
    assert kept(item) == [event]


@pytest.mark.parametrize(
    "name",
    ["complete", "error", "cancelled", "gap", "reset", "tick", "start", "status", "my event", "ü"],
)
def test_a_name_that_is_no_type_stands_beside_the_value(name: str) -> None:
    told = ("message", {"value": "x", "event": name})
    assert kept({"event": name, "data": "x"}) == [told]
    assert kept(f"event: {name}\ndata: x\n\n".encode()) == [told]


@pytest.mark.parametrize(
    "item",
    [{"comment": "x"}, {"retry": 5}, OurEvent(comment="x"), OurEvent(retry=5), b": x\n", b""],
)
def test_what_no_client_tells_of_is_not_kept(item: object) -> None:
    assert kept(item) == []


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b", "\ud800"])
def test_a_name_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(FieldInvalid):
        kept({"event": name, "data": "x"})


def test_bytes_that_are_cut_go_on_with_what_follows() -> None:
    message = "message"
    assert kept(b"data: a", b"b\n", b"\n", "c") == [
        (message, {"value": "ab"}),
        (message, {"value": "c"}),
    ]
    # As a client reads it: a block that is open takes in the next item.
    assert kept(b"data: a\n", "b") == [(message, {"value": "a\nb"})]
    assert kept(b"data: a\r\r", {"data": 1}) == [(message, {"value": "a"}), (message, {"value": 1})]
    # A byte order mark is one at the very beginning of a stream only.
    assert kept(b"\xef\xbb\xbfdata: a\n\n") == []
    assert kept(b"data: never ended\n") == []
