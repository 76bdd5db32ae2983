"""Who asks: found out once for each request, before anything of it is read, for every route.

What a route needs stands in one table. A route that is not in it is for `admin` alone: a new one
is closed until somebody says who it is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.engine import Engine
from tailrace.errors import Unauthorized
from tailrace.http import body
from tailrace.http.audit import DEED, audited, is_audited
from tailrace.http.limits import UNKNOWN, Fields
from tailrace.http.problems import PRIVATE, ProblemRoute, guarded
from tailrace.http.tickets import redeemed
from tailrace.protocol.access import ADMIN, CANCEL, EMIT, LOCAL, OPEN, RUN, WATCH, WHO, Access
from tailrace.protocol.wire import LAST_EVENT_ID, MAX_BODY_BYTES

NEEDS: Final[dict[tuple[str, str], str]] = {
    ("GET", "/operations"): WATCH,
    ("POST", "/runs"): RUN,
    ("GET", "/runs"): WATCH,
    ("GET", "/runs/{run}"): WATCH,
    ("DELETE", "/runs/{run}"): CANCEL,
    ("GET", "/runs/{run}/events"): WATCH,
    ("POST", "/runs/{run}/events"): EMIT,
    ("GET", "/runs/{run}/output"): WATCH,
    ("POST", "/runs/{run}/cancel"): CANCEL,
    ("POST", "/runs/{run}/rerun"): RUN,
    ("GET", "/events"): WATCH,
    ("GET", "/run_file"): RUN,
    ("POST", "/run_file"): RUN,
    ("POST", "/tickets"): WATCH,
    ("GET", "/metrics"): WATCH,
    ("POST", "/mcp/chat/stream"): RUN,
    ("GET", "/mcp/chat/{run}/stream"): WATCH,
    ("POST", "/mcp/analyze-query"): WATCH,
    ("POST", "/agui"): RUN,
    ("GET", "/agui/{thread}/stream"): WATCH,
    ("POST", "/api/chat"): RUN,
    ("GET", "/api/chat/{chat}"): WATCH,
    ("GET", "/api/chat/{chat}/stream"): WATCH,
    ("POST", "/api/chat/{chat}/stop"): CANCEL,
    ("POST", "/v1/responses"): RUN,
    ("GET", "/v1/responses/{id}"): WATCH,
    ("DELETE", "/v1/responses/{id}"): CANCEL,
    ("POST", "/v1/responses/{id}/cancel"): CANCEL,
    ("GET", "/v1/responses/{id}/input_items"): WATCH,
    ("GET", "/v1/models"): WATCH,
}


async def identified(engine: Engine, scope: Scope) -> Access:
    """Who asks. Raises Unauthorized, TooManyRequests for who was not known too often, or what else
    the engine's `identify` does.
    """
    known = scope.get(WHO)
    if isinstance(known, Access):
        return known
    try:
        access = await _known(engine, scope)
    except (Unauthorized, HTTPException) as error:
        # A ticket is for whom nobody knows, not for whom the host refuses.
        if not isinstance(error, Unauthorized) and error.status_code != HTTPStatus.UNAUTHORIZED:
            raise
        found = redeemed(engine, scope, mounted(scope)[1])
        if found is None:
            if engine.rates is not None:
                await engine.rates.admit(scope, UNKNOWN)
            raise
        access = found
    scope[WHO] = access
    return access


async def again(engine: Engine, scope: Scope) -> Access:
    """Who asks, found out anew: whoever goes on for long may not be known any more. Raises as
    `identified` does.
    """
    scope.pop(WHO, None)
    return await identified(engine, scope)


async def _known(engine: Engine, scope: Scope) -> Access:
    if engine.identify is None:
        return OPEN
    found = engine.identify(Request(scope))
    if inspect.isawaitable(found):
        found = await found
    if isinstance(found, Access):
        return found
    if found == LOCAL:
        raise Unauthorized(
            f"Nobody who asks can be called {LOCAL!r}: that is whoever is not told apart.",
            fix="Have `principal=` answer another name.",
        )
    return Access.of(found)


def returning(request: Request) -> str | None:
    """The last id that whoever asks has had, as the address or the header says."""
    return request.headers.get(LAST_EVENT_ID) or request.query_params.get("after")


def asker(request: Request) -> Access:
    """Who was found to ask."""
    access: Access = request.scope[WHO]
    return access


async def admit(engine: Engine, request: Request, need: str) -> Fields:
    """Let in whoever has the scope `need`, and has not asked too often; the header fields that say
    how often is left. Raises Unauthorized, ScopeMissing, TooManyRequests.
    """
    access = await identified(engine, request.scope)
    if need == RUN and request.method == "GET" and returning(request):
        # An `EventSource` has lost its connection; nothing is started.
        need = WATCH
    access.check(need)
    return () if engine.rates is None else await engine.rates.admit(request.scope, need)


def guarding(engine: Engine) -> type[ProblemRoute]:
    """The class of one engine's routes."""

    class Route(ProblemRoute):
        """A route that lets in whoever has its scope."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """FastAPI's hook."""
            handle = super().get_route_handler()
            needs = {method: _needed(method, self.path_format) for method in self.methods or ()}

            async def admitted(request: Request) -> Response:
                fields = await admit(engine, request, needs[request.method])
                response = await handle(request)
                response.raw_headers.extend(fields)
                return response

            answered = guarded(admitted)

            async def recorded(request: Request) -> Response:
                response = await answered(request)
                if is_audited():
                    audited(
                        request.scope.get(WHO),
                        request.method,
                        self.path_format,
                        _about(request, response),
                        response.status_code,
                        request.client,
                        deed=request.scope.get(DEED),
                    )
                return response

            return recorded

    return Route


def _about(request: Request, response: Response) -> str | None:
    """The run that a request was about, or has started."""
    run = request.path_params.get("run") or response.headers.get("tailrace-run")
    if run is None and response.status_code < 300:
        run = response.headers.get("location", "").rpartition("/")[2]
    return run or None


class Admitted:
    """An ASGI app to which nobody comes unknown: for faces that are no routes of ours. What each
    may do there is for the app to see to; who asks is in the scope, under WHO.
    """

    def __init__(self, engine: Engine, app: ASGIApp) -> None:
        self._engine = engine
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def known(request: Request) -> Response:
            await identified(self._engine, request.scope)
            if request.method != "POST":
                return _Through(self._app)
            # Bounded as all others are, before somebody else reads it.
            async with body.admitted(request, MAX_BODY_BYTES, needs_json=False):
                return _Through(self._app, await request.body())

        answer = await guarded(known)(Request(scope, receive))
        await answer(scope, receive, send)


class _Through(Response):
    """The answer is somebody else's."""

    def __init__(self, app: ASGIApp, sent: bytes | None = None) -> None:
        super().__init__()
        self._app = app
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def again() -> Message:
            sent, self._sent = self._sent, None
            if sent is None:
                return await receive()
            return {"type": "http.request", "body": sent, "more_body": False}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [*message.get("headers", ())]
                known = {name.lower() for name, _ in given}
                ours = [(name.encode(), value.encode()) for name, value in PRIVATE.items()]
                added = [pair for pair in ours if pair[0] not in known]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        await self._app(scope, again, told)


def _needed(method: str, path: str) -> str:
    # Included with a prefix, it has something in front.
    known = (known for m, known in NEEDS if m == method and path.endswith(known))
    return NEEDS.get((method, max(known, default="", key=len)), ADMIN)


def mounted(scope: Scope) -> tuple[str, str]:
    """Where the app is mounted, and the path below that."""
    root = str(scope.get("root_path", "")).rstrip("/")
    path = str(scope["path"])
    # Servers differ in whether the path repeats the root.
    return root, path[len(root) :] if path == root or path.startswith(f"{root}/") else path
