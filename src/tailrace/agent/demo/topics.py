"""What each topic asks the tools, round by round, and how it is answered. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tailrace.agent.demo import answers
from tailrace.agent.demo.question import Question
from tailrace.agent.demo.step import Call, Rounds, call, results
from tailrace.agent.demo.vocabulary import Topic

_LEAST: Final = 0.1


class Way(NamedTuple):
    """From a question to its answer. `calls`: those to make next, none if all is known. `says`:
    what is said with the first of them, and with the others.
    """

    calls: Callable[[Question, Rounds], list[Call]]
    answer: answers.Answer
    says: tuple[str, str]


def _increments(question: Question, rounds: Rounds) -> list[Call]:
    places = question.departments or (None,)
    if not rounds:
        only = places[0] if len(places) == 1 else None
        others = call("count_employees", department=only) if only else call("list_departments")
        return [call("increment_summary", department=only), others]
    if results(rounds, "increments"):
        return []
    years = [row["year"] for row in results(rounds, "increment_summary")[0].result]
    year = question.year or max(years)
    low, high = question.band or (None, None)
    # Who got 0 % got none, unless that is what is asked for.
    low = _LEAST if low is None else low
    asked = [
        call("increments", minimum=low, maximum=high, year=year, department=place)
        for place in places
    ]
    if len(places) == 1 and question.top is None and year - 1 in years:
        asked.append(
            call("increments", minimum=low, maximum=high, year=year - 1, department=places[0])
        )
    return asked


def _compare(question: Question, rounds: Rounds) -> list[Call]:
    if rounds:
        return []
    if len(question.departments) < 2:
        return [call("salary_summary"), call("list_departments")]
    return [
        call(tool, department=place)
        for place in question.departments
        for tool in ("salary_summary", "increment_summary")
    ]


def _person(question: Question, rounds: Rounds) -> list[Call]:
    said = question.person or ""
    if not rounds:
        if said.isdecimal():
            return [call("employee_details", employee=said)]
        return [call("find_employees", name=said, limit=5)]
    found = results(rounds, "find_employees")
    if len(rounds) > 1 or not found or len(found[0].result["employees"]) != 1:
        return []
    return [call("employee_details", employee=str(found[0].result["employees"][0]["id"]))]


def _ranking(question: Question, rounds: Rounds) -> list[Call]:
    place = question.departments[0] if question.departments else None
    if not rounds:
        # One can only sort from the highest on: the lowest are the end of all.
        limit = 100 if question.is_lowest else question.top or 5
        return [
            call("find_employees", department=place, sort="salary", limit=limit),
            call("salary_summary", department=place),
        ]
    if len(rounds) > 1 or question.top != 1:
        return []
    rows = results(rounds, "find_employees")[0].result["employees"]
    return [call("employee_details", employee=str(rows[-1 if question.is_lowest else 0]["id"]))]


def _salaries(question: Question, rounds: Rounds) -> list[Call]:
    if rounds:
        return []
    places = question.departments
    return [call("salary_summary", department=one) for one in places] or [call("salary_summary")]


def _count(question: Question, rounds: Rounds) -> list[Call]:
    if rounds:
        return []
    counted = [call("count_employees", department=one) for one in question.departments]
    return counted or [call("count_employees"), call("list_departments")]


def _listing(question: Question, rounds: Rounds) -> list[Call]:
    if rounds:
        return []
    everybody = [call("find_employees", limit=100 if question.wants_all else 20)]
    return [
        call("find_employees", department=one, limit=100) for one in question.departments
    ] or everybody


def _departments(question: Question, rounds: Rounds) -> list[Call]:
    if rounds:
        return []
    return [
        call("list_departments"),
        *(call("salary_summary", department=one) for one in question.departments),
    ]


WAYS: Final[Mapping[Topic | None, Way]] = {
    "increments": Way(
        _increments,
        answers.increments,
        ("First I look up which years have increments.", "Now I look up who got which."),
    ),
    "compare": Way(_compare, answers.compare, ("I look at both departments side by side.", "")),
    "person": Way(_person, answers.person, ("I look up who that is.", "Found. Now the details.")),
    "ranking": Way(
        _ranking,
        answers.ranking,
        ("I sort the salaries.", "Now more about that one."),
    ),
    "salaries": Way(_salaries, answers.salaries, ("I look at what the departments pay.", "")),
    "count": Way(_count, answers.count, ("I count.", "")),
    "list": Way(_listing, answers.listing, ("I look up who there is.", "")),
    "departments": Way(_departments, answers.departments, ("I look up the departments.", "")),
}
