"""One way to write an endpoint, and three libraries that tell what its generator yields."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import fastapi.sse
import sse_starlette
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

import tailrace
from tests.compare.table import LIBRARIES

LIBRARY: Final = os.environ.get("COMPARE_LIBRARY", LIBRARIES[0])

RESPONSES: Final[Mapping[str, Any]] = {
    "tailrace": tailrace.EventSourceResponse,
    "sse-starlette": sse_starlette.EventSourceResponse,
    "fastapi.sse": fastapi.sse.EventSourceResponse,
}
CLASSES: Final[Mapping[str, Any]] = {**RESPONSES, "tailrace": tailrace.JSONEventSourceResponse}
"""Those for a path operation that yields."""

EventSourceResponse: Final[Any] = RESPONSES[LIBRARY]

runs = tailrace.Tailrace("memory:")
app = FastAPI(lifespan=runs.lifespan) if LIBRARY == "tailrace" else FastAPI()

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def parameters(library: str) -> set[str]:
    """What its EventSourceResponse may be given."""
    return set(inspect.signature(RESPONSES[library]).parameters)


def event(text: str | None, **fields: Any) -> Any:
    """The library's own event; the text is not to be made JSON."""
    if LIBRARY == "fastapi.sse":
        return fastapi.sse.ServerSentEvent(raw_data=text, **fields)
    if LIBRARY == "sse-starlette":
        return sse_starlette.ServerSentEvent(text, **fields)
    return tailrace.ServerSentEvent(text, **fields)


def foreign(text: str, **fields: Any) -> Any:
    """The event of another library."""
    if LIBRARY == "sse-starlette":
        return fastapi.sse.ServerSentEvent(raw_data=text, **fields)
    return sse_starlette.ServerSentEvent(text, **fields)


def answered(
    path: str,
    *,
    methods: Sequence[str] = ("GET",),
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    after: Callable[[], Any] | None = None,
    as_class: bool = False,
    **options: Any,
) -> Decorator:
    """A generator function as an endpoint; its parameters are the request's. `options` are those of
    the response; a library that does not have one answers 501. `after` is what is done in the
    background. `as_class`: it is a path operation that yields, in all three.
    """

    def routed(generate: Callable[..., Any]) -> Callable[..., Any]:
        missing = options.keys() - parameters(LIBRARY)
        if missing:
            app.add_api_route(path, lambda: _missing(missing), methods=[*methods])
        elif as_class or LIBRARY == "fastapi.sse":
            app.add_api_route(
                path, generate, methods=[*methods], status_code=status,
                response_class=CLASSES[LIBRARY], dependencies=[Depends(_dressing(headers, after))],
            )  # fmt: skip
        else:
            app.add_api_route(
                path, _endpoint(generate, status, headers, after, options), methods=[*methods]
            )
        return generate

    return routed


def _endpoint(
    generate: Callable[..., Any],
    status: int,
    headers: Mapping[str, str] | None,
    after: Callable[[], Any] | None,
    options: Mapping[str, Any],
) -> Callable[..., Any]:
    async def endpoint(**given: Any) -> Response:
        background = None if after is None else BackgroundTask(after)
        response: Response = EventSourceResponse(
            generate(**given), status, headers, background=background, **options
        )
        return response

    endpoint.__signature__ = inspect.signature(generate, eval_str=True).replace(  # type: ignore[attr-defined]
        return_annotation=Any
    )
    return endpoint


def _dressing(
    headers: Mapping[str, str] | None, after: Callable[[], Any] | None
) -> Callable[..., None]:
    """What fastapi.sse's users say by the response and the tasks that are handed to them."""

    def dressed(response: Response, tasks: BackgroundTasks) -> None:
        response.headers.update(headers or {})
        if after is not None:
            tasks.add_task(after)

    dressed.__annotations__ = {"response": Response, "tasks": BackgroundTasks}
    return dressed


def _missing(names: set[str]) -> Response:
    return JSONResponse({"missing": sorted(names)}, 501)


def made(path: str, make: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    """An endpoint whose generator and options are made anew for each request."""

    async def endpoint() -> Response:
        items, options = make()
        missing = options.keys() - parameters(LIBRARY)
        if missing:
            await items.aclose()
            return _missing(missing)
        response: Response = EventSourceResponse(items, **options)
        return response

    app.add_api_route(path, endpoint, response_model=None)


def resumable(path: str, generate: Callable[..., Any]) -> None:
    """An endpoint that one may come back to, where there is such a thing, and any other elsewhere.
    It has one parameter, `mark`.
    """

    async def endpoint(request: Request, mark: str) -> Response:
        return await runs.stream(generate(mark), request)

    if LIBRARY == "tailrace":
        app.add_api_route(path, endpoint, response_model=None)
    else:
        answered(path)(generate)


def denial(text: str) -> Callable[[WebSocket], Any]:
    """An endpoint that refuses a WebSocket by a stream."""

    async def refused(websocket: WebSocket) -> None:
        frame = f"data: {text}\n\n".encode()
        await websocket.send_denial_response(EventSourceResponse(iter([frame]), 403))

    return refused
