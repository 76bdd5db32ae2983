"""A script by one request: the address names the file, and the answer is what it says, live.

    curl -N 'http://127.0.0.1:4000/run_file?file_path=hello.py'

See `begin` for how a browser comes back to it.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, ValidationError
from starlette.datastructures import Headers

from tailrace.builtin import SCRIPT
from tailrace.engine import Engine
from tailrace.errors import FormatUnknown, InputInvalid, OperationUnknown
from tailrace.http import body, openapi
from tailrace.http.access import asker, guarding
from tailrace.http.asking import asked
from tailrace.http.begin import begun
from tailrace.http.runs import Key, prefix
from tailrace.http.shapes import RunFile
from tailrace.projections import Projection, stream
from tailrace.protocol.runs import RunRecord

_PATH: Final = "/run_file"


def router(engine: Engine) -> APIRouter:
    """The endpoint, for both methods."""
    routes = APIRouter(
        route_class=guarding(engine), tags=["scripts"], responses=openapi.ANY_PROBLEM
    )
    face = _Scripts(engine)
    told: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("GET", face.get, openapi.RUN_FILE_GET),
        ("POST", face.post, openapi.RUN_FILE_POST),
    )
    for method, endpoint, options in told:
        routes.add_api_route(
            _PATH, endpoint, methods=[method], summary="Run a script and watch it",
            response_class=Response, response_model=None, **options,
        )  # fmt: skip
    return routes


class _Query(RunFile):
    """The same, from an address, where everything is text."""

    model_config = ConfigDict(extra="ignore", strict=False)


class _Scripts:
    """The endpoint."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get(self, request: Request) -> Response:
        """Start the script and stream what it says; for an `EventSource` that reconnects, go on."""
        return await self._told(request, _queried(request))

    async def post(self, request: Request, idempotency_key: Key = None) -> Response:
        """The same. What to run may be in the query, or in a body of JSON."""
        # No parameter of FastAPI's, which would insist on a body.
        if not (await request.body()).strip():
            return await self._told(request, _queried(request), idempotency_key)
        await body.need_json(request)
        both = RunFile.model_fields.keys() & request.query_params.keys()
        if both:
            raise InputInvalid(
                f"There is a body, and {min(both)} is in the query as well.",
                fix="Send all of it in the body, or all of it in the query.",
            )
        return await self._told(request, _checked(RunFile, await request.json()), idempotency_key)

    async def _told(self, request: Request, wish: RunFile, key: str | None = None) -> Response:
        projection = _projection(wish.format, request.headers)

        async def start() -> RunRecord:
            return await self._started(request, wish, key)

        where = prefix(request, _PATH)
        return await begun(self._engine, request, projection, start, where, wish.tick)

    async def _started(self, request: Request, wish: RunFile, key: str | None) -> RunRecord:
        if self._engine.operations.find(SCRIPT) is None:
            raise OperationUnknown(
                "This server runs no scripts.",
                fix="Start it with --allow-root FOLDER; in an app of yours, "
                "call allow_scripts(FOLDER).",
            )
        given = {"args": wish.args, "profile": wish.profile, "stderr": wish.stderr}
        record, _ = await self._engine.submit(
            SCRIPT,
            {"file": wish.file_path} | {name: value for name, value in given.items() if value},
            principal=asker(request).principal,
            timeout=wish.timeout,
            abandon_after=wish.abandon_after,
            key=key,
        )
        return record


def _projection(named: str | None, headers: Headers) -> Projection:
    if named is None:
        # What EventSource accepts, and curl, is answered by text.
        accept = Headers(raw=[header for header in headers.raw if header[0] == b"accept"])
        found = asked(accept, {}, offered=("events", "ndjson")).projection
        named = "text" if found is None or found.name == "events" else found.name
    if named == "json":
        raise FormatUnknown(
            "This response streams a run live; it is no page.",
            fix="Leave format out; GET /runs/{id}/events?format=json has the pages.",
        )
    return stream(named)


def _queried(request: Request) -> RunFile:
    query = request.query_params
    given: dict[str, Any] = {**query}
    if "args" in query:
        given["args"] = query.getlist("args")
    return _checked(_Query, given)


def _checked(model: type[RunFile], given: Any) -> RunFile:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(
            [{**found, "loc": ("request", *found["loc"])} for found in error.errors()]
        ) from None


__all__ = ["router"]
