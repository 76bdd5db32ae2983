"""Errors as problem documents (RFC 9457): what, why, what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tailrace.errors import BodyNotJson, BodyTooLarge, InputInvalid, TailraceError
from tailrace.protocol.events import to_json
from tailrace.protocol.wire import JSON, MAX_BODY_BYTES, PROBLEM

logger = logging.getLogger("tailrace.http")


def document(error: TailraceError) -> dict[str, Any]:
    """The members of a problem document."""
    return {
        **error.details,
        "type": f"urn:tailrace:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": str(error),
        "fix": error.fix,
    }


def response(error: TailraceError) -> Response:
    """The answer that tells of `error`."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(to_json(document(error)), error.status, headers, PROBLEM)


def unexpected(error: Exception) -> Response:
    """The answer to a fault of ours: it is written down here, and told to nobody."""
    logger.error("A request failed", exc_info=error)
    return response(
        TailraceError("The server met a fault of its own.", fix="Its log says which; try again.")
    )


def from_starlette(error: HTTPException) -> Response:
    """Routing's own refusals (404, 405) in the same shape."""
    body = {
        "type": "about:blank",
        "title": str(error.detail),
        "status": error.status_code,
        "code": "http",
        "detail": str(error.detail),
        "fix": "GET /docs shows what is offered.",
    }
    return Response(to_json(body), error.status_code, error.headers, PROBLEM)


def from_validation(error: RequestValidationError) -> InputInvalid:
    """FastAPI's list of what is wrong, without the values, which may be secrets."""
    found = [
        {
            "where": ".".join(str(part) for part in e["loc"][1:]) or str(e["loc"][0]),
            "what": e["msg"],
        }
        for e in error.errors()
    ]
    said = "; ".join(f"{e['where']}: {e['what']}" for e in found[:5])
    return InputInvalid(f"The request does not fit: {said}.", fix="See /docs.", errors=found)


class ProblemRoute(APIRoute):
    """A route that bounds the body and answers every refusal as a problem.

    A route, not middleware or an exception handler: so it is the same in a host app that
    only includes the router.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                if request.method in ("POST", "PUT", "PATCH"):
                    await _bounded(request, needs_json=self.body_field is not None)
                return await handle(request)
            except TailraceError as error:
                return response(error)
            except RequestValidationError as error:
                return response(from_validation(error))
            except HTTPException as error:
                return from_starlette(error)
            except Exception as error:  # noqa: BLE001 - told to the log, not to the client
                return unexpected(error)

        return guarded


async def _bounded(request: Request, *, needs_json: bool) -> None:
    """Read the body, but no further than the bound, whatever Content-Length claims."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if needs_json and media_type != JSON:
        raise BodyNotJson(
            f"The body is declared as {media_type[:80] or 'nothing'!r}.",
            fix=f"Send JSON with Content-Type: {JSON}.",
        )
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(
                f"The request body exceeds {MAX_BODY_BYTES:,} bytes.",
                fix="Send less, or a link to it; events may come in several requests.",
            )
        parts.append(chunk)
    # Where Starlette's Request.body() keeps what it has read, and looks first.
    request._body = b"".join(parts)  # noqa: SLF001
