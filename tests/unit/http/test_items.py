import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import fastapi.sse
import pytest
from pydantic import BaseModel

from tailrace.errors import FieldInvalid
from tailrace.http import items
from tailrace.http.items import JSONServerSentEvent, framed, framed_as_json, threaded
from tailrace.http.items import ServerSentEvent as OurEvent
from tests.waiting import until

pytestmark = pytest.mark.anyio


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


# --- plain iterables -----------------------------------------------------------------------


async def test_a_plain_iterable_is_walked_in_a_thread_with_our_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("ours")

    def items() -> Iterator[tuple[str, bool]]:
        for _ in range(3):
            yield variable.get(), threading.current_thread() is threading.main_thread()

    assert [item async for item in threaded(items())] == [("ours", False)] * 3
    assert [item async for item in threaded([])] == []


async def test_what_it_raises_comes_after_what_it_yielded() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    walk = aiter(threaded(items()))
    assert await anext(walk) == 1
    with pytest.raises(ZeroDivisionError):
        await anext(walk)


async def test_it_goes_ahead_but_not_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_AHEAD", 10)
    made: list[int] = []
    closed: list[bool] = []

    def numbers() -> Iterator[int]:
        try:
            for number in range(1_000_000):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    walk = threaded(numbers())
    assert await anext(walk) == 0
    await until(lambda: len(made) >= 11)
    assert len(made) <= 23
    await walk.aclose()  # type: ignore[attr-defined]
    await until(lambda: closed)
