from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tailrace.agent.history import MAX_BYTES
from tailrace.agent.parts import size
from tailrace.agent.routes.sent import MAX_MESSAGES, Message, newest, refuse
from tailrace.errors import InputInvalid


def message(content: Any = None, role: str = "user", **more: Any) -> Message:
    return Message.model_validate({"role": role, "content": content, **more})


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ({"content": "hi"}, "hi"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": [{"type": "input_text", "text": "a"}]}, "a"),
        ({"parts": [{"type": "text", "text": "a", "state": "done"}]}, "a"),
        ({"parts": [{"type": "text", "text": "a"}], "content": "passed over"}, "a"),
        ({"content": None}, ""),
        ({"content": []}, ""),
    ],
)
def test_each_clients_own_way_to_say_text(sent: Any, text: str) -> None:
    assert Message.model_validate({"role": "user", **sent}).text == text


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "http://x"}}],
        [{"type": "text", "text": 7}],
        [{"type": "text"}],
        ["text"],
        [None],
        {"type": "text", "text": "a"},
        7,
    ],
)
def test_what_a_person_sends_must_not_get_lost(content: Any) -> None:
    with pytest.raises(InputInvalid, match="messages: "):
        _ = message(content).text


def test_the_steps_of_an_answer_are_passed_over() -> None:
    parts = [{"type": "step-start"}, {"type": "dynamic-tool"}, {"type": "text", "text": "a"}, 7]
    assert message(role="assistant", parts=parts).text == "a"


def test_the_last_message_is_what_is_asked() -> None:
    said = [message("sys", "system"), message("a"), message("b", "assistant"), message("c", id="9")]
    asked = newest(said)
    assert (asked.message, asked.id) == ("c", "9")
    assert asked.history == [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    ]  # fmt: skip


def test_what_says_nothing_is_no_part_of_the_history() -> None:
    call = Message.model_validate({"type": "mcp_call", "id": "mcp_1", "output": "1"})
    asked = newest([call, message("", "assistant"), message("a")])
    assert (asked.message, asked.history) == ("a", [])


def test_a_picture_of_long_ago_matters_only_to_whoever_reads_it() -> None:
    picture = message([{"type": "image", "image": "x"}])
    asked = newest([picture, message("what was it?")])
    assert asked.message == "what was it?"
    with pytest.raises(InputInvalid, match="Only text can be sent here, not a part of type 'image"):
        _ = asked.history


def test_of_a_long_history_the_latest_is_taken() -> None:
    said = []
    for number in range(100):
        said += [message(f"{number}?"), message("x" * 10_000, "assistant")]
    history = newest([*said, message("now?")]).history
    assert len(history) % 2 == 0
    assert (history[0]["role"], history[-2]["content"]) == ("user", "99?")
    assert 0.9 * MAX_BYTES < size(history) <= MAX_BYTES
    assert newest([*said, message("x" * MAX_BYTES)]).history == []


@pytest.mark.parametrize("role", ["assistant", "system", "tool", "User", ""])
def test_the_last_one_must_be_a_users(role: str) -> None:
    with pytest.raises(InputInvalid, match="must be of the role user"):
        newest([message("a"), message("b", role)])
    with pytest.raises(InputInvalid, match="must be of the role user"):
        newest([])


def test_what_is_unknown_is_theirs_to_know() -> None:
    assert Message.model_validate({"role": "user", "content": "a", "name": 7, "x": {}}).text == "a"
    for wrong in ({"role": "x" * 41}, {"role": 7}, {"role": "user", "parts": "a"}):
        with pytest.raises(ValidationError):
            Message.model_validate(wrong)
    assert MAX_MESSAGES == 1000


def test_a_refusal_says_where() -> None:
    with pytest.raises(InputInvalid) as refused:
        refuse("tools", "They are the server's")
    assert "tools: They are the server's" in str(refused.value)
    assert refused.value.fix.startswith("docs/agents.md")
