from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tailrace.agent.demo.staff import DEPARTMENTS, FIRST_YEAR, LAST_YEAR, staff

PEOPLE = staff()


def test_there_is_a_plausible_number_of_them() -> None:
    assert 50 <= len(PEOPLE) <= 70
    assert len({employee.name for employee in PEOPLE}) == len(PEOPLE)


def test_every_department_has_people_and_one_head() -> None:
    names = [name for name, _ in DEPARTMENTS]
    assert len(names) == 6
    assert set(Counter(employee.department for employee in PEOPLE)) == set(names)
    heads = Counter(one.department for one in PEOPLE if one.title.startswith("Head of "))
    assert heads == dict.fromkeys(names, 1)


def test_salaries_go_on_from_year_to_year() -> None:
    for employee in PEOPLE:
        begin = max(employee.hired, FIRST_YEAR)
        assert list(employee.salaries) == list(range(begin, LAST_YEAR + 1)), employee.name
        years = list(employee.salaries.values())
        assert all(20_000 < salary < 250_000 and salary % 10 == 0 for salary in years)
        assert all(before <= after <= before * 1.2 for before, after in pairwise(years))
