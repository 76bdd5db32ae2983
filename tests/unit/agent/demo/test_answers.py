from __future__ import annotations

import pytest

from tailrace.agent.demo import answers
from tailrace.agent.demo.band import Band
from tailrace.agent.demo.question import Question
from tailrace.agent.demo.step import Outcome, Rounds


def raised(name: str, percent: float) -> dict[str, object]:
    return {"name": name, "department": "Sales", "percent": percent, "before": 1000, "after": 1100}


def increments(total: int, *rows: dict[str, object], year: int = 2025) -> Outcome:
    result = {"year": year, "total": total, "increments": list(rows)}
    return Outcome("increments", {"year": year}, result)


SUMMARY = Outcome("increment_summary", {}, [{"year": 2025, "salaries": 9, "average": 5.25}])
FOUR = Outcome("count_employees", {"department": "Sales"}, {"department": "Sales", "employees": 4})
TWO = (raised("Bo", 5.0), raised("Al", 9.5))


def test_increments_are_told_with_what_they_are_part_of() -> None:
    question = Question(topic="increments", departments=("Sales",), band=Band(5, 10))
    rounds: Rounds = [[SUMMARY, FOUR], [increments(2, *TWO), increments(1, year=2024)]]
    said, _, table = answers.increments(question, rounds).partition("\n\n")
    assert said == (
        "**2 of 4 employees in Sales got an increment of 5 to 10 % in 2025.** Of the 9 salaries "
        "that can be compared with the year before, the average increment was 5.2 %. In 2024 there "
        "were 1 of 5 to 10 %."
    )
    assert table.splitlines()[1:3] == [
        "| --- | --- | ---: | ---: | ---: |",
        "| Al | Sales | 9.5 % | €1,000 | €1,100 |",
    ]


def test_increments_of_several_departments_are_told_together() -> None:
    question = Question(topic="increments", departments=("Sales", "HR"))
    text = answers.increments(question, [[SUMMARY], [increments(1, TWO[0]), increments(1, TWO[1])]])
    # Nobody was asked how many they are, nor what their average is.
    assert text.startswith("**2 employees in Sales and HR got an increment in 2025.**\n\n| ")
    assert text.index("| Al |") < text.index("| Bo |")


def test_no_increments_make_no_table() -> None:
    assert answers.increments(Question(band=Band(90, None)), [[increments(0)]]) == (
        "**0 employees got an increment of at least 90 % in 2025.**"
    )


def test_the_highest_and_lowest_increments() -> None:
    rounds = [[increments(2, *TWO)]]
    highest = answers.increments(Question(top=1), rounds)
    assert "The highest:" in highest
    assert "| Al |" in highest
    assert "| Bo |" not in highest
    lowest = answers.increments(Question(top=1, is_lowest=True), rounds)
    assert "The lowest:" in lowest
    assert "| Al |" not in lowest


def test_what_a_limit_leaves_out_is_said() -> None:
    assert "The first 2:" in answers.increments(Question(), [[increments(50, *TWO)]])


def paid(department: str, average: int) -> Outcome:
    row = {"department": department, "employees": 2, "average": average, "lowest": 1, "highest": 9}
    return Outcome("salary_summary", {"department": department}, [{**row, "total": 2 * average}])


def test_departments_are_compared() -> None:
    question = Question(departments=("A", "B"))
    raise_of_a = Outcome("increment_summary", {"department": "A"}, [{"year": 2025, "average": 1.5}])
    text = answers.compare(question, [[paid("A", 1000), paid("B", 3500), raise_of_a]])
    assert text.startswith("**On average, B pays €2,500 more than A.**")
    assert "Average increment" not in text
    raise_of_b = Outcome("increment_summary", {"department": "B"}, [{"year": 2025, "average": 2}])
    text = answers.compare(question, [[paid("A", 1), paid("B", 3), raise_of_a, raise_of_b]])
    assert "| Average increment 2025 |" in text
    assert text.endswith("| B | 2 | €3 | €1 | €9 | 2.0 % |")
    assert answers.compare(question, [[paid("A", 1)]]).startswith("| Department |")


def test_an_average_over_departments_is_one_over_their_employees() -> None:
    more = paid("B", 4000)
    more.result[0] |= {"employees": 6, "total": 24_000}
    text = answers.salaries(Question(), [[paid("A", 1000), more]])
    assert text.startswith("**The average salary is €3,250 a year.**\n\n")
    best = answers.salaries(Question(top=5), [[paid("A", 1000), more]])
    assert "The highest is in B." in best
    least = answers.salaries(Question(top=1, is_lowest=True), [[paid("A", 1000), more]])
    assert "The lowest is in A." in least


@pytest.mark.parametrize(("employees", "said"), [(1, "1 employee works"), (4, "4 employees work")])
def test_counting(employees: int, said: str) -> None:
    row = {"department": "Sales", "employees": employees}
    question = Question(departments=("Sales",))
    text = answers.count(question, [[Outcome("count_employees", {}, row)]])
    assert text == f"**{said} in Sales.**"


def test_several_of_one_name() -> None:
    people = [
        {"name": name, "title": "T", "department": "D", "hired": 2000, "salary": 12_345}
        for name in ("Ann A", "Ann B")
    ]
    found = Outcome("find_employees", {}, {"total": 7, "employees": people})
    text = answers.person(Question(person="ann"), [[found]])
    assert text.startswith("There are 7 of that name")
    assert text.endswith("| Ann B | T | D | 2000 | €12,345 |")


@pytest.mark.parametrize(
    "result", [None, 5, "text", [], {}, {"total": 1}, [{}], {"employees": [{}]}]
)
@pytest.mark.parametrize(
    ("answer", "tool"),
    [
        (answers.increments, "increments"),
        (answers.compare, "salary_summary"),
        (answers.person, "employee_details"),
        (answers.ranking, "find_employees"),
        (answers.salaries, "salary_summary"),
        (answers.count, "count_employees"),
        (answers.listing, "find_employees"),
        (answers.departments, "list_departments"),
    ],
)
def test_results_of_another_shape(answer: answers.Answer, tool: str, result: object) -> None:
    with pytest.raises(answers.BROKEN):
        answer(Question(), [[Outcome(tool, {}, result)]])
