"""The asynchronous client, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from tailrace.client import AsyncClient
from tests.unit.client.scripted import (
    BOUND_SECONDS,
    CLOSING,
    OPENING,
    RUN,
    events,
    reply,
    scripted,
    stream,
)
from tests.unit.client.suite import Face, Suite


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(BOUND_SECONDS):
            return await work

    return asyncio.run(bounded())


class AsyncFace:
    """Calls an AsyncClient."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _with(self, url: str, work: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
        async def working() -> Any:
            async with AsyncClient(url, token="s3cret", silence=0.3, sleep=self._sleep) as client:
                return await work(client)

        return run(working())

    def collect(self, url: str, verb: str, *args: Any, **options: Any) -> list[Any]:
        async def work(client: AsyncClient) -> list[Any]:
            return [item async for item in getattr(client, verb)(*args, **options)]

        told: list[Any] = self._with(url, work)
        return told

    def call(self, url: str, verb: str, *args: Any, **options: Any) -> Any:
        return self._with(url, lambda client: getattr(client, verb)(*args, **options))


class TestAsyncClient(Suite):
    @pytest.fixture
    def face(self) -> Face:
        return AsyncFace()


def test_leaving_frees_the_connection() -> None:
    async def work(url: str) -> None:
        async with AsyncClient(url) as client:
            async with contextlib.aclosing(client.watch(RUN)) as told:
                assert (await anext(told)).id == "1"
            # The server answers one connection at a time: it must have seen the first one end.
            assert await client.run(RUN) == {"id": RUN}

    with scripted(stream(OPENING, events(1, 3), end="hang"), reply(200, {"id": RUN})) as server:
        run(work(server.url))


def test_a_cancelled_watcher_frees_the_connection() -> None:
    async def work(url: str) -> None:
        async with AsyncClient(url) as client:
            is_told = asyncio.Event()

            async def watch() -> None:
                async for _ in client.watch(RUN):
                    is_told.set()

            task = asyncio.create_task(watch())
            await is_told.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.run(RUN) == {"id": RUN}

    with scripted(stream(OPENING, events(1, 3), end="hang"), reply(200, {"id": RUN})) as server:
        run(work(server.url))


def test_somebody_elses_http_client_is_used_and_left_open() -> None:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        wire = OPENING + events(1, 1) + CLOSING
        return httpx2.Response(200, content=wire, headers={"content-type": "text/event-stream"})

    async def work() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            async with (
                AsyncClient("http://somewhere", http=http) as client,
                contextlib.aclosing(client.watch(RUN)) as told,
            ):
                assert (await anext(told)).id == "1"
            assert not http.is_closed

    run(work())
