"""The same turn as one writes it by hand: FastAPI, sse-starlette and pydantic-ai. Nothing is kept,
and who leaves loses it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from pydantic_ai import Agent, AgentRunResultEvent
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from sse_starlette import EventSourceResponse

from bench.servers.stub import model

app = FastAPI()
agent = Agent(model)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/mcp/chat/stream")
async def chat(request: Request) -> EventSourceResponse:
    asked = (await request.json())["messages"][-1]["content"]

    async def told() -> AsyncIterator[dict[str, Any]]:
        def event(type: str, **fields: Any) -> dict[str, Any]:
            return {"data": json.dumps({"type": type, **fields, "timestamp": time.time()})}

        yield event("session_start")
        position, text = 0, []
        async with agent.run_stream_events(asked) as events:
            async for one in events:
                chunk = ""
                if isinstance(one, PartStartEvent) and isinstance(one.part, TextPart):
                    chunk = one.part.content
                elif isinstance(one, PartDeltaEvent) and isinstance(one.delta, TextPartDelta):
                    chunk = one.delta.content_delta
                elif isinstance(one, AgentRunResultEvent):
                    yield event("complete", totalText="".join(text))
                if chunk:
                    yield event("text_chunk", chunk=chunk, position=position)
                    position += len(chunk)
                    text.append(chunk)

    return EventSourceResponse(told())
