from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.responses import Response

from tailrace.errors import OperationUnknown, TailraceError, Unauthorized
from tailrace.eventlog.memory import MemoryLog
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.http.stream import RunStream
from tailrace.operations import Operation
from tailrace.protocol.access import LOCAL, Access
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery
from tailrace.protocol.sse import Decoder
from tailrace.run import Run, RunContext
from tests.visitor import Visit, Visitor
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
        return run.response(request)

    @app.get("/reports/{run}")
    async def again(request: Request, run: str) -> Response:
        return runs.run(run).response(request)

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
    for last in ("2", f"{record.id}:2"):
        back = await visitor.get(target, {"Last-Event-ID": last})
        assert [event.id for event in back.events] == [f"{record.id}:3", f"{record.id}:4"]
        assert back.headers["last-event-id"] == f"{record.id}:2"
    filtered = await visitor.get(f"{target}?types=log&format=text")
    assert [event.data for event in filtered.events][:2] == ["[info] 0", "[info] 1"]
    for last in ("4", f"{record.id}:4"):
        assert (await visitor.get(target, {"Last-Event-ID": last})).status == 204
    lines = await visitor.get(f"{target}?format=ndjson&types=complete")
    assert b'{"id":"4"' in lines.body


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
        return (await slow.start()).response(request)

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


async def test_an_address_whose_run_changes(runs: Tailrace) -> None:
    """An id of the run that was there before says nothing of the one that is there now."""
    operation = runs.operation(crunch)
    app = FastAPI()

    @app.get("/newest")
    async def newest(request: Request) -> Response:
        found = await runs.newest("t")
        assert found is not None
        return found.response(request)

    async def begin(rows: int) -> str:
        record, _ = await runs.submit(operation, {"rows": rows}, thread="t")
        await soon(runs.run(record.id).wait())
        return record.id

    visitor = Visitor(app)
    before = await begin(10)
    cut = (await visitor.get("/newest")).events[5]
    assert cut.id == f"{before}:6"
    now = await begin(8)
    for sent, target in (
        ({"last-event-id": cut.id}, "/newest"),
        ({}, f"/newest?after={cut.id}"),
        ({"last-event-id": f"{before}:12"}, f"/newest?after={before}:6"),
    ):
        whole = await visitor.get(target, sent)
        assert [event.id for event in whole.events] == [f"{now}:{at}" for at in range(1, 11)]
        assert whole.headers["last-event-id"] == f"{now}:0"
    rest = await visitor.get(f"/newest?after={cut.id}", {"last-event-id": f"{now}:9"})
    assert [event.id for event in rest.events] == [f"{now}:10"]
    for odd in ("elsewhere:3", f"{before}:x"):
        assert (await visitor.get("/newest", {"last-event-id": odd})).status == 400


# --- whose runs ----------------------------------------------------------------------------


def whoever(request: Request) -> str | Access:
    name = request.headers.get("x-user")
    if name is None:
        raise Unauthorized("Who is it?")
    name, _, scopes = name.partition(" ")
    return Access.of(name, scopes.split()) if scopes else name


async def whoever_later(request: Request) -> str | Access:
    await asyncio.sleep(0)
    return whoever(request)


def owned(runs: Tailrace) -> FastAPI:
    """Somebody's app in which everybody has their own."""
    app = FastAPI()
    app.add_exception_handler(TailraceError, runs.problem)
    operation = runs.operation(crunch)
    asker = Depends(runs.asker)

    @app.post("/mine")
    async def start(rows: int = 3, user: Access = asker) -> str:
        return (await operation.by(user).start(rows=rows)).id

    @app.get("/mine/{run}")
    async def watch(request: Request, run: str, user: Access = asker) -> Response:
        return runs.run(run, user).response(request)

    @app.post("/mine/{run}/cancel")
    async def cancel(run: str, user: Access = asker) -> str:
        return (await runs.run(run, user).cancel()).state

    @app.delete("/mine/{run}")
    async def forget(run: str, user: Access = asker) -> None:
        await runs.run(run, user).forget()

    return app


@pytest.mark.parametrize("principal", [whoever, whoever_later])
async def test_endpoints_in_which_everybody_has_their_own(
    principal: Callable[[Request], Any],
) -> None:
    async with Tailrace("memory:", principal=principal) as runs:
        visitor = Visitor(owned(runs))

        async def ask(method: str, target: str, who: str | None = None) -> Visit:
            return await visitor.ask(method, target, {} if who is None else {"x-user": who})

        run = (await ask("POST", "/mine", "ada")).json
        assert (await runs.record(run)).principal == "ada"
        assert len((await ask("GET", f"/mine/{run}", "ada")).events) == 5
        assert (await ask("POST", f"/mine/{run}/cancel", "ada")).json == "completed"
        for method, target in (
            ("GET", f"/mine/{run}"),
            ("POST", f"/mine/{run}/cancel"),
            ("DELETE", f"/mine/{run}"),
            ("GET", "/mine/run_x"),
        ):
            refused = await ask(method, target, "bob")
            assert (refused.status, refused.json["code"]) == (404, "run-unknown")
            assert (await ask(method, target)).status == 401
        assert (await ask("POST", "/mine", "ada watch")).status == 403
        assert (await ask("GET", f"/mine/{run}", "ada cancel")).status == 403
        assert (await ask("DELETE", f"/mine/{run}", "ada watch")).status == 403
        assert (await ask("GET", f"/mine/{run}", "eve admin")).status == 200
        assert (await ask("DELETE", f"/mine/{run}", "ada")).status == 200
        assert (await ask("GET", f"/mine/{run}", "ada")).status == 404


async def test_where_nobody_is_told_apart(runs: Tailrace) -> None:
    visitor = Visitor(owned(runs))
    run = (await visitor.post("/mine")).json
    assert (await runs.record(run)).principal == LOCAL
    assert (await visitor.get(f"/mine/{run}")).status == 200


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
        assert (record.operation, record.state) == ("count()", State.COMPLETED)
        assert runs.operations.find("count()") is None
        assert (await visitor.get("/count", {"last-event-id": f"{run}:6"})).status == 204
        # One in a thread, which fails: what it yielded is told before that.
        failed = await visitor.get("/plain")
        assert [event.event for event in failed.events] == ["message", "error"]
        assert (await visitor.get("/plain?key=same")).status == 200
        assert (await visitor.get("/plain?key=same")).status == 200
        assert (await visitor.get("/plain?format=nonsense")).status == 406
        shown = await visitor.get("/count?format=typed")
        assert [event.event for event in shown.events] == ["message"] * 6


async def test_a_run_of_a_generator_is_no_run_of_an_operation_of_that_name(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db")

    async def count() -> AsyncIterator[int]:
        yield 1

    @runs.operation(name="count")
    async def other() -> int:
        return 2

    app = FastAPI(lifespan=runs.lifespan)

    @app.get("/count")
    async def counting(request: Request) -> Response:
        return await runs.stream(count(), request)

    @app.get("/mistaken")
    async def mistaken(request: Request) -> Response:
        return await runs.stream(count, request)  # type: ignore[arg-type]

    async with runs:
        answer = await Visitor(app).get("/count")
        run = runs.run(answer.headers["tailrace-run"])
        with pytest.raises(OperationUnknown, match=r"count\(\)"):
            await run.rerun()
        with pytest.raises(TypeError, match="call it"):
            await Visitor(app).get("/mistaken")
        assert len(await runs.find(RunQuery())) == 1
