"""For clients of the AI SDK (`useChat`, `DefaultChatTransport`), at their usual addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from tailrace.agent import history
from tailrace.agent.routes.sent import MAX_MESSAGES, Message, Sent, newest, refuse
from tailrace.agent.routes.turns import Turns, documented, events, named
from tailrace.http.problems import nothing
from tailrace.http.runs import answer
from tailrace.projections import stream
from tailrace.projections.aisdk import HEADERS
from tailrace.protocol import agent
from tailrace.protocol.events import loads
from tailrace.protocol.runs import THREAD, RunRecord
from tailrace.protocol.wire import RUN

_FORMAT: Final = "ai-sdk"
_HERE: Final = "/api/chat"
_REGENERATE: Final = "regenerate-message"
_QUESTION: Final = ".user"

# With that the client knows the protocol.
_TOLD: Final[Mapping[str, str]] = {name.decode(): value.decode() for name, value in HEADERS}

_Chat = Annotated[str, Path(pattern=THREAD, description="The client's id of the conversation")]


class ChatRequest(Sent):
    """The AI SDK's own. What is asked is the last message; `messageId` is the one in whose place
    it is, or its answer will be.
    """

    id: str = Field(pattern=THREAD)
    messages: list[Message] = Field(max_length=MAX_MESSAGES)
    messageId: str | None = Field(None, max_length=200)  # noqa: N815 - the AI SDK's spelling
    trigger: str = Field("submit-message", max_length=40)
    model: str | None = Field(None, max_length=200)


def router(turns: Turns) -> APIRouter:
    """The endpoints."""
    routes, face = turns.routes(), _Face(turns)
    documented(routes, "POST", _HERE, face.start, "A turn for the AI SDK")
    documented(routes, "GET", f"{_HERE}/{{chat}}/stream", face.watch, "The turn that goes on")
    for method, path, endpoint, summary in (
        ("GET", f"{_HERE}/{{chat}}", face.show, "A conversation, as the AI SDK's messages"),
        ("POST", f"{_HERE}/{{chat}}/stop", face.stop, "Stop the turn that goes on"),
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

    async def start(self, request: Request, body: ChatRequest) -> Response:
        """The turn, live, as a UI message stream. A message that is sent again starts no second
        turn; one that was edited, and `regenerate-message`, replace a turn and all after it.
        """
        self._turns.room(request)
        asked = newest(body.messages)
        replaced = await self._replaced(request, body)
        key = None
        if asked.id is not None or replaced is not None:
            key = named("ai", body.id, asked.id, asked.message, replaced)
        started = await self._turns.start(request, asked, body.id, body.model, key, replaced)
        there = events(request, _HERE, started[0], told := stream(_FORMAT))
        return self._turns.begun(request, started, told, there, _TOLD)

    async def _replaced(self, request: Request, body: ChatRequest) -> str | None:
        """The run in whose place the new one is; None, where a conversation just goes on."""
        if body.trigger != _REGENERATE and body.messageId is None:
            return None
        found = await self._turns.find(request, body.id)
        if body.trigger == _REGENERATE and not found:
            refuse("trigger", "There is no answer in this conversation that could be another")
        ids = [record.id for record in found]
        meant = (body.messageId or "").removesuffix(_QUESTION)
        if meant in ids:
            return meant
        led = [record.id for record in reversed(history.line(found, None))]
        if body.messageId is None:
            return led[-1]
        # The client's own id of a question, which is not kept. But the answer before it is known.
        answers = [one.id for one in body.messages if one.role == "assistant"]
        if answers and answers[-1] not in led:
            return None
        after = led.index(str(answers[-1])) + 1 if answers else 0
        return led[after] if after < len(led) else None

    async def watch(self, request: Request, chat: _Chat) -> Response:
        """The turn that goes on, from its beginning; 204 where there is none."""
        return await self._turns.going_on(request, chat, stream(_FORMAT), _HERE, _TOLD)

    async def stop(self, request: Request, chat: _Chat) -> Response:
        """204, also where nothing goes on: the turn ends soon."""
        going = await self._turns.newest(request, chat, is_active=True)
        answer = nothing()
        if going is not None:
            await self._turns.engine.cancel(going.id)
            answer.headers[RUN] = going.id
        return answer

    async def show(self, request: Request, chat: _Chat) -> Response:
        """{messages}: what was said, for a page that has lost it. Of a turn that goes on only the
        question: its answer is in the stream.
        """
        found = await self._turns.find(request, chat)
        messages: list[dict[str, Any]] = []
        for record in reversed(history.line(found, None)[: history.MAX_TURNS]):
            messages.append(_question(record))
            if record.ended:
                messages.append(await self._answer(record))
        return answer({"messages": messages})

    async def _answer(self, record: RunRecord) -> dict[str, Any]:
        (said,) = await history.read(self._turns.engine, (record,))
        parts: list[dict[str, Any]] = []
        iteration = 0
        for part in said.parts:
            now = agent.iteration(str(part.get("part")))
            if now != iteration:
                iteration = now
                parts.append({"type": "step-start"})
            parts.append(_part(record.id, part))
        return {"id": record.id, "role": "assistant", "parts": parts}


def _question(record: RunRecord) -> dict[str, Any]:
    text = str(loads(record.input).get("message", ""))
    return {"id": record.id + _QUESTION, "role": "user", "parts": [{"type": "text", "text": text}]}


def _part(run: str, part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] != "tool":
        kind = "reasoning" if part["type"] == "thinking" else "text"
        return {"type": kind, "text": part.get("text", ""), "state": "done"}
    told = {
        "type": "dynamic-tool",
        "toolName": part.get("name"),
        "toolCallId": part.get("id"),
        "input": part.get("input"),
        "providerExecuted": True,
    }
    if part.get("status") == agent.COMPLETED:
        return {**told, "state": "output-available", "output": part.get("result")}
    error = agent.text_of(part.get("error", "The turn ended before this call had answered."))
    return {**told, "state": "output-error", "errorText": error}
