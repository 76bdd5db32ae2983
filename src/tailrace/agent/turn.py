"""One turn: a question, as many iterations as it takes, and an answer; told as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.usage import UsageLimits

from tailrace.agent import faults
from tailrace.agent.parts import MAX_TEXT_BYTES, bounded, cut_short
from tailrace.agent.patience import ended
from tailrace.agent.teller import Teller
from tailrace.agent.telling import Telling
from tailrace.agent.tools import Tool
from tailrace.agent.witness import Toolset, Witness
from tailrace.run import RunContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a turn is to do: answer `message`, after what `past` says, by asking `model`, whose
    `name` is told, with these `tools` and at most so many `iterations`. `secrets` are not told.
    """

    message: str
    past: Sequence[ModelMessage]
    model: Model
    name: str
    tools: Sequence[Tool]
    iterations: int
    instructions: str | None = None
    route: str | None = None
    secrets: Sequence[str] = ()


async def turn(run: RunContext, agent: Agent[Any, Any], wish: Wish) -> dict[str, Any]:
    """Take a turn and answer its result, as `protocol.agent` has it. When it is stopped, all that
    is open is closed at once, and then waited for.

    Raises ModelFailed, IterationLimit, and TailraceErrors of tools' hosts.
    """
    teller = Teller(run.emit)
    witness = Witness(teller, run, [tool.name for tool in wish.tools if tool.runs is not None])
    loop = asyncio.create_task(_loop(run, agent, wish, witness))
    try:
        await asyncio.wait({loop})
    except asyncio.CancelledError:
        teller.close()
        await ended(loop, witness.making)
        raise
    try:
        teller.settle(loop.result())
    except Exception as error:
        teller.close("The turn failed before this call was over.")
        raise faults.told(error, wish.name, wish.iterations, wish.secrets) from error
    except BaseException:
        teller.close()
        raise
    teller.close()
    return _result(run, wish, teller)


async def _loop(
    run: RunContext, agent: Agent[Any, Any], wish: Wish, witness: Witness
) -> list[ModelMessage]:
    result = await agent.run(
        wish.message,
        model=Telling(wish.model, witness.teller, run.ebb),
        message_history=list(wish.past) or None,
        instructions=wish.instructions,
        toolsets=[Toolset(wish.tools)],
        capabilities=[witness],
        usage_limits=UsageLimits(request_limit=wish.iterations),
        # A call that a model got wrong is told to it as one that failed; what bounds that is the
        # number of iterations.
        retries={"tools": wish.iterations},
        infer_name=False,
    )
    return result.all_messages()


def _result(run: RunContext, wish: Wish, teller: Teller) -> dict[str, Any]:
    text = teller.parts.text(teller.iteration)
    # As its JSON has it, with its quotes: what is escaped there has up to six times as many bytes.
    text, is_cut = cut_short(text, MAX_TEXT_BYTES + 2)
    result: dict[str, Any] = {
        "text": text,
        "parts": bounded(teller.parts.all()),
        "iterations": teller.iteration,
        "usage": {"input_tokens": teller.input_tokens, "output_tokens": teller.output_tokens},
        "model": wish.name,
        "route": wish.route,
        "thread": run.thread,
    }
    if is_cut:
        result["truncated"] = True
    return result


__all__ = ["Wish", "turn"]
