"""FastAPI with sse-starlette."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse

from bench.servers.crowd import Crowd
from bench.servers.payload import text

PING = 5

app = FastAPI()
crowd = Crowd(text)
stored: list[str] = []


async def watch(queue: asyncio.Queue[str], first: str | None = None) -> AsyncIterator[Any]:
    try:
        if first is not None:
            yield {"data": first}
        while True:
            yield {"data": await queue.get()}
    finally:
        crowd.leave(queue)


@app.get("/events")
async def events() -> EventSourceResponse:
    return EventSourceResponse(watch(crowd.join()), ping=PING)


@app.get("/one")
async def one(size: int = 198) -> EventSourceResponse:
    return EventSourceResponse(watch(crowd.join(), text(0, 1, size)), ping=PING)


@app.post("/publish")
async def publish(
    seconds: float, rate: float = 0, publishers: int = 1, size: int = 198
) -> dict[str, int]:
    return await crowd.publish(rate, seconds, publishers, size)


@app.post("/say")
async def say(request: Request) -> dict[str, int]:
    event = (await request.body()).decode()
    for queue in tuple(crowd.queues):
        queue.put_nowait(event)
    return {"published": 1}


@app.get("/firehose")
async def firehose(count: int, size: int = 198) -> EventSourceResponse:
    async def all_at_once() -> AsyncIterator[Any]:
        for n in range(1, count + 1):
            yield {"data": text(0, n, size)}

    return EventSourceResponse(all_at_once())


@app.get("/tokens")
async def tokens(count: int, size: int = 198) -> EventSourceResponse:
    async def paced() -> AsyncIterator[Any]:
        for n in range(1, count + 1):
            yield {"data": text(0, n, size)}
            if n % 10 == 0:
                await asyncio.sleep(0.01)

    return EventSourceResponse(paced())


@app.post("/store")
async def store(count: int, size: int = 198) -> dict[str, int]:
    stored[:] = [text(0, n, size) for n in range(1, count + 1)]
    return {"stored": count}


@app.get("/replay")
async def replay() -> EventSourceResponse:
    async def history() -> AsyncIterator[Any]:
        for event in stored:
            yield {"data": event}

    return EventSourceResponse(history())


@app.post("/busy")
def busy(seconds: float) -> dict[str, int]:
    # Not a coroutine: FastAPI runs it in a thread, as it says to do with blocking work.
    end, turns = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turns += 1
    return {"turns": turns}
