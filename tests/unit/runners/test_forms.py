from __future__ import annotations

import re
from typing import Any

import pytest

from tailrace.runners.forms import FORMS_OF, KINDS, LARGEST, first, meaning, number, shaped, tells


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("3.5", 3.5), ("1.2k", 1200), ("12.0M", 12_000_000), ("5 MiB", 5 * 1024**2),
     ("0", 0), ("10B", 10)],
)  # fmt: skip
def test_a_number_with_its_unit(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1e5", "nan", "9" * 15 + "P", "1_0", "\u0661"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="that"):
        number(text)
    assert number(str(999_999_999_999_999)) < LARGEST


def test_a_form_that_a_line_has_is_always_hinted_at() -> None:
    """Whoever only looks for the hints must miss nothing."""
    lines = {
        "bar": "Epoch 1:  30%|███   | 3/10 [00:01<00:02,  1.9it/s]",
        "step": "Step 4 of 8",
        "count": "[3/10] compiling",
        "percent": "done: 45%",
    }
    assert set(lines) == set(KINDS)
    for kind, line in lines.items():
        assert tells(line)
        assert first(FORMS_OF[kind], line, is_whole=True) is not None
    assert not tells("2026-11-20 09:00:00 INFO all is well")


@pytest.mark.parametrize(
    ("pattern", "line", "told"),
    [
        (r"(?P<current>.) to (?P<total>.)", "3 to 4", {"current": 3, "total": 4, "percent": 75}),
        (r"(?P<current>\d+) to (?P<total>\d+)", "5 to 4", None),
        (r"(?P<current>\d+) to (?P<total>\d+)", "0 to 0", None),
        (r"(?P<percent>\d+)", "101", None),
        (r"(?P<current>\w+)", "three", None),
        (r"(?P<step>\w+) (?P<current>\d+)", "load 3", {"current": 3, "step": "load"}),
    ],
)  # fmt: skip
def test_what_a_match_means(pattern: str, line: str, told: dict[str, Any] | None) -> None:
    found = re.search(pattern, line)
    assert found is not None
    assert meaning(found, is_whole=True) == told


def test_what_may_go_on_means_nothing_yet() -> None:
    for rest, is_complete in (("3/1", False), ("3/1.", False), ("3/10 ", True)):
        found = re.search(r"(?P<current>\d+)/(?P<total>[0-9]+)", rest.replace("3/", "0/"))
        assert found is not None
        assert (meaning(found, is_whole=False) is not None) == is_complete


def test_a_percentage_where_there_can_be_one() -> None:
    assert shaped({"current": 1, "total": 3}, None, "m" * 500) == {
        "current": 1, "total": 3, "percent": 33.3, "message": "m" * 200
    }  # fmt: skip
    assert shaped({"current": 12, "total": 10}, "s", None)["percent"] == 100
    assert shaped({"current": 1}, None, None) == {"current": 1}
