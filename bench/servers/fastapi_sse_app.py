"""FastAPI's own server-sent events: path operations that yield typed items."""

# FastAPI reads the annotations of nested functions here, so they must not be strings.
import asyncio
import time
from collections.abc import AsyncIterable

import fastapi.sse
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from bench.servers.crowd import Crowd

# The interval has no setting; the others here send a keep-alive every five seconds too.
fastapi.sse._PING_INTERVAL = 5.0

# What the JSON has besides the filling, about.
FIXED = 48


class Item(BaseModel):
    p: int
    n: int
    t: int
    pad: str


def item(publisher: int, n: int, size: int) -> Item:
    return Item(p=publisher, n=n, t=time.monotonic_ns(), pad="x" * (size - FIXED))


app = FastAPI()
crowd = Crowd(item)
stored: list[Item] = []


@app.get("/events", response_class=EventSourceResponse)
async def events() -> AsyncIterable[Item]:
    queue = crowd.join()
    try:
        while True:
            yield await queue.get()
    finally:
        crowd.leave(queue)


@app.get("/one", response_class=EventSourceResponse)
async def one(size: int = 198) -> AsyncIterable[Item]:
    queue = crowd.join()
    try:
        yield item(0, 1, size)
        while True:
            yield await queue.get()
    finally:
        crowd.leave(queue)


@app.post("/publish")
async def publish(
    seconds: float, rate: float = 0, publishers: int = 1, size: int = 198
) -> dict[str, int]:
    return await crowd.publish(rate, seconds, publishers, size)


@app.get("/firehose", response_class=EventSourceResponse)
async def firehose(count: int, size: int = 198) -> AsyncIterable[Item]:
    for n in range(1, count + 1):
        yield item(0, n, size)


@app.get("/tokens", response_class=EventSourceResponse)
async def tokens(count: int, size: int = 198) -> AsyncIterable[Item]:
    for n in range(1, count + 1):
        yield item(0, n, size)
        if n % 10 == 0:
            await asyncio.sleep(0.01)


@app.post("/store")
async def store(count: int, size: int = 198) -> dict[str, int]:
    stored[:] = [item(0, n, size) for n in range(1, count + 1)]
    return {"stored": count}


@app.get("/replay", response_class=EventSourceResponse)
async def replay() -> AsyncIterable[Item]:
    for event in stored:
        yield event
