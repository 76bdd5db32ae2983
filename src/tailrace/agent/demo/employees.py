"""The built-in database: SQLite in memory, made at first use from the table of `staff`."""

from __future__ import annotations

import sqlite3
import threading
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from tailrace.agent.demo.staff import DEPARTMENTS, staff

_SCHEMA: Final = """
CREATE TABLE departments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, city TEXT NOT NULL);
CREATE TABLE employees (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    title TEXT NOT NULL,
    department INTEGER NOT NULL REFERENCES departments,
    hired INTEGER NOT NULL
);
CREATE TABLE salaries (
    employee INTEGER NOT NULL REFERENCES employees,
    year INTEGER NOT NULL,
    salary INTEGER NOT NULL,
    PRIMARY KEY (employee, year)
);
CREATE VIEW raises AS
    SELECT s.employee, s.year, p.salary AS before, s.salary AS after,
        round(100.0 * (s.salary - p.salary) / p.salary, 1) AS percent
    FROM salaries s JOIN salaries p ON p.employee = s.employee AND p.year = s.year - 1;
CREATE VIEW people AS
    SELECT e.id, e.name, e.folded, e.title, d.name AS department, e.hired, s.salary
    FROM employees e JOIN departments d ON d.id = e.department
    JOIN salaries s ON s.employee = e.id
        AND s.year = (SELECT max(year) FROM salaries WHERE employee = e.id);
"""


class Database:
    """Answers questions in SQL. Any thread may ask; nobody may write.

    `folded` is a name in lower case and without accents.
    """

    def __init__(self) -> None:
        # Tools run in threads, several at the same time, and a connection is for one at a time.
        self._turn = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        with self._connection as connection:
            connection.executescript(_SCHEMA)
            _fill(connection)
        self._connection.execute("PRAGMA query_only = ON")

    def ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows, by the names of their columns. Raises sqlite3.OperationalError for what
        would change something.
        """
        with self._turn:
            return [dict(row) for row in self._connection.execute(sql, values or {})]


@cache
def database() -> Database:
    """The one of this process."""
    return Database()


def folded(name: str) -> str:
    """In lower case and without accents: how names are compared."""
    spread = unicodedata.normalize("NFKD", name.casefold().replace("ø", "o").replace("ł", "l"))
    return "".join(sign for sign in spread if not unicodedata.combining(sign))


def _fill(connection: sqlite3.Connection) -> None:
    connection.executemany(
        "INSERT INTO departments (name, city) VALUES (?, ?)",
        DEPARTMENTS,
    )
    numbers = {name: number for number, (name, _) in enumerate(DEPARTMENTS, 1)}
    for number, employee in enumerate(staff(), 1):
        connection.execute(
            "INSERT INTO employees VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(number, employee.name, folded(employee.name), employee.title),
                *(numbers[employee.department], employee.hired),
            ),
        )
        connection.executemany(
            "INSERT INTO salaries VALUES (?, ?, ?)",
            [(number, year, salary) for year, salary in employee.salaries.items()],
        )
