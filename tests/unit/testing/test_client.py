from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.sse import EventSourceResponse as FastApiSse
from starlette.responses import StreamingResponse

from tailrace import EventSourceResponse
from tailrace.protocol.wire import EVENT_STREAM
from tailrace.testing import StreamClient, drop_after
from tests.waiting import until

pytestmark = pytest.mark.anyio


def streams(made: FastAPI, said: list[str]) -> None:
    """Numbers without an end, as four libraries tell them."""

    async def forever() -> AsyncIterator[str]:
        number = 0
        try:
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(0.001)
        finally:
            said.append("closed")

    @made.get("/starlette")
    async def starlette() -> StreamingResponse:
        return StreamingResponse(forever(), media_type=EVENT_STREAM)

    async def counting() -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.001)
        finally:
            said.append("closed")

    @made.get("/ours")
    async def ours() -> EventSourceResponse:
        return EventSourceResponse(counting())

    @made.get("/fastapi", response_class=FastApiSse)
    async def fastapi() -> AsyncIterable[int]:
        async for number in counting():
            yield number

    @made.get("/theirs")
    async def theirs() -> Any:
        sse = pytest.importorskip("sse_starlette")
        items = ({"data": number} async for number in counting())
        return sse.EventSourceResponse(items)


def app(said: list[str] | None = None) -> FastAPI:
    said = [] if said is None else said

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        said.append("up")
        yield {"pool": "open"}
        said.append("down")

    made = FastAPI(lifespan=life)

    @made.api_route("/echo", methods=["GET", "POST", "PUT", "DELETE"])
    async def echo(request: Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "query": dict(request.query_params),
            "body": (await request.body()).decode(),
            "key": request.headers.get("x-key"),
            "type": request.headers.get("content-type"),
            "pool": getattr(request.state, "pool", None),
        }

    streams(made, said)

    @made.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("why")

    return made


@pytest.mark.parametrize("path", ["/starlette", "/ours", "/fastapi", "/theirs"])
async def test_an_endless_stream_is_read_and_left(path: str) -> None:
    said: list[str] = []
    async with StreamClient(app(said)) as client:
        async with client.stream("GET", path) as stream:
            assert stream.status == 200
            assert stream.headers["Content-Type"].startswith(EVENT_STREAM)
            assert (await stream.next()).data == "0"
            assert (await stream.until(lambda event: event.data == "5")).json == 5
        await until(lambda: "closed" in said)
    assert said == ["up", "closed", "down"]


async def test_several_streams_at_once() -> None:
    async with (
        StreamClient(app()) as client,
        client.stream("GET", "/ours") as one,
        client.stream("GET", "/ours", drop=drop_after(2)) as two,
    ):
        assert [event.data async for event in two] == ["0", "1"]
        assert (await one.next()).data == "0"


async def test_plain_requests() -> None:
    async with StreamClient(app(), headers={"x-key": "k"}) as client:
        got = await client.get("/echo?a=1", params={"b": "2"})
        assert (got.status, got.headers["content-type"]) == (200, "application/json")
        assert got.json == {
            "method": "GET", "query": {"a": "1", "b": "2"}, "body": "", "key": "k",
            "type": None, "pool": "open",
        }  # fmt: skip
        posted = await client.post("/echo", json={"rows": 3}, headers={"x-key": "other"})
        assert posted.json["body"] == '{"rows": 3}'
        assert posted.json["type"] == "application/json"
        assert posted.json["key"] == "other"
        assert (await client.put("/echo", content="text")).json["body"] == "text"
        deleted = await client.delete("/echo")
        assert deleted.json["method"] == "DELETE"
        assert '"DELETE"' in deleted.text
        assert deleted.body == deleted.text.encode()
        assert (await client.request("GET", "/nowhere")).status == 404


async def test_an_answer_that_is_no_json_shows_itself() -> None:
    async with StreamClient(app()) as client:
        got = await client.get("/docs")
        with pytest.raises(AssertionError, match=r"no JSON: <Answer 200 .*html"):
            assert got.json


async def test_without_a_lifespan() -> None:
    said: list[str] = []
    client = StreamClient(app(said), root_path="/mounted")
    assert (await client.get("/echo")).json["pool"] is None
    assert said == []


async def test_the_app_s_faults_are_raised_or_answered() -> None:
    async with StreamClient(app()) as client:
        with pytest.raises(ZeroDivisionError, match="why"):
            await client.get("/broken")
    async with StreamClient(app(), raises=False) as client:
        assert (await client.get("/broken")).status == 500


async def test_what_fails_in_the_test_is_what_is_raised() -> None:
    said: list[str] = []
    mine = KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        async with StreamClient(app(said)) as client, client.stream("GET", "/ours"):
            raise mine
    watching = client.watch("/ours")
    watch = await watching.__aenter__()
    await watch.next()
    assert not await watching.__aexit__(KeyError, mine, None)
    assert said == ["up", "closed", "down", "closed"]


async def test_an_endless_answer_says_what_to_use() -> None:
    async with StreamClient(app(), within=0.5) as client:
        with pytest.raises(AssertionError, match=r"In 0\.5 s .*client\.stream"):
            await client.get("/ours")
        with pytest.raises(AssertionError, match=r"In 0\.4 s .*client\.stream"):
            await client.get("/ours", within=0.4)
