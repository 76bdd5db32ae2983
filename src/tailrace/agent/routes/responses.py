"""For clients of OpenAI's Responses API: `OpenAI(base_url="…/v1", api_key=…)`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from tailrace.agent import history
from tailrace.agent.routes.sent import MAX_MESSAGES, Asked, Message, Sent, newest, refuse
from tailrace.agent.routes.turns import BEGINNING, Turns, documented, events, own_thread
from tailrace.errors import RunUnknown
from tailrace.http import openapi
from tailrace.http.access import asker, guarding
from tailrace.http.runs import Key, answer
from tailrace.projections import stream
from tailrace.protocol import responses
from tailrace.protocol.access import caller
from tailrace.protocol.agent import CHAT
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import loads, to_json
from tailrace.protocol.runs import RunRecord
from tailrace.protocol.wire import JSON, LAST_EVENT_ID, PROBLEM, RUN

_FORMAT: Final = "responses"
_HERE: Final = "/v1/responses"

_Id = Annotated[str, Path(max_length=200, description="The response's id", examples=["resp_…"])]


class CreateResponse(Sent):
    """OpenAI's own, as far as it means something here. The model, its instructions and its tools
    are this server's; which of its models, a request may say.
    """

    model: str | None = Field(None, max_length=200, examples=["demo"])
    input: str | list[Message] = Field(max_length=1_000_000)
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = Field(None, max_length=200)
    conversation: str | dict[str, Any] | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    store: bool | None = None


def router(turns: Turns) -> APIRouter:
    """The endpoints. A refusal has the member `error` besides: their clients read it there."""
    routes = APIRouter(
        route_class=_told_twice(guarding(turns.engine)),
        tags=["chat"],
        responses=openapi.ANY_PROBLEM,
    )
    face = _Face(turns)
    documented(routes, "POST", _HERE, face.create, "A turn for clients of OpenAI's", JSON)
    documented(routes, "GET", f"{_HERE}/{{id}}", face.show, "A response, or its stream", JSON)
    for method, path, endpoint, summary in (
        ("DELETE", f"{_HERE}/{{id}}", face.forget, "Forget a finished response"),
        ("POST", f"{_HERE}/{{id}}/cancel", face.cancel, "Cancel a response"),
        ("GET", f"{_HERE}/{{id}}/input_items", face.input_items, "What a response answers"),
        ("GET", "/v1/models", face.models, "Which models may be asked"),
    ):
        routes.add_api_route(
            path, endpoint, methods=[method], summary=summary, response_class=Response,
            response_model=None,
        )  # fmt: skip
    return routes


class _Face:
    """The endpoints."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._engine = turns.engine

    async def create(
        self, request: Request, body: CreateResponse, idempotency_key: Key = None
    ) -> Response:
        """The response when it is there; with `stream` its events, live; with `background` the
        queued response at once. Whoever leaves cancels nothing.
        """
        _check(body)
        if body.stream:
            self._turns.room(request)
            started = await self._started(request, body, idempotency_key)
            told = stream(_FORMAT)
            there = events(request, _HERE, started[0], told)
            return self._turns.begun(request, started, told, there)
        if body.background:
            record, _ = await self._started(request, body, idempotency_key)
            return await self._response(record)
        # Whoever waits holds a connection, as whoever watches does.
        with self._engine.hub.seats.sitting(caller(request.scope).name):
            record, _ = await self._started(request, body, idempotency_key)
            return await self._response(await self._engine.run(record.id).wait())

    async def _started(
        self, request: Request, body: CreateResponse, key: str | None
    ) -> tuple[RunRecord, bool]:
        asked = _asked(body)
        thread, replaced = await self._place(request, body, key)
        return await self._turns.start(request, asked, thread, body.model, key, replaced)

    async def show(
        self,
        request: Request,
        id: _Id,
        stream_: Annotated[bool, Query(alias="stream")] = False,  # noqa: FBT002
        starting_after: Annotated[int | None, Query(ge=0, le=10**18)] = None,
    ) -> Response:
        """The response as it is now; with `stream` its events after number `starting_after`."""
        record = await self._record(request, id)
        if not stream_:
            return await self._response(record)
        told, at = stream(_FORMAT), None
        if starting_after is not None and not request.headers.get(LAST_EVENT_ID):
            after = responses.cursor_after(starting_after)
            at = Cursor(record.epoch, after.seq, after.frame) if after.seq else BEGINNING
        return self._turns.resumed(
            request, record, told, events(request, _HERE, record, told), at=at
        )

    async def forget(self, request: Request, id: _Id) -> Response:
        """What was forgotten; 409 while it is in progress."""
        record = await self._record(request, id)
        await self._engine.forget(record.id)
        told = {"id": id, "object": "response.deleted", "deleted": True}
        return answer(told, headers={RUN: record.id})

    async def cancel(self, request: Request, id: _Id) -> Response:
        """The response, which ends soon; the same for one that has ended already."""
        record = await self._record(request, id)
        await self._engine.cancel(record.id)
        return await self._response(await self._engine.run(record.id).wait())

    async def input_items(self, request: Request, id: _Id) -> Response:
        """The message that was sent."""
        record = await self._record(request, id)
        text = str(loads(record.input).get("message", ""))
        item = {
            "id": f"msg_{record.id.removeprefix('run_')}_0",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": text}],
        }
        listed = {"first_id": item["id"], "last_id": item["id"], "has_more": False}
        told = {"object": "list", "data": [item], **listed}
        return answer(told, headers={RUN: record.id})

    async def models(self) -> Response:
        """Those that have a name here."""
        told = [
            {"id": name, "object": "model", "created": 0, "owned_by": responses.SERVER_LABEL}
            for name in self._turns.chat.models.names
        ]
        return answer({"object": "list", "data": told})

    async def _record(self, request: Request, id: str) -> RunRecord:
        record = await self._engine.record(responses.run_of(id), asker(request).sees)
        if record.operation != CHAT:
            raise RunUnknown(f"{id[:80]} is no turn of a chat.", fix="GET /runs lists your runs.")
        return record

    async def _place(
        self, request: Request, body: CreateResponse, key: str | None
    ) -> tuple[str, str | None]:
        """The conversation, which is that of the response before it, the one it names, or a new
        one; and the run in whose place it is, where the response before is not the last one.
        """
        if body.previous_response_id is not None:
            return await self._after(request, body.previous_response_id, key)
        named = body.conversation
        if isinstance(named, Mapping):
            named = named.get("id")
            if not isinstance(named, str):
                refuse("conversation", "It must have an id, which is text")
        return own_thread(key) if named is None else named, None

    async def _after(self, request: Request, id: str, key: str | None) -> tuple[str, str | None]:
        before = await self._record(request, id)
        if before.thread is None:
            refuse("previous_response_id", "That response belongs to no conversation")
        found = await self._turns.find(request, before.thread)
        # A request that is repeated has the place that it had.
        known = [at for at, record in enumerate(found) if key is not None and record.key == key]
        led = [one.id for one in history.line(found[known[0] + 1 :] if known else found, None)]
        if before.id not in led:
            refuse("previous_response_id", "The conversation went on without that response")
        at = led.index(before.id)
        return before.thread, led[at - 1] if at else None

    async def _response(self, record: RunRecord) -> Response:
        parts = None
        if record.ended and record.result is None:
            ((_, parts),) = await history.read(self._engine, (record,))
        # By that it is known which run a request was about.
        return answer(responses.response(record, parts), headers={RUN: record.id})


def _asked(body: CreateResponse) -> Asked:
    if isinstance(body.input, str):
        return Asked(body.input, None, [])
    if len(body.input) > MAX_MESSAGES:
        refuse("input", f"It has more than {MAX_MESSAGES} messages")
    return newest(body.input)


def _check(body: CreateResponse) -> None:
    """What cannot be done is refused, rather than left undone. Raises InputInvalid."""
    if body.tools:
        refuse("tools", "Tools are this server's own here; leave them out")
    if body.instructions:
        refuse("instructions", "They are this server's own here; leave them out")
    if body.store is False:
        refuse("store", "Every turn is kept here; leave it out")
    if body.previous_response_id is not None and body.conversation is not None:
        refuse("conversation", "The response before it has one already; leave one of them out")


def _told_twice(base: Any) -> Any:
    class Route(base):  # type: ignore[misc]
        """A route whose problems say `error` as well."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """FastAPI's hook."""
            handle = super().get_route_handler()

            async def told(request: Request) -> Response:
                return _with_error(await handle(request))

            return told

    return Route


def _with_error(response: Response) -> Response:
    if response.headers.get("content-type") != PROBLEM:
        return response
    problem = loads(bytes(response.body))
    error = {
        "message": " ".join(filter(None, (problem.get("detail"), problem.get("fix")))),
        "type": "invalid_request_error" if response.status_code < 500 else "server_error",
        "code": problem.get("code"),
        "param": None,
    }
    response.body = to_json({**problem, "error": error})
    response.headers["content-length"] = str(len(response.body))
    return response
