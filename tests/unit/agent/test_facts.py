from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.facts import MAX_CHARACTERS, MAX_TOOLS, Facts, words

TOOLS = ["list_departments", "count_employees", "find_employees", "salary_summary", "sendInvoice"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Show me the LIST", ["show", "me", "the", "list"]),
        ("step-by-step, don’t_stop", ["step", "by", "step", "don", "t", "stop"]),
        ("", []),
        ("…!?", []),
        ("größer 5%", ["größer", "5"]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "phrases", "said"),
    [
        ("Is this it?", ["is"], "is"),
        ("a listing of this", ["list", "is"], None),
        ("please go STEP by step.", ["step by step"], "step by step"),
        ("step by", ["step by step"], None),
        ("How many?", ["how much", "how many"], "how many"),
    ],
)
def test_phrases_are_found_as_whole_words(text: str, phrases: list[str], said: str | None) -> None:
    assert Facts(text).said(phrases) == said


@pytest.mark.parametrize(
    ("text", "what", "count"),
    [
        ("one two  three", "words", 3),
        ("why? and how?? so", "questions", 2),
        ("do this", "steps", 0),
        ("do this, then that", "steps", 2),
        ("do this, then that, and finally those", "steps", 3),
        ("1. load\n2) count\n  - and print", "steps", 3),
        ("3.5 is no item", "steps", 0),
        ("authentication", "steps", 0),
    ],
)
def test_counts(text: str, what: str, count: int) -> None:
    assert Facts(text).counts[what] == count


def test_the_turns_before_are_as_given() -> None:
    assert Facts("", turns=7).counts["turns"] == 7


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("how many employees are there?", ("count_employees", "find_employees")),
        ("count the employees", ("count_employees", "find_employees")),
        ("find employees", ("find_employees", "count_employees")),
        ("the salaries of a department", ("list_departments", "salary_summary")),
        ("send the invoices", ("sendInvoice",)),
        ("list everything", ()),
        ("a haiku", ()),
    ],
)
def test_tools_are_guessed_by_their_names(text: str, tools: tuple[str, ...]) -> None:
    guessed = Facts(text, TOOLS).tools
    assert set(guessed) == set(tools)
    assert not tools or guessed[0] == tools[0] or "many" in text


def test_tools_are_guessed_by_two_words_of_their_description() -> None:
    tools = {"x1": "The weather of a city, as a forecast.", "x2": "A forecast."}
    assert Facts("what is the weather forecast?", tools).tools == ("x1",)
    assert Facts("any forecast?", tools).tools == ()
    assert Facts("what is the weather forecast?", {"x": "It.\n\nThe weather forecast."}).tools == ()


def test_not_more_tools_than_are_of_use() -> None:
    assert len(Facts("orders", [f"order_{n}" for n in range(50)]).tools) == MAX_TOOLS


def test_only_the_beginning_of_a_text_counts() -> None:
    assert Facts("x " * MAX_CHARACTERS).counts["words"] == MAX_CHARACTERS // 2


@pytest.mark.parametrize("piece", ["a", " ", "?", "\n", "- ", "1.", "then ", "\n\t", "é", "_"])
def test_no_text_keeps_it_busy(piece: str) -> None:
    begun = time.process_time()
    Facts(piece * 1_000_000, TOOLS).counts  # noqa: B018
    assert time.process_time() - begun < 2


@given(st.text(), st.lists(st.text(max_size=30)), st.integers(0, 100))
def test_any_text_can_be_counted(text: str, tools: list[str], turns: int) -> None:
    facts = Facts(text, tools, turns)
    assert all(count >= 0 for count in facts.counts.values())
    assert set(facts.tools) <= set(tools)
