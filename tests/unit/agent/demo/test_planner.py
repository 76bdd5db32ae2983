from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.demo.employees import database
from tailrace.agent.demo.lookups import TOOLS
from tailrace.agent.demo.planner import plan
from tailrace.agent.demo.step import Outcome
from tests.conversing import talk

NAMES = [tool.__name__ for tool in TOOLS]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in an answer, without their heads."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return lines[2:]


def test_the_list_of_employees_with_an_increment_of_5_to_10_percent() -> None:
    found = talk("give me the list of employees with 5–10% increment")
    assert found.calls == [
        ["increment_summary", "list_departments"],
        ["increments", "increments"],
    ]
    # Asked here in other words than the tools ask it.
    expected = database().ask(
        """
        SELECT e.name, d.name AS department, before.salary AS before, after.salary AS after
        FROM employees e, departments d, salaries before, salaries after
        WHERE d.id = e.department AND before.employee = e.id AND after.employee = e.id
            AND before.year = 2024 AND after.year = 2025
            AND round(after.salary * 100.0 / before.salary - 100, 1) BETWEEN 5 AND 10
        """
    )
    assert len(expected) > 10
    assert sorted(rows(found.answer)) == sorted(
        [
            row["name"],
            row["department"],
            f"{row['after'] * 100 / row['before'] - 100:.1f} %",
            f"€{row['before']:,}",
            f"€{row['after']:,}",
        ]
        for row in expected
    )
    people = database().ask("SELECT count(*) AS number FROM employees")[0]["number"]
    assert f"**{len(expected)} of {people} employees got an increment of 5 to 10 %" in found.answer


@pytest.mark.parametrize(
    ("messages", "calls", "said"),
    [
        (["how many employees are there?"], [["count_employees", "list_departments"]], "There are"),
        (["how many in Sales and HR?", "headcount of them"], [["count_employees"] * 2], "work in"),
        (["what departments are there?"], [["list_departments"]], "6 departments"),
        (["list the employees"], [["find_employees"]], "The first 20 by name"),
        (["list all employees"], [["find_employees"]], "Zofia"),
        (["average salary in each department"], [["salary_summary"]], "Engineering"),
        (["salaries in Sales and HR"], [["salary_summary"] * 2], "Sales and Human Resources"),
        (
            ["compare Sales and HR"],
            [["salary_summary", "increment_summary"] * 2],
            "On average, Sales pays",
        ),
        (["compare the departments"], [["salary_summary", "list_departments"]], "Operations"),
        (
            ["who is the highest paid employee in HR?"],
            [["find_employees", "salary_summary"], ["employee_details"]],
            "Miriam Goldwasser",
        ),
        (["the 3 lowest paid people"], [["find_employees", "salary_summary"]], "lowest salaries"),
        (
            ["tell me about Ingrid Solvang"],
            [["find_employees"], ["employee_details"]],
            "Senior engineer in Engineering",
        ),
        (["employee 8"], [["employee_details"]], "Ingrid Solvang"),
        (["who is Nobody Atall"], [["find_employees"]], "Nobody in the database is called"),
        (["who is amara"], [["find_employees"], ["employee_details"]], "Amara Okonjo-Bell"),
        (["tell me about the Sales department"], [["list_departments", "salary_summary"]], "Lyon"),
        (
            ["increments of 5-10%", "and in Sales?"],
            [["increment_summary", "count_employees"], ["increments", "increments"]],
            "5 of 12 employees in Sales got an increment of 5 to 10 %",
        ),
        (
            ["increments above 8% in Sales and HR in 2023"],
            [["increment_summary", "list_departments"], ["increments", "increments"]],
            "Sales and Human Resources got an increment of at least 8.1 % in 2023",
        ),
        (
            ["who got the highest increment?"],
            [["increment_summary", "list_departments"], ["increments"]],
            "The highest:",
        ),
        (["hi"], [], "built-in model"),
        (["write a haiku"], [], "I do not understand that"),
        (
            ["call count_employees\nuse list_departments"],
            [["count_employees", "list_departments"]],
            "`count_",
        ),
    ],
)
def test_conversations(messages: list[str], calls: list[list[str]], said: str) -> None:
    found = talk(*messages)
    assert found.calls == calls
    assert said in found.answer
    assert found.failures == []


def test_three_of_the_lowest() -> None:
    lowest = database().ask("SELECT name FROM people ORDER BY salary LIMIT 3")
    assert [row[0] for row in rows(talk("the 3 lowest paid people").answer)] == [
        row["name"] for row in lowest
    ]


def test_nobody_got_0_percent_unless_it_is_asked_for() -> None:
    assert "| 0.0 %" not in talk("all increments").answer
    assert "| 0.0 %" in talk("who got an increment of 0%?").answer


def test_an_unknown_department() -> None:
    found = talk("how many people work in Aerospace?")
    assert found.calls == [["count_employees"], ["list_departments"]]
    (failure,) = found.failures
    assert "no department 'Aerospace'" in failure
    assert "There is no department “Aerospace”" in found.answer
    assert "Marketing" in found.answer


def test_a_department_that_is_misspelt() -> None:
    found = talk("how many people are in enginering?")
    assert found.calls == [["count_employees"], ["list_departments"], ["count_employees"]]
    assert len(found.failures) == 1
    assert found.answer == "I take it for Engineering. **16 employees work in Engineering.**"


def test_a_year_without_increments() -> None:
    found = talk("increments of 2015")
    assert "only of 2021 to 2025" in found.answer
    assert len(found.failures) == 1


def test_thinking_only_if_it_is_asked_for() -> None:
    aloud = talk("Think step by step: who got an increment above 8% in Sales?")
    assert all(step.thought for step in aloud.steps)
    assert "Sales, at least 8.1 %" in aloud.steps[0].thought
    assert "increment_summary and count_employees at the same time" in aloud.steps[0].thought
    silent = talk("Who got an increment above 8% in Sales?")
    assert not any(step.thought for step in silent.steps)
    assert silent.answer == aloud.answer


def test_without_its_own_tools() -> None:
    def report(month: int) -> str:
        return f"rain in {month}"

    found = talk("how many employees are there?", functions=[report])
    assert found.calls == []
    assert "I need `count_employees`, `list_departments`, which this chat does not" in found.answer
    assert "`report`" in found.answer
    assert "rain in 5" in talk('call report {"month": 5}', functions=[report]).answer


def test_a_tool_that_fails_each_time_ends_the_turn() -> None:
    def count_employees(department: str = "") -> None:
        raise TypeError("broken")

    tools = [count_employees, *(tool for tool in TOOLS if tool.__name__ != "count_employees")]
    found = talk("how many people work in Sales?", functions=tools)
    assert found.calls == [["count_employees"], ["list_departments"]]
    assert found.answer == "That did not work. broken"


texts = st.sampled_from(
    [
        *("increments of 5-10%", "increments of 2023 in Sales", "headcount", "headcount in Mars"),
        *("compare Sales and HR", "compare", "who is Ingrid", "employee 5", "best paid people"),
        *("who is the best paid", "salaries", "list employees in HR", "departments", "hi", "?"),
        *("tell me about the Sales department", "call increments {}", "who got the lowest raise"),
    ]
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("year", "total", "increments", "employees", "department", "average", "id"),
                    *("percent", "name", "salary", "history"),
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)
outcomes = st.builds(
    Outcome,
    st.sampled_from(NAMES),
    st.fixed_dictionaries({}, optional={"department": json}),
    json,
    st.booleans(),
)


@given(st.lists(texts, max_size=3), st.lists(st.lists(outcomes, max_size=3), max_size=5))
def test_whatever_tools_answer(messages: list[str], rounds: list[list[Outcome]]) -> None:
    step = plan(messages, rounds, NAMES)
    assert step.text or step.calls
    assert step == plan(messages, rounds, NAMES)
    assert {call.name for call in step.calls} <= set(NAMES)


@given(st.text(), st.lists(st.text(max_size=10)))
def test_whatever_is_said(text: str, tools: list[str]) -> None:
    step = plan([text], [], tools)
    assert step.text
    assert {call.name for call in step.calls} <= set(tools)


def test_nothing_said() -> None:
    assert plan([], [], NAMES).calls == ()
