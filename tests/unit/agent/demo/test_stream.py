from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from tailrace.agent import demo
from tailrace.agent.demo.step import Outcome
from tailrace.agent.demo.stream import read
from tests.conversing import talk

pytestmark = pytest.mark.anyio

QUESTION = "give me the list of employees with 5–10% increment"


async def streamed(
    text: str, history: Sequence[ModelMessage] = (), tools: Sequence[Any] | None = None
) -> tuple[list[Any], str, list[ModelMessage]]:
    """The events of a turn, its answer, and all messages so far."""
    agent = Agent(demo.model(), tools=demo.tools() if tools is None else tools)
    async with agent.run_stream_events(text, message_history=list(history)) as stream:
        events: list[Any] = [event async for event in stream]
    result = events[-1].result
    return events, result.output, result.all_messages()


async def test_real_tools_in_parallel_over_several_iterations() -> None:
    events, answer, messages = await streamed(QUESTION)
    assert answer == talk(QUESTION).answer
    responses = [one for one in messages if isinstance(one, ModelResponse)]
    assert [len([p for p in one.parts if isinstance(p, ToolCallPart)]) for one in responses] == [
        *(2, 2, 0),
    ]
    assert {one.model_name for one in responses} == {demo.NAME}
    assert any(isinstance(event, PartStartEvent) for event in events)


async def test_text_and_arguments_come_in_pieces() -> None:
    events, answer, _ = await streamed(QUESTION)
    deltas = [event.delta for event in events if isinstance(event, PartDeltaEvent)]
    texts = [delta.content_delta for delta in deltas if delta.part_delta_kind == "text"]
    assert len(texts) > 100
    assert max(map(len, texts)) < 40
    args = [delta for delta in deltas if delta.part_delta_kind == "tool_call"]
    assert len(args) > 6
    ended = [event.part for event in events if isinstance(event, PartEndEvent)]
    calls = [part for part in ended if isinstance(part, ToolCallPart)]
    assert all(isinstance(json.loads(str(call.args)), dict) for call in calls)
    assert [part for part in ended if isinstance(part, TextPart)][-1].content == answer


async def test_the_same_conversation_has_the_same_ids_and_each_of_them_once() -> None:
    def ids(messages: Sequence[ModelMessage]) -> list[str]:
        return [
            part.tool_call_id
            for message in messages
            for part in message.parts
            if isinstance(part, ToolCallPart)
        ]

    _, _, first = await streamed(QUESTION)
    _, _, second = await streamed(QUESTION)
    assert ids(first) == ids(second)
    _, _, again = await streamed(QUESTION, first)
    assert ids(again)[:4] == ids(first)
    assert len(set(ids(again))) == 8
    # Also where the past has lost its calls.
    spoken: list[ModelMessage] = [
        ModelRequest([UserPromptPart(QUESTION)]),
        ModelResponse([TextPart("…")]),
    ]
    _, _, later = await streamed(QUESTION, spoken)
    assert not set(ids(later)) & set(ids(first))


async def test_the_past_is_what_a_question_follows_on() -> None:
    _, _, messages = await streamed(QUESTION)
    _, answer, _ = await streamed("and in Sales?", messages)
    assert answer.startswith("**5 of 12 employees in Sales got an increment of 5 to 10 %")


async def test_thinking_is_a_part_of_its_own_before_the_text() -> None:
    events, _, _ = await streamed("Think step by step: the headcount of Sales")
    ended = [event.part for event in events if isinstance(event, PartEndEvent)]
    assert [type(part) for part in ended] == [
        *(ThinkingPart, TextPart, ToolCallPart),
        *(ThinkingPart, TextPart),
    ]


async def test_a_tool_of_somebody_else() -> None:
    def report(month: int) -> dict[str, int]:
        return {"rain": month * 10}

    text = 'call report {"month": 5}\ncall report {"month": 6}\nthen call report {"month": 7}'
    _, answer, messages = await streamed(text, tools=[report])
    assert [f'"rain": {n}' in answer for n in (50, 60, 70)] == [True] * 3
    assert sum(isinstance(one, ModelResponse) for one in messages) == 3


async def test_a_call_that_does_not_fit_is_not_made_again() -> None:
    def report(month: int) -> int:
        return month

    _, answer, _ = await streamed("use report", tools=[report])
    assert answer.startswith("`report` failed: ")
    assert "month" in answer


async def test_one_model_after_the_other() -> None:
    assert [demo.model().model_name for _ in range(2)] == ["demo", "demo"]


async def test_without_streaming() -> None:
    agent = Agent(demo.model(), tools=demo.tools())
    result = await agent.run("Think step by step: how many work in Sales?")
    assert result.output == "**12 employees work in Sales.**"
    assert result.response.thinking


async def test_others_get_their_turn() -> None:
    counted = 0

    async def count() -> None:
        nonlocal counted
        while True:
            counted += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await streamed("help")
    counting.cancel()
    assert counted > 10


async def test_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    agent = Agent(demo.model(pace=0.25))
    async with agent.run_stream("hi") as stream:
        text = await stream.get_output()
    assert slept == [0.25] * len(text.split())


def returned(content: Any, outcome: Any = "success") -> Outcome:
    messages: list[ModelMessage] = [
        ModelRequest([UserPromptPart("hi")]),
        ModelResponse([ToolCallPart("a", {"x": 1}, tool_call_id="1")]),
        ModelRequest([ToolReturnPart("a", content, tool_call_id="1", outcome=outcome)]),
    ]
    _, ((one,),) = read(messages)
    return one


@pytest.mark.parametrize(
    ("content", "result"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        ("[1]", [1]),
        ("[1", "[1"),
        ("5", "5"),
        ("[" * 100_000, "[" * 100_000),
        (None, None),
    ],
)
def test_results_are_read(content: Any, result: Any) -> None:
    assert returned(content) == Outcome("a", {"x": 1}, result)


@pytest.mark.parametrize("outcome", ["failed", "denied", "interrupted", "retried"])
def test_what_did_not_succeed_has_failed(outcome: str) -> None:
    assert returned("no", outcome) == Outcome("a", {"x": 1}, "no", failed=True)


def test_only_the_calls_of_this_turn_count() -> None:
    messages: list[ModelMessage] = [
        ModelRequest([UserPromptPart("one")]),
        ModelResponse([ToolCallPart("a", "no json", tool_call_id="1")]),
        ModelRequest([ToolReturnPart("a", 1, tool_call_id="1"), UserPromptPart(["two", "parts"])]),
        ModelResponse([TextPart("…"), ToolCallPart("b", {}, tool_call_id="2")]),
    ]
    said, rounds = read(messages)
    assert said == ["one", "two\nparts"]
    assert rounds == [[Outcome("b", {}, "It has no result.", failed=True)]]


def test_who_only_names_it_imports_no_pydantic_ai() -> None:
    code = "import sys, tailrace.agent.demo as d; d.tools(); print('pydantic_ai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
