from __future__ import annotations

import pytest

from tailrace.agent.facts import Facts, words
from tailrace.agent.rules import ROUTES, RULES, When

TEXT = "Show me the orders, then the invoices? Why?"
FACTS = Facts(TEXT, ["orders", "invoices"], turns=3)


@pytest.mark.parametrize(
    ("when", "reasons"),
    [
        (When(), []),
        (When(words=("list", "show me")), ["it says “show me”"]),
        (When(words=("list",)), None),
        (When(min_words=8), ["8 words"]),
        (When(min_words=9), None),
        (When(max_words=8), ["only 8 words"]),
        (When(max_words=7), None),
        (When(min_questions=2), ["2 questions"]),
        (When(min_questions=3), None),
        (When(min_steps=2), ["2 steps"]),
        (When(min_steps=3), None),
        (When(min_turns=3), ["3 turns before it"]),
        (When(min_turns=4), None),
        (When(min_tools=2), ["tools it may need: orders, invoices"]),
        (When(min_tools=3), None),
        (When(min_score=5), ["a score of 5"]),
        (When(min_score=6), None),
        (When(max_score=5), ["a score of 5"]),
        (When(max_score=4), None),
        (When(words=("why",), min_words=9), None),
        (When(words=("why",), min_words=1), ["it says “why”", "8 words"]),
    ],
)
def test_conditions(when: When, reasons: list[str] | None) -> None:
    assert when.reasons(FACTS, 5) == reasons


def test_what_is_shipped_has_names_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES) >= 15
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_every_phrase_that_is_shipped_can_be_found() -> None:
    for rule in RULES:
        for phrase in rule.when.words:
            assert words(phrase), (rule.name, phrase)
            assert Facts(f"Well: {phrase.upper()}!").said(rule.when.words) is not None


def test_shipped_routes_choose_no_model() -> None:
    assert {route.model for route in ROUTES} == {None}
    assert ROUTES[-1].when == When()
