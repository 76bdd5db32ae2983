"""A chat whose model says one thing, and the next when the file GATE is there.

tailrace serve tests.apps.chatty:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from tailrace import Tailrace

GATE: Final = Path(os.environ["CHATTY_GATE"])
FIRST: Final = tuple(f"word{number} " for number in range(30))


async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """A call, thirty words, then silence."""
    last = messages[-1]
    if not any(
        isinstance(part, ToolReturnPart) for part in last.parts if isinstance(last, ModelRequest)
    ):
        yield "Let me see. "
        yield {1: DeltaToolCall("count", "{}", tool_call_id="call_1")}
        return
    for word in FIRST:
        yield word
        # Each is an event of its own, and has left before the next one.
        await asyncio.sleep(0.01)
    while not GATE.exists():
        await asyncio.sleep(0.01)
    yield "the end"


def count() -> int:
    """How many there are."""
    return len(FIRST)


runs = Tailrace(os.environ["CHATTY_LOG"], grace=1)
runs.chat(model=FunctionModel(stream_function=speak, model_name="chatty"), tools=[count])
app = FastAPI(lifespan=runs.lifespan)
app.include_router(runs.router)


@app.get("/")
async def here() -> str:
    """Whether it answers."""
    return "here"
