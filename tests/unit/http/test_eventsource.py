"""A generator as a stream: what goes over the wire, and what becomes of the generator."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request

from tailrace import EventSourceResponse, JSONEventSourceResponse
from tailrace.errors import FieldInvalid
from tailrace.http import pump
from tailrace.http.pump import Pumps
from tests.visitor import Visitor
from tests.waiting import soon, turns, until

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
    # What came before it was not lost, and whoever watches knows why there is no more.
    failed = b'event: error\ndata: {"error":"The stream failed.","type":"ZeroDivisionError"}\n\n'
    assert visit.body == OPENING + b"data: one\n\n" + failed + b": end\n"
    assert visit.is_complete
    assert not Pumps.here()._pumps


async def test_an_error_of_ours_says_what_to_do() -> None:
    async def items() -> AsyncIterator[Any]:
        yield {"data": "x", "event": "a\nb"}

    visit = Visitor(app(items)).open("GET", "/")
    with contextlib.suppress(FieldInvalid):
        await visit.task
    assert b"event: error\n" in visit.body
    assert b"field-invalid" in visit.body


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


# --- what sse-starlette's takes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"ping": 0}, b""),
        (
            {"ping": 3, "ping_message_factory": lambda: {"event": "ping", "data": "!"}},
            b"event: ping\ndata: !\n\n",
        ),
    ],
)
async def test_no_ping_or_one_of_ones_own(options: dict[str, Any], sign: bytes) -> None:
    async def items() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    async with Visitor(app(items, **options)).visit("GET", "/") as visit:
        await visit.told(OPENING)
        Pumps.here().clock.beat(asyncio.get_running_loop().time() + 3600)
        await turns()
        assert visit.body == OPENING + sign


async def test_a_deadline_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[object] = []
    monkeypatch.setattr("tailrace.http.cut.cut", lambda *given: cuts.append(given))

    async def items() -> AsyncIterator[str]:
        while True:
            yield "x" * 10_000
            await asyncio.sleep(0)

    visit = Visitor(app(items, send_timeout=2)).open("GET", "/")
    await visit.told(b"xxx")
    visit.stall()
    (running,) = Pumps.here()._pumps
    await until(lambda: running._blocked is not None)
    now = asyncio.get_running_loop().time()
    Pumps.here().clock.beat(now + 3)
    assert cuts
    Pumps.here().clock.beat(now + 5)
    await until(lambda: visit.is_over)


async def test_a_generator_may_say_goodbye() -> None:
    going = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "one"
        await going.wait()
        yield "goodbye"

    options: dict[str, Any] = {"shutdown_event": going, "shutdown_grace_period": 5}
    visit = Visitor(app(items, **options)).open("GET", "/")
    await visit.told(b"one")
    Pumps.here().clock.drain()
    await visit.over()
    assert visit.body == OPENING + b"data: one\n\ndata: goodbye\n\nretry: 500\n: end\n"
    assert visit.is_complete


async def test_and_is_cancelled_after_its_grace() -> None:
    going = anyio.Event()

    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    options: dict[str, Any] = {"shutdown_event": going, "shutdown_grace_period": 5}
    visit = Visitor(app(items, **options)).open("GET", "/")
    await visit.told(b"one")
    clock = Pumps.here().clock
    clock.drain()
    await turns()
    assert going.is_set()
    assert not visit.is_over
    clock.beat(asyncio.get_running_loop().time() + 6)
    await visit.over()
    assert visit.body == OPENING + b"data: one\n\nretry: 500\n: end\n"


async def test_closing_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    class Slow:
        def __init__(self) -> None:
            self._left = ["one"]

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> str:
            if not self._left:
                raise StopAsyncIteration
            return self._left.pop()

        async def aclose(self) -> None:
            await asyncio.Event().wait()

    answer = await Visitor(app(Slow, cleanup_timeout=0.01)).get("/")
    assert answer.body.endswith(b"data: one\n\n: end\n")
    assert "to close" in caplog.text


async def left_at(visited: Any) -> None:
    """Read the first item, leave, and see the app to its end. Raises what it does."""
    async with visited.visit("GET", "/") as visit:
        await visit.told(b"one")


async def test_a_plain_generator_does_not_outlive_its_request() -> None:
    ended: list[str] = []

    def items() -> Iterator[str]:
        try:
            while True:
                yield "one"
                time.sleep(0.001)
        finally:
            time.sleep(0.05)
            ended.append("closed")

    await left_at(Visitor(app(items)))
    assert ended == ["closed"]


async def test_a_thread_that_does_not_end_is_waited_for_no_longer_than_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, waits = threading.Event(), threading.Event()

    def items() -> Iterator[str]:
        yield "one"
        waits.set()
        gate.wait()

    try:
        async with Visitor(app(items, cleanup_timeout=0.01)).visit("GET", "/") as visit:
            await visit.told(b"one")
            await until(waits.is_set)
        assert caplog.text.count("A generator took over 0.01 s to close") == 1
    finally:
        gate.set()


async def test_nor_is_a_generator_that_does_not_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def items() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    await left_at(Visitor(app(items, cleanup_timeout=0.01)))
    assert caplog.text.count("A generator took over 0.01 s to close") == 1
    # It is not held against who waits for something else in the same task.
    visit = Visitor(app(items, cleanup_timeout=0.01)).open("GET", "/")
    await visit.told(b"one")
    Pumps.here().clock.drain()
    await visit.over()
    assert visit.body.endswith(b"retry: 500\n: end\n")


async def test_what_a_plain_generator_raises_at_its_closing_is_not_lost() -> None:
    def items() -> Iterator[str]:
        try:
            while True:
                yield "one"
                time.sleep(0.001)
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await left_at(Visitor(app(items)))


async def test_nor_what_feeds_it(caplog: pytest.LogCaptureFixture) -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    async def feed() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError("fed up")

    await left_at(Visitor(app(items, data_sender_callable=feed)))
    assert "fed up" in caplog.text


async def test_who_feeds_it_has_as_long_to_end(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()
    ended: list[str] = []

    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    async def feed() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()
            ended.append("fed")

    await left_at(Visitor(app(items, data_sender_callable=feed, cleanup_timeout=0.01)))
    assert "took over 0.01 s to end" in caplog.text
    gate.set()
    await until(lambda: ended)


async def test_a_generator_that_awaits_what_was_cancelled_has_failed() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        waiting = asyncio.ensure_future(asyncio.Event().wait())
        waiting.cancel()
        await waiting

    visit = Visitor(app(items)).open("GET", "/")
    with pytest.raises(RuntimeError, match="awaited what was cancelled"):
        await soon(visit.task)
    failed = b'event: error\ndata: {"error":"The stream failed.","type":"CancelledError"}\n\n'
    assert visit.body == OPENING + b"data: one\n\n" + failed + b": end\n"


async def test_a_ping_that_fails_is_a_comment_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[bool] = []

    async def items() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    def sign() -> str:
        called.append(True)
        raise ZeroDivisionError

    async with Visitor(app(items, ping=3, ping_message_factory=sign)).visit("GET", "/") as visit:
        await visit.told(OPENING)
        clock, now = Pumps.here().clock, asyncio.get_running_loop().time()
        for hour in (1, 2):
            clock.beat(now + 3600 * hour)
            await turns()
        assert visit.body == OPENING + b": keep-alive\n" * 2
    assert len(called) == 1
    assert caplog.text.count("ping_message_factory failed") == 1


async def test_data_from_elsewhere() -> None:
    ended: list[str] = []

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        give, take = anyio.create_memory_object_stream[str](1)

        async def feed() -> None:
            async with give:
                for number in range(3):
                    await give.send(f"number {number}")
            ended.append("fed")

        await EventSourceResponse(take, data_sender_callable=feed)(scope, receive, send)
        await take.aclose()

    answer = await Visitor(served).get("/")
    told = b"".join(b"data: number %d\n\n" % number for number in range(3))
    assert answer.body == OPENING + told + b": end\n"
    assert ended == ["fed"]


async def test_who_feeds_it_may_fail() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    async def feed() -> None:
        await turns()
        raise ZeroDivisionError

    visit = Visitor(app(items, data_sender_callable=feed)).open("GET", "/")
    with contextlib.suppress(ZeroDivisionError):
        await visit.task
    assert isinstance(visit.task.exception(), ZeroDivisionError)
    assert visit.body.count(b"event: error") == 1


async def test_it_is_told_who_leaves_and_not_who_has_it_all() -> None:
    told: list[Any] = []

    async def left(message: Any) -> None:
        told.append(message)

    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    options: dict[str, Any] = {"client_close_handler_callable": left}
    await Visitor(app(lambda: ["one"], **options)).get("/")
    assert not told
    async with Visitor(app(items, **options)).visit("GET", "/") as visit:
        await visit.told(b"one")
    await until(lambda: visit.is_over)
    assert told == [{"type": "http.disconnect"}]


async def test_head_begins_nothing() -> None:
    begun: list[bool] = []

    async def items() -> AsyncIterator[str]:
        begun.append(True)
        yield "one"

    answer = await Visitor(app(items)).ask("HEAD", "/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body == b""
    assert answer.is_complete
    assert not begun


async def test_a_refused_websocket() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    await EventSourceResponse(["no"], 403)({"type": "websocket"}, receive, send)
    assert {message["type"] for message in sent} == {
        "websocket.http.response.start",
        "websocket.http.response.body",
    }


async def test_every_item_as_json() -> None:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        await JSONEventSourceResponse(["one", {"data": 2}])(scope, receive, send)

    answer = await Visitor(served).get("/")
    assert answer.body == OPENING + b'data: "one"\n\ndata: {"data":2}\n\n: end\n'


async def test_a_media_type_of_ones_own() -> None:
    answer = await Visitor(app(list, media_type="text/event-stream; charset=UTF-8")).get("/")
    assert answer.headers["content-type"] == "text/event-stream; charset=UTF-8"


@pytest.mark.parametrize(
    "option",
    [{"sep": "\t"}, {"ping": -1}, {"send_timeout": float("nan")}, {"cleanup_timeout": -1},
     {"shutdown_grace_period": -0.1}],
)  # fmt: skip
def test_what_cannot_be_meant(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        EventSourceResponse([], **option)


def test_the_bounds() -> None:
    assert pump.LINGER_SECONDS == 0.005
