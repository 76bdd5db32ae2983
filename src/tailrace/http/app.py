"""The ASGI app: the runs' endpoints, what probes and scrapers ask for, and the docs."""

from __future__ import annotations

import re
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from tailrace.engine import Engine
from tailrace.errors import LogError
from tailrace.http import openapi, problems, reference, runs, scripts
from tailrace.http.access import guarding, mounted
from tailrace.http.crowd import Crowd
from tailrace.http.problems import ProblemRoute
from tailrace.protocol.runs import RunQuery

_DESCRIPTION = "Run anything long, watch it live, lose nothing."

_METRICS = """\
# HELP tailrace_connections Open streams of this process.
# TYPE tailrace_connections gauge
tailrace_connections {connections}
# HELP tailrace_channels Runs that are watched at this process.
# TYPE tailrace_channels gauge
tailrace_channels {channels}
# HELP tailrace_runs_executing Runs that execute in this process.
# TYPE tailrace_runs_executing gauge
tailrace_runs_executing {executing}
"""


class App(FastAPI):
    """A FastAPI app that lets a crowd pass first, unless somebody has put middleware around it:
    that may be what says who comes in.
    """

    def __init__(self, crowd: Crowd, **options: Any) -> None:
        super().__init__(**options)
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self.user_middleware or not await self._crowd(scope, receive, send):
            await super().__call__(scope, receive, send)


def build(engine: Engine, *further: APIRouter) -> FastAPI:
    """The app of one engine, with `further` endpoints. It can be served alone, or mounted under any
    prefix; mounted, it starts with the first request, because a host does not run its guests'
    lifespans.
    """
    app = App(
        Crowd(engine),
        title="Tailrace",
        description=_DESCRIPTION,
        lifespan=engine.lifespan,
        # FastAPI's own pages load their scripts from elsewhere; and what it answers by itself
        # has no headers of ours.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.include_router(runs.router(engine))
    app.include_router(scripts.router(engine))
    for routes in further:
        app.include_router(routes)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    public = APIRouter(route_class=ProblemRoute)

    @public.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return reference.response(app.openapi(), request)

    @public.get("/openapi.json", include_in_schema=False)
    async def document(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        servers = {"servers": [{"url": root}]} if root else {}
        return JSONResponse({**app.openapi(), **servers})

    @public.get("/healthz", tags=["server"], summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @public.get(
        "/readyz",
        tags=["server"],
        summary="Whether runs can be started and watched",
        response_class=PlainTextResponse,
        responses={503: {"description": "Not now"}},
    )
    async def readyz() -> Response:
        try:
            await engine.find(RunQuery(limit=1))
        except LogError as error:
            answer = problems.response(error)
            answer.status_code = 503
            return answer
        if engine.hub.is_draining:
            return PlainTextResponse("The server is going away.\n", 503)
        return PlainTextResponse("ready\n")

    guarded = APIRouter(route_class=guarding(engine), responses=openapi.ANY_PROBLEM)

    @guarded.get(
        "/metrics",
        tags=["server"],
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
    )
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(
            _METRICS.format(
                connections=engine.hub.connections,
                channels=engine.hub.channels,
                executing=engine.executing,
            ),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    app.include_router(public)
    app.include_router(guarded)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    if refusal.status_code == 404 and (there := _elsewhere(request)) is not None:
        return RedirectResponse(there, headers=problems.PRIVATE)
    allowed = _allowed(request) if refusal.status_code == 405 else {}
    return problems.from_starlette(refusal, request, allowed)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault outside of our own routes. Starlette raises it again, for the server to log."""
    return problems.faulty()


def _elsewhere(request: Request) -> str | None:
    """The same address with a slash less or more at its end, if there is something."""
    path = request.scope["path"]
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    scope = {**request.scope, "path": other}
    routes = request.app.router.routes
    if mounted(scope)[1] and any(route.matches(scope)[0] is not Match.NONE for route in routes):
        return str(URL(scope=scope))
    return None


def _allowed(request: Request) -> dict[str, str]:
    """All methods of the path: routing knows only those of the first route that matches."""
    root = request.scope.get("root_path", "")
    path = request.url.path.removeprefix(root)
    for template, item in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", template), path):
            return {"allow": ", ".join(sorted(method.upper() for method in item))}
    return {}
