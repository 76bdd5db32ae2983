from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.demo.band import Band, band


@pytest.mark.parametrize(
    "text",
    [
        "5-10%",
        "5–10%",
        "5—10 %",
        "5%-10%",
        "5 % – 10 %",
        "5 to 10 percent",
        "5 to 10 per cent",
        "5% to 10%",
        "between 5 and 10 percent",
        "between 5% and 10%",
        "from 5 to 10 pct",
        "10-5%",
        "employees with 5–10% increment in 2024",
        "at least 5% and at most 10%",
        "no less than 5%, but up to 10%",
        "5% or more and no more than 10%",
        "5.0 to 10,0 %",
    ],
)
def test_five_to_ten_percent(text: str) -> None:
    assert band(text) == Band(5, 10)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("above 8%", 8.1, None),
        ("over 8 percent", 8.1, None),
        ("more than 8%", 8.1, None),
        ("> 8%", 8.1, None),
        ("above 8.3%", 8.4, None),
        ("above 8.35%", 8.4, None),
        ("at least 5 %", 5, None),
        (">= 5 %", 5, None),
        ("≥5%", 5, None),
        ("5% or more", 5, None),
        ("5 % and above", 5, None),
        ("from 5%", 5, None),
        ("below 3%", None, 2.9),
        ("less than 3 percent", None, 2.9),
        ("< 3%", None, 2.9),
        ("below 3.35%", None, 3.3),
        ("at most 3%", None, 3),
        ("up to 3%", None, 3),
        ("no more than 3%", None, 3),
        ("not more than 3%", None, 3),
        ("3% or less", None, 3),
        ("above 5% and below 10%", 5.1, 9.9),
        ("more than 5% but no more than 10%", 5.1, 10),
        ("a 7% raise", 7, 7),
        ("7.5 percent", 7.5, 7.5),
        ("0%", 0, 0),
    ],
)
def test_other_ranges(text: str, low: float | None, high: float | None) -> None:
    assert band(text) == Band(low, high)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "increments of 2024",
        "5 to 10 employees",
        "more than 5 people",
        "between 2021 and 2024",
        "salaries above 60000",
        "employee 17",
        "99999%",
    ],
)
def test_no_range(text: str) -> None:
    assert band(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("increments between 5 and 10", Band(5, 10)),
        ("increments of 5 to 10 in Sales", Band(5, 10)),
        ("increments above 8?", Band(8.1, None)),
        ("increments between 2021 and 2024", None),
        ("increments of more than 5 employees", None),
        ("increments above 60000", None),
    ],
)
def test_without_a_sign(text: str, found: Band | None) -> None:
    assert band(text, loosely=True) == found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Band(5, 10), "5 to 10 %"),
        (Band(8.1, None), "at least 8.1 %"),
        (Band(None, 3), "at most 3 %"),
        (Band(7.5, 7.5), "7.5 %"),
    ],
)
def test_as_text(found: Band, text: str) -> None:
    assert str(found) == text


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["{}-{}%", "{} to {} percent"]))
def test_any_range(one: int, other: int, form: str) -> None:
    assert band(form.format(one, other)) == Band(min(one, other), max(one, other))


@given(st.integers(0, 9999))
def test_what_is_strict_is_the_next_tenth(hundredths: int) -> None:
    value = hundredths / 100
    above, below = band(f"above {value:.2f}%"), band(f"below {value:.2f}%")
    assert above is not None
    assert above.minimum is not None
    assert value < above.minimum <= value + 0.1 + 1e-9
    assert below is not None
    assert below.maximum is not None
    assert value - 0.1 - 1e-9 <= below.maximum < value


@given(st.text(alphabet="0123456789 .,%-<>abet", max_size=60), st.booleans())
def test_any_text(text: str, loosely: bool) -> None:
    found = band(text, loosely=loosely)
    if found is not None:
        assert found.minimum is not None or found.maximum is not None
        assert str(found)


@pytest.mark.parametrize("text", ["5" + " " * 1990 + "x", "5 to " * 400, "5 % " * 500, "9" * 2000])
def test_no_text_keeps_it_busy(text: str) -> None:
    begun = time.process_time()
    band(text, loosely=True)
    assert time.process_time() - begun < 1
