from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from tailrace.agent.demo.employees import Database, database, folded
from tailrace.agent.demo.staff import DEPARTMENTS, staff


def test_everybody_is_in_it() -> None:
    rows = database().ask("SELECT id, name, department, salary FROM people ORDER BY id")
    assert [(row["id"], row["name"], row["department"], row["salary"]) for row in rows] == [
        (number, one.name, one.department, max(one.salaries.items())[1])
        for number, one in enumerate(staff(), 1)
    ]
    assert [row["name"] for row in database().ask("SELECT name FROM departments ORDER BY id")] == [
        name for name, _ in DEPARTMENTS
    ]


def test_raises_are_of_the_year_before() -> None:
    expected = {
        (number, year, round(100 * (salary - one.salaries[year - 1]) / one.salaries[year - 1], 1))
        for number, one in enumerate(staff(), 1)
        for year, salary in one.salaries.items()
        if year - 1 in one.salaries
    }
    rows = database().ask("SELECT employee, year, percent FROM raises")
    assert {(row["employee"], row["year"], row["percent"]) for row in rows} == expected


@pytest.mark.parametrize(
    "sql", ["DELETE FROM salaries", "UPDATE employees SET name = ''", "DROP VIEW people"]
)
def test_nobody_may_write(sql: str) -> None:
    own = Database()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        own.ask(sql)
    assert len(own.ask("SELECT 1 FROM employees")) == len(staff())


def test_values_are_no_sql() -> None:
    rows = database().ask(
        "SELECT name FROM people WHERE name = :name", {"name": "' OR 1 = 1; DROP TABLE x; --"}
    )
    assert rows == []


def test_there_is_one_and_any_thread_may_ask() -> None:
    sql = "SELECT count(*) AS number, sum(salary) AS total FROM people"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: database().ask(sql), range(200)))
    assert all(answer == answers[0] for answer in answers)
    assert database() is database()


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Søren", "soren"), ("Caldeirão", "caldeirao"), ("WROŁ", "wrol"), ("Ana", "ana")],
)
def test_names_are_compared_without_accents(name: str, plain: str) -> None:
    assert folded(name) == plain
