"""How many streams may be open, whichever kind, and however they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware

from tailrace.errors import TooManyRequests
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.protocol.access import Access
from tests.stage import Stage, staged
from tests.visitor import Visit, Visitor
from tests.waiting import turns, until

pytestmark = pytest.mark.anyio

BODY = {"operation": "puppet", "input": {}}
SSE = {"accept": "text/event-stream"}


@contextlib.asynccontextmanager
async def bounded(**given: Any) -> AsyncIterator[Stage]:
    async with staged() as stage:
        stage.runs.hub.seats = Limits(**given).seats()
        yield stage


def taken(stage: Stage) -> int:
    hub = stage.runs.hub
    assert hub.seats.taken >= hub.connections
    return hub.seats.taken


async def free(stage: Stage) -> None:
    await until(lambda: not stage.runs.hub.connections, "all are gone")
    assert (taken(stage), len(stage.runs.hub.seats)) == (0, 0)


Open = Callable[[Stage, str], Visit]

# Each kind of stream, of a run that goes on, unless it is a playback.
KINDS: dict[str, Open] = {
    "short": lambda stage, run: stage.visitor.open("GET", f"/runs/{run}/events"),
    "long": lambda stage, run: stage.visitor.open("GET", f"/runs/{run}/events?tick=5"),
    "output": lambda stage, run: stage.visitor.open("GET", f"/runs/{run}/output"),
    "many": lambda stage, run: stage.visitor.open("GET", f"/events?runs={run}"),
    "all": lambda stage, run: stage.visitor.open("GET", "/events"),
    "start": lambda stage, run: stage.visitor.open("POST", "/runs", SSE, json=BODY),
    "rerun": lambda stage, run: stage.visitor.open("POST", f"/runs/{run}/rerun", SSE, json={}),
    "file": lambda stage, run: stage.visitor.open("GET", "/run_file?file_path=slow.sh"),
    "mounted": lambda stage, run: Visitor(host(stage.runs)).open("GET", f"/mine/{run}"),
}


def host(runs: Tailrace) -> FastAPI:
    app = FastAPI()

    @app.get("/mine/{run}")
    async def mine(request: Request, run: str) -> Response:
        return runs.run(run).response(request)

    return app


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_takes_a_seat_and_is_refused_without_one(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "slow.sh").write_text("read -r forever")
    async with bounded(streams=2, streams_each=2) as stage:
        stage.runs.allow_scripts(tmp_path)
        run = await stage.start()
        visits = [KINDS[kind](stage, run) for _ in range(2)]
        for visit in visits:
            await visit.until(lambda v: v.chunks)
        assert taken(stage) == 2
        before = len((await stage.visitor.get("/runs")).json["runs"])
        refused = KINDS[kind](stage, run)
        await refused.over()
        assert (refused.status, refused.json["code"]) == (429, "too-many-requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert taken(stage) == 2
        # What cannot be told is not started.
        assert len((await stage.visitor.get("/runs")).json["runs"]) == before
        visits[0].leave()
        await until(lambda: taken(stage) == 1)
        again = KINDS[kind](stage, run)
        await again.until(lambda v: v.chunks)
        for visit in (again, visits[1]):
            visit.leave()
            await visit.over()
        await free(stage)


async def test_so_does_a_playback() -> None:
    async with bounded(streams=1) as stage:
        run = await stage.written([("log", {}, 1)], ends=5000)
        target = f"/runs/{run}/events?speed=1"
        async with stage.visitor.visit("GET", target) as visit:
            await visit.until(lambda v: v.chunks)
            assert taken(stage) == 1
            assert (await stage.visitor.get(target)).status == 429
        await free(stage)


async def test_so_many_of_each_address() -> None:
    async with bounded(streams_each=1) as stage:
        run = await stage.start()
        target = f"/runs/{run}/events"

        async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
            await stage.runs.asgi({**scope, "client": ("10.0.0.9", 5)}, receive, send)

        async with stage.visitor.visit("GET", target) as visit:
            await visit.until(lambda v: v.chunks)
            assert (await stage.visitor.get(target)).status == 429
            async with Visitor(elsewhere).visit("GET", target) as other:
                await other.until(lambda v: v.chunks)
                assert other.status == 200
        await free(stage)


async def test_so_many_of_each_principal() -> None:
    runs = Tailrace(
        "memory:",
        principal=lambda request: Access.of(request.headers["x-who"], ["watch", "admin"]),
        limits=Limits(streams_each=1),
    )
    visitor = Visitor(runs.asgi)
    async with visitor.visit("GET", "/events", {"x-who": "ada"}) as visit:
        await visit.until(lambda v: v.chunks)
        assert (await visitor.get("/events", {"x-who": "ada"})).status == 429
        async with visitor.visit("GET", "/events", {"x-who": "bob"}) as other:
            await other.until(lambda v: v.chunks)
    await runs.close()


async def test_so_many_watchers_of_a_run() -> None:
    async with bounded(watchers=2) as stage:
        run, other = await stage.start(), await stage.start()
        kinds = ("short", "output", "mounted", "long")
        visits = [KINDS[kind](stage, run) for kind in kinds[:2]]
        for visit in visits:
            await visit.until(lambda v: v.chunks)
        for kind in kinds:
            refused = KINDS[kind](stage, run)
            await refused.over()
            assert refused.status == 429, kind
        # Another run, or many at once, are another thing.
        visits += [KINDS["short"](stage, other), KINDS["all"](stage, run)]
        for visit in visits[2:]:
            await visit.until(lambda v: v.chunks)
            assert visit.status == 200
        for visit in visits:
            visit.leave()
            await visit.over()
        await free(stage)


async def test_of_those_who_come_together_no_more_are_let_in() -> None:
    """Also where sending the head takes a while, so that all of them are on their way."""
    for bounds in ({"watchers": 5}, {"streams": 5}, {"streams_each": 5}):
        async with bounded(**bounds) as stage:
            run = await stage.start()
            visits = [KINDS["short"](stage, run) for _ in range(20)]
            for visit in visits:
                visit.stall()
            for _ in range(50):
                await asyncio.sleep(0)
            for visit in visits:
                visit.go_on()
            for visit in visits:
                await visit.until(lambda v: v.chunks)
            assert sorted(visit.status for visit in visits) == [200] * 5 + [429] * 15
            for visit in visits:
                visit.leave()
                await visit.over()
            await free(stage)


async def test_what_is_no_stream_takes_none() -> None:
    async with bounded(streams=1, streams_each=1, watchers=1) as stage:
        run = await stage.done()
        for target, status in (
            (f"/runs/{run}/events?after=99", 400),
            (f"/runs/run_{'a' * 26}/events", 404),
            (f"/runs/{run}/events?format=json", 200),
            (f"/runs/{run}/events?after=3", 204),
            (f"/runs/{run}/events?after=3&speed=5", 204),
            (f"/events?runs={run}&after=9~", 204),
            (f"/runs/{run}", 200),
            (f"/runs/{run}/events", 200),
        ):
            assert (await stage.visitor.get(target)).status == status, target
            assert taken(stage) == 0, target


# --- however they end ----------------------------------------------------------------------


def stalled(app: Any) -> Any:
    """Middleware that hands on by a queue, with a task of its own."""

    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(app, through)


async def left(stage: Stage, run: str, visits: list[Visit]) -> None:
    for visit in visits:
        visit.leave()


async def finished(stage: Stage, run: str, visits: list[Visit]) -> None:
    stage.finish(run)
    # Where other runs may come, it is not the end.
    await stage.ended(run)
    await turns(100)
    await left(stage, run, visits)


async def cut(stage: Stage, run: str, visits: list[Visit]) -> None:
    for visit in visits:
        visit.stall()
    stage.emit(run, "log", message="x")
    await stage.head(run, 3)
    # A minute goes by, and another one for whom that does not impress.
    for after in (100, 1000):
        await turns(100)
        stage.beat(after)
    await turns(100)
    await left(stage, run, visits)


async def shutdown(stage: Stage, run: str, visits: list[Visit]) -> None:
    stage.runs.hub.drain()


async def cancelled(stage: Stage, run: str, visits: list[Visit]) -> None:
    for visit in visits:
        visit.task.cancel()


async def closed(stage: Stage, run: str, visits: list[Visit]) -> None:
    await stage.runs.close()


ENDS = {end.__name__: end for end in (left, finished, cut, shutdown, cancelled, closed)}


@pytest.mark.parametrize("around", [lambda app: app, stalled], ids=["plain", "queue"])
@pytest.mark.parametrize("target", ["/runs/{run}/events", "/events", "/events?runs={run}"])
@pytest.mark.parametrize("end", ENDS)
async def test_a_seat_is_free_again(around: Any, target: str, end: str) -> None:
    async with bounded(streams_each=9) as stage:
        run = await stage.start()
        visitor = Visitor(around(stage.runs.asgi))
        visits = [visitor.open("GET", target.format(run=run)) for _ in range(3)]
        for visit in visits:
            await visit.told(b"I am") if "run" in target else await visit.until(lambda v: v.chunks)
        assert taken(stage) == 3
        await ENDS[end](stage, run, visits)
        for visit in visits:
            with contextlib.suppress(asyncio.CancelledError):
                await visit.over()
        await free(stage)


async def test_whoever_has_all_of_it_at_once_keeps_none() -> None:
    async with bounded(streams=9) as stage:
        run = await stage.start()
        async with stage.visitor.visit("GET", f"/runs/{run}/events") as slow:
            await slow.told(b"I am")
            # It holds the tail, from which others are served with their first bytes.
            slow.stall()
            stage.finish(run)
            await stage.ended(run)
            for _ in range(3):
                answer = await stage.visitor.get(f"/runs/{run}/events")
                assert b"complete" in answer.body
                assert taken(stage) == 1
        await free(stage)


@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize("error", [OSError, ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize("target", ["/runs/{run}/events", "/events"])
async def test_a_fault_at_the_head_frees_it(
    at: str, error: type[BaseException], target: str
) -> None:
    async with bounded(streams_each=9) as stage:
        run = await stage.start()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def failing(message: Any) -> None:
                if message["type"] == at:
                    raise error
                await send(message)

            with contextlib.suppress(error):
                await stage.runs.asgi(scope, receive, failing)

        visit = Visitor(app).open("GET", target.format(run=run))
        await visit.over()
        await free(stage)


async def test_whoever_is_forgotten_takes_no_seat() -> None:
    """An engine whose event loop has ended begins anew."""
    async with bounded(streams=1) as stage:
        run = await stage.start()
        async with stage.visitor.visit("GET", f"/runs/{run}/events") as visit:
            await visit.until(lambda v: v.chunks)
            stage.runs.hub.abandon()
            assert taken(stage) == 0
        assert taken(stage) == 0
        stage.runs.hub.seats.take("x")
        with pytest.raises(TooManyRequests):
            stage.runs.hub.seats.check("y")
