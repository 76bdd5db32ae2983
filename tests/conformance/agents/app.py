"""A chat whose model follows a script, for the official clients.

uvicorn tests.conformance.agents.app:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from starlette.applications import Starlette
from starlette.routing import Mount

from tailrace import Tailrace

BEFORE: Final = ("Let me ", "look ", "that up: ", "žluťoučký 🐎.")
AFTER: Final = ("Lund has 94393 people", ", and the weather ", "is not known.", " 你好")
CALLS: Final = (
    ("population", "call-1", ('{"city"', ': "Lund"}')),
    ("weather", "call-2", ('{"city": ', '"Lund"}')),
)


async def population(city: str) -> dict[str, Any]:
    """How many people live in a city."""
    return {"city": city, "people": 94393}


async def weather(city: str) -> str:
    """The weather in a city."""
    raise RuntimeError(f"There is no station in {city}.")


async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"


async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """What the model says. Its pauses are there so that chunks are events of their own."""
    questions, is_answered = _asked(messages)
    asked = questions[-1]
    if asked == "long text":
        for number in range(3000):
            yield f"{number} "
            await asyncio.sleep(0.01)
    elif asked == "long tool":
        yield "I wait."
        yield {1: DeltaToolCall("wait", '{"seconds": 30}', tool_call_id="call-1")}
    elif asked == "how often":
        yield f"You asked {len(questions)} times."
    elif asked == "broken":
        yield "It breaks"
        raise RuntimeError("The model is gone.")
    elif is_answered:
        for chunk in AFTER:
            yield chunk
            await asyncio.sleep(0.002)
    else:
        for chunk in BEFORE:
            yield chunk
            await asyncio.sleep(0.002)
        for place, (name, call, arguments) in enumerate(CALLS, 1):
            for at, piece in enumerate(arguments):
                said = (name, call) if at == 0 else (None, None)
                yield {place: DeltaToolCall(said[0], piece, tool_call_id=said[1])}
                await asyncio.sleep(0.002)


def _asked(messages: list[ModelMessage]) -> tuple[list[str], bool]:
    """All questions, and whether the calls that the last one led to are over."""
    questions: list[str] = []
    is_answered = False
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    questions.append(str(part.content))
                    is_answered = False
                elif isinstance(part, ToolReturnPart):
                    is_answered = True
    return questions, is_answered


runs = Tailrace(os.environ.get("TAILRACE_LOG", "memory:"))
runs.chat(
    model=FunctionModel(stream_function=script, model_name="script"),
    tools=[population, weather, wait],
)
app = Starlette(routes=[Mount("/", runs.asgi)], lifespan=runs.lifespan)
