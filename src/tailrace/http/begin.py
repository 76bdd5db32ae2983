"""A run by one request, which is its stream; sent again with the last id, it goes on with that run.

For whoever has no more than an address: curl, or a page with an `EventSource`. That one repeats
its request when it is cut, and a GET that starts something would start it again. So every id
that is sent here names the run as well; whoever comes back with one goes on with that run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request, Response
from starlette.types import Scope

from tailrace.cohort import Manner
from tailrace.engine import Engine
from tailrace.errors import CursorMalformed, OriginForbidden, RunUnknown
from tailrace.http.access import asker, returning
from tailrace.http.origins import is_strangers
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import Projection
from tailrace.projections.contract import ServerSent
from tailrace.projections.named import Named
from tailrace.protocol.access import caller
from tailrace.protocol.cursor import Cursor, parse
from tailrace.protocol.runs import RunRecord, check_run_id
from tailrace.protocol.wire import RUN

_START: Final = Cursor(0, 0)


async def begun(  # noqa: PLR0917 - what is asked, and how it is told
    engine: Engine,
    request: Request,
    projection: Projection,
    start: Callable[[], Awaitable[RunRecord]],
    prefix: str | None = None,
    tick: float | None = None,
) -> Response:
    """The stream of a run that `start` starts, or of that which the request comes back to. Who asks
    must be known. `prefix`: where the endpoints of runs are, if that is known. `tick`: tell the
    elapsed time after so many seconds of silence.

    Raises OriginForbidden, CursorMalformed, RunUnknown, TooManyRequests, and what `start` does.
    """
    refuse_strangers(request.scope)
    going_on = _position(request)
    if going_on is None:
        # Before anything is started: what cannot be told must not run.
        engine.hub.seats.check(caller(request.scope).name)
        record, cursor = await start(), _START
    else:
        run, cursor = going_on
        record = await engine.watchable(run, asker(request).sees)
    began = record.started_at or record.created_at
    told = Named(projection) if isinstance(projection, ServerSent) else projection
    headers = {RUN: record.id}
    if prefix is not None:
        there = f"{prefix}/runs/{record.id}/events?format={projection.name}"
        headers["content-location"] = there
    telling = Telling(cursor, Manner(told, None, tick, began, in_silence=True))
    return _Stream(engine.hub, record.id, telling, headers=headers, is_promised=going_on is None)


class _Stream(RunStream):
    """A run's stream to whoever knows no run, but the request that started it."""

    @property
    def opening(self) -> bytes:
        """With an id, because the first event may be long in coming: a browser that is cut
        before it would start the work once more.
        """
        telling = self._telling
        opening = telling.manner.projection.opening
        if telling.cursor != _START or not isinstance(telling.manner.projection, Named):
            return opening
        # An id without data is taken in, and nothing is dispatched (HTML, 9.2.6).
        return opening + f"id: {self.named(_START)}\n\n".encode()

    def named(self, cursor: Cursor) -> str:
        """The run, and the cursor."""
        return f"{self._run}:{cursor}"


def refuse_strangers(scope: Scope) -> None:
    """Any page of the web can have a browser on this machine send such a request, as an image's
    address, or by a link: nothing in it needs the consent that JSON does. Raises OriginForbidden.
    """
    if is_strangers(scope):
        raise OriginForbidden(
            "A page of another site asked to start something.",
            fix="Ask from a page of this server, or from a program.",
        )


def _position(request: Request) -> tuple[str, Cursor] | None:
    """Whose run the client has had, and how far. Raises CursorMalformed."""
    text = returning(request)
    if not text:
        return None
    run, _, cursor = text.partition(":")
    try:
        return check_run_id(run), parse(cursor)
    except RunUnknown:
        # To start it could be to start it again.
        raise CursorMalformed(
            f"{text[:40]!r} names no run: an id of this stream looks like run_…:57.",
            fix="Leave it out to start anew; to go on with a run, send back its last id, "
            "or use GET /runs/{id}/events.",
        ) from None


__all__ = ["begun"]
