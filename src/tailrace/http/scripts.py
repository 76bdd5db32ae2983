"""A script by one request: the address names the file, and the answer is what it says, live.

    curl -N 'http://127.0.0.1:4000/run_file?file_path=hello.py'

For whoever has no more than an address: curl, or a page with an `EventSource`. That one repeats
its request when it is cut, and a GET that starts something would start it again. So every id
that is sent here names the run as well; whoever comes back with one goes on with that run.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, ValidationError
from starlette.datastructures import Headers
from starlette.types import Scope

from tailrace.builtin import SCRIPT
from tailrace.cohort import Manner
from tailrace.engine import Engine
from tailrace.errors import (
    CursorMalformed,
    FormatUnknown,
    InputInvalid,
    OperationUnknown,
    OriginForbidden,
    RunUnknown,
)
from tailrace.http import body, openapi
from tailrace.http.access import asker, guarding, returning
from tailrace.http.asking import asked
from tailrace.http.limits import caller
from tailrace.http.origins import is_strangers
from tailrace.http.runs import Key, prefix
from tailrace.http.shapes import RunFile
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import Projection, stream
from tailrace.projections.contract import ServerSent
from tailrace.projections.text import NamedText
from tailrace.protocol.cursor import Cursor, parse
from tailrace.protocol.runs import RunRecord, check_run_id
from tailrace.protocol.wire import RUN

_PATH: Final = "/run_file"
_START: Final = Cursor(0, 0)


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
        await body.admit(request, needs_json=True)
        both = RunFile.model_fields.keys() & request.query_params.keys()
        if both:
            raise InputInvalid(
                f"There is a body, and {min(both)} is in the query as well.",
                fix="Send all of it in the body, or all of it in the query.",
            )
        return await self._told(request, _checked(RunFile, await request.json()), idempotency_key)

    async def _told(self, request: Request, wish: RunFile, key: str | None = None) -> Response:
        _refuse_strangers(request.scope)
        # Before anything is started: what cannot be told must not run.
        projection = _projection(wish.format, request.headers)
        going_on = _position(request)
        if going_on is None:
            self._engine.hub.seats.check(caller(request.scope).name)
            record, cursor = await self._started(request, wish, key), _START
        else:
            run, cursor = going_on
            record = await self._engine.watchable(run, asker(request).sees)
        began = record.started_at or record.created_at
        manner = Manner(projection, None, wish.tick, began, in_silence=True)
        shown = "text" if isinstance(projection, NamedText) else projection.name
        headers = {
            "content-location": f"{prefix(request, _PATH)}/runs/{record.id}/events?format={shown}",
            RUN: record.id,
        }
        return _Stream(
            self._engine.hub, record.id, Telling(cursor, manner),
            headers=headers, is_promised=going_on is None,
        )  # fmt: skip

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


class _Stream(RunStream):
    """A run's stream to whoever knows no run, but the request that started it."""

    @property
    def opening(self) -> bytes:
        """With an id, because the first event may be long in coming: a browser that is cut
        before it would start the script once more.
        """
        telling = self._telling
        opening = telling.manner.projection.opening
        if telling.cursor != _START or not isinstance(telling.manner.projection, ServerSent):
            return opening
        # An id without data is taken in, and nothing is dispatched (HTML, 9.2.6).
        return opening + f"id: {self.named(_START)}\n\n".encode()

    def named(self, cursor: Cursor) -> str:
        """The run, and the cursor."""
        return f"{self._run}:{cursor}"


def _refuse_strangers(scope: Scope) -> None:
    """Any page of the web can have a browser on this machine send this request, as an image's
    address, or by a link: nothing in it needs the consent that JSON does. Raises OriginForbidden.
    """
    if is_strangers(scope):
        raise OriginForbidden(
            "A page of another site asked to run a script.",
            fix="Ask from a page of this server, or from a program.",
        )


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
    return NamedText() if named == "text" else stream(named)


def _position(request: Request) -> tuple[str, Cursor] | None:
    """Whose run the client has had, and how far. Raises CursorMalformed."""
    text = returning(request)
    if not text:
        return None
    run, _, cursor = text.partition(":")
    try:
        return check_run_id(run), parse(cursor)
    except RunUnknown:
        # To start the script could be to start it again.
        raise CursorMalformed(
            f"{text[:40]!r} names no run: an id of this stream looks like run_…:57.",
            fix="Leave it out to start the script; to go on with a run, send back its last id, "
            "or use GET /runs/{id}/events.",
        ) from None


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
