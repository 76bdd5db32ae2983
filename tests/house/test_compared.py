"""docs/compared.md has the rows that are measured, of the versions that are installed."""

from __future__ import annotations

import re
from pathlib import Path

from tests.compare.asked import ROWS, SECTIONS
from tests.compare.table import LIBRARIES, read, wanted

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")
AGAIN = "`make compare` writes the page"


def test_the_page_has_exactly_the_rows() -> None:
    found = list(read(PAGE))
    expected = [(row.asked, wanted(row)) for row in ROWS.values()]
    assert [(asked, good) for asked, good, _ in found] == expected, AGAIN
    assert all(all(answers.values()) for _, _, answers in found)
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [one.title for one in SECTIONS], AGAIN


def test_no_row_hides_another() -> None:
    assert len(ROWS) == sum(len(section.rows) for section in SECTIONS)
    assert len({row.asked for row in ROWS.values()}) == len(ROWS) >= 40


def test_it_is_of_the_versions_that_are_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for library, package in zip(LIBRARIES[1:], ("sse-starlette", "fastapi"), strict=True):
        (version,) = re.findall(rf"^{package}==(.*)$", pins, re.MULTILINE)
        assert f"| {library} {version} |" in PAGE, AGAIN
