"""A run by one request, in an endpoint of a host. For more see test_scripts.py beside this."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response

from tailrace.facade import Tailrace
from tailrace.protocol.runs import RunQuery
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio


async def test_an_endpoint_takes_no_strangers(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db")

    @runs.operation
    async def work() -> None: ...

    app = FastAPI()

    @app.get("/work")
    async def stream(request: Request) -> Response:
        return await runs.stream("work", request)

    async with runs:
        visitor = Visitor(app)
        foreign = await visitor.get("/work", {"sec-fetch-site": "cross-site"})
        assert (foreign.status, foreign.json["code"]) == (403, "origin-forbidden")
        assert (await visitor.get("/work?format=nosuch")).status == 406
        assert await runs.find(RunQuery()) == []
        told = await visitor.get("/work?format=ndjson")
        assert told.headers["content-type"].startswith("application/x-ndjson")


async def test_a_request_that_comes_back_in_the_midst_of_an_event(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db")

    @runs.operation
    async def work() -> AsyncIterator[tuple[str, dict[str, str]]]:
        yield "thinking_start", {"part": "1.0"}
        yield "thinking_end", {"part": "1.0"}

    app = FastAPI()

    @app.get("/work")
    async def stream(request: Request) -> Response:
        return await runs.stream(work, request)

    async with runs:
        visitor = Visitor(app)
        first = await visitor.get("/work?format=ag-ui")
        run = first.headers["tailrace-run"]
        ids = [event.id for event in first.events]
        assert ids == [f"{run}:{at}" for at in ("1", "2.1", "2", "3.1", "3", "4")]
        for cut, last in enumerate(ids[:-1], 1):
            again = await visitor.get("/work?format=ag-ui", {"last-event-id": last})
            assert again.headers["tailrace-run"] == run
            assert again.events == first.events[cut:]
            assert again.headers["last-event-id"] == last
        assert len(await runs.find(RunQuery())) == 1


async def test_where_the_endpoints_of_runs_are_is_not_guessed(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db")

    @runs.operation
    async def work() -> None: ...

    app = FastAPI()

    @app.get("/work")
    async def stream(request: Request) -> Response:
        return await runs.stream(work, request)

    async with runs:
        answer = await Visitor(app).get("/work")
        run = answer.headers["tailrace-run"]
        assert "content-location" not in answer.headers
        assert answer.body.startswith(b": tailrace\nretry: 1000\nid: %b:0\n\n" % run.encode())
        # Ended: whoever comes back with the last id has it all.
        last = answer.events[-1].id
        assert (await Visitor(app).get("/work", {"last-event-id": str(last)})).status == 204
