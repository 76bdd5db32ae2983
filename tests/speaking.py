"""Models that say what a test has them say, and a run that remembers what it was told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingPart,
    DeltaToolCall,
    FunctionModel,
)

from tailrace.protocol.agent import CHAT
from tailrace.protocol.events import emitted
from tailrace.protocol.runs import RunRecord, run_id
from tailrace.run import RunContext
from tests.nesting import Told

RUN: Final = run_id(bytes(range(16)))


@dataclass(frozen=True)
class Thinks:
    """What a model thinks."""

    text: str


@dataclass(frozen=True)
class Asks:
    """A call, as a model writes it: its JSON in pieces."""

    name: str
    args: Sequence[str] = ("{}",)
    id: str = "call_1"


Item = str | Thinks | Asks
Before = Callable[[], Any]


def model(*answers: Sequence[Item] | BaseException, before: Before | None = None) -> FunctionModel:
    """One that gives these answers, the last of them for ever. `before` is awaited before each
    piece, or called.
    """

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        asked = max(i for i, one in enumerate(messages) if _is_question(one))
        given = sum(isinstance(one, ModelResponse) for one in messages[asked:])
        answer = answers[min(given, len(answers) - 1)]
        if isinstance(answer, BaseException):
            raise answer
        for piece in pieces(answer):
            waited = before() if before is not None else asyncio.sleep(0)
            if waited is not None:
                await waited
            yield piece

    return FunctionModel(stream_function=speak, model_name="spoken")


def _is_question(message: ModelMessage) -> bool:
    kinds = {part.part_kind for part in message.parts}
    return "user-prompt" in kinds and "tool-return" not in kinds


def pieces(answer: Iterable[Item | BaseException]) -> Iterable[Any]:
    """As the function of a model yields them. Texts that follow each other are one part."""
    for index, item in enumerate(answer):
        match item:
            case Thinks(text):
                yield {index: DeltaThinkingPart(content=text)}
            case Asks(name, args, id_):
                yield {index: DeltaToolCall(name=name, json_args="", tool_call_id=id_)}
                for arg in args:
                    yield {index: DeltaToolCall(json_args=arg)}
            case BaseException():
                raise item
            case _:
                yield item


class Listened(RunContext):
    """A run that keeps what it is told, and calls `heard` with each event."""

    def __init__(
        self, heard: Callable[[str], None] | None = None, thread: str | None = "t"
    ) -> None:
        record = RunRecord(id=RUN, operation=CHAT, principal="p", created_at=0.0, thread=thread)
        super().__init__(record, None)  # type: ignore[arg-type]
        self.told: list[Told] = []
        self.threads: set[int] = set()
        self._heard = heard

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        told = {**(payload or {}), **fields}
        # What cannot be kept is refused, as a run does it.
        emitted(type, told, 0.0)
        self.told.append((type, told))
        self.threads.add(threading.get_ident())
        if self._heard is not None:
            self._heard(type)

    def of(self, *types: str) -> list[dict[str, Any]]:
        return [dict(told) for type_, told in self.told if type_ in types]

    async def ebb(self) -> None: ...

    async def drain(self) -> None: ...
