"""The endpoints of runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tailrace.engine import LOCAL, Engine
from tailrace.errors import InputInvalid, RunActive
from tailrace.eventlog.contract import Append, Producer
from tailrace.http.asking import Asked, asked
from tailrace.http.many import ManyStream, chosen_runs
from tailrace.http.playback import Playback
from tailrace.http.problems import ProblemRoute
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import stream
from tailrace.projections.json import page
from tailrace.projections.output import Output
from tailrace.protocol.cursor import Cursor, resume
from tailrace.protocol.events import emitted, to_json
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord, snapshot
from tailrace.protocol.wire import EVENT_STREAM, JSON, MAX_BODY_BYTES

MAX_EVENTS = 1000
_Json = dict[str, Any]


class StartRun(BaseModel):
    """What to run."""

    model_config = ConfigDict(extra="forbid")

    operation: str = Field(max_length=200, examples=["script"])
    input: dict[str, Any] = Field(default_factory=dict, examples=[{"file": "hello.py"}])
    timeout: float | None = Field(None, description="Seconds after which the run ends as timed_out")
    abandon_after: float | None = Field(
        None, description="Seconds without any watcher after which the run is cancelled"
    )


class RemoteEvent(BaseModel):
    """An event of a remote producer."""

    model_config = ConfigDict(extra="forbid")

    type: str
    data: dict[str, Any] = Field(default_factory=dict)


class RemoteProducer(BaseModel):
    """Who sends, and the number of the first event sent, counted from 1 in each attempt."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=100)
    seq: int = Field(ge=1)


class AppendEvents(BaseModel):
    """Events to add to a run. `attempt` fences: an older attempt's are refused."""

    model_config = ConfigDict(extra="forbid")

    events: list[RemoteEvent] = Field(min_length=1, max_length=MAX_EVENTS)
    attempt: int | None = Field(None, ge=1)
    producer: RemoteProducer | None = None


def router(engine: Engine) -> APIRouter:
    """All endpoints of one engine's runs, to be included anywhere."""
    routes = APIRouter(route_class=ProblemRoute, tags=["runs"])
    face = _Runs(engine)
    add = routes.add_api_route
    told: dict[int | str, _Json] = {
        200: {"content": {EVENT_STREAM: {}, "application/x-ndjson": {}, JSON: {}}}
    }
    add("/operations", face.operations, methods=["GET"], summary="What can be run")
    add("/runs", face.start, methods=["POST"], status_code=201, summary="Start a run")
    add("/runs", face.list, methods=["GET"], summary="Runs, newest first")
    add("/runs/{run}", face.show, methods=["GET"], summary="A run's snapshot")
    add("/runs/{run}", face.forget, methods=["DELETE"], status_code=204, summary="Forget a run")
    add(
        "/runs/{run}/events", face.watch, methods=["GET"], summary="Watch a run",
        responses=told, response_class=Response,
    )  # fmt: skip
    add("/runs/{run}/events", face.append, methods=["POST"], summary="Add events from elsewhere")
    add(
        "/runs/{run}/output", face.output, methods=["GET"], summary="What the program wrote",
        responses={200: {"content": {"text/plain": {}}}}, response_class=Response,
    )  # fmt: skip
    add("/runs/{run}/cancel", face.cancel, methods=["POST"], status_code=202, summary="Cancel")
    add(
        "/events", face.watch_many, methods=["GET"], summary="Watch many runs at once",
        responses={200: {"content": {EVENT_STREAM: {}}}}, response_class=Response,
    )  # fmt: skip
    return routes


def prefix(request: Request) -> str:
    """The path the app is mounted under, for links."""
    return str(request.scope.get("root_path", "")).rstrip("/")


class _Runs:
    """The endpoints. Who asks is LOCAL until there are keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def operations(self) -> _Json:
        """Names, descriptions and JSON Schemas."""
        return {
            "operations": [
                {
                    "name": operation.name,
                    "description": operation.description,
                    "input": operation.parameters,
                    "timeout": operation.timeout,
                    "abandon_after": operation.abandon_after,
                }
                for operation in self._engine.operations
            ]
        }

    async def start(
        self,
        request: Request,
        body: StartRun,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Response:
        """201 and the run, or 200 for an Idempotency-Key that started it before. With
        `Accept: text/event-stream` the answer is the stream itself.
        """
        record, is_new = await self._engine.submit(
            body.operation,
            body.input,
            principal=LOCAL,
            timeout=body.timeout,
            abandon_after=body.abandon_after,
            key=idempotency_key,
        )
        status = 201 if is_new else 200
        shape = snapshot(record, prefix(request))
        links = {"location": shape["links"]["self"]}
        if EVENT_STREAM in request.headers.get("accept", ""):
            links["content-location"] = shape["links"]["events"]
            telling = Telling(cursor=Cursor(0, 0), projection=stream("events"))
            return RunStream(
                self._engine.hub, record.id, telling, status_code=status, headers=links
            )
        return Response(to_json(shape), status, links, JSON)

    async def list(  # noqa: PLR0917 - each is a query parameter
        self,
        request: Request,
        state: Annotated[str | None, Query(description="States, with commas between")] = None,
        operation: str | None = None,
        q: Annotated[str | None, Query(description="Part of an operation or id")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
    ) -> _Json:
        """A page of runs; `next` is the cursor of the following one, or null."""
        query = RunQuery(
            principal=LOCAL,
            states=_states(state),
            operation=operation,
            text=q,
            before=None if cursor is None else int(cursor),
            limit=limit + 1,
        )
        found = await self._engine.find(query)
        shown = found[:limit]
        return {
            "runs": [snapshot(record, prefix(request)) for record in shown],
            "next": str(shown[-1].ordinal) if len(found) > limit else None,
        }

    async def show(self, request: Request, run: str) -> _Json:
        """State, progress, result or error, times, last event id, links."""
        return snapshot(await self._record(run), prefix(request))

    async def forget(self, run: str) -> Response:
        """204; 409 while the run is active."""
        await self._record(run)
        await self._engine.forget(run)
        return Response(status_code=204)

    async def cancel(self, request: Request, run: str) -> Response:
        """202 and the run, which ends soon; the same for one that has ended already."""
        await self._record(run)
        record = await self._engine.cancel(run)
        return Response(to_json(snapshot(record, prefix(request))), 202, None, JSON)

    async def watch(self, request: Request, run: str) -> Response:
        """The events after `Last-Event-ID` or `?after=`, then live to the end."""
        wish = asked(request.headers, request.query_params)
        record = await self._record(run)
        if wish.projection is None:
            return await self._page(record, wish)
        telling = Telling(
            cursor=wish.cursor,
            projection=wish.projection,
            types=wish.types,
            tick=wish.tick,
            began=record.started_at,
        )
        if wish.speed is None:
            return RunStream(self._engine.hub, run, telling)
        if not record.ended:
            raise RunActive(
                f"{run} is {record.state}; only a finished run has a timing to replay.",
                fix="Leave speed out to watch it live.",
            )
        return Playback(self._engine.hub, self._engine.log, run, telling, wish.speed)

    async def output(
        self,
        request: Request,
        run: str,
        stream: Annotated[str | None, Query(pattern="^(stdout|stderr)$")] = None,
    ) -> Response:
        """The bytes a script wrote, live to the end."""
        wish = asked({}, {k: v for k, v in request.query_params.items() if k == "after"})
        await self._record(run)
        telling = Telling(cursor=wish.cursor, projection=Output(stream))
        return RunStream(self._engine.hub, run, telling)

    async def append(self, run: str, body: AppendEvents) -> _Json:
        """Exactly once for a named producer, however often the request is repeated."""
        await self._record(run)
        at = self._engine.now()
        drafts = tuple(emitted(event.type, event.data, at) for event in body.events)
        sent = body.producer
        producer = None if sent is None else Producer(sent.id, body.attempt or 0, sent.seq)
        commit = await self._engine.append(
            Append(run, drafts, fence=body.attempt, producer=producer)
        )
        return {"appended": commit.last - commit.first + 1, "last_event_id": str(commit.last)}

    async def watch_many(self, request: Request, runs: str | None = None) -> Response:
        """One stream of many runs: those named, or all that are going on and come."""
        names = chosen_runs(runs)
        for run in names or ():
            await self._record(run)
        return ManyStream(self._engine, names, request.headers.get("last-event-id", ""))

    async def _record(self, run: str) -> RunRecord:
        return await self._engine.record(run, LOCAL)

    async def _page(self, record: RunRecord, wish: Asked) -> Response:
        extent = record.extent
        cursor = wish.cursor
        if isinstance(cursor, str):
            cursor = Cursor(record.epoch, record.last_seq)
        start = resume(cursor, extent)
        blocks = await self._engine.log.read(record.id, start.after, MAX_BODY_BYTES)
        return Response(page(blocks, start, wish.types, wish.limit, extent), 200, None, JSON)


def _states(text: str | None) -> frozenset[State]:
    try:
        return frozenset(State(name) for name in text.split(",")) if text else frozenset()
    except ValueError:
        raise InputInvalid(
            f"state={str(text)[:80]!r} names something that is no state.",
            fix=f"Use some of {', '.join(State)}, with commas between.",
        ) from None
