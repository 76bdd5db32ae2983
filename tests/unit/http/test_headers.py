"""What stands in the head of every answer, whichever route gives it; and what in none of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.eventlog.memory import MemoryLog
from tailrace.server.app import build
from tailrace.server.settings import Settings
from tests.stage import Stage
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

RUN = "run_aaaaaaaaaaaaaaaaaaaaaaaaaa"
STREAMS = ("text/event-stream", "application/x-ndjson", "text/plain; charset=utf-8")


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every method and path, also of routers that were included."""
    for route in found:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        else:
            # An app of its own (MCP) takes all of them.
            yield from ((method, route.path) for method in route.methods or ("GET", "POST"))


async def head(visitor: Visitor, method: str, target: str, *sent: Any, **more: Any) -> Visit:
    """An answer as soon as it has begun: it may have no end."""
    async with visitor.visit(method, target, *sent, **more) as visit:
        return await visit.until(lambda visit: visit.status)


def check(answer: Visit) -> None:
    """No browser makes anything else of it, shows it elsewhere, or keeps it."""
    assert answer.status, answer
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    if "x-accel-buffering" in headers:
        assert headers["content-type"].startswith(STREAMS)
        assert headers["cache-control"] == "no-cache, no-transform"
        return
    policy = headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in ("no-store", "no-cache")


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The server's, which has all routes there are."""
    return build(Settings(log="memory:", allow_root=(tmp_path,))).asgi


async def test_every_route_there_is(app: FastAPI) -> None:
    known = set(routes(app.router.routes))
    in_document = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert in_document < known, "and some are in no document"
    visitor = Visitor(app)
    for method, path in sorted(known):
        path = path.replace("{run}", RUN)
        check(await head(visitor, method, path))
        # Asked wrongly, in ways that different layers refuse.
        check(await head(visitor, "BREW", path))
        check(await head(visitor, method, f"{path}?format=%ff&limit=x&after=-"))
        check(await head(visitor, method, path, {"content-type": "text/csv"}, body=b"\xff"))
        if path != "/":
            check(await head(visitor, method, f"{path}/"))


@pytest.mark.parametrize("path", ["/nope", "/%00", "/runs//events", "/docs/oauth2-redirect"])
async def test_what_is_not_there(visitor: Visitor, path: str) -> None:
    answer = await visitor.get(path)
    assert answer.status == 404
    check(answer)


@pytest.mark.parametrize(
    ("path", "there"),
    [("/runs/?limit=3", "/runs?limit=3"), (f"/runs/{RUN}/events/", f"/runs/{RUN}/events")],
)
async def test_a_slash_too_many(visitor: Visitor, path: str, there: str) -> None:
    answer = await visitor.get(path)
    assert (answer.status, answer.headers["location"]) == (307, f"http://testserver{there}")
    check(answer)


async def test_a_slash_too_many_below_a_mount(stage: Stage) -> None:
    host = FastAPI()
    host.mount("/inner", stage.runs.asgi)
    answer = await Visitor(host).get("/inner/runs/")
    assert (answer.status, answer.headers["location"]) == (307, "http://testserver/inner/runs")
    document = await Visitor(host).get("/inner/openapi.json")
    assert document.json["servers"] == [{"url": "/inner"}]


@pytest.mark.parametrize(
    "query", ["", "?format=text", "?format=ndjson", "?format=json", "?speed=9"]
)
async def test_what_a_run_says(stage: Stage, visitor: Visitor, query: str) -> None:
    run = await stage.done()
    for path in (f"/runs/{run}/events{query}", f"/runs/{run}/output", f"/runs/{run}"):
        check(await visitor.get(path))
    check(await visitor.ask("DELETE", f"/runs/{run}"))


# --- faults ----------------------------------------------------------------------------

CANARY = "canary-in-a-traceback"


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError(CANARY)


class Broken:
    """Middleware that somebody got wrong."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            broken()
        await self._app(scope, receive, send)


def is_told_nothing(answer: Visit) -> None:
    assert (answer.status, answer.json["code"]) == (500, "internal")
    for word in (CANARY, "ZeroDivision", "Traceback", ".py"):
        assert word not in answer.text
    check(answer)


@pytest.mark.parametrize("path", ["/runs", f"/runs/{RUN}", f"/runs/{RUN}/events"])
@pytest.mark.parametrize("layer", ["engine", "log", "identify"])
async def test_a_fault_is_not_told(
    stage: Stage,
    path: str,
    layer: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if layer == "engine":
        for name in ("find", "record", "watchable"):
            monkeypatch.setattr(stage.runs, name, broken)
    elif layer == "log":
        for name in ("find", "get"):
            monkeypatch.setattr(MemoryLog, name, broken)
    else:
        stage.runs.identify = broken
    with caplog.at_level(logging.ERROR):
        is_told_nothing(await stage.visitor.get(path))
    assert CANARY in caplog.text
    assert "Traceback" in caplog.text


async def mine() -> None:
    broken()


@pytest.mark.parametrize("layer", ["endpoint", "middleware"])
async def test_a_fault_outside_of_our_routes(stage: Stage, visitor: Visitor, layer: str) -> None:
    """The server writes it down: Starlette raises it again."""
    if layer == "middleware":
        stage.runs.asgi.add_middleware(Broken)
    else:
        stage.runs.asgi.add_api_route("/mine", mine)
    visit = visitor.open("GET", "/mine")
    with pytest.raises(ZeroDivisionError, match=CANARY):
        await visit.over()
    is_told_nothing(visit)
