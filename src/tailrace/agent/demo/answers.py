"""What the built-in model says in the end: sentences and tables, of nothing but tools' results.

Each raises KeyError, TypeError, or another of BROKEN for results of another shape than those of
the built-in tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from tailrace.agent.demo.question import Question
from tailrace.agent.demo.step import Rounds, results

Answer = Callable[[Question, Rounds], str]

BROKEN: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)

_MONEY: Final = "€{:,.0f}"


def increments(question: Question, rounds: Rounds) -> str:
    """Who got which."""
    found = results(rounds, "increments")
    year = found[0].result["year"]
    newest = [one for one in found if one.result["year"] == year]
    rows = [row for one in newest for row in one.result["increments"]]
    total = sum(one.result["total"] for one in newest)
    rows.sort(key=lambda row: (-row["percent"], row["name"]))
    if question.top is not None:
        rows = rows[-question.top :][::-1] if question.is_lowest else rows[: question.top]
    of = f" of {question.band}" if question.band else ""
    there_are = _there_are(question, rounds)
    people = _people(total) if there_are is None else f"{total} of {_people(there_are)}"
    sentences = [f"**{people}{_within(question)} got an increment{of} in {year}.**"]
    # With several departments, that of all was asked for.
    for one in results(rounds, "increment_summary")[: len(question.departments) < 2]:
        of_year = next((row for row in one.result if row["year"] == year), None)
        if of_year is not None:
            sentences.append(
                f"Of the {of_year['salaries']} salaries that can be compared with the year before, "
                f"the average increment was {of_year['average']:.1f} %."
            )
    before = next((one for one in found if one.result["year"] == year - 1), None)
    if before is not None:
        sentences.append(f"In {year - 1} there were {before.result['total']}{of}.")
    if not rows:
        return " ".join(sentences)
    if question.top is not None:
        sentences.append(f"The {'lowest' if question.is_lowest else 'highest'}:")
    elif len(rows) < total:
        sentences.append(f"The first {len(rows)}:")
    shown = _table(
        ("Employee", "Department", "Increment", "Salary before", "Salary after"),
        (
            (
                row["name"],
                row["department"],
                f"{row['percent']:.1f} %",
                *_euros(row, "before", "after"),
            )
            for row in rows
        ),
        numbers=3,
    )
    return f"{' '.join(sentences)}\n\n{shown}"


def compare(question: Question, rounds: Rounds) -> str:
    """Departments beside each other."""
    rows = [row for one in results(rounds, "salary_summary") for row in one.result]
    raises = {
        one.args.get("department"): one.result[-1]
        for one in results(rounds, "increment_summary")
        if one.result
    }
    year = next((raised["year"] for raised in raises.values()), None)
    heads = ["Department", "Employees", "Average salary", "Lowest", "Highest"]
    cells = [
        [row["department"], str(row["employees"]), *_euros(row, "average", "lowest", "highest")]
        for row in rows
    ]
    if year is not None and all(row["department"] in raises for row in rows):
        heads.append(f"Average increment {year}")
        for row, line in zip(rows, cells, strict=True):
            line.append(f"{raises[row['department']]['average']:.1f} %")
    shown = _table(heads, cells, numbers=len(heads) - 1)
    best = max(rows, key=lambda row: row["average"])
    worst = min(rows, key=lambda row: row["average"])
    if best is worst:
        return shown
    more = _MONEY.format(best["average"] - worst["average"])
    said = f"**On average, {best['department']} pays {more} more than {worst['department']}.**"
    return f"{said}\n\n{shown}"


def person(question: Question, rounds: Rounds) -> str:
    """One employee; or which ones there are of that name."""
    details = results(rounds, "employee_details")
    if details:
        return "\n\n".join(_details(one.result) for one in details)
    found = results(rounds, "find_employees")[0].result
    if not found["employees"]:
        return (
            f"Nobody in the database is called {question.person}. I know only the invented "
            "employees that are in it: “list all employees” shows them."
        )
    return f"There are {found['total']} of that name:\n\n{_people_table(found['employees'])}"


def ranking(question: Question, rounds: Rounds) -> str:
    """Who earns the most, or the least."""
    rows = results(rounds, "find_employees")[0].result["employees"]
    most = "lowest" if question.is_lowest else "highest"
    top = question.top or 5
    chosen = rows[-top:][::-1] if question.is_lowest else rows[:top]
    said = f"**The {most} {'salary' if len(chosen) == 1 else 'salaries'}{_within(question)}:**"
    text = f"{said}\n\n{_people_table(chosen)}"
    details = results(rounds, "employee_details")
    return "\n\n".join([text, *(_history(one.result) for one in details)])


def salaries(question: Question, rounds: Rounds) -> str:
    """What departments pay."""
    rows = [row for one in results(rounds, "salary_summary") for row in one.result]
    people = sum(row["employees"] for row in rows)
    average = sum(row["total"] for row in rows) / people
    said = f"**The average salary{_within(question)} is {_MONEY.format(average)} a year.**"
    if question.top is not None and len(rows) > 1:
        choose = min if question.is_lowest else max
        chosen = choose(rows, key=lambda row: row["average"])
        said += (
            f" The {'lowest' if question.is_lowest else 'highest'} is in {chosen['department']}."
        )
    shown = _table(
        ("Department", "Employees", "Average", "Lowest", "Highest", "Together"),
        (
            (
                row["department"],
                str(row["employees"]),
                *_euros(row, "average", "lowest", "highest", "total"),
            )
            for row in rows
        ),
        numbers=5,
    )
    return f"{said}\n\n{shown}"


def count(question: Question, rounds: Rounds) -> str:
    """How many there are."""
    counted = [one.result for one in results(rounds, "count_employees")]
    said = [
        f"{_people(row['employees'])} {'works' if row['employees'] == 1 else 'work'} in "
        f"{row['department']}."
        if row["department"]
        else f"There are {_people(row['employees'])}."
        for row in counted
    ]
    listed = results(rounds, "list_departments")
    if question.departments or not listed:
        return f"**{' '.join(said)}**"
    rows = [(row["department"], str(row["employees"])) for row in listed[0].result]
    return f"**{' '.join(said)}**\n\n{_table(('Department', 'Employees'), rows, numbers=1)}"


def listing(question: Question, rounds: Rounds) -> str:
    """Who there is."""
    texts = []
    for one in results(rounds, "find_employees"):
        rows, total = one.result["employees"], one.result["total"]
        department = one.args.get("department")
        where = f" in {department}" if department else ""
        few = f" The first {len(rows)} by name:" if len(rows) < total else ""
        texts.append(f"**{_people(total)}{where}.**{few}\n\n{_people_table(rows)}")
    return "\n\n".join(texts)


def departments(question: Question, rounds: Rounds) -> str:
    """Which departments there are, or what one of them is."""
    rows = list(results(rounds, "list_departments")[0].result)
    if not rows:
        raise ValueError("there are no departments")
    chosen = [row for row in rows if row["department"] in question.departments] or rows
    said = "" if question.departments else f"**There are {len(rows)} departments.**\n\n"
    shown = _table(
        ("Department", "City", "Head", "Employees"),
        ((row["department"], row["city"], row["head"], str(row["employees"])) for row in chosen),
        numbers=1,
    )
    paid = results(rounds, "salary_summary")
    sentences = [
        f"The average salary in {row['department']} is {_MONEY.format(row['average'])} a year."
        for one in paid
        for row in one.result
    ]
    return f"{said}{shown}\n\n{' '.join(sentences)}".strip()


def _details(row: Mapping[str, Any]) -> str:
    return (
        f"**{row['name']}** (number {row['id']}) is {row['title']} in {row['department']}, was "
        f"hired in {row['hired']}, and earns {_MONEY.format(row['salary'])} a year.\n\n"
        f"{_history(row)}"
    )


def _history(row: Mapping[str, Any]) -> str:
    lines = (
        (
            str(year["year"]),
            _MONEY.format(year["salary"]),
            "" if year["percent"] is None else f"{year['percent']:.1f} %",
        )
        for year in row["history"]
    )
    return _table((f"Year ({row['name']})", "Salary", "Increment"), lines, numbers=2)


def _people_table(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("Employee", "Title", "Department", "Since", "Salary"),
        (
            (
                row["name"],
                row["title"],
                row["department"],
                str(row["hired"]),
                *_euros(row, "salary"),
            )
            for row in rows
        ),
        numbers=2,
    )


def _there_are(question: Question, rounds: Rounds) -> int | None:
    """How many employees the question is about, as far as that was asked."""
    counted = results(rounds, "count_employees")
    if counted:
        return int(counted[0].result["employees"])
    listed = [row for one in results(rounds, "list_departments")[:1] for row in one.result]
    chosen = question.departments or [row["department"] for row in listed]
    return sum(row["employees"] for row in listed if row["department"] in chosen) or None


def _people(number: int) -> str:
    return "1 employee" if number == 1 else f"{number} employees"


def _within(question: Question) -> str:
    return f" in {' and '.join(question.departments)}" if question.departments else ""


def _euros(row: Mapping[str, Any], *columns: str) -> tuple[str, ...]:
    return tuple(_MONEY.format(row[column]) for column in columns)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int) -> str:
    """In Markdown; the last `numbers` columns to the right."""
    words = len(heads) - numbers
    rule = ["---"] * words + ["---:"] * numbers
    lines = [heads, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
