from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.demo.band import Band
from tailrace.agent.demo.question import Question, Topic, nearest, understand
from tailrace.agent.demo.staff import LAST_YEAR, staff

SALES, HR = ("Sales",), ("Human Resources",)


@pytest.mark.parametrize(
    ("text", "topic", "more"),
    [
        ("hi", "greeting", {}),
        ("Good morning!", "greeting", {}),
        ("thanks a lot", "greeting", {}),
        ("what can you do?", "help", {}),
        ("help", "help", {}),
        ("Who are you?", "help", {}),
        (
            "give me the list of employees with 5–10% increment",
            *("increments", {"band": Band(5, 10)}),
        ),
        ("employees with a hike between 5 and 10", "increments", {"band": Band(5, 10)}),
        ("who got above 8% in 2023?", "increments", {"band": Band(8.1, None), "year": 2023}),
        ("How many got a raise of at least 5%?", "increments", {"band": Band(5, None)}),
        ("increments last year in HR", "increments", {"departments": HR, "year": LAST_YEAR - 1}),
        ("who got the highest increment?", "increments", {"top": 1}),
        ("top 3 increments", "increments", {"top": 3}),
        ("How many employees are in Sales?", "count", {"departments": SALES}),
        ("headcount", "count", {}),
        ("how many people work in Aerospace?", "count", {"departments": ("Aerospace",)}),
        ("how many people are in enginering", "count", {"departments": ("enginering",)}),
        ("list all employees", "list", {"wants_all": True}),
        ("who works in marketing", "list", {"departments": ("Marketing",)}),
        ("the staff of the legal department", "list", {"departments": ("legal",)}),
        ("show me the employees of each department", "list", {}),
        ("what departments are there?", "departments", {}),
        ("how many departments are there?", "departments", {}),
        ("Tell me about the Sales department", "departments", {"departments": SALES}),
        ("who is the head of Sales?", "departments", {"departments": SALES}),
        ("Who is the highest paid employee in HR?", "ranking", {"top": 1, "departments": HR}),
        ("the 3 lowest paid people", "ranking", {"top": 3, "is_lowest": True}),
        ("lowest paid 3", "ranking", {"top": 3, "is_lowest": True}),
        ("best paid people", "ranking", {"top": 5}),
        ("top 300 salaries", "ranking", {"top": 50}),
        ("average salary per department", "salaries", {}),
        ("what does each team earn", "salaries", {}),
        ("Which department pays best?", "salaries", {"top": 5}),
        ("compare Sales and HR", "compare", {"departments": SALES + HR}),
        ("difference between ops and sales", "compare", {"departments": ("Operations", "Sales")}),
        ("who pays more, Sales or HR?", "compare", {"departments": SALES + HR}),
        ("Tell me about Ingrid Solvang", "person", {"person": "Ingrid Solvang"}),
        ("who is amara?", "person", {"person": "amara"}),
        ("what does Lars Ekengren earn?", "person", {"person": "Lars Ekengren"}),
        ("salary of Noor Alkhatabi", "person", {"person": "Noor Alkhatabi"}),
        ("Noor Alkhatabi's increments", "person", {"person": "Noor Alkhatabi"}),
        ("employee number 17", "person", {"person": "17"}),
        ("Think step by step: the headcount", "count", {"thinks": True}),
        ("write a haiku", None, {}),
        ("how are you?", None, {}),
        ("", None, {}),
        ("…", None, {}),
    ],
)
def test_what_is_understood(text: str, topic: Topic | None, more: dict[str, Any]) -> None:
    assert understand(text) == Question(topic=topic, **more)


def test_every_employee_is_understood_by_name() -> None:
    for employee in staff():
        found = understand(f"Tell me about {employee.name}.")
        assert (found.topic, found.person) == ("person", employee.name)


@pytest.mark.parametrize(
    ("messages", "topic", "more"),
    [
        (
            ["increments of 5-10%", "and in Sales?"],
            *("increments", {"band": Band(5, 10), "departments": SALES}),
        ),
        (
            ["increments of 5-10% in Sales", "and above 8%?"],
            *("increments", {"band": Band(8.1, None), "departments": SALES}),
        ),
        (
            ["increments of 5-10%", "only 2023"],
            *("increments", {"band": Band(5, 10), "year": 2023}),
        ),
        (["how many people in Sales", "what about HR?"], "count", {"departments": HR}),
        (["how many people in Sales", "hi", "thanks", "HR?"], "count", {"departments": HR}),
        (["how many people in Sales", "and HR?", "and Sales?"], "count", {"departments": SALES}),
        (["list the employees in Sales", "how many are they?"], "count", {"departments": SALES}),
        (["list the employees in Sales", "how many are in HR?"], "count", {"departments": HR}),
        (["headcount", "write a haiku"], None, {}),
        (["headcount", "what can you do?"], "help", {}),
        (["headcount", "think step by step"], "count", {"thinks": True}),
        (
            ["average salary in HR", "what about Bao Trankhanh?"],
            "person",
            {"person": "Bao Trankhanh"},
        ),
        (["and in Sales?"], None, {"departments": SALES}),
        (
            ["who is the highest paid employee?", "and the lowest?"],
            *("ranking", {"top": 5, "is_lowest": True}),
        ),
    ],
)
def test_what_follows_on_what_was_said(
    messages: list[str], topic: Topic | None, more: dict[str, Any]
) -> None:
    *past, text = messages
    assert understand(text, past) == Question(topic=topic, **more)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("enginering", "Engineering"),
        ("SALE", "Sales"),
        ("Aerospace", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_the_nearest_name(said: str, found: str | None) -> None:
    assert nearest(said, ["Engineering", "Sales"]) == found


words = st.sampled_from(
    [
        *("and", "in", "Sales", "HR", "Aerospace", "employees", "increment", "5-10%", "above 8%"),
        *("2023", "compare", "who is", "the", "Ingrid", "Solvang", "highest", "paid", "how many"),
        *("think", "list", "department", "what about", "?", ",", "'s"),
    ]
)
texts = st.text(max_size=60) | st.lists(words, max_size=12).map(" ".join)


@given(texts, st.lists(texts, max_size=4))
def test_anything_can_be_said(text: str, past: list[str]) -> None:
    found = understand(text, past)
    assert found == understand(text, past)
    if found.person is not None:
        assert found.topic == "person"


@pytest.mark.parametrize(
    "piece",
    ["a ", "A ", "A", " ", "in the ", "list ", "who is ", "5 ", "the 3 ", "employee ", "'s "],
)
def test_no_text_keeps_it_busy(piece: str) -> None:
    begun = time.process_time()
    understand(piece * 100_000)
    assert time.process_time() - begun < 1
