from __future__ import annotations

import contextlib
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent import router as routers
from tailrace.agent.router import Route, Router, Rule, When, complexity, read
from tailrace.errors import SettingsInvalid

TOOLS = ["list_departments", "count_employees", "find_employees", "increments"]

counts = st.none() | st.integers(0, 20)
whens = st.builds(
    When,
    words=st.lists(st.sampled_from(["list", "why", "step by step"]), max_size=2).map(tuple),
    min_words=counts,
    max_words=counts,
    min_questions=counts,
    min_steps=counts,
    min_turns=counts,
    min_tools=counts,
)
rule_lists = st.lists(
    st.tuples(whens, st.integers(-10, 10)).map(lambda it: ("", *it)), max_size=8
).map(lambda made: [Rule(str(n), when, score, "so") for n, (_, when, score) in enumerate(made)])


@pytest.mark.parametrize(
    ("text", "route", "level"),
    [
        ("hi", "direct", "low"),
        ("", "direct", "low"),
        ("is this a test", "direct", "low"),
        ("write a haiku", "direct", "low"),
        ("How many employees are in Sales?", "tools", "low"),
        ("give me the list of employees with 5–10% increment", "tools", "medium"),
        ("Compare the departments, analyse the trend, and draw a chart", "deep", "high"),
        ("Think step by step: why do the averages differ? Analyse it.", "deep", "high"),
        ("Explain recursion.", "direct", "low"),
    ],
)
def test_questions(text: str, route: str, level: str) -> None:
    decision = Router().decide(text, TOOLS)
    assert (decision.route, decision.complexity) == (route, level)
    assert decision.model is None


def test_a_decision_says_why() -> None:
    decision = Router().decide("list the departments", ["list_departments"])
    assert decision.score == 2
    assert decision.reasons == (
        "is very short (-1)",
        "is about what a tool knows (+1)",
        "asks for a list (+1)",
    )
    assert decision.reason == "tools it may need: list_departments"
    assert decision.tools_needed == ("list_departments",)
    assert Router().decide("hi").reason == "nothing in it asks for another route"


def test_a_word_within_a_word_is_none() -> None:
    router = Router([Rule("is", When(words=("is",)), 5, "says is")], [Route("all")])
    assert router.decide("list this").score == 1
    assert router.decide("it is").score == 6


@pytest.mark.parametrize(
    ("score", "level"), [(1, "low"), (3, "low"), (4, "medium"), (6, "medium"), (7, "high")]
)
def test_levels(score: int, level: str) -> None:
    assert complexity(score) == level


def test_the_first_route_that_applies_is_taken() -> None:
    routes = [
        Route("legal", "openai:gpt-5", When(words=("contract",)), "Ask a lawyer."),
        Route("long", when=When(min_words=3)),
        Route("other", "demo"),
    ]
    router = Router((), routes)
    first = router.decide("is this contract good for us")
    assert (first.route, first.model, first.note) == ("legal", "openai:gpt-5", "Ask a lawyer.")
    assert router.decide("is this good").route == "long"
    assert router.decide("this").model == "demo"


def test_scores_do_not_leave_their_range() -> None:
    rules = [Rule("up", When(words=("up",)), 10, "up"), Rule("no", When(words=("no",)), -10, "no")]
    router = Router(rules, [Route("all")])
    assert (router.decide("up").score, router.decide("no").score) == (10, 1)
    assert router.decide("up no").score == 1


@pytest.mark.parametrize(
    ("rules", "routes", "said"),
    [
        ([], [], "last route"),
        ([], [Route("a", when=When(min_words=1))], "last route"),
        ([], [Route("a"), Route("a")], "two routes 'a'"),
        ([Rule("r", When(), 1, ""), Rule("r", When(), 1, "")], [Route("a")], "two rules 'r'"),
    ],
)
def test_a_router_that_cannot_be(rules: list[Rule], routes: list[Route], said: str) -> None:
    with pytest.raises(SettingsInvalid, match=said):
        Router(rules, routes)


@given(st.text(), st.lists(st.text(max_size=20), max_size=5), st.integers(0, 50))
def test_every_question_has_a_route(text: str, tools: list[str], turns: int) -> None:
    decision = Router().decide(text, tools, turns)
    assert 1 <= decision.score <= 10
    assert decision.complexity == complexity(decision.score)
    assert decision == Router().decide(text, tools, turns)


@given(rule_lists, st.text(alphabet="a list why? step by\n- ", max_size=80))
def test_any_rules_decide(rules: list[Rule], text: str) -> None:
    decision = Router(rules, [Route("deep", when=When(min_score=7)), Route("all")]).decide(text)
    assert 1 <= decision.score <= 10
    assert decision.route == ("deep" if decision.score >= 7 else "all")
    assert len(decision.reasons) <= len(rules)


# --- a settings file --------------------------------------------------------------------


def settings(text: str) -> dict[str, Any]:
    chat: dict[str, Any] = tomllib.loads(text)["chat"]
    return chat


def test_the_example_in_the_documentation_is_read() -> None:
    lines = (routers.__doc__ or "").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    router = read(settings(example))
    assert [route.name for route in router.routes] == ["deep", "desk", "direct"]
    assert router.routes[0].model == "openai:gpt-5"
    assert router.routes[1].note == "The legal desk knows better."
    by_name = {rule.name: rule for rule in router.rules}
    assert by_name["legal"].score == 3
    assert by_name["chart"].score == 1
    assert len(router.rules) == len(Router().rules) + 1
    assert [rule.name for rule in router.rules[:-1]] == [rule.name for rule in Router().rules]


def test_nothing_said_is_what_is_shipped() -> None:
    assert read({}).rules == Router().rules
    assert read({"model": "demo"}).routes == Router().routes


def test_a_score_of_0_switches_a_rule_off() -> None:
    table = settings('[chat.rules.short]\nwhen = { max_words = 4 }\nscore = 0\nreason = "x"')
    assert read(table).decide("hi").reasons == ()


def test_a_rule_without_a_reason_is_told_by_its_name() -> None:
    table = settings("[chat.rules.tiny]\nwhen = { max_words = 2 }\nscore = 5")
    assert "is of the kind tiny (+5)" in read(table).decide("so what").reasons


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = 5", r"chat\.rules must be a table"),
        ("[chat.rules]\nx = 5", r"chat\.rules\.x must be a table"),
        ("[chat.rules.x]\nwhen = { words = ['a'] }", r"chat\.rules\.x\.score must be a whole"),
        ("[chat.rules.x]\nwhen = { words = ['a'] }\nscore = 11", r"x\.score must be .* -10 to 10"),
        ("[chat.rules.x]\nwhen = { words = ['a'] }\nscore = true", r"x\.score must be"),
        ("[chat.rules.x]\nscore = 1", r"chat\.rules\.x has no condition"),
        ("[chat.rules.x]\nscore = 1\nwhen = 5", r"x\.when must be a table"),
        ("[chat.rules.x]\nscore = 1\nwhen = { words = 'a' }", r"words must be a list of texts"),
        ("[chat.rules.x]\nscore = 1\nwhen = { words = [] }", r"words must be a list of texts"),
        ("[chat.rules.x]\nscore = 1\nwhen = { words = [5] }", r"words must be a list of texts"),
        ("[chat.rules.x]\nscore = 1\nwhen = { words = ['.*'] }", r"words has '\.\*', which is no"),
        ("[chat.rules.x]\nscore = 1\nwhen = { min_words = -1 }", r"min_words must be a whole"),
        ("[chat.rules.x]\nscore = 1\nwhen = { min_words = 1.5 }", r"min_words must be a whole"),
        ("[chat.rules.x]\nscore = 1\nwhen = { min_score = 1 }", r"asks for a score"),
        ("[chat.rules.x]\nscore = 1\nwhen = { regex = 'a' }", r"x\.when has 'regex'"),
        ("[chat.rules.x]\nscore = 1\nwhen = { max_words = 1 }\nreason = 5", r"reason must be a"),
        ("[chat.rules.x]\nscore = 1\nweight = 1", r"chat\.rules\.x has 'weight'"),
        ("routes = {}", r"chat\.routes must be a list"),
        ("routes = []", r"chat\.routes must be a list"),
        ("routes = [5]", r"chat\.routes\[0\] must be a table"),
        ("[[chat.routes]]", r"chat\.routes\[0\] has no name"),
        ("[[chat.routes]]\nname = ' '", r"chat\.routes\[0\]\.name must be a text"),
        ("[[chat.routes]]\nname = 'a'\nurl = 'b'", r"chat\.routes\[0\] has 'url'"),
        ("[[chat.routes]]\nname = 'a'\nmodel = 5", r"chat\.routes\[0\]\.model must be a text"),
        ("[[chat.routes]]\nname = 'a'\nwhen = { min_score = 2 }", r"last route has a condition"),
        ("[[chat.routes]]\nname = 'a'\n[[chat.routes]]\nname = 'a'", r"two routes 'a'"),
    ],
)
def test_what_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(SettingsInvalid, match=said) as caught:
        read(settings(f"[chat]\n{text}"))
    assert caught.value.fix


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
keys = st.sampled_from(["rules", "routes", "when", "words", "score", "name", "min_words", "x"])


@given(st.dictionaries(keys, json | st.dictionaries(keys, json | st.dictionaries(keys, json))))
def test_any_table_is_read_or_refused(table: dict[str, Any]) -> None:
    with contextlib.suppress(SettingsInvalid):
        read(table).decide("list")
