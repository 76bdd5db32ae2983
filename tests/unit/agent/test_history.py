from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from tailrace.agent import history
from tailrace.agent.history import (
    LEFT_OUT,
    NO_ANSWER,
    NOT_OVER,
    Said,
    given,
    led,
    line,
    messages,
    read,
)
from tailrace.engine import Engine
from tailrace.protocol.events import to_json
from tailrace.protocol.runs import RunRecord, run_id
from tailrace.run import RunContext
from tests.turns import TURNS
from tests.waiting import soon

pytestmark = pytest.mark.anyio


def told(messages: list[ModelMessage]) -> list[tuple[str, Any]]:
    ModelMessagesTypeAdapter.dump_json(messages)
    return [
        (part.part_kind, getattr(part, "content", getattr(part, "args", None)))
        for message in messages
        for part in message.parts
    ]


def text(said: str, part: str = "1.0") -> dict[str, Any]:
    return {"type": "text", "part": part, "text": said}


def call(id: str, part: str, status: str | None = "completed", **more: Any) -> dict[str, Any]:
    made = {"type": "tool", "part": part, "id": id, "name": "n", "input": {"x": 1}, **more}
    return made if status is None else {**made, "status": status}


# --- as messages -------------------------------------------------------------------------------


def test_a_turn_is_a_question_and_its_iterations() -> None:
    parts = TURNS["tools"][-1][1]["result"]["parts"]
    assert told(messages([Said("How many?", parts)])) == [
        ("user-prompt", "How many?"),
        ("text", "Let me look."),
        ("tool-call", {"department": "Sales"}),
        ("tool-call", {"department": "Moon"}),
        ("tool-return", {"department": "Sales", "count": 12}),
        ("tool-return", "There is no department Moon."),
        ("text", "Twelve people."),
    ]
    kinds = [message.kind for message in messages([Said("How many?", parts)])]
    assert kinds == ["request", "response", "request", "response"]


def test_thoughts_are_not_repeated() -> None:
    parts = [{"type": "thinking", "part": "1.0", "text": "hm"}, text("a", "1.1"), text("", "1.2")]
    assert told(messages([Said("hi", parts)])) == [("user-prompt", "hi"), ("text", "a")]


def test_a_turn_that_broke_off_has_an_end() -> None:
    assert told(messages([Said("hi", []), Said("again", [text("a")])])) == [
        ("user-prompt", "hi"), ("text", NO_ANSWER), ("user-prompt", "again"), ("text", "a"),
    ]  # fmt: skip
    parts = [call("a", "1.0", None), call("b", "1.1", "failed", error="no")]
    assert told(messages([Said("hi", parts)]))[1:] == [
        ("tool-call", {"x": 1}), ("tool-call", {"x": 1}),
        ("tool-return", NOT_OVER), ("tool-return", "no"), ("text", NO_ANSWER),
    ]  # fmt: skip


def test_what_was_left_out_is_said_to_be() -> None:
    parts = [call("a", "1.0", result=None, omitted=True), call("b", "1.1", input="{", result=3)]
    assert told(messages([Said("hi", [*parts, text("x", "2.0")])]))[1:5] == [
        ("tool-call", {"x": 1}), ("tool-call", {}),
        ("tool-return", LEFT_OUT), ("tool-return", 3),
    ]  # fmt: skip


def test_a_client_may_tell_what_was_said() -> None:
    said = given([("user", "hi"), ("assistant", "hello"), ("assistant", "")])
    assert told(said) == [("user-prompt", "hi"), ("text", "hello")]


# --- which turns -------------------------------------------------------------------------------


def turn(number: int, regenerates: int | None = None) -> RunRecord:
    wish = {"message": str(number), "regenerates": None}
    if regenerates is not None:
        wish["regenerates"] = name(regenerates)
    return RunRecord(
        id=name(number), operation="chat", principal="p", created_at=0.0, input=to_json(wish)
    )


def name(number: int) -> str:
    return run_id(number.to_bytes(16, "big"))


@pytest.mark.parametrize(
    ("turns", "regenerates", "left"),
    [
        ([turn(1), turn(2), turn(3)], None, [1, 2, 3]),
        ([turn(1), turn(2), turn(3)], 3, [1, 2]),
        ([turn(1), turn(2), turn(3)], 1, []),
        ([turn(1), turn(2), turn(3, 2), turn(4)], None, [1, 3, 4]),
        ([turn(1), turn(2), turn(3, 2), turn(4, 3)], None, [1, 4]),
        ([turn(1), turn(2), turn(3, 2)], 3, [1]),
        ([turn(1), turn(2), turn(3), turn(4, 2), turn(5)], None, [1, 4, 5]),
        # One that is forgotten by now.
        ([turn(2), turn(3, 1)], None, [2, 3]),
        ([turn(2)], 9, [2]),
        ([turn(2, 2)], None, [2]),
    ],
)
def test_what_was_replaced_is_left_out(
    turns: list[RunRecord], regenerates: int | None, left: list[int]
) -> None:
    replaced = None if regenerates is None else name(regenerates)
    found = line(turns[::-1], replaced)
    assert [record.id for record in found] == [name(number) for number in left[::-1]]


# --- from the log ------------------------------------------------------------------------------


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.2) as engine:
        yield engine


async def asked(engine: Engine, message: str, thread: str = "t", principal: str = "p") -> str:
    record, _ = await engine.submit(
        "chat", {"message": message}, thread=thread, principal=principal
    )
    await soon(engine.run(record.id).wait())
    return record.id


def offer(engine: Engine, answers: dict[str, Any]) -> None:
    async def chat(run: RunContext, message: str) -> Any:
        answer = answers[message]
        if isinstance(answer, list):
            return {"parts": answer}
        for type_, said in TURNS[answer][1:-1]:
            if type_ != "status":
                run.emit(type_, said)
        if answer.startswith("cancelled"):
            raise asyncio.CancelledError
        raise ValueError("no")

    engine.offer(chat, name="chat")


async def test_a_thread_is_read_again(engine: Engine) -> None:
    offer(engine, {"one": [text("1")], "two": "cancelled_in_tools", "three": "failed"})
    for message in ("one", "two", "three"):
        await asked(engine, message)
    await asked(engine, "one", thread="other")
    await asked(engine, "one", principal="somebody")
    now = await asked(engine, "one")
    records = await led(engine, "p", "t", now)
    turns = await read(engine, records)
    assert [turn.message for turn in turns] == ["one", "two", "three"]
    assert [part["type"] for part in turns[1].parts] == ["tool", "tool"]
    assert turns[1].parts[0]["result"] == "12"
    assert turns[2].parts[0]["text"] == "Hello"
    messages(turns)


async def test_only_the_latest_turns_are_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 10_000)
    monkeypatch.setattr(history, "MAX_TURNS", 3)
    offer(engine, {"small": [text("1")], "large": [text("x" * 8000)]})
    for message in ("small", "large", "large", "small"):
        await asked(engine, message)
    turns = await read(engine, await led(engine, "p", "t", "nobody"))
    assert [turn.message for turn in turns] == ["large", "small"]
    for _ in range(3):
        await asked(engine, "small")
    assert len(await led(engine, "p", "t", "nobody")) == 3


async def test_a_turn_that_is_too_large_by_itself_is_shortened(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 10_000)
    monkeypatch.setattr(history, "_FEW_BYTES", 2_000)
    offer(engine, {"huge": [call("a", "1.0", result="y" * 20_000), text("x" * 9000, "2.0")]})
    await asked(engine, "huge")
    (turn,) = await read(engine, await led(engine, "p", "t", "nobody"))
    assert [len(part["text"]) for part in turn.parts] == [2000]


async def test_the_events_of_a_turn_are_not_read_without_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_MOST_EVENTS", 5)
    offer(engine, {"two": "cancelled_in_text"})
    await asked(engine, "two")
    (turn,) = await read(engine, await led(engine, "p", "t", "nobody"))
    assert turn.parts == [{"type": "text", "part": "1.0", "text": "Hel"}]
