"""A model whose stream is told as it passes.

The loop, the tools and the limits are pydantic-ai's. Its own streaming would take every token
through its graph, which costs several times what the token itself does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from tailrace.agent.teller import Teller

_TURN_SECONDS: Final = 0.005
_BREATH: Final = 32


class Telling(WrapperModel):
    """A model that has `teller` tell what it says. `ebb` is awaited now and then: it waits while
    too much is told.
    """

    def __init__(self, wrapped: Model, teller: Teller, ebb: Callable[[], Awaitable[None]]) -> None:
        super().__init__(wrapped)
        self._teller = teller
        self._ebb = ebb

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask for a stream, and answer what it comes to."""
        teller = self._teller
        teller.settle(messages)
        teller.begin()
        asking = self.wrapped.request_stream(messages, model_settings, model_request_parameters)
        async with asking as stream:
            await self._hear(stream)
            response = stream.get()
        tools = (model_request_parameters.function_tools, model_request_parameters.output_tools)
        return teller.answered(response, [tool.name for kind in tools for tool in kind])

    async def _hear(self, stream: StreamedResponse) -> None:
        hear = self._teller.hear
        heard, turn = 0, time.monotonic()
        async for event in stream:
            hear(event)
            heard += 1
            if heard % _BREATH == 0:
                await self._ebb()
                # A model that never waits must not keep the loop from everybody else.
                if time.monotonic() - turn > _TURN_SECONDS:
                    await asyncio.sleep(0)
                    turn = time.monotonic()

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """What an agent that listens to its own events asks for: it hears them when all of them
        are told.
        """
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(
            response, model_request_parameters=model_request_parameters, replay_events=True
        )
