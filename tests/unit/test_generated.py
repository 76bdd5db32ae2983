"""A generator as a run's work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tailrace.generated import discard, is_generated, operation
from tailrace.operations import Operation
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
    assert not is_generated(b"crunch")
    assert not is_generated(numbers)
    assert not is_generated(Operation(plain, start))
    await discard(items)


async def test_it_is_called_like_what_made_it() -> None:
    closed: list[str] = []
    items = numbers(closed)
    assert operation(items, start).name == "numbers"
    await discard(items)
    assert operation(plain([]), start).name == "plain"
    assert operation(Own(), start).name == "Own"
    assert operation([1], start).name == "list"


async def test_it_is_walked_and_closed() -> None:
    closed: list[str] = []
    made = operation(numbers(closed), start)
    assert made.kind is Kind.ASYNC_GENERATOR
    walk = made()
    assert await anext(walk) == 1
    await walk.aclose()
    assert closed == ["async"]
    made = operation(plain(closed), start)
    assert made.kind is Kind.GENERATOR
    walk = made()
    assert next(walk) == 1
    walk.close()
    assert closed == ["async", "plain"]
    assert list(operation([1, 2], start)()) == [1, 2]
    assert [item async for item in operation(Own(), start)()] == [1, 2]


async def test_what_is_never_begun_is_let_go() -> None:
    closed: list[str] = []
    await discard(numbers(closed))
    await discard(plain(closed))
    await discard([1])
    assert not closed
