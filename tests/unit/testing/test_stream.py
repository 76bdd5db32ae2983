from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace import EventSourceResponse
from tailrace.protocol.wire import EVENT_STREAM
from tailrace.testing import drop_after
from tailrace.testing.exchange import asked
from tailrace.testing.stream import ROOM_BYTES, Stream
from tests.waiting import soon, turns

pytestmark = pytest.mark.anyio


def opened(app: ASGIApp, **options: Any) -> Stream:
    return Stream(app, *asked("GET", "/numbers"), **options)


def events(*chunks: str | BaseException, ends: bool = True) -> StreamingResponse:
    async def told() -> AsyncIterator[str]:
        for chunk in chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
        if not ends:
            await asyncio.Event().wait()

    return StreamingResponse(told(), media_type=EVENT_STREAM)


def numbers(count: int) -> list[str]:
    return [f"id: {number}\ndata: {number}\n\n" for number in range(1, count + 1)]


# --- reading ---------------------------------------------------------------------------


async def test_what_comes_is_parsed() -> None:
    stream = opened(events(": hello\nretry: 700\n\nid: 1\nevent: row\nda", 'ta: {"n": 1}\n\n'))
    await stream.opened()
    assert stream.status == 200
    event = await stream.next()
    assert (event.id, event.event, event.json) == ("1", "row", {"n": 1})
    assert [one async for one in stream] == []
    assert stream.events == [event]
    assert stream.comments == ["hello"]
    assert (stream.retry, stream.last_event_id) == (700, "1")
    await stream.end()


async def test_an_id_stays_in_force_across_connections() -> None:
    stream = opened(events("data: a\n\n"), last_event_id="7")
    assert (await stream.next()).id == "7"
    await stream.end()


async def test_an_answer_without_an_end_is_read_as_far_as_one_likes() -> None:
    stream = opened(events(*numbers(3), ends=False))
    assert (await stream.until(lambda event: event.data == "2")).id == "2"
    assert (await stream.next()).id == "3"
    with pytest.raises(AssertionError, match=r"(?s)In 0.05 s no event came.*GET /numbers.*3: mess"):
        await stream.next(0.05)
    await stream.end()
    assert stream.has_left


@pytest.mark.parametrize("is_threaded", [False, True])
async def test_a_generator_that_never_waits_lets_the_test_go_on(*, is_threaded: bool) -> None:
    def forever() -> Any:
        while True:
            yield "data: x\n\n"

    async def for_ever() -> AsyncIterator[str]:
        for item in forever():
            yield item

    told = forever() if is_threaded else for_ever()
    stream = opened(StreamingResponse(told, media_type=EVENT_STREAM))
    for _ in range(100):
        await stream.next()
    await turns(100)
    assert len(stream.body) <= ROOM_BYTES + 100
    await stream.end()


async def test_text_that_is_no_event_is_waited_for() -> None:
    stream = opened(events(": one\n", ": two\n", ends=False))
    await stream.told(": two")
    with pytest.raises(AssertionError, match=r"In 0.05 s ': three' did not come"):
        await stream.told(": three", 0.05)
    await stream.end()
    stream = opened(events(": one\n"))
    with pytest.raises(AssertionError, match="ended, and ': two' did not come"):
        await stream.told(": two")
    await stream.end()


async def test_other_formats_have_lines() -> None:
    async def told() -> AsyncIterator[str]:
        for chunk in ('{"n":', '1}\n{"n":2}\r\n\nre', "st"):
            yield chunk
            await asyncio.sleep(0)

    stream = opened(StreamingResponse(told(), media_type="application/x-ndjson"))
    await stream.opened()
    assert [line async for line in stream.lines()] == ['{"n":1}', '{"n":2}', "", "rest"]
    await stream.end()


async def test_lines_are_waited_for_with_a_bound() -> None:
    stream = opened(events("one\n", "tw", ends=False))
    lines = stream.lines()
    assert await anext(lines) == "one"
    stream.within = 0.05
    with pytest.raises(AssertionError, match=r"In 0.05 s no line came"):
        await anext(lines)
    stream.within = 5.0
    await stream.end()


@pytest.mark.parametrize("answer", [JSONResponse({"detail": "no"}, 404), Response("hello")])
async def test_what_is_no_stream_says_what_it_is(answer: Response) -> None:
    stream = opened(answer)
    await stream.opened()
    with pytest.raises(AssertionError, match=r"(?s)no stream of events.*(404.*detail|200.*hello)"):
        await stream.next()
    await stream.finished()
    await stream.end()


async def test_nothing_at_all_is_a_stream_that_is_over() -> None:
    stream = opened(Response(status_code=204))
    assert [event async for event in stream] == []
    await stream.end()


# --- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_it_breaks_after_so_many_events(size: int) -> None:
    chunks = "".join(numbers(5))
    told = events(*[chunks[at : at + size] for at in range(0, len(chunks), size)], ends=False)
    stream = opened(told, drop=drop_after(3))
    assert [event.id async for event in stream] == ["1", "2", "3"]
    assert stream.has_left
    assert not stream.is_complete
    await stream.end()


async def test_it_breaks_in_the_middle_of_an_event() -> None:
    stream = opened(events(*numbers(2)), drop=drop_after(bytes=25))
    assert [event.id async for event in stream] == ["1"]
    assert stream.last_event_id == "1"
    assert stream.body == "".join(numbers(2)).encode()[:25]
    await stream.end()


async def test_it_breaks_before_anything_has_come() -> None:
    stream = opened(events(ends=False), drop=drop_after(0))
    await stream.opened()
    assert [event async for event in stream] == []
    await stream.end()


async def test_a_stalled_client_reads_nothing() -> None:
    stream = opened(EventSourceResponse(asked_for := Counted()), within=5)
    await stream.until(lambda event: event.data == "3")
    stream.stall()
    await asyncio.sleep(0.02)
    await turns()
    before = (len(stream.events), asked_for.count)
    await asyncio.sleep(0.02)
    assert len(stream.events) == before[0]
    stream.resume()
    await stream.until(lambda event: int(event.data) > before[0])
    await stream.end()
    assert asked_for.is_closed


class Counted:
    """Tells numbers, one every millisecond, and whether it was closed."""

    def __init__(self) -> None:
        self.count = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            while True:
                self.count += 1
                yield self.count
                await asyncio.sleep(0.001)
        finally:
            self.is_closed = True


# --- the app's own faults ----------------------------------------------------------------


async def test_what_the_app_raises_is_raised_once_all_was_read() -> None:
    stream = opened(events("data: a\n\n", ZeroDivisionError("why")))
    assert (await stream.next()).data == "a"
    await soon(asyncio.wait((stream.task,)))
    with pytest.raises(BaseException, match="why"):
        await stream.next()
    await stream.end()


async def test_what_the_app_raises_at_its_end_is_raised_at_the_end() -> None:
    async def told() -> AsyncIterator[str]:
        yield "a"
        raise ZeroDivisionError("why")

    stream = opened(EventSourceResponse(told()))
    assert [event.event async for event in stream] == ["message", "error"]
    with pytest.raises(ZeroDivisionError, match="why"):
        await stream.end()
    await stream.end()


async def test_what_the_app_raises_may_be_overlooked() -> None:
    stream = opened(events("data: a\n\n", ZeroDivisionError("why")), raises=False)
    assert [event.data async for event in stream] == ["a"]
    await stream.end()
    stream = opened(events("data: a\n\n", ZeroDivisionError("why")))
    await stream.next()
    await stream.end(is_failing=True)


async def test_an_app_without_an_answer_fails_the_test() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("why")

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    with pytest.raises(AssertionError, match="GET /numbers: the app has returned without an answ"):
        await opened(silent).opened()
    with pytest.raises(ZeroDivisionError, match="why"):
        await opened(broken, raises=False).opened()
    stream = opened(stuck, within=0.05)
    with pytest.raises(AssertionError, match=r"(?s)In 0.05 s the answer did not begin.*no answer"):
        await stream.opened()
    await stream.end()


async def test_an_app_that_goes_on_without_its_client_fails_the_test() -> None:
    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    stream = opened(deaf)
    await stream.opened()
    stream.within = 0.05
    with pytest.raises(AssertionError, match=r"has left, and 0.05 s later the app still goes on"):
        await stream.end()
    assert stream.task.cancelled()
    stream = opened(deaf)
    await stream.opened()
    stream.within = 0.05
    await stream.end(is_failing=True)


async def test_what_an_app_does_after_its_answer_is_waited_for() -> None:
    done: list[int] = []

    async def afterwards() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    answer = Response("hello", background=BackgroundTask(afterwards))
    stream = opened(answer)
    await stream.finished()
    await stream.end()
    assert done == [1]
    assert not stream.has_left


async def test_an_endless_answer_is_no_plain_one() -> None:
    stream = opened(events("data: a\n\n", ends=False))
    with pytest.raises(AssertionError, match=r"did not end; .*client\.stream"):
        await stream.finished(0.05)
    await stream.end()
