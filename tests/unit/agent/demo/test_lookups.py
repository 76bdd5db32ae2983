from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.demo import tools
from tailrace.agent.demo.lookups import (
    MAX_ROWS,
    TOOLS,
    count_employees,
    employee_details,
    find_employees,
    increment_summary,
    increments,
    list_departments,
    salary_summary,
)
from tailrace.agent.demo.staff import LAST_YEAR, staff
from tailrace.errors import InputInvalid

PEOPLE = staff()


def raised(year: int, department: str | None = None) -> list[tuple[str, float]]:
    """Who got which increment, worked out here and not in SQL."""
    return [
        (one.name, round(100 * (one.salaries[year] - before) / before, 1))
        for one in PEOPLE
        if (before := one.salaries.get(year - 1)) and department in (None, one.department)
    ]


def test_departments() -> None:
    rows = list_departments()
    assert sum(row["employees"] for row in rows) == len(PEOPLE)
    sales = rows[1]
    assert sales["department"] == "Sales"
    assert sales["head"] in [one.name for one in PEOPLE if one.title == "Head of sales"]


def test_counting() -> None:
    assert count_employees() == {"department": None, "employees": len(PEOPLE)}
    sales = sum(one.department == "Sales" for one in PEOPLE)
    assert count_employees("sales ") == {"department": "Sales", "employees": sales}


def test_finding_by_department_and_name() -> None:
    found = find_employees("Sales", limit=100)
    names = sorted(one.name for one in PEOPLE if one.department == "Sales")
    assert [row["name"] for row in found["employees"]] == names
    assert found["total"] == len(names)
    assert [row["name"] for row in find_employees(name="SOREN")["employees"]] == ["Søren Dahlgaard"]
    assert find_employees(name="100%") == {"total": 0, "employees": []}
    assert find_employees(department="Finance", name="Søren")["total"] == 0


def test_finding_in_an_order() -> None:
    paid = find_employees(sort="salary", limit=3)
    best = sorted(PEOPLE, key=lambda one: -one.salaries[LAST_YEAR])[:3]
    assert [row["name"] for row in paid["employees"]] == [one.name for one in best]
    assert paid["total"] == len(PEOPLE)
    oldest = find_employees(sort="hired", limit=1)["employees"][0]
    assert oldest["hired"] == min(one.hired for one in PEOPLE)


@pytest.mark.parametrize("said", ["29", "#29", "Priya Venkataswami", "priya", "VENKATA"])
def test_details_by_number_and_name(said: str) -> None:
    found = employee_details(said)
    assert (found["id"], found["name"]) == (29, "Priya Venkataswami")
    one = PEOPLE[28]
    assert {row["year"]: row["salary"] for row in found["history"]} == one.salaries
    assert found["history"][0]["percent"] is None
    assert found["history"][-1]["percent"] == dict(raised(LAST_YEAR))[one.name]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("9999", "no employee '9999'"),
        ("Nobody Atall", "no employee 'Nobody Atall'"),
        ("", "no employee ''"),
        ("9" * 40, "no employee"),
        ("an", "Several have 'an' in their name, such as "),
    ],
)
def test_details_of_nobody_or_of_several(said: str, why: str) -> None:
    with pytest.raises(InputInvalid, match=why):
        employee_details(said)


@pytest.mark.parametrize("department", [None, "Sales", "Human Resources"])
@pytest.mark.parametrize("year", [2021, 2024, 2025])
@pytest.mark.parametrize(("low", "high"), [(5, 10), (None, 3), (8.1, None), (0, 0), (None, None)])
def test_increments(
    department: str | None, year: int, low: float | None, high: float | None
) -> None:
    expected = [
        (name, percent)
        for name, percent in raised(year, department)
        if (low is None or percent >= low) and (high is None or percent <= high)
    ]
    found = increments(low, high, year, department)
    assert found["year"] == year
    assert found["total"] == len(expected)
    assert [(row["name"], row["percent"]) for row in found["increments"]] == sorted(
        expected, key=lambda one: (-one[1], one[0])
    )


def test_both_ends_of_a_range_belong_to_it() -> None:
    percents = {row["percent"] for row in increments(5, 10)["increments"]}
    assert {5.0, 10.0} <= percents


def test_increments_are_the_latest_unless_said_otherwise() -> None:
    assert increments() == increments(year=LAST_YEAR)
    assert len(increments(limit=2)["increments"]) == 2
    assert increments(limit=2)["total"] == len(raised(LAST_YEAR))


def test_the_increments_of_the_years() -> None:
    rows = increment_summary("Sales")
    assert [row["year"] for row in rows] == [2021, 2022, 2023, 2024, 2025]
    for row in rows:
        percents = [percent for _, percent in raised(row["year"], "Sales")]
        assert (row["salaries"], row["lowest"], row["highest"]) == (
            *(len(percents), min(percents)),
            max(percents),
        )
        assert row["average"] == pytest.approx(sum(percents) / len(percents), abs=0.006)


def test_salaries() -> None:
    rows = {row["department"]: row for row in salary_summary()}
    paid = [one.salaries[LAST_YEAR] for one in PEOPLE if one.department == "Finance"]
    assert rows["Finance"] == {
        "department": "Finance",
        "employees": len(paid),
        "lowest": min(paid),
        "average": round(sum(paid) / len(paid)),
        "highest": max(paid),
        "total": sum(paid),
    }
    assert salary_summary("finance") == [rows["Finance"]]


@pytest.mark.parametrize(
    "tool", [count_employees, find_employees, increments, increment_summary, salary_summary]
)
def test_an_unknown_department_is_told_which_there_are(tool: Callable[..., Any]) -> None:
    with pytest.raises(InputInvalid, match=r"no department 'Aerospace'. The departments are Engin"):
        tool(department="Aerospace")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: increments(10, 5), "at least 10 % and at most 5 %"),
        (lambda: increments(year=2015), "no increments of 2015, only of 2021 to 2025"),
        (lambda: increments(limit=0), "limit is 1 to 100, not 0"),
        (lambda: find_employees(limit=MAX_ROWS + 1), "limit is 1 to 100, not 101"),
        (lambda: find_employees(sort="age"), "sort by 'age'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_looked_for(call: Callable[[], Any], why: str) -> None:
    with pytest.raises(InputInvalid, match=why):
        call()


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_name_breaks_the_question(name: str, department: str) -> None:
    assert find_employees(name=name)["total"] <= len(PEOPLE)
    with contextlib.suppress(InputInvalid):
        assert count_employees(department)["department"]
    with contextlib.suppress(InputInvalid):
        assert employee_details(name)["name"]


def test_an_error_repeats_no_long_text() -> None:
    with pytest.raises(InputInvalid) as caught:
        count_employees("x" * 5000)
    assert len(str(caught.value)) < 300


def test_a_model_is_told_what_they_do() -> None:
    assert tools() == list(TOOLS)
    for tool in TOOLS:
        parameters = inspect.signature(tool).parameters
        assert tool.__doc__
        assert all(f"        {name}: " in tool.__doc__ for name in parameters), tool
