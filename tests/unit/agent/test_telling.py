from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent

from tailrace.agent.teller import Teller
from tailrace.agent.telling import Telling
from tests.nesting import check
from tests.speaking import Asks, Listened, Thinks, model

pytestmark = pytest.mark.anyio

SESSION: dict[str, Any] = {"thread": "t", "model": "m", "tools": [], "max_iterations": 5}


async def nothing() -> None: ...


async def test_a_model_is_told_while_it_answers() -> None:
    run = Listened()
    teller = Teller(run.emit)
    answers = model([Thinks("hm"), "Let me ", "look.", Asks("n", ('{"x":', "1}"))], ["Done."])
    agent = Agent(tools=[n])
    result = await agent.run("hi", model=Telling(answers, teller, nothing))
    assert result.output == "Done."
    check([("session_start", SESSION), *run.told], ends=False)
    assert len(run.of("iteration_start")) == 2
    assert teller.parts.text(1) == "Let me look."


def n(x: int = 0) -> int:
    return x


async def test_an_agent_that_listens_hears_it_as_well() -> None:
    heard: list[str] = []

    async def listen(_: Any, events: Any) -> None:
        heard.extend([event.event_kind async for event in events])

    run = Listened()
    teller = Teller(run.emit)
    telling = Telling(model(["a", "b"]), teller, nothing)
    result = await Agent().run("hi", model=telling, event_stream_handler=listen)
    assert result.output == "ab"
    assert "part_start" in heard
    assert run.of("text_chunk")[0]["chunk"] == "a"


async def test_a_model_that_never_waits_lets_others_go_on() -> None:
    waited = 0

    async def ebb() -> None:
        nonlocal waited
        waited += 1

    run = Listened()
    teller = Teller(run.emit)
    answers = model(["x"] * 200, before=lambda: None)
    await Agent().run("hi", model=Telling(answers, teller, ebb))
    assert waited == 200 // 32
