from __future__ import annotations

import re

import pytest

from tailrace.agent.demo.itself import puzzled, told, without
from tailrace.agent.demo.lookups import TOOLS
from tests.conversing import talk

NAMES = [tool.__name__ for tool in TOOLS]


@pytest.mark.parametrize(
    "text",
    [
        told("help", NAMES),
        told(None, NAMES),
        without(["a_tool"], NAMES),
        puzzled(NAMES),
    ],
)
def test_it_says_that_it_is_built_in_and_what_to_do(text: str) -> None:
    assert "I am not a language model" in text
    assert "`call NAME" in text
    assert "`increments`" in text
    assert "[chat]" in text


def test_a_greeting_is_short() -> None:
    assert len(told("greeting", NAMES)) < 300
    assert "built-in" in told("greeting", NAMES)


def test_it_names_no_tools_without_end() -> None:
    text = told(None, [f"tool_{n}" for n in range(100)])
    assert text.count("`tool_") == 30
    assert "and 70 more" in text
    assert "It has no tools." in told(None, [])


def test_the_questions_that_it_says_it_can_answer() -> None:
    examples = re.findall(r"^- (.+)$", told("help", NAMES), re.MULTILINE)
    assert len(examples) > 4
    for example in examples:
        found = talk(example)
        assert found.calls
        assert "**" in found.answer
        assert not found.failures
