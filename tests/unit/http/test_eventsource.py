"""A generator as a stream: what goes over the wire, and what becomes of the generator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request

from tailrace import EventSourceResponse
from tailrace.http import pump
from tailrace.http.pump import Pumps
from tests.visitor import Visitor
from tests.waiting import turns, until

pytestmark = pytest.mark.anyio

OPENING = b": tailrace\nretry: 1000\n"
Make = Callable[[], Any]


def app(make: Make, **options: Any) -> Any:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await EventSourceResponse(make(), **options)(scope, receive, send)

    return served


async def test_the_whole_of_it() -> None:
    async def items() -> AsyncIterator[Any]:
        yield "one"
        yield {"data": "two", "event": "x"}
        await asyncio.sleep(0)
        yield {"three": 3}

    answer = await Visitor(app(items, headers={"x-mine": "1"}, status_code=203)).get("/")
    assert answer.status == 203
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-mine"] == "1"
    assert "content-length" not in answer.headers
    told = b'data: one\n\nevent: x\ndata: two\n\ndata: {"three":3}\n\n'
    assert answer.body == OPENING + told + b": end\n"
    assert answer.is_complete
    assert not Pumps.here()._pumps


async def test_a_header_of_ones_own_wins() -> None:
    answer = await Visitor(app(list, headers={"Cache-Control": "no-store"})).get("/")
    assert answer.headers["cache-control"] == "no-store"


async def test_what_is_yielded_without_waiting_leaves_in_one_send() -> None:
    gate = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        for number in range(500):
            yield f"number {number}"
        await gate.wait()
        yield "later"

    visit = Visitor(app(items)).open("GET", "/")
    await visit.told(b"number 499")
    gate.set()
    await visit.over()
    assert [chunk.count(b"data: ") for chunk in visit.chunks] == [0, 500, 1, 0]


async def test_the_first_byte_comes_before_the_first_item() -> None:
    async def items() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    async with Visitor(app(items)).visit("GET", "/") as visit:
        await visit.told(OPENING)


async def test_a_lone_item_goes_at_once_and_a_busy_stream_gathers() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def items() -> AsyncIterator[str]:
        await gates[0].wait()
        yield "a"
        for number in range(20):
            await asyncio.sleep(0)
            yield f"b{number};"
        await gates[1].wait()
        yield "c"

    async with Visitor(app(items)).visit("GET", "/") as visit:
        await visit.told(OPENING)
        gates[0].set()
        await visit.told(b"a\n\n")
        assert visit.chunks[1] == b"data: a\n\n"
        await visit.told(b"b19;")
        assert len(visit.chunks) <= 4
        gates[1].set()
        await visit.over()
        assert visit.body.count(b"data: ") == 22


async def test_a_plain_generator() -> None:
    def items() -> Iterator[str]:
        yield "one"
        yield "two"

    answer = await Visitor(app(items)).get("/")
    assert answer.body == OPENING + b"data: one\n\ndata: two\n\n: end\n"


async def test_who_leaves_cancels_the_generator() -> None:
    ends: list[object] = []

    async def items() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ends.append(error)
            raise
        finally:
            await asyncio.sleep(0)
            ends.append("closed")

    async with Visitor(app(items)).visit("GET", "/") as visit:
        await visit.told(b"one")
    await until(lambda: visit.is_over)
    assert [type(end) for end in ends] == [asyncio.CancelledError, str]
    assert not visit.is_complete
    assert not Pumps.here()._pumps


async def test_who_leaves_in_the_midst_of_a_rush_ends_it() -> None:
    made: list[int] = []

    async def items() -> AsyncIterator[str]:
        number = 0
        while True:
            number += 1
            made.append(number)
            yield f"number {number}"

    async with Visitor(app(items)).visit("GET", "/") as visit:
        await visit.told(b"number 5")
    await until(lambda: visit.is_over)
    seen = len(made)
    await turns()
    assert len(made) == seen


async def test_a_server_that_goes_away() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    visit = Visitor(app(items)).open("GET", "/")
    await visit.told(b"one")
    Pumps.here().clock.drain()
    await visit.over()
    assert visit.is_complete
    assert visit.body == OPENING + b"data: one\n\nretry: 500\n: end\n"
    # And the next one is served again.
    async with Visitor(app(items)).visit("GET", "/") as again:
        await again.told(b"one")


async def test_a_silent_stream_is_kept_alive() -> None:
    async def items() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    async with Visitor(app(items, ping=3)).visit("GET", "/") as visit:
        await visit.told(OPENING)
        clock = Pumps.here().clock
        now = asyncio.get_running_loop().time()
        clock.beat(now + 2)
        assert visit.body == OPENING
        clock.beat(now + 4)
        await visit.told(b": keep-alive\n")


async def test_what_it_raises_is_the_servers_to_know() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        raise ZeroDivisionError

    visit = Visitor(app(items)).open("GET", "/")
    with contextlib.suppress(ZeroDivisionError):
        await visit.task
    assert isinstance(visit.task.exception(), ZeroDivisionError)
    assert not visit.is_complete
    assert not Pumps.here()._pumps


async def test_a_client_that_does_not_read_holds_the_generator() -> None:
    made: list[int] = []

    async def items() -> AsyncIterator[str]:
        for number in range(10_000):
            made.append(number)
            yield "x" * 1000
            await asyncio.sleep(0)

    visit = Visitor(app(items)).open("GET", "/")
    await visit.told(b"xxx")
    visit.stall()
    await until(lambda: len(made) > 50)
    for _ in range(300):
        await turns()
    assert len(made) < 1000
    visit.go_on()
    await visit.over()
    assert visit.body.count(b"data: ") == 10_000


async def test_one_that_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[object] = []
    monkeypatch.setattr("tailrace.http.cut.cut", lambda *given: cuts.append(given))

    async def items() -> AsyncIterator[str]:
        while True:
            yield "x" * 10_000
            await asyncio.sleep(0)

    visit = Visitor(app(items)).open("GET", "/")
    await visit.told(b"xxx")
    visit.stall()
    clock = Pumps.here().clock
    (running,) = Pumps.here()._pumps
    await until(lambda: running._blocked is not None)
    now = asyncio.get_running_loop().time()
    clock.beat(now + 31)
    assert cuts
    clock.beat(now + 33)
    await until(lambda: visit.is_over)


async def test_background_work_comes_after() -> None:
    done: list[str] = []
    background = BackgroundTask(done.append, "done")
    await Visitor(app(lambda: ["one"], background=background)).get("/")
    assert done == ["done"]


def test_the_bounds() -> None:
    assert pump.LINGER_SECONDS == 0.005
