"""The chat's own endpoints: a turn as typed events, and what would become of a question."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from tailrace.agent.estimate import Estimates, analyse
from tailrace.agent.router import Router
from tailrace.agent.routes.sent import MAX_MESSAGES, Message, newest
from tailrace.agent.routes.turns import Turns, documented, own_thread, position
from tailrace.http.access import asker
from tailrace.http.runs import Key, answer, prefix
from tailrace.projections import Projection, stream
from tailrace.projections.chat import Accumulated, text_before
from tailrace.protocol.agent import CHAT
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.runs import THREAD, RunRecord

_HERE: Final = "/mcp/chat"

# Of a turn that somebody comes back to, whose text is put together again.
_MAX_TEXT: Final = 8 * 1024 * 1024

_Accumulated = Annotated[
    bool, Query(description="Whether each chunk of text has all of it so far as well")
]


class ChatTurn(BaseModel):
    """A turn: what is asked is the last message; those before it are kept by the server."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    thread: str | None = Field(None, pattern=THREAD, description="The conversation it is part of")
    model: str | None = Field(None, max_length=200, examples=["demo"])
    accumulated: bool = Field(
        True, description="Whether each chunk of text has all of it so far as well"
    )


class Considered(BaseModel):
    """A question that is not asked yet."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=100_000)


def router(turns: Turns) -> APIRouter:
    """The endpoints."""
    routes, face = turns.routes(), _Story(turns)
    documented(routes, "POST", f"{_HERE}/stream", face.start, "Ask, and watch the turn")
    documented(routes, "GET", f"{_HERE}/{{run}}/stream", face.watch, "Go on watching a turn")
    routes.add_api_route(
        "/mcp/analyze-query", face.analyse, methods=["POST"], response_model=None,
        summary="How heavy a question is, and which way it would take",
    )  # fmt: skip
    return routes


class _Story:
    """The endpoints."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._router = turns.chat.router or Router()
        self._estimates = Estimates(turns.engine)

    async def start(
        self, request: Request, body: ChatTurn, idempotency_key: Key = None
    ) -> Response:
        """The turn, live, as `text_chunk`, `tool_progress` and their like, to `complete`. Whoever
        leaves comes back to the address in Content-Location, with the last id.
        """
        self._turns.room(request)
        thread = body.thread or own_thread(idempotency_key)
        started = await self._turns.start(
            request, newest(body.messages), thread, body.model, idempotency_key
        )
        record, is_new = started
        told: Projection = stream(CHAT)
        if body.accumulated:
            before = "" if is_new else await self._before(record, position(request, record.id))
            told = Accumulated(before)
        there = _there(request, record, accumulated=body.accumulated)
        return self._turns.begun(request, started, told, there)

    async def watch(
        self,
        request: Request,
        run: Annotated[str, Path(description="The turn's run")],
        accumulated: _Accumulated = True,  # noqa: FBT002 - FastAPI passes it by name
    ) -> Response:
        """The rest of a turn, after `Last-Event-ID` or `?after=`, then live."""
        # Not `watchable`, whose snapshot may be older than the cursor: the text would have a hole.
        record = await self._turns.engine.record(run, asker(request).sees)
        told: Projection = stream(CHAT)
        if accumulated:
            told = Accumulated(await self._before(record, position(request, record.id)))
        there = _there(request, record, accumulated=accumulated)
        return self._turns.resumed(request, record, told, there)

    async def _before(self, record: RunRecord, at: Cursor | str) -> str | None:
        """All text of a turn up to a cursor; None where that is too much to put together."""
        seq = record.last_seq if isinstance(at, str) else min(at.complete, record.last_seq)
        text, after = "", 0
        while after < seq:
            blocks = await self._turns.engine.log.read(record.id, after)
            if not blocks or len(text) > _MAX_TEXT:
                return None
            text = text_before(blocks, seq, text)
            after = blocks[-1].last
        return text

    async def analyse(self, request: Request, body: Considered) -> Response:
        """Complexity, score, route, the tools it would need, how long such turns took, and why.
        Nothing is run.
        """
        chat = self._turns.chat
        told: dict[str, Any] = await analyse(
            body.query,
            router=self._router,
            estimates=self._estimates,
            sees=asker(request).sees,
            model=chat.model,
            tools={tool.name: tool.description for tool in chat.tools}
            | {name: "" for name in chat.tool_names if name not in {t.name for t in chat.tools}},
        )
        return answer(told)


def _there(request: Request, run: RunRecord, *, accumulated: bool) -> str:
    query = "" if accumulated else "?accumulated=false"
    return f"{prefix(request, _HERE)}{_HERE}/{run.id}/stream{query}"
