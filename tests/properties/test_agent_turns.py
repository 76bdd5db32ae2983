"""Whatever a model says, whatever its tools do, and wherever it is stopped: what is told of a turn
is well nested, and says the same as its result.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent

from tailrace.agent.history import Said, messages
from tailrace.agent.parts import folded
from tailrace.agent.tools import of_functions
from tailrace.agent.turn import Wish, turn
from tailrace.errors import TailraceError
from tailrace.run import RunContext
from tests.nesting import Told, check
from tests.speaking import Asks, Listened, Thinks, model

TEXTS = st.text(st.sampled_from("ab é👋\n\ud800"), max_size=4)
NAMES = st.sampled_from(["quick", "slow", "plain", "breaks", "none"])
ARGS = st.sampled_from([["{}"], ["{", "}"], ['{"x":1}'], ["["], [], ['{"x"', ":2}"]])
IDS = st.sampled_from(["a", "b", "", "c"])
ITEMS = (
    TEXTS
    | st.builds(Thinks, TEXTS)
    | st.builds(Asks, NAMES, ARGS, IDS)
    | st.builds(Asks, NAMES, ARGS, IDS)
)
# A model that says nothing at all is asked again, and that is an error of its own.
ANSWERS = st.lists(st.lists(ITEMS, min_size=1, max_size=5), min_size=1, max_size=3)
SESSION: dict[str, Any] = {"thread": "t", "model": "m", "tools": [], "max_iterations": 4}


async def quick(x: int = 0) -> int:
    return x


async def slow(run: RunContext, x: int = 0) -> int:
    for step in range(3):
        run.progress(step, 3)
        await asyncio.sleep(0)
    return x


def plain(run: RunContext, x: int = 0) -> int:
    run.log("here")
    return x


async def breaks(x: int = 0) -> None:
    raise ValueError(f"no {x}")


async def taken(answers: list[Any], stop: int | None) -> tuple[Listened, Any]:
    task: asyncio.Task[Any]

    def heard(type: str) -> None:
        if len(run.told) == stop:
            loop.call_soon_threadsafe(task.cancel)

    loop = asyncio.get_running_loop()
    run = Listened(heard)
    said = Wish(
        message="hi", past=[], model=model(*answers, ["Enough."]), name="spoken",
        tools=of_functions([quick, slow, plain, breaks]), iterations=4,
    )  # fmt: skip
    task = asyncio.create_task(turn(run, Agent(), said))
    try:
        async with asyncio.timeout(20):
            return run, await task
    except (asyncio.CancelledError, TailraceError) as error:
        return run, error


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "tailrace.agent")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANSWERS, st.none() | st.integers(1, 40))
def test_what_is_told_is_well_nested(answers: list[Any], stop: int | None) -> None:
    run, result = asyncio.run(taken(answers, stop))
    end: Told = ("cancelled" if isinstance(result, BaseException) else "complete", {})
    nesting = check([("session_start", SESSION), *run.told, end])
    parts = folded(run.told)
    # Whatever comes of a turn, the next one can be told of it.
    told = messages([Said("hi", parts)])
    asked = {p.tool_call_id for m in told for p in m.parts if p.part_kind == "tool-call"}
    answered = {p.tool_call_id for m in told for p in m.parts if p.part_kind == "tool-return"}
    assert asked == answered == nesting.ids
    if isinstance(result, dict):
        assert result["parts"] == parts
        assert nesting.text == "".join(p["text"] for p in parts if p["type"] == "text")
        assert nesting.text.endswith(result["text"])
