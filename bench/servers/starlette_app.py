"""Starlette's own StreamingResponse, with the framing written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from bench.servers.crowd import Crowd
from bench.servers.payload import text

crowd = Crowd(text)
stored: list[str] = []


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"cache-control": "no-cache"}
    )


def count_and_size(request: Request) -> tuple[int, int]:
    return int(request.query_params["count"]), int(request.query_params.get("size", 198))


async def watch(queue: asyncio.Queue[str], first: str | None = None) -> AsyncIterator[str]:
    try:
        if first is not None:
            yield f"data: {first}\n\n"
        while True:
            yield f"data: {await queue.get()}\n\n"
    finally:
        crowd.leave(queue)


async def events(request: Request) -> StreamingResponse:
    return stream(watch(crowd.join()))


async def one(request: Request) -> StreamingResponse:
    return stream(watch(crowd.join(), text(0, 1, 198)))


async def publish(request: Request) -> JSONResponse:
    asked = request.query_params
    return JSONResponse(
        await crowd.publish(
            float(asked.get("rate", 0)),
            float(asked["seconds"]),
            int(asked.get("publishers", 1)),
            int(asked.get("size", 198)),
        )
    )


async def firehose(request: Request) -> StreamingResponse:
    count, size = count_and_size(request)

    async def all_at_once() -> AsyncIterator[str]:
        for n in range(1, count + 1):
            yield f"data: {text(0, n, size)}\n\n"

    return stream(all_at_once())


async def tokens(request: Request) -> StreamingResponse:
    count, size = count_and_size(request)

    async def paced() -> AsyncIterator[str]:
        for n in range(1, count + 1):
            yield f"data: {text(0, n, size)}\n\n"
            if n % 10 == 0:
                await asyncio.sleep(0.01)

    return stream(paced())


async def store(request: Request) -> JSONResponse:
    count, size = count_and_size(request)
    stored[:] = [text(0, n, size) for n in range(1, count + 1)]
    return JSONResponse({"stored": count})


async def replay(request: Request) -> StreamingResponse:
    async def history() -> AsyncIterator[str]:
        for event in stored:
            yield f"data: {event}\n\n"

    return stream(history())


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/one", one),
        Route("/publish", publish, methods=["POST"]),
        Route("/firehose", firehose),
        Route("/tokens", tokens),
        Route("/store", store, methods=["POST"]),
        Route("/replay", replay),
    ]
)
