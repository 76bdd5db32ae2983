"""An app with a chat, who visits it, and a model that answers with what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from pydantic_ai.messages import ModelMessage, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from tailrace.facade import Tailrace
from tailrace.protocol.access import Access
from tailrace.protocol.runs import RunRecord
from tests.visitor import WAIT_SECONDS, Visit, Visitor

LETTERS: Final = tuple("abcdefgh")
"""What is said of `letters`, chunk by chunk."""


def named(request: Request) -> Access:
    """By a header: `ada`, or `ada:run,watch`; without one it is ada."""
    name, _, scopes = request.headers.get("x-who", "ada").partition(":")
    return Access.of(name, scopes.split(",")) if scopes else Access.of(name)


def double(x: int) -> int:
    """Doubles a number."""
    return 2 * x


@dataclass
class Parlour:
    """`wait` is answered in two halves, the second when `gate` is set; `tools` with two calls;
    `broken` with a fault; anything else with all the questions so far. `read` is what the model
    was given, each time: who said what.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    read: list[list[tuple[str, str]]] = field(default_factory=list)
    runs: Any = None
    visitor: Any = None

    def build(self, **options: Any) -> Tailrace:
        """The engine."""
        made = Tailrace("memory:", principal=named, grace=0.1, **options.pop("engine", {}))
        model = FunctionModel(stream_function=self._speak, model_name="parlour")
        made.chat(**{"model": model, "tools": [double], **options})
        return made

    async def _speak(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        said = [_said(part) for message in messages for part in message.parts]
        told = [one for one in said if one is not None]
        self.read.append(told)
        asked = [text for who, text in told if who == "user"]
        is_answered = not any(isinstance(p, UserPromptPart) for p in messages[-1].parts)
        match asked[-1]:
            case "wait":
                yield "One "
                await self.gate.wait()
                yield "two."
            case "tools" if not is_answered:
                yield "Let me see. "
                for index in (1, 2):
                    yield {
                        index: DeltaToolCall(
                            "double", f'{{"x":{index}}}', tool_call_id=f"call_{index}"
                        )
                    }
            case "broken":
                yield "It "
                raise RuntimeError("It broke.")
            case "letters":
                for letter in LETTERS:
                    yield letter
                    # Or they would be one event.
                    await asyncio.sleep(0.007)
            case _:
                yield "Heard: "
                yield ", ".join(asked)

    # --- for tests -------------------------------------------------------------------

    async def ask(self, target: str, value: Any, headers: Any = (), method: str = "POST") -> Visit:
        """A request and its whole answer."""
        visit: Visit = await self.visitor.ask(method, target, headers, json=value)
        return visit

    async def get(self, target: str, headers: Any = ()) -> Visit:
        visit: Visit = await self.visitor.get(target, headers)
        return visit

    async def ended(self, run: str) -> RunRecord:
        async with asyncio.timeout(WAIT_SECONDS):
            record: RunRecord = await self.runs.run(run).wait()
            return record

    async def record(self, run: str) -> RunRecord:
        found: RunRecord = await self.runs.record(run)
        return found


def _said(part: Any) -> tuple[str, str] | None:
    match part:
        case UserPromptPart():
            return "user", str(part.content)
        case TextPart():
            return "assistant", part.content
    return None


@contextlib.asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Parlour]:
    """One, until the block ends; whatever still runs is stopped then."""
    parlour = Parlour()
    parlour.runs = parlour.build(**options)
    parlour.visitor = Visitor(parlour.runs.asgi)
    try:
        yield parlour
    finally:
        async with asyncio.timeout(WAIT_SECONDS):
            await parlour.runs.close()


def told(visit: Visit) -> list[dict[str, Any]]:
    """What the events of a stream say, as JSON."""
    return [json.loads(event.data) for event in visit.events if event.data.startswith("{")]


def run_of(visit: Visit) -> str:
    """The turn that a stream is of."""
    assert visit.status == 200, visit
    return visit.headers["tailrace-run"]


__all__ = ["LETTERS", "Parlour", "named", "opened", "run_of", "told"]
