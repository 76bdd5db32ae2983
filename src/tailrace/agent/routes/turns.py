"""Turns of a chat, started and found again for those who ask by HTTP."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from tailrace.agent import history
from tailrace.agent.chat import Chat
from tailrace.agent.routes.sent import Asked
from tailrace.cohort import Manner
from tailrace.errors import CursorMalformed, RunUnknown
from tailrace.http import openapi
from tailrace.http.access import asker, guarding, returning
from tailrace.http.asking import cursor
from tailrace.http.problems import nothing
from tailrace.http.runs import check_seats, prefix
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import Projection
from tailrace.projections.named import Named
from tailrace.protocol.agent import CHAT
from tailrace.protocol.cursor import LATEST, Cursor, resume
from tailrace.protocol.events import to_json
from tailrace.protocol.lifecycle import ACTIVE
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.protocol.wire import EVENT_STREAM, LAST_EVENT_ID, RUN

BEGINNING: Final = Cursor(0, 0)

# What is a position in every turn.
_ANYWHERE: Final = frozenset({"", "0", LATEST})

# Read by hand, as those of the runs are.
_POSITIONS: Final[list[dict[str, Any]]] = openapi.WATCH["openapi_extra"]["parameters"][:2]
"""The parameters that say where a watcher goes on."""

_MOST_TURNS: Final = 2 * history.MAX_TURNS
"""How far back a conversation is looked at."""


class Turns:
    """The turns of one chat."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.engine = chat.engine

    def routes(self) -> APIRouter:
        """A router whose endpoints are behind the same door as those of the runs."""
        return APIRouter(
            route_class=guarding(self.engine), tags=["chat"], responses=openapi.ANY_PROBLEM
        )

    async def start(  # noqa: PLR0917 - what a turn is
        self,
        request: Request,
        asked: Asked,
        thread: str,
        model: str | None = None,
        key: str | None = None,
        regenerates: str | None = None,
    ) -> tuple[RunRecord, bool]:
        """Start a turn for whoever asks; the run, and whether it is new. What came before is what
        the thread has; where this chat believes its clients, what they say, if they say anything.

        Raises InputInvalid, ThreadBusy, KeyReused, LogFull.
        """
        given: dict[str, Any] = {"message": asked.message, "model": model}
        if self.chat.client_history and asked.history:
            given["history"] = asked.history
        else:
            given["regenerates"] = regenerates
        return await self.engine.submit(
            CHAT, given, principal=asker(request).principal, thread=thread, key=key
        )

    async def newest(
        self, request: Request, thread: str, *, is_active: bool = False
    ) -> RunRecord | None:
        """The asker's last turn in a thread, or the one that goes on."""
        found = await self.find(request, thread, 1, is_active=is_active)
        return found[0] if found else None

    async def find(
        self, request: Request, thread: str, limit: int = _MOST_TURNS, *, is_active: bool = False
    ) -> Sequence[RunRecord]:
        """The asker's turns in a thread, newest first."""
        return await self.engine.find(
            RunQuery(
                principal=asker(request).principal,
                operation=CHAT,
                thread=thread,
                states=ACTIVE if is_active else frozenset(),
                limit=limit,
            )
        )

    def room(self, request: Request) -> None:
        """Before a turn is started: what cannot be told must not run. Raises TooManyRequests."""
        check_seats(self.engine, request.scope)

    def begun(
        self,
        request: Request,
        started: tuple[RunRecord, bool],
        projection: Projection,
        there: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The stream of a turn that the request started, or had started before and may know a part
        of. `there`: where to come back to it. Raises CursorMalformed.
        """
        run, is_new = started
        at = BEGINNING if is_new else position(request, run.id)
        return self._stream(run, projection, at, there, headers, is_promised=is_new)

    def resumed(
        self,
        request: Request,
        run: RunRecord,
        projection: Projection,
        there: str,
        headers: Mapping[str, str] | None = None,
        *,
        at: Cursor | str | None = None,
    ) -> Response:
        """The stream of a turn from `at`, or where the request says: its header, its `?after=`, or
        the beginning. Raises CursorMalformed, CursorFromFuture, TooManyRequests.
        """
        check_seats(self.engine, request.scope, run.id)
        at = position(request, run.id) if at is None else at
        if isinstance(at, Cursor):
            # The stream would look as well, but what it answers is told in nobody's dialect.
            resume(at, run.extent)
        return self._stream(run, projection, at, there, headers, is_promised=False)

    def _stream(
        self,
        run: RunRecord,
        projection: Projection,
        at: Cursor | str,
        there: str,
        headers: Mapping[str, str] | None,
        *,
        is_promised: bool,
    ) -> Response:
        told = {RUN: run.id, "content-location": there, **(headers or {})}
        telling = Telling(at, Manner(projection, began=run.started_at or run.created_at))
        return RunStream(self.engine.hub, run.id, telling, headers=told, is_promised=is_promised)

    async def going_on(
        self,
        request: Request,
        thread: str,
        projection: Projection,
        mark: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The stream of the turn that goes on in a thread; 204 where there is none.

        Its ids name the turn: who comes back for the rest of one gets that, though it has ended
        meanwhile, and another goes on. Raises CursorMalformed, RunUnknown.
        """
        last = returning(request) or ""
        name, _, _ = last.rpartition(":")
        if not name and last not in _ANYWHERE:
            raise CursorMalformed(
                f"{last[:40]!r} does not say of which turn it is.",
                fix="Send back the last id of this very stream, or go on at the Content-Location "
                "of the one that you have it from.",
            )
        if name:
            run = await self.engine.record(name, asker(request).sees)
            if run.thread != thread:
                raise RunUnknown(
                    f"{run.id} is no turn of this conversation.",
                    fix="Send back the last id of this stream, as it was received.",
                )
        else:
            found = await self.newest(request, thread, is_active=True)
            if found is None:
                return nothing()
            run = found
        there = events(request, mark, run, projection)
        return self.resumed(request, run, Named(projection), there, headers)


def events(request: Request, mark: str, run: RunRecord, projection: Projection) -> str:
    """Where the events of a run are in a format, for a route that begins with `mark`."""
    return f"{prefix(request, mark)}/runs/{run.id}/events?format={projection.name}"


def position(request: Request, run: str) -> Cursor | str:
    """Where a watcher of a run goes on. Raises CursorMalformed."""
    return cursor(request.query_params, request.headers.get(LAST_EVENT_ID), run)


def named(*what: str | None) -> str:
    """The idempotency key of a request that names itself in a dialect's own way. Ids are anybody's
    text: put together as they are, two of them could look like two others.
    """
    return f"chat:{hashlib.sha256(to_json(what)).hexdigest()}"


def own_thread(key: str | None = None) -> str:
    """For a conversation that its client has not named; with an idempotency key always the same,
    or a request that is repeated would be another one.
    """
    return f"thread-{secrets.token_hex(8) if key is None else named(key)[-16:]}"


def documented(
    routes: APIRouter, method: str, path: str, endpoint: Any, summary: str, *other: str
) -> None:
    """Add an endpoint that answers a stream, or one of the `other` media types."""
    media: dict[str, Any] = {name: {} for name in (EVENT_STREAM, *other)}
    responses: dict[int | str, Any] = {200: {"description": "The turn, live", "content": media}}
    if method == "GET":
        responses[204] = {"description": "Nothing goes on, and the cursor has all there was"}
    routes.add_api_route(
        path, endpoint, methods=[method], summary=summary, response_class=Response,
        response_model=None, responses=responses,
        openapi_extra={"parameters": _POSITIONS} if method == "GET" else None,
    )  # fmt: skip
