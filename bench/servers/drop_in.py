"""Tailrace's `EventSourceResponse` in a FastAPI app: no run, no log, a generator is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from bench.servers.payload import text
from tailrace import EventSourceResponse  # type: ignore[attr-defined, unused-ignore]

app = FastAPI()
stored: list[str] = []


@app.get("/firehose")
async def firehose(count: int, size: int = 198) -> Any:
    async def all_at_once() -> AsyncIterator[Any]:
        for n in range(1, count + 1):
            yield {"data": text(0, n, size)}

    return EventSourceResponse(all_at_once())


@app.get("/tokens")
async def tokens(count: int, size: int = 198) -> Any:
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
async def replay() -> Any:
    async def history() -> AsyncIterator[Any]:
        for event in stored:
            yield {"data": event}

    return EventSourceResponse(history())


@app.get("/one")
async def one(size: int = 198) -> Any:
    async def first() -> AsyncIterator[Any]:
        yield {"data": text(0, 1, size)}
        await asyncio.Event().wait()

    return EventSourceResponse(first())
