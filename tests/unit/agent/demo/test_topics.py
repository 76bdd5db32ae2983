from __future__ import annotations

from typing import get_args

from tailrace.agent.demo.band import Band
from tailrace.agent.demo.question import Question
from tailrace.agent.demo.step import Outcome, call
from tailrace.agent.demo.topics import WAYS
from tailrace.agent.demo.vocabulary import Topic

SUMMARY = Outcome("increment_summary", {}, [{"year": 2023}, {"year": 2024}])


def test_every_topic_but_talk_has_a_way() -> None:
    assert {*WAYS, "greeting", "help"} == set(get_args(Topic))


def test_what_is_said_with_calls_says_something() -> None:
    for way in WAYS.values():
        assert way.says[0]


def test_the_year_is_the_latest_that_the_tool_knows() -> None:
    way = WAYS["increments"]
    question = Question(band=Band(5, 10), departments=("Sales",))
    assert way.calls(question, []) == [
        call("increment_summary", department="Sales"),
        call("count_employees", department="Sales"),
    ]
    asked = {"minimum": 5, "maximum": 10, "department": "Sales"}
    assert way.calls(question, [[SUMMARY]]) == [
        call("increments", year=2024, **asked),
        call("increments", year=2023, **asked),
    ]
    done = Outcome("increments", {}, {})
    assert way.calls(question, [[SUMMARY], [done]]) == []


def test_the_first_year_has_none_before_it() -> None:
    question = Question(year=2023)
    assert WAYS["increments"].calls(question, [[SUMMARY]]) == [
        call("increments", minimum=0.1, year=2023)
    ]


def test_a_person_of_whom_there_is_one() -> None:
    way, question = WAYS["person"], Question(person="ann")
    assert way.calls(question, []) == [call("find_employees", name="ann", limit=5)]
    one = Outcome("find_employees", {}, {"total": 1, "employees": [{"id": 7}]})
    two = Outcome("find_employees", {}, {"total": 2, "employees": [{"id": 7}, {"id": 8}]})
    assert way.calls(question, [[one]]) == [call("employee_details", employee="7")]
    assert way.calls(question, [[two]]) == []
    assert way.calls(Question(person="7"), []) == [call("employee_details", employee="7")]


def test_the_lowest_are_at_the_end_of_all() -> None:
    way = WAYS["ranking"]
    (first, _) = way.calls(Question(top=1, is_lowest=True), [])
    assert first == call("find_employees", sort="salary", limit=100)
    ordered = Outcome("find_employees", {}, {"employees": [{"id": 1}, {"id": 2}]})
    lowest = way.calls(Question(top=1, is_lowest=True), [[ordered]])
    assert lowest == [call("employee_details", employee="2")]
    highest = way.calls(Question(top=1), [[ordered]])
    assert highest == [call("employee_details", employee="1")]
    assert way.calls(Question(top=3), [[ordered]]) == []
