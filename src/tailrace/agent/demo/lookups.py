"""The built-in tools: questions to the database of employees, for any model.

They only read, values are bound and never part of the SQL, and no answer is longer than
MAX_ROWS rows. Each raises InputInvalid for what it cannot look for, which says what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from tailrace.agent.demo.employees import database, folded
from tailrace.agent.demo.staff import FIRST_YEAR, LAST_YEAR
from tailrace.errors import InputInvalid

MAX_ROWS: Final = 100

_BY: Final = {"name": 0, "salary": 1, "hired": 2}


def list_departments() -> list[dict[str, Any]]:
    """List the departments: of each its name, city, head, and number of employees."""
    return database().ask(
        """
        SELECT d.name AS department, d.city, count(*) AS employees,
            max(CASE WHEN e.title LIKE 'Head of %' THEN e.name END) AS head
        FROM departments d JOIN employees e ON e.department = d.id GROUP BY d.id ORDER BY d.id
        """
    )


def count_employees(department: str | None = None) -> dict[str, Any]:
    """Count the employees.

    Args:
        department: Only those of this department; everybody without it.
    """
    known = _department(department)
    (row,) = database().ask(
        "SELECT count(*) AS employees FROM people WHERE :department IN ('', department)",
        {"department": known or ""},
    )
    return {"department": known, **row}


def find_employees(
    department: str | None = None,
    name: str | None = None,
    sort: Literal["name", "salary", "hired"] = "name",
    limit: int = 20,
) -> dict[str, Any]:
    """Find employees, with their title, department, year of hiring and salary in euros a year.

    Args:
        department: Only those of this department.
        name: Only those who have this in their name.
        sort: By name; by salary, the highest first; or by year of hiring, the earliest first.
        limit: How many to list at most, 1 to 100. `total` counts all.
    """
    if sort not in _BY:
        raise InputInvalid(f"One cannot sort by {sort!r}; sort is one of {', '.join(_BY)}.")
    values = {
        "department": _department(department) or "",
        "name": folded(name or "").strip(),
        "sort": _BY[sort],
        "limit": _limited(limit),
    }
    rows = database().ask(
        """
        SELECT id, name, title, department, hired, salary, count(*) OVER () AS total FROM people
        WHERE :department IN ('', department) AND instr(folded, :name) > 0
        ORDER BY CASE :sort WHEN 1 THEN -salary WHEN 2 THEN hired END, name LIMIT :limit
        """,
        values,
    )
    return _counted(rows, "employees")


def employee_details(employee: str) -> dict[str, Any]:
    """Tell everything about one employee: also the salary and the increment of each year.

    Args:
        employee: The number (id), or the name, of which a part is enough if it is only theirs.
    """
    said = folded(str(employee)).strip().removeprefix("#")
    number = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else None
    rows = database().ask(
        """
        SELECT id, name, title, department, hired, salary FROM people
        WHERE CASE WHEN :number IS NULL THEN instr(folded, :name) > 0 ELSE id = :number END
        ORDER BY folded <> :name, name LIMIT 5
        """,
        {"number": number, "name": said},
    )
    if not said or not rows:
        raise InputInvalid(
            f"There is no employee {str(employee)[:60]!r}. Take a number or a name from "
            "find_employees."
        )
    if len(rows) > 1 and folded(rows[0]["name"]) != said:
        names = ", ".join(row["name"] for row in rows)
        raise InputInvalid(f"Several have {said[:60]!r} in their name, such as {names}.")
    history = database().ask(
        """
        SELECT s.year, s.salary, r.percent FROM salaries s
        LEFT JOIN raises r ON r.employee = s.employee AND r.year = s.year
        WHERE s.employee = :number ORDER BY s.year
        """,
        {"number": rows[0]["id"]},
    )
    return {**rows[0], "history": history}


def increments(
    minimum: float | None = None,
    maximum: float | None = None,
    year: int | None = None,
    department: str | None = None,
    limit: int = MAX_ROWS,
) -> dict[str, Any]:
    """List who got which salary increment, the highest first.

    An increment is a percentage of the salary of the year before, to one decimal.

    Args:
        minimum: Only increments of at least so many percent.
        maximum: Only increments of at most so many percent.
        year: The year they were given in; the latest one without it.
        department: Only those of this department.
        limit: How many to list at most, 1 to 100. `total` counts all.
    """
    if minimum is not None and maximum is not None and minimum > maximum:
        raise InputInvalid(f"Nothing is at least {minimum:g} % and at most {maximum:g} %.")
    which = _year(year)
    rows = database().ask(
        """
        SELECT p.id, p.name, p.department, r.percent, r.before, r.after,
            count(*) OVER () AS total
        FROM raises r JOIN people p ON p.id = r.employee
        WHERE r.year = :year AND :department IN ('', p.department)
            AND (:minimum IS NULL OR r.percent >= :minimum)
            AND (:maximum IS NULL OR r.percent <= :maximum)
        ORDER BY r.percent DESC, p.name LIMIT :limit
        """,
        {
            "year": which,
            "department": _department(department) or "",
            "minimum": minimum,
            "maximum": maximum,
            "limit": _limited(limit),
        },
    )
    return {"year": which, **_counted(rows, "increments")}


def increment_summary(department: str | None = None) -> list[dict[str, Any]]:
    """Sum up the increments of each year: how many salaries there were to compare, and the
    lowest, average and highest increment in percent.

    Args:
        department: Only those of this department.
    """
    return database().ask(
        """
        SELECT r.year, count(*) AS salaries, min(r.percent) AS lowest,
            round(avg(r.percent), 2) AS average, max(r.percent) AS highest
        FROM raises r JOIN people p ON p.id = r.employee
        WHERE :department IN ('', p.department) GROUP BY r.year ORDER BY r.year
        """,
        {"department": _department(department) or ""},
    )


def salary_summary(department: str | None = None) -> list[dict[str, Any]]:
    """Sum up the salaries of each department: the lowest, average and highest, and their total,
    in euros a year.

    Args:
        department: Only this department.
    """
    return database().ask(
        """
        SELECT department, count(*) AS employees, min(salary) AS lowest,
            round(avg(salary)) AS average, max(salary) AS highest, sum(salary) AS total
        FROM people WHERE :department IN ('', department) GROUP BY department ORDER BY average DESC
        """,
        {"department": _department(department) or ""},
    )


def _department(said: str | None) -> str | None:
    """The department's own name. Raises InputInvalid, which names those there are."""
    if said is None:
        return None
    names = [row["name"] for row in database().ask("SELECT name FROM departments ORDER BY id")]
    meant = folded(said).strip()
    found = next((name for name in names if folded(name) == meant), None)
    if found is None:
        raise InputInvalid(
            f"There is no department {said[:60]!r}. The departments are {', '.join(names)}."
        )
    return str(found)


def _year(said: int | None) -> int:
    if said is None:
        return LAST_YEAR
    if not FIRST_YEAR < said <= LAST_YEAR:
        raise InputInvalid(
            f"There are no increments of {said}, only of {FIRST_YEAR + 1} to {LAST_YEAR}."
        )
    return said


def _limited(limit: int) -> int:
    if not 1 <= limit <= MAX_ROWS:
        raise InputInvalid(f"limit is 1 to {MAX_ROWS}, not {limit}.")
    return limit


def _counted(rows: list[dict[str, Any]], what: str) -> dict[str, Any]:
    total = rows[0]["total"] if rows else 0
    return {"total": total, what: [{k: v for k, v in row.items() if k != "total"} for row in rows]}


TOOLS: Final[tuple[Callable[..., Any], ...]] = (
    list_departments,
    count_employees,
    find_employees,
    employee_details,
    increments,
    increment_summary,
    salary_summary,
)
