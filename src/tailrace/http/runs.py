"""The endpoints of runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.types import Scope

from tailrace.cohort import Manner
from tailrace.engine import Engine
from tailrace.errors import EventInvalid, InputInvalid, RunActive, RunUnknown
from tailrace.eventlog.contract import Append, Commit, Producer, Standing, admit, progressed
from tailrace.http import openapi
from tailrace.http.access import asker, guarding, mounted
from tailrace.http.asking import Asked, asked, cursor
from tailrace.http.audit import ACTIONS, DEED
from tailrace.http.many import ManyStream, chosen_runs, positions
from tailrace.http.playback import Playback
from tailrace.http.problems import PRIVATE, nothing
from tailrace.http.shapes import AppendEvents, AskTicket, StartRun
from tailrace.http.stream import RunStream, Telling
from tailrace.http.tickets import SECONDS, tickets
from tailrace.projections import Projection
from tailrace.projections.json import page
from tailrace.projections.output import Output
from tailrace.protocol.access import caller
from tailrace.protocol.cursor import Cursor, Kind, Resume, resume
from tailrace.protocol.events import OUTPUT, emitted, to_json
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord, snapshot
from tailrace.protocol.wire import JSON, LAST_EVENT_ID, MAX_BODY_BYTES

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Your own name for this request; repeated, it answers the same run.",
    ),
]
"""The parameter of whatever starts a run."""

_POSITIONS: Final = frozenset({"offset", "cut"})

_Run = Annotated[str, Path(description="The run's id", examples=["run_abcdefghijklmnopqrstuvwxyz"])]


def router(engine: Engine) -> APIRouter:
    """All endpoints of one engine's runs, to be included anywhere."""
    routes = APIRouter(route_class=guarding(engine), tags=["runs"], responses=openapi.ANY_PROBLEM)
    face = _Runs(engine)

    def add(method: str, path: str, endpoint: Any, summary: str, **options: Any) -> None:
        routes.add_api_route(
            path, endpoint, methods=[method], summary=summary,
            response_class=Response, response_model=None, **options,
        )  # fmt: skip

    add("GET", "/operations", face.operations, "What can be run", **openapi.OPERATIONS)
    add("POST", "/runs", face.start, "Start a run", **openapi.START)
    add("GET", "/runs", face.list, "Runs, newest first", **openapi.LIST)
    add("GET", "/runs/{run}", face.show, "A run's snapshot", **openapi.SHOW)
    add("DELETE", "/runs/{run}", face.forget, "Forget a finished run", **openapi.FORGET)
    add("GET", "/runs/{run}/events", face.watch, "Watch a run", **openapi.WATCH)
    add("POST", "/runs/{run}/events", face.append, "Add events from elsewhere", **openapi.APPEND)
    add("GET", "/runs/{run}/output", face.output, "What the program wrote", **openapi.OUTPUT)
    add("POST", "/runs/{run}/cancel", face.cancel, "Cancel a run", **openapi.CANCEL)
    add("POST", "/runs/{run}/rerun", face.rerun, "Start a run's like", **openapi.RERUN)
    add("POST", "/tickets", face.ticket, "A ticket for an EventSource", **openapi.TICKET)
    add("GET", "/events", face.watch_many, "Watch many runs at once", **openapi.MANY)
    return routes


def prefix(request: Request, mark: str = "/runs") -> str:
    """What stands before `mark` as the client sees it: a proxy's path, a mount, a router's
    prefix. Quoted, because a host's path may have parameters and so be anybody's text.
    """
    root, inner = mounted(request.scope)
    return quote(root + inner[: inner.rindex(mark)])


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON."""
    body = value if isinstance(value, bytes) else to_json(value)
    return Response(body, status, {**PRIVATE, **(headers or {})}, JSON)


class _Runs:
    """The endpoints."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def operations(self) -> Response:
        """Names, descriptions and JSON Schemas."""
        told = [
            {
                "name": operation.name,
                "description": operation.description,
                "input": operation.parameters,
                "timeout": operation.timeout,
                "abandon_after": operation.abandon_after,
            }
            for operation in self._engine.operations
        ]
        return answer({"operations": told})

    async def start(
        self,
        request: Request,
        body: StartRun,
        idempotency_key: Key = None,
    ) -> Response:
        """201 and the run, or 200 for an Idempotency-Key that started it before. With
        `Accept: text/event-stream` the answer is the stream itself.
        """
        wish = self._wish(request)
        record, is_new = await self._engine.submit(
            body.operation,
            body.input,
            principal=asker(request).principal,
            timeout=body.timeout,
            abandon_after=body.abandon_after,
            key=idempotency_key,
            thread=body.thread,
        )
        return self._begun(request, wish, record, is_new=is_new)

    async def rerun(self, request: Request, run: _Run) -> Response:
        """201 and a new run of the same operation, with the same input, limits and thread. With
        `Accept: text/event-stream` the answer is the stream itself.
        """
        wish = self._wish(request)
        record = await self._engine.rerun(run, asker(request).sees, asker(request).principal)
        return self._begun(request, wish, record, is_new=True)

    def _wish(self, request: Request) -> Asked:
        """What whoever starts a run wants to be told. Before anything is started: what cannot be
        told must not run.
        """
        wish = asked(request.headers, request.query_params, default="json")
        if wish.projection is not None:
            check_seats(self._engine, request.scope)
        return wish

    def _begun(self, request: Request, wish: Asked, record: RunRecord, *, is_new: bool) -> Response:
        """The answer to whoever started a run: the run, or its stream."""
        status = 201 if is_new else 200
        shape = snapshot(record, prefix(request))
        headers = {"location": shape["links"]["self"]}
        projection = wish.projection
        if projection is None:
            return answer(shape, status, headers)
        name = projection.name
        headers["content-location"] = shape["links"]["events"] + (
            "" if name == "events" else f"?format={name}"
        )
        # A client that repeats a request to come back has a cursor; a new run has no past.
        telling = told(record, wish, projection, Cursor(0, 0) if is_new else wish.cursor)
        return RunStream(
            self._engine.hub, record.id, telling,
            status_code=status, headers=headers, is_promised=is_new,
        )  # fmt: skip

    async def list(  # noqa: PLR0917 - each is a query parameter
        self,
        request: Request,
        state: Annotated[
            str | None,
            Query(
                description="States, with commas between",
                examples=["running"],
                json_schema_extra={"pattern": openapi.STATES},
            ),
        ] = None,
        operation: Annotated[str | None, Query(max_length=200)] = None,
        thread: Annotated[str | None, Query(max_length=200)] = None,
        q: Annotated[
            str | None, Query(max_length=200, description="Part of an operation or id")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[
            str | None, Query(pattern="^[0-9]{1,18}$", description="The `next` of the last page")
        ] = None,
    ) -> Response:
        """A page of runs; `next` is the cursor of the following one, or null."""
        query = RunQuery(
            principal=asker(request).sees,
            states=_states(state),
            operation=operation,
            thread=thread,
            text=q,
            before=None if cursor is None else int(cursor),
            limit=limit + 1,
        )
        found = await self._engine.find(query)
        shown = _fitting(found[:limit])
        here = prefix(request)
        return answer(
            {
                "runs": [snapshot(record, here) for record in shown],
                "next": str(shown[-1].ordinal) if len(found) > len(shown) else None,
            }
        )

    async def show(self, request: Request, run: _Run) -> Response:
        """State, progress, result or error, times, last event id, links."""
        return answer(snapshot(await self._record(request, run), prefix(request)))

    async def forget(self, request: Request, run: _Run) -> Response:
        """204; 409 while the run is active."""
        await self._record(request, run)
        await self._engine.forget(run)
        return nothing()

    async def cancel(self, request: Request, run: _Run) -> Response:
        """202 and the run, which ends soon; the same for one that has ended already."""
        await self._record(request, run)
        record = await self._engine.cancel(run)
        return answer(snapshot(record, prefix(request)), 202)

    async def watch(self, request: Request, run: _Run) -> Response:
        """The events after `Last-Event-ID` or `?after=`, then live to the end."""
        wish = asked(request.headers, request.query_params, run=run)
        if wish.projection is None:
            return await self._page(await self._record(request, run), wish)
        if wish.speed is None:
            record = await self._engine.watchable(run, asker(request).sees)
            check_seats(self._engine, request.scope, run)
            telling = told(record, wish, wish.projection, wish.cursor)
            return RunStream(self._engine.hub, run, telling)
        record = await self._record(request, run)
        telling = told(record, wish, wish.projection, wish.cursor)
        if not record.ended:
            raise RunActive(
                f"{run} is {record.state}; only a finished run has a timing to replay.",
                fix="Leave speed out to watch it live.",
            )
        check_seats(self._engine, request.scope, run)
        return Playback(self._engine.hub, self._engine.log, record, telling, wish.speed)

    async def output(
        self,
        request: Request,
        run: _Run,
        stream: Annotated[
            str | None, Query(pattern="^(stdout|stderr)$", description="Only one of the two")
        ] = None,
    ) -> Response:
        """The bytes a script wrote, live to the end."""
        after = cursor(request.query_params, run=run)
        await self._engine.watchable(run, asker(request).sees)
        check_seats(self._engine, request.scope, run)
        telling = Telling(after, Manner(Output(stream)))
        return RunStream(self._engine.hub, run, telling)

    async def ticket(self, request: Request, body: AskTicket) -> Response:
        """201: an address that needs no key, for one connection to one run, within a minute."""
        record = await self._record(request, body.run)
        ticket = tickets(self._engine).make(record.id, record.principal)
        here = prefix(request, "/tickets")
        told = {
            "ticket": ticket,
            "expires_in": SECONDS,
            "url": f"{here}/runs/{record.id}/events?ticket={ticket}",
        }
        return answer(told, 201)

    async def append(self, request: Request, run: _Run, body: AppendEvents) -> Response:
        """Exactly once for a named producer, however often the request is repeated."""
        record = await self._record(request, run)
        if not body.events:
            # Who only asks how it stands has nothing written; every few seconds, where one waits.
            request.scope[DEED] = ACTIONS["GET", "/runs/{run}"]
            admit(Standing(record.state, record.attempt), Append(run, fence=body.attempt), None)
            last = record.last_seq
            return _appended(record, Commit(run, last + 1, last, record.state))
        at = self._engine.now()
        for event in body.events:
            _refuse_positions(event.type, event.data)
        drafts = tuple(emitted(event.type, event.data, at) for event in body.events)
        sent = body.producer
        producer = None
        if sent is not None:
            epoch = sent.epoch if sent.epoch is not None else body.attempt or 0
            producer = Producer(sent.id, epoch, sent.seq)
        append = Append(
            run, drafts, patch=progressed(drafts), fence=body.attempt, producer=producer
        )
        commit = await self._engine.append(append)
        return _appended(record, commit)

    async def watch_many(
        self,
        request: Request,
        runs: Annotated[
            str | None, Query(description="Ids with commas between; all that are yours without it")
        ] = None,
    ) -> Response:
        """One stream of many runs: those named, or all that are going on and come."""
        names = chosen_runs(runs)
        for run in names or ():
            await self._record(request, run)
        vector = request.headers.get(LAST_EVENT_ID) or request.query_params.get("after", "")
        _, known = positions(vector) or (0, {})
        for run, after in known.items():
            # In the stream it would be too late: a client that comes back with the same
            # vector would be refused for ever.
            with contextlib.suppress(RunUnknown):
                resume(after, (await self._record(request, run)).extent)
        check_seats(self._engine, request.scope)
        return ManyStream(self._engine, request.scope, names, vector)

    async def _record(self, request: Request, run: str) -> RunRecord:
        """Everything about a run begins here: of others' there is none."""
        return await self._engine.record(run, asker(request).sees)

    async def _page(self, record: RunRecord, wish: Asked) -> Response:
        after = wish.cursor
        if isinstance(after, str):
            after = Cursor(record.epoch, record.last_seq)
        start = resume(after, record.extent)
        blocks = await self._engine.log.read(record.id, start.after, MAX_BODY_BYTES)
        if blocks and blocks[0].first > start.after + 1:
            # Trimmed since the record was read.
            lost = (start.after + 1, blocks[0].first - 1)
            start = Resume(Kind.GONE, lost[1], lost)
        return answer(page(blocks, start, wish.types, wish.limit, record.extent))


def check_seats(engine: Engine, scope: Scope, run: str | None = None) -> None:
    """Whether there is room for one more stream, of `run` if it is of one. Before the answer is
    known, so that a refusal is one for everybody, the audit too; the stream looks once more.
    Raises TooManyRequests.
    """
    watchers = 0 if run is None else engine.hub.watchers(run) + 1
    engine.hub.seats.check(caller(scope).name, watchers)


def told(record: RunRecord, wish: Asked, projection: Projection, after: Cursor | str) -> Telling:
    """How a watcher of a run wants to be told."""
    began = record.started_at or record.created_at
    return Telling(after, Manner(projection, wish.types, wish.tick, began))


def _appended(record: RunRecord, commit: Commit) -> Response:
    told = {
        "appended": commit.last - commit.first + 1,
        "last_event_id": str(Cursor(record.epoch, commit.last)),
        "state": commit.state.value,
    }
    return answer(told)


def _refuse_positions(type: str, payload: object) -> None:
    """Whoever takes up a script again believes what its output says of how far it came. Raises
    EventInvalid.
    """
    if type == OUTPUT and isinstance(payload, Mapping) and not _POSITIONS.isdisjoint(payload):
        raise EventInvalid(
            "The offset and cut of an output event say how far a script's own output has come.",
            fix="Leave them out, or emit an event of another type.",
        )


def _fitting(found: Sequence[RunRecord]) -> Sequence[RunRecord]:
    """As many as make a page of moderate size, at least one: inputs and results can be large,
    and to write them out holds up everybody.
    """
    size = 0
    for count, record in enumerate(found):
        parts = (record.input, record.result, record.error, record.progress)
        size += sum(len(part) for part in parts if part is not None)
        if size > MAX_BODY_BYTES and count:
            return found[:count]
    return found


def _states(text: str | None) -> frozenset[State]:
    if text is None:
        return frozenset()
    try:
        return frozenset(State(name) for name in text.split(","))
    except ValueError:
        raise InputInvalid(
            f"state={text[:80]!r} names something that is no state.",
            fix=f"Use some of {', '.join(State)}, with commas between; leave state out for all.",
        ) from None
