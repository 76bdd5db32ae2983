"""From answers to the page, and back."""

from __future__ import annotations

import pytest

from tests.compare.lab import Lab
from tests.compare.table import LIBRARIES, Section, is_good, page, read, relative

VERSIONS = dict.fromkeys(LIBRARIES, "1.0")

probe = Section("Probes")
other = Section("Others")


@probe("what | is it", "this | or that", "neither")
async def word(lab: Lab) -> str:
    return lab.library


@other("how much", is_figure=True)
async def figure(lab: Lab) -> str:
    return lab.library


WORD, FIGURE = probe.rows[0], other.rows[0]


def answers(*said: str) -> dict[str, str]:
    return dict(zip(LIBRARIES, said, strict=True))


def test_a_row_is_made_of_its_function() -> None:
    assert (WORD.name, WORD.section, WORD.ask) == ("word", "Probes", word)
    assert not WORD.is_alone
    assert FIGURE.is_alone


def test_figures_are_told_as_multiples_of_ours() -> None:
    assert relative(FIGURE, answers("2.0", "5", "80")) == answers("× 1.0", "× 2.5", "× 40")
    assert relative(WORD, answers("a", "b", "c")) == answers("a", "b", "c")


@pytest.mark.parametrize(
    ("said", "good"), [("this | or that", True), ("neither", True), ("x", False)]
)
def test_what_is_as_wanted(said: str, good: bool) -> None:
    assert is_good(WORD, answers("", said, ""), LIBRARIES[1]) is good


def test_of_figures_the_least_is_wanted() -> None:
    told = answers("× 1.0", "× 0.5", "× 9.9")
    assert [is_good(FIGURE, told, library) for library in LIBRARIES] == [False, True, False]


def test_the_page_says_it_all_and_can_be_read() -> None:
    said = {
        "word": answers("this | or that", "a", "neither"),
        "figure": answers("× 1.0", "× 2.0", "× 3.0"),
    }
    text = page("# Lead", VERSIONS, [WORD, FIGURE], said)
    assert "2 questions; answers as wanted: tailrace 2, sse-starlette 0, fastapi.sse 1." in text
    assert text.index("## Probes") < text.index("## Others")
    assert "| ✓ × 1.0 | × 2.0 |" in text
    assert list(read(text)) == [
        ("what | is it", "this | or that or neither", said["word"]),
        ("how much", "the least", said["figure"]),
    ]
