from __future__ import annotations

import re

import pytest

from tailrace.agent.demo import vocabulary
from tailrace.agent.demo.staff import DEPARTMENTS, staff


def test_our_departments_are_known_by_their_names() -> None:
    for name, _ in DEPARTMENTS:
        found = vocabulary.DEPARTMENT.search(f"how many are in {name.upper()}?")
        assert found is not None
        assert vocabulary.OURS[found[0].lower()] == name


def test_every_name_of_a_department_is_one_of_ours() -> None:
    assert set(vocabulary.OURS.values()) == {name for name, _ in DEPARTMENTS}


def test_no_employee_is_called_like_what_is_no_name() -> None:
    for employee in staff():
        assert employee.name.lower().split()[0] not in vocabulary.NO_NAMES


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (vocabulary.LOW, "at least 5 %"),
        (vocabulary.HIGH, "at most 5 %"),
        (vocabulary.YEAR, "2024 % more"),
        (vocabulary.YEAR, "number 12024"),
        (vocabulary.FOLLOWS, "band"),
        (vocabulary.TOP, "top 5 %"),
    ],
)
def test_what_is_not_meant(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text) is None
