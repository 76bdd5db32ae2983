"""The built-in model as pydantic-ai has models: it streams what the planner plans.

Not called `model`: as the name of a module, that would take the place of the function.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingPart,
    DeltaToolCall,
    FunctionModel,
)

from tailrace.agent.demo import NAME
from tailrace.agent.demo.planner import plan
from tailrace.agent.demo.step import Outcome, Step

Delta = str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]

# How often others get their turn, where there is no pace: a chunk takes microseconds.
_EVERY: Final = 8
_ARGS_CHUNK: Final = 12
_THINKING: Final = 0
_WORD: Final = re.compile(r"\S+\s*|\s+")


def make(pace: float = 0.0) -> FunctionModel:
    """The model. `pace`: seconds before each chunk."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for place, delta in enumerate(_deltas(*_planned(messages, info))):
            if pace > 0 or place % _EVERY == 0:
                await asyncio.sleep(pace)
            yield delta

    def whole(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        step, ids = _planned(messages, info)
        parts: list[ThinkingPart | TextPart | ToolCallPart] = []
        if step.thought:
            parts.append(ThinkingPart(step.thought))
        if step.text:
            parts.append(TextPart(step.text))
        for call, id_ in zip(step.calls, ids, strict=True):
            parts.append(ToolCallPart(call.name, call.args, tool_call_id=id_))
        return ModelResponse(parts)

    return FunctionModel(whole, stream_function=stream, model_name=NAME)


def _planned(messages: Sequence[ModelMessage], info: AgentInfo) -> tuple[Step, list[str]]:
    """The next step, and the ids of its calls."""
    said, rounds = read(messages)
    step = plan(said, rounds, [tool.name for tool in info.function_tools])
    # Of the conversation up to here: the same each time, and another than any before in it.
    seed = json.dumps([len(messages), *said, len(rounds)]).encode()
    digest = hashlib.blake2b(seed, digest_size=8).hexdigest()
    return step, [f"call_{digest}_{place}" for place, _ in enumerate(step.calls, 1)]


def read(messages: Sequence[ModelMessage]) -> tuple[list[str], list[list[Outcome]]]:
    """What the user has said, the oldest first; and what came of the calls since the last of it,
    answer by answer.
    """
    said: list[str] = []
    rounds: list[list[ToolCallPart]] = []
    returned: dict[str, ToolReturnPart] = {}
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    said.append(_text(part))
                    rounds, returned = [], {}
                elif isinstance(part, ToolReturnPart):
                    returned[part.tool_call_id] = part
        else:
            calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
            rounds += [calls] if calls else []
    return said, [
        [_outcome(call, returned.get(call.tool_call_id)) for call in calls] for calls in rounds
    ]


def _text(part: UserPromptPart) -> str:
    if isinstance(part.content, str):
        return part.content
    texts = (
        piece.content if isinstance(piece, TextContent) else piece
        for piece in part.content
        if isinstance(piece, str | TextContent)
    )
    return "\n".join(texts)


def _outcome(call: ToolCallPart, returned: ToolReturnPart | None) -> Outcome:
    args = call.args_as_dict()
    if returned is None:
        return Outcome(call.tool_name, args, "It has no result.", failed=True)
    result: Any = returned.content
    if returned.outcome != "success":
        text = result if isinstance(result, str) else returned.model_response_str()
        return Outcome(call.tool_name, args, text, failed=True)
    if isinstance(result, str) and result.startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            result = json.loads(result)
    return Outcome(call.tool_name, args, result)


def _deltas(step: Step, ids: Sequence[str]) -> Iterator[Delta]:
    for chunk in _WORD.findall(step.thought):
        yield {_THINKING: DeltaThinkingPart(content=chunk)}
    yield from _WORD.findall(step.text)
    for place, (call, id_) in enumerate(zip(step.calls, ids, strict=True), _THINKING + 1):
        yield {place: DeltaToolCall(name=call.name, tool_call_id=id_)}
        args = json.dumps(call.args)
        for begin in range(0, len(args), _ARGS_CHUNK):
            yield {place: DeltaToolCall(json_args=args[begin : begin + _ARGS_CHUNK])}
