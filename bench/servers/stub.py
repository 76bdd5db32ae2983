"""A model that costs as little as a model can, and says when it said each of its tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_ai.messages import ModelMessage, ModelResponseStreamEvent, UserPromptPart
from pydantic_ai.models import Model, StreamedResponse

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass
class Said(StreamedResponse):
    """So many tokens, with so many seconds between two."""

    tokens: int = 0
    pace: float = 0.0
    model_name: str = "stub"
    provider_name: str = "stub"
    provider_url: None = None
    timestamp: datetime = _NEVER

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        for _ in range(self.tokens):
            await asyncio.sleep(self.pace)
            said = f"{time.time_ns()} "
            for event in self._parts_manager.handle_text_delta(vendor_part_id="text", content=said):
                yield event

    async def close_stream(self) -> None:
        """Nothing is open."""


class Stub(Model):
    """As many tokens as the prompt says, at its pace: `500 tokens 20 ms`."""

    model_name = "stub"
    system = "stub"

    async def request(self, *_: Any) -> Any:
        raise NotImplementedError

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], settings: Any, parameters: Any, context: Any = None
    ) -> AsyncIterator[StreamedResponse]:
        prompt = next(part for part in messages[-1].parts if isinstance(part, UserPromptPart))
        tokens, _, pace, *_ = str(prompt.content).split()
        yield Said(parameters, tokens=int(tokens), pace=int(pace) / 1000)


model = Stub()
