"""For clients of AG-UI (`@ag-ui/client`): `new HttpAgent({ url: "…/agui" })`."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from tailrace.agent.routes.sent import MAX_ID, MAX_MESSAGES, Message, Sent, newest
from tailrace.agent.routes.turns import Turns, documented, events, named
from tailrace.projections import stream
from tailrace.protocol.runs import THREAD

_FORMAT: Final = "ag-ui"
_HERE: Final = "/agui"

_Thread = Annotated[str, Path(pattern=THREAD, description="The conversation")]


class RunAgentInput(Sent):
    """AG-UI's own. What is asked is the last message. Its tools would be called by the page, which
    is not done here; its state and context are not looked at.
    """

    threadId: str = Field(pattern=THREAD)  # noqa: N815 - AG-UI's spelling
    runId: str | None = Field(None, max_length=MAX_ID)  # noqa: N815
    messages: list[Message] = Field(max_length=MAX_MESSAGES)


def router(turns: Turns) -> APIRouter:
    """The endpoints."""
    routes = turns.routes()

    async def start(request: Request, body: RunAgentInput) -> Response:
        """The turn, live, as AG-UI's events. A request that is repeated starts nothing again."""
        turns.room(request)
        # The client's own id of the run: it makes one for each that it wants.
        key = None if body.runId is None else named("agui", body.threadId, body.runId)
        started = await turns.start(request, newest(body.messages), body.threadId, key=key)
        told = stream(_FORMAT)
        return turns.begun(request, started, told, events(request, _HERE, started[0], told))

    async def watch(request: Request, thread: _Thread) -> Response:
        """The turn that goes on in a conversation, from its beginning; 204 where there is none."""
        return await turns.going_on(request, thread, stream(_FORMAT), _HERE)

    documented(routes, "POST", _HERE, start, "A turn for an AG-UI client")
    documented(
        routes, "GET", f"{_HERE}/{{thread}}/stream", watch, "The turn that goes on, for AG-UI"
    )
    return routes
