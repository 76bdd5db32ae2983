from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tailrace import RunContext, Tailrace
from tailrace.protocol.runs import RunQuery
from tailrace.protocol.wire import EVENT_STREAM
from tailrace.testing import ManualClock, StreamClient, drop_after
from tailrace.testing import watch as watches

pytestmark = pytest.mark.anyio

COUNT = 10


def resumable(*, pause: int | None = None, asked: list[dict[str, str]] | None = None) -> FastAPI:
    """Tells ten numbers, and goes on where its client was."""
    app = FastAPI()

    @app.get("/numbers")
    async def numbers(request: Request) -> Response:
        if asked is not None:
            asked.append(dict(request.headers))
        after = int(request.headers.get("last-event-id", "0"))
        if after >= COUNT:
            return Response(status_code=204)

        async def told() -> AsyncIterator[str]:
            if pause is not None:
                yield f"retry: {pause}\n\n"
            for number in range(after + 1, COUNT + 1):
                yield f"id: {number}\ndata: {number}\n\n"

        return StreamingResponse(told(), media_type=EVENT_STREAM)

    return app


def answering(status: int, content: str = "", kind: str = EVENT_STREAM) -> FastAPI:
    app = FastAPI()

    @app.get("/numbers")
    async def numbers() -> Response:
        return Response(content, status, media_type=kind)

    return app


@pytest.mark.parametrize(
    ("drop", "connections"),
    [
        (None, 2),
        (drop_after(3), 5),
        (drop_after(1), 11),
        (drop_after(bytes=20), 11),
        (drop_after(4, times=1), 3),
    ],
)
async def test_a_stream_that_is_cut_goes_on_where_it_was(drop: Any, connections: int) -> None:
    asked: list[dict[str, str]] = []
    async with (
        StreamClient(resumable(asked=asked)) as client,
        client.watch("/numbers", drop=drop, headers={"x-key": "k"}) as watch,
    ):
        assert [int(event.data) async for event in watch] == [*range(1, COUNT + 1)]
    assert watch.connections == connections == len(asked)
    assert len(watch.events) == COUNT
    assert watch.last_event_id == str(COUNT)
    assert "last-event-id" not in asked[0]
    assert asked[-1]["last-event-id"] == str(COUNT)
    assert {one["accept"] for one in asked} == {EVENT_STREAM}
    assert {one["x-key"] for one in asked} == {"k"}


@pytest.mark.parametrize("at", range(1, 60))
async def test_wherever_it_is_cut(at: int) -> None:
    fault = drop_after(bytes=at, times=1)
    async with (
        StreamClient(resumable()) as client,
        client.watch("/numbers", drop=fault) as watch,
    ):
        assert [int(event.data) async for event in watch] == [*range(1, COUNT + 1)]


async def test_it_may_begin_in_the_middle_and_be_cut_by_hand() -> None:
    async with (
        StreamClient(resumable()) as client,
        client.watch("/numbers", last_event_id="5", drop=drop_after(2, times=1)) as watch,
    ):
        watch.drop()
        assert (await watch.next()).data == "6"
        watch.drop()
        assert (await watch.until(lambda event: event.id == "8")).data == "8"
        assert watch.connections == 2


async def test_a_run_is_told_without_loss() -> None:
    runs = Tailrace("memory:", grace=0.1)
    app = FastAPI(lifespan=runs.lifespan)

    @runs.operation
    async def crunch(run: RunContext, rows: int) -> int:
        for row in range(rows):
            run.progress(row + 1, rows)
            await run.drain()
        return rows

    @app.get("/crunch")
    async def start(request: Request, rows: int) -> Response:
        return await runs.stream("crunch", request, {"rows": rows})

    async with (
        StreamClient(app) as client,
        client.watch("/crunch", params={"rows": "5"}, drop=drop_after(2)) as watch,
    ):
        types = [event.event async for event in watch]
        assert types == ["start", *["progress"] * 5, "complete"]
        assert len(await runs.find(RunQuery())) == 1


@pytest.mark.parametrize(("pace", "pause"), [(1.0, 40.0), (0.5, 20.0)])
async def test_it_waits_as_long_as_it_is_asked(pace: float, pause: float) -> None:
    async with (
        StreamClient(resumable(pause=40_000)) as client,
        client.watch("/numbers", drop=drop_after(1), pace=pace) as watch,
    ):
        assert watch.retry == 3000
        await watch.next()
        with ManualClock() as clock:
            reading = asyncio.create_task(watch.next())
            await clock.advance(pause - 10)
            assert not reading.done()
            await clock.advance(10)
            assert (await reading).data == "2"
        assert watch.retry == 40_000


async def test_a_long_pause_is_not_what_the_bound_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(watches, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(watches, "asyncio", SimpleNamespace(sleep=sleep))
    async with (
        StreamClient(resumable(pause=60_000)) as client,
        client.watch("/numbers", drop=drop_after(1), pace=1.0) as watch,
    ):
        assert [(await watch.next()).data for _ in range(3)] == ["1", "2", "3"]
    assert now == [120.0]


# --- what makes a browser give up ------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (answering(503, "busy", "text/plain"), "(?s)gives up.*503.*busy"),
        (answering(200, "{}", "application/json"), "(?s)no stream of events.*application/json"),
    ],
)
async def test_any_other_answer_is_the_end(app: FastAPI, why: str) -> None:
    async with StreamClient(app) as client, client.watch("/numbers") as watch:
        with pytest.raises(AssertionError, match=why):
            await watch.next()


async def test_a_stream_that_ends_without_saying_so_comes_back_for_ever() -> None:
    app = answering(200, "data: a\n\n")
    async with StreamClient(app) as client, client.watch("/numbers") as watch:
        with pytest.raises(AssertionError, match=r"(?s)ended the stream 100 times.*answer 204"):
            await watch.until("never")


async def test_a_connection_that_never_comes_to_an_event_has_a_bound() -> None:
    async with (
        StreamClient(resumable()) as client,
        client.watch("/numbers", drop=drop_after(bytes=5)) as watch,
    ):
        watch.within = 0.05
        with pytest.raises(AssertionError, match=r"(?s)In 0.05 s no event came.*connections: \d+"):
            await watch.next()
    assert watch.connections > 1


async def test_silence_has_a_bound_and_what_came_is_shown() -> None:
    app = FastAPI()

    @app.get("/numbers")
    async def numbers() -> Response:
        async def told() -> AsyncIterator[str]:
            yield "id: 1\ndata: a\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(told(), media_type=EVENT_STREAM)

    async with StreamClient(app) as client, client.watch("/numbers") as watch:
        await watch.next()
        with pytest.raises(AssertionError, match=r"(?s)In 0.1 s no event came.*1: message a"):
            await watch.next(0.1)


async def test_the_app_s_own_fault_is_raised() -> None:
    app = FastAPI()

    @app.get("/numbers")
    async def numbers() -> Response:
        raise ZeroDivisionError("why")

    async with StreamClient(app) as client, client.watch("/numbers") as watch:
        with pytest.raises(ZeroDivisionError, match="why"):
            await watch.next()
    async with StreamClient(app, raises=False) as client, client.watch("/numbers") as watch:
        with pytest.raises(AssertionError, match=r"(?s)gives up.*500"):
            await watch.next()
