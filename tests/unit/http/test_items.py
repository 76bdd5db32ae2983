"""Events to yield, and plain iterables in a thread."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.http import items
from tailrace.http.items import JSONServerSentEvent, ServerSentEvent, threaded
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


async def test_events_to_yield() -> None:
    event = ServerSentEvent("hi", event="x", id="1", retry=5, comment="c", sep="\r\n")
    assert (event.data, event.event, event.id, event.retry) == ("hi", "x", "1", 5)
    with pytest.raises(TypeError):
        ServerSentEvent("hi", "x")  # type: ignore[call-arg]
    assert JSONServerSentEvent("hi").data == b'"hi"'
    assert JSONServerSentEvent({"a": 1}, event="x").data == {"a": 1}
    assert JSONServerSentEvent(comment="c").data is None


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
    assert closed, "the thread has ended"


async def test_closing_waits_for_the_thread_and_raises_what_it_does() -> None:
    gate, waits = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield 1
            waits.set()
            gate.wait()
        finally:
            raise ZeroDivisionError

    walk: Any = threaded(numbers())
    assert await anext(walk) == 1
    await until(waits.is_set)
    closing = asyncio.ensure_future(walk.aclose())
    await turns()
    assert not closing.done()
    gate.set()
    with pytest.raises(ZeroDivisionError):
        await soon(closing)
    await walk.aclose()


async def test_who_stops_waiting_has_it_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate, waits = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield 1
            waits.set()
            gate.wait()
        finally:
            raise ZeroDivisionError("too late")

    walk: Any = threaded(numbers())
    assert await anext(walk) == 1
    await until(waits.is_set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(walk.aclose(), 0.01)
    gate.set()
    await until(lambda: "too late" in caplog.text)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopAsyncIteration])
async def test_nothing_that_it_raises_ends_the_loop(error: type[BaseException]) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise error

    walk = threaded(numbers())
    assert await anext(walk) == 1
    with pytest.raises(RuntimeError, match=error.__name__):
        await anext(walk)


async def test_what_is_never_asked_for_is_never_begun() -> None:
    walk: Any = threaded(iter(lambda: pytest.fail("it was begun"), None))
    await walk.aclose()
