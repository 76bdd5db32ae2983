"""Errors as problem documents (RFC 9457): what, why, what to do."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tailrace.errors import InputInvalid, TailraceError
from tailrace.http import body
from tailrace.protocol.events import to_json
from tailrace.protocol.problems import (
    MAX_DETAIL,
    MAX_ERRORS,
    MAX_WHERE,
    document,
    shortened,
)
from tailrace.protocol.wire import PROBLEM, STREAM_HEADERS

PRIVATE: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of whatever is no stream. Runs belong to somebody, and change; and what a run says must
not become a page, should a browser be led to it.
"""

# By these it is known what has its headers already: those above, or those of a stream.
_HAVE_THEIRS: Final = frozenset({(b"referrer-policy", b"no-referrer"), STREAM_HEADERS[1]})

_CODES: Final = {404: "path-unknown", 405: "method-not-allowed"}

# Where pydantic speaks to Python programmers.
_WORDS: Final = {
    "dict_type": "Input should be a JSON object",
    "model_attributes_type": "Input should be a JSON object",
    "model_type": "Input should be a JSON object",
    "list_type": "Input should be a JSON array",
    "extra_forbidden": "There is no such field",
    "missing": "It is required",
}

logger = logging.getLogger("tailrace.http")


def nothing() -> Response:
    """204."""
    return Response(status_code=204, headers=PRIVATE)


def response(error: TailraceError) -> Response:
    """The answer that tells of `error`."""
    headers = {**PRIVATE, **error.headers}
    return Response(to_json(document(error)), error.status, headers, PROBLEM)


def unexpected(error: Exception) -> Response:
    """The answer to a fault of ours: it is written down here, and told to nobody."""
    logger.error("A request failed", exc_info=error)
    return faulty()


def faulty() -> Response:
    """What is told of a fault that somebody else writes down."""
    return response(
        TailraceError("The server met a fault of its own.", fix="Its log says which; try again.")
    )


def from_starlette(
    error: HTTPException, request: Request, headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal by the framework or the host (404, 405, 401, …) in the same shape."""
    status = error.status_code
    title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Refused"
    said = str(error.detail)
    if said == title:
        asked = f"{request.method[:20]} {shortened(request.url.path, 120)}"
        said = f"{asked} is not offered." if status in _CODES else f"{asked}: {title}."
    members = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": _CODES.get(status, f"http-{status}"),
        "detail": shortened(said, MAX_DETAIL),
        "fix": "GET /docs shows what is offered." if status in _CODES else "",
    }
    all_headers = dict(PRIVATE)
    for given in (error.headers, headers):
        all_headers |= {name.lower(): value for name, value in (given or {}).items()}
    return Response(to_json(members), status, all_headers, PROBLEM)


def from_validation(error: RequestValidationError) -> InputInvalid:
    """FastAPI's list of what is wrong, without the values, which may be secrets."""
    found = [
        {
            "where": shortened(".".join(map(str, e["loc"][1:] or e["loc"])), MAX_WHERE),
            "what": _WORDS.get(e["type"], e["msg"]),
        }
        for e in error.errors()[:MAX_ERRORS]
    ]
    said = "; ".join(f"{e['where']}: {e['what']}" for e in found[:5])
    return InputInvalid(
        f"The request does not fit: {said}.",
        fix="GET /docs shows what is taken here.",
        errors=found,
    )


def private(response: Response) -> Response:
    """`response` with those of PRIVATE that it has not said otherwise; a stream as it is."""
    if _HAVE_THEIRS.isdisjoint(response.raw_headers):
        for name, value in PRIVATE.items():
            response.headers.setdefault(name, value)
    return response


Handle = Callable[[Request], Awaitable[Response]]


def guarded(handle: Handle) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """`handle`, with every refusal and fault answered as a problem."""

    async def answered(request: Request) -> Response:
        try:
            return private(await handle(request))
        except TailraceError as error:
            return response(error)
        except RequestValidationError as error:
            return response(from_validation(error))
        except HTTPException as error:
            return from_starlette(error, request)
        except ClientDisconnect:
            # In the middle of its body. There is nobody to tell, and nothing went wrong.
            return Response(None, 400, PRIVATE)
        except Exception as error:  # noqa: BLE001 - told to the log, not to the client
            return unexpected(error)

    return answered


class ProblemRoute(APIRoute):
    """A route that checks the body and answers every refusal as a problem.

    A route, not middleware or an exception handler: so it is the same in a host app that
    only includes the router.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook."""
        handle = super().get_route_handler()
        needs_json = self.body_field is not None
        most = body.bound(self.path_format, needs_json=needs_json)

        async def admitted(request: Request) -> Response:
            if request.method not in {"POST", "PUT", "PATCH"}:
                return await handle(request)
            async with body.admitted(request, most, needs_json=needs_json):
                return await handle(request)

        return guarded(admitted)
