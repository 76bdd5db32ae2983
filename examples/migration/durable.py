"""An app that streams: what one finds in many of them, an endpoint for each.

    uvicorn examples.migration.before:app

`before.py` streams with sse-starlette. `after.py` is the same file with another import.
`durable.py` is that one again, with a stream that goes on when its client leaves.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from fastapi import FastAPI, Request
from tailrace import EventSourceResponse, JSONServerSentEvent, ServerSentEvent, Tailrace
from starlette.background import BackgroundTask
from starlette.responses import Response

runs = Tailrace()
app = FastAPI(lifespan=runs.lifespan)

happened: list[str] = []


@app.get("/happened")
async def show() -> list[str]:
    """What the generators went through."""
    return happened


# --- an endless one, which looks whether somebody is there ----------------------------------------


@app.get("/clock")
async def clock(request: Request, pause: float = 1.0) -> Response:
    """The time, until the client leaves."""

    async def ticks() -> AsyncIterator[dict[str, Any]]:
        number = 0
        try:
            while not await request.is_disconnected():
                number += 1
                yield {"event": "tick", "id": str(number), "data": f"tick {number}"}
                await asyncio.sleep(pause)
        finally:
            happened.append("clock: left")

    return EventSourceResponse(ticks())


# --- one that ends, with everything that an event may have ----------------------------------------


@app.get("/countdown/{start}")
async def countdown(request: Request, start: int, pause: float = 0.05) -> Response:
    """Down to zero."""

    async def numbers() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(comment="here it goes", retry=3000)
        for number in range(start, 0, -1):
            yield ServerSentEvent(str(number), event="number", id=f"n{number}")
            await asyncio.sleep(pause)
        yield ServerSentEvent("Lift-off!\nWe have a lift-off.", event="end", id="n0")

    return await runs.stream(numbers(), request)


@app.post("/orders")
async def orders(request: Request) -> Response:
    """What was ordered, line by line; an answer to a POST, read by `fetch`."""
    lines = (await request.json())["lines"]

    async def confirmed() -> AsyncIterator[Any]:
        for number, line in enumerate(lines, 1):
            yield JSONServerSentEvent({"line": line, "number": number}, event="line")
        yield {"event": "end", "data": json.dumps({"lines": len(lines)})}

    return EventSourceResponse(confirmed(), status_code=201, headers={"X-Orders": str(len(lines))})


@app.get("/lines")
def lines(count: int = 3) -> Response:
    """A plain generator, walked in a thread."""

    def read() -> Iterator[str]:
        for number in range(count):
            yield f"line {number}"

    return EventSourceResponse(read(), sep="\n")


# --- fed by somebody else -------------------------------------------------------------------------


@app.get("/fed")
async def fed(count: int = 3) -> Response:
    """A memory stream, and who writes into it."""
    give, take = anyio.create_memory_object_stream[dict[str, Any]](1)

    async def feed() -> None:
        async with give:
            for number in range(count):
                await give.send({"data": f"item {number}"})
                await asyncio.sleep(0.01)

    return EventSourceResponse(take, data_sender_callable=feed)


# --- silence, slow clients, and the end of the server ---------------------------------------------


@app.get("/quiet")
async def quiet(request: Request) -> Response:
    """Nothing, but signs of life."""

    async def nothing() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    def sign() -> ServerSentEvent:
        return ServerSentEvent(comment="still here")

    return EventSourceResponse(nothing(), ping=1, ping_message_factory=sign)


@app.get("/heavy")
async def heavy(request: Request) -> Response:
    """More than a client can take who does not read."""

    async def much() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 50_000
                await asyncio.sleep(0.001)
        finally:
            happened.append("heavy: over")

    return EventSourceResponse(much(), send_timeout=1)


@app.get("/session")
async def session(request: Request) -> Response:
    """Says goodbye when the server ends; knows who left; cleans up behind itself."""
    ending = anyio.Event()

    async def talk() -> AsyncIterator[dict[str, str]]:
        yield {"event": "hello", "data": "hello"}
        await ending.wait()
        yield {"event": "goodbye", "data": "come back soon"}

    async def left(message: Any) -> None:
        happened.append(f"session: {message['type']}")

    return EventSourceResponse(
        talk(),
        background=BackgroundTask(happened.append, "session: over"),
        client_close_handler_callable=left,
        shutdown_event=ending,
        shutdown_grace_period=3,
    )
