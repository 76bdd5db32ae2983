"""A generator as a run's work."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tailrace.errors import RunCancelled
from tailrace.generated import discard, is_generated, operation
from tailrace.operations import Operation
from tailrace.runners.contract import AMBIENT, Sink
from tailrace.runners.function import Kind

pytestmark = pytest.mark.anyio


async def start(*_: Any) -> Any:
    raise NotImplementedError


async def numbers(closed: list[str]) -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        closed.append("async")


def plain(closed: list[str]) -> Iterator[int]:
    try:
        yield 1
        yield 2
    finally:
        closed.append("plain")


class Notes(Sink):
    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        raise NotImplementedError

    async def ebb(self) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError


class Own:
    def __aiter__(self) -> AsyncIterator[int]:
        return numbers([])


async def test_what_yields() -> None:
    closed: list[str] = []
    items = numbers(closed)
    assert is_generated(items)
    assert is_generated([1])
    assert is_generated(Own())
    assert not is_generated("crunch")
    assert not is_generated(Operation(plain, start))
    await discard(items)


class Point(BaseModel):
    x: int = 0


async def crunch() -> int:
    return 1


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (numbers, r"call it, stream\(numbers\(\), request\)"),
        (plain, r"call it, stream\(plain\(\), request\)"),
        (crunch, "put @runs.operation before it"),
        (Point, "put @runs.operation before it"),
        ({"a": 1}, "not of dict"),
        (UserDict({"a": 1}), "not of UserDict"),
        (Point(), "not of Point"),
        (b"crunch", "not of bytes"),
        (None, "not of NoneType"),
    ],
    ids=lambda given: getattr(given, "__name__", type(given).__name__),
)
async def test_what_does_not(given: object, fix: str) -> None:
    with pytest.raises(TypeError, match=fix):
        is_generated(given)


async def test_a_coroutine_does_not_and_is_not_said_to_be_forgotten() -> None:
    with pytest.raises(
        TypeError, match=r"crunch was called already.*make the function an operation"
    ):
        is_generated(crunch())
    with pytest.raises(TypeError, match="called already"):
        is_generated(asyncio.get_running_loop().create_future())


async def test_it_is_called_like_what_made_it() -> None:
    closed: list[str] = []
    items = numbers(closed)
    assert operation(items, start).name == "numbers()"
    await discard(items)
    assert operation(plain([]), start).name == "plain()"
    assert operation(Own(), start).name == "Own()"
    assert operation([1], start).name == "list()"


async def test_it_is_walked_and_closed() -> None:
    closed: list[str] = []
    made = operation(numbers(closed), start)
    assert made.kind is Kind.ASYNC_GENERATOR
    walk = made()
    assert await anext(walk) == ("message", {"value": 1})
    await walk.aclose()
    assert closed == ["async"]
    made = operation(plain(closed), start)
    assert made.kind is Kind.GENERATOR
    walk = made()
    assert next(walk) == ("message", {"value": 1})
    walk.close()
    assert closed == ["async", "plain"]
    both = [("message", {"value": 1}), ("message", {"value": 2})]
    assert list(operation([1, 2], start)()) == both
    assert [item async for item in operation(Own(), start)()] == both


async def test_an_item_is_an_event_or_some_or_none() -> None:
    items = [("step", {"n": 1}), {"comment": "c"}, b"data: a\n\ndata: b\n\n"]
    assert list(operation(items, start)()) == [
        ("step", {"n": 1}),
        ("message", {"value": "a"}),
        ("message", {"value": "b"}),
    ]


async def test_one_that_tells_nothing_learns_that_it_should_stop() -> None:
    closed: list[str] = []

    def comments() -> Iterator[Any]:
        try:
            while True:
                yield {"comment": "x"}
        finally:
            closed.append("closed")

    sink = Notes()
    sink.request_stop()
    token = AMBIENT.set(sink)
    try:
        with pytest.raises(RunCancelled):
            next(operation(comments(), start)())
    finally:
        AMBIENT.reset(token)
    assert closed == ["closed"]


async def test_what_is_never_begun_is_let_go() -> None:
    closed: list[str] = []
    await discard(numbers(closed))
    await discard(plain(closed))
    await discard([1])
    assert not closed
