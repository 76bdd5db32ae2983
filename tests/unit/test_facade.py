from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from tailrace.errors import Unauthorized
from tailrace.eventlog.memory import MemoryLog
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.http.stream import RunStream
from tailrace.operations import Operation
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery
from tailrace.protocol.sse import Decoder
from tailrace.run import Run, RunContext
from tests.visitor import Visitor
from tests.waiting import soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def runs() -> AsyncIterator[Tailrace]:
    async with Tailrace("memory:", grace=0.1) as runs:
        yield runs


async def crunch(run: RunContext, rows: int = 3) -> int:
    for row in range(rows):
        run.log(str(row))
    return rows


def host(runs: Tailrace) -> FastAPI:
    """Somebody's app that starts a run and answers with its stream."""
    app = FastAPI()
    operation = runs.operation(crunch)

    @app.post("/reports")
    async def report(request: Request, rows: int) -> Response:
        run = await operation.start(rows=rows)
        return run.response(request)  # type: ignore[no-any-return]

    @app.get("/reports/{run}")
    async def again(request: Request, run: str) -> Response:
        return runs.run(run).response(request)  # type: ignore[no-any-return]

    return app


async def test_it_is_an_app(runs: Tailrace) -> None:
    runs.operation(crunch)
    assert runs.asgi is runs.asgi
    visitor = Visitor(runs.asgi)
    assert (await visitor.get("/operations")).json["operations"][0]["name"] == "crunch"
    made = await visitor.post("/runs", {"operation": "crunch"})
    assert made.status == 201
    streamed = await visitor.get(made.json["links"]["events"])
    assert [event.event for event in streamed.events] == ["start", *["log"] * 3, "complete"]


async def test_it_is_a_router_for_any_app(runs: Tailrace) -> None:
    runs.operation(crunch)
    assert runs.router is runs.router
    app = FastAPI()
    app.include_router(runs.router, prefix="/inner")
    visitor = Visitor(app)
    made = await visitor.post("/inner/runs", {"operation": "crunch"})
    assert made.json["links"]["self"] == f"/inner/runs/{made.json['id']}"
    assert (await visitor.get("/healthz")).status == 404


async def test_mounted_it_starts_with_the_first_request() -> None:
    runs = Tailrace("memory:")
    runs.operation(crunch)
    app = FastAPI()
    app.mount("/tailrace", runs.asgi)
    visitor = Visitor(app)
    made = await visitor.post("/tailrace/runs", {"operation": "crunch"})
    assert made.json["links"]["self"] == f"/tailrace/runs/{made.json['id']}"
    await runs.close()


async def test_a_response_streams_the_run(runs: Tailrace) -> None:
    visitor = Visitor(host(runs))
    first = await visitor.post("/reports?rows=2")
    assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event.event for event in first.events] == ["start", "log", "log", "complete"]
    (record,) = await runs.find(RunQuery())
    target = f"/reports/{record.id}"
    back = await visitor.get(target, {"Last-Event-ID": "2"})
    assert back.ids == [3, 4]
    filtered = await visitor.get(f"{target}?types=log&format=text")
    assert [event.data for event in filtered.events][:2] == ["[info] 0", "[info] 1"]
    assert (await visitor.get(target, {"Last-Event-ID": "4"})).status == 204


async def test_a_response_is_told_live_and_the_client_may_leave(runs: Tailrace) -> None:
    go = asyncio.Event()

    @runs.operation
    async def slow(run: RunContext) -> int:
        run.log("one")
        await go.wait()
        return 3

    app = FastAPI()

    @app.get("/slow")
    async def begin(request: Request) -> Response:
        return (await slow.start()).response(request)  # type: ignore[no-any-return]

    async with Visitor(app).visit("GET", "/slow") as visit:
        await visit.told(b'"message":"one"')
    go.set()
    (record,) = await runs.find(RunQuery())
    assert await soon(runs.run(record.id).result()) == 3


@pytest.mark.parametrize(
    ("sent", "target", "status"),
    [
        ({}, "?after=x", 400),
        ({}, "?format=xml", 406),
        ({}, "?format=json", 406),
        ({}, "?speed=4", 406),
        ({"Last-Event-ID": "99"}, "", 400),
    ],
)
async def test_what_cannot_be_told(
    runs: Tailrace, sent: dict[str, str], target: str, status: int
) -> None:
    app = host(runs)
    visitor = Visitor(app)
    await visitor.post("/reports?rows=1")
    (record,) = await runs.find(RunQuery())
    visit = await visitor.get(f"/reports/{record.id}{target}", sent)
    assert visit.status == status
    assert visit.headers["content-type"] == "application/problem+json"


async def test_a_run_may_be_watched_before_anything_else() -> None:
    """By an app that knows only an id, in a process that has just begun."""
    log = MemoryLog()
    runs = Tailrace(log)
    run = await runs.operation(crunch).start()
    await soon(run.result())
    await runs.close()
    later = Tailrace(log)
    visit = await Visitor(host(later)).get(f"/reports/{run.id}")
    assert [event.event for event in visit.events][-1] == "complete"
    await later.close()


async def test_what_type_checkers_know(runs: Tailrace) -> None:
    operation = runs.operation(crunch)
    assert_type(await operation.start(rows=2), Run)
    known: Operation[..., Run] = operation
    assert known.name == "crunch"
    assert_type(runs.asgi, FastAPI)


async def test_a_response_is_a_stream(runs: Tailrace) -> None:
    run = await runs.operation(crunch).start()
    request = Request(
        {"type": "http", "method": "GET", "headers": [], "query_string": b"format=typed"}
    )
    response = run.response(request)
    assert isinstance(response, RunStream)
    visit = await Visitor(response).get("/")
    assert [event.event for event in Decoder().feed(visit.body)] == ["message"] * 5


# --- a run by one request ------------------------------------------------------------------


async def test_an_endpoint_that_a_browser_may_repeat(tmp_path: Path) -> None:
    def who(request: Request) -> str:
        if "x-user" not in request.headers:
            raise Unauthorized("Who is it?")
        return request.headers["x-user"]

    limits = Limits(keyed={"run": "2/minute"})
    runs = Tailrace(tmp_path / "x.db", principal=who, limits=limits)

    @runs.operation
    async def count(run: RunContext, rows: int) -> int:
        for row in range(rows):
            run.progress(row, rows)
        return rows

    app = FastAPI(lifespan=runs.lifespan)

    @app.get("/count")
    async def stream(request: Request, rows: int) -> Response:
        thread = request.query_params.get("thread")
        given = {"rows": rows}
        return await runs.stream("count", request, given, format="typed", thread=thread)

    async with runs:
        visitor = Visitor(app)
        ada = {"x-user": "ada"}
        answer = await visitor.get("/count?rows=3", ada)
        run = answer.headers["tailrace-run"]
        assert [event.id for event in answer.events][-1] == f"{run}:5"
        assert (await runs.record(run)).principal == "ada"
        assert answer.headers["ratelimit"].startswith('"run";r=1;')
        # Cut, it comes back with the last id it has; and so as often as it likes.
        for _ in range(3):
            rest = await visitor.get("/count?rows=3", {**ada, "last-event-id": f"{run}:3"})
            assert rest.events == answer.events[3:]
        stolen = await visitor.get("/count?rows=3", {"x-user": "bob", "last-event-id": f"{run}:3"})
        assert (stolen.status, stolen.json["code"]) == (404, "run-unknown")
        assert (await visitor.get("/count?rows=3")).status == 401
        assert (await visitor.get("/count?rows=x", ada)).status == 422
        assert (await visitor.get("/count?rows=3&thread=", {"x-user": "eve"})).status == 422
        made = await visitor.get("/count?rows=3&thread=t", {"x-user": "eve"})
        assert (await runs.record(made.headers["tailrace-run"])).thread == "t"
        assert (await visitor.get("/count?rows=3&after=5", ada)).status == 400
        assert (await visitor.get("/count?rows=3", ada)).status == 200
        assert (await visitor.get("/count?rows=3", ada)).status == 429
        assert len(await runs.find(RunQuery(principal="ada"))) == 2


async def test_a_generator_becomes_a_run(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db")
    go = asyncio.Event()
    begun: list[str] = []
    app = FastAPI(lifespan=runs.lifespan)

    async def count(to: int) -> AsyncIterator[Any]:
        begun.append("count")
        for number in range(to):
            yield {"event": "number", "data": number}
            await go.wait()
        yield "done"

    def plain() -> Iterator[str]:
        yield "one"
        raise ZeroDivisionError("no")

    @app.get("/count")
    async def counting(request: Request) -> Response:
        return await runs.stream(count(3), request)

    @app.get("/plain")
    async def plainly(request: Request, key: str | None = None) -> Response:
        return await runs.stream(plain(), request, timeout=60, key=key)

    async with runs:
        visitor = Visitor(app)
        async with visitor.visit("GET", "/count") as visit:
            await visit.told(b"event: number\ndata: 0\n\n")
            run, last = visit.headers["tailrace-run"], visit.last_id
        # Whoever watched has left, and it goes on; who comes back has the rest, and nothing twice.
        go.set()
        rest = await visitor.get("/count", {"last-event-id": last})
        assert [event.data for event in rest.events] == ["1", "2", "done"]
        assert begun == ["count"]
        record = await runs.record(run)
        assert (record.operation, record.state) == ("count", State.COMPLETED)
        assert runs.operations.find("count") is None
        assert (await visitor.get("/count", {"last-event-id": f"{run}:6"})).status == 204
        # One in a thread, which fails: what it yielded is told before that.
        failed = await visitor.get("/plain")
        assert [event.event for event in failed.events] == ["message", "error"]
        assert (await visitor.get("/plain?key=same")).status == 200
        assert (await visitor.get("/plain?key=same")).status == 200
        assert (await visitor.get("/plain?format=nonsense")).status == 406
        shown = await visitor.get("/count?format=typed")
        assert [event.event for event in shown.events] == ["message"] * 6
