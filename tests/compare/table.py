"""The rows of the comparison, and the page that is made of their answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.compare.lab import Lab

LIBRARIES: Final = ("tailrace", "sse-starlette", "fastapi.sse")
ORIGIN: Final = "https://page.example"
"""Whose pages may read, where CORS is asked about."""

Ask = Callable[["Lab"], Awaitable[str]]
Answers = Mapping[str, Mapping[str, str]]
"""By row and library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One behaviour. `asked`: the question, as the page has it. `wanted`: the answers that are
    good, the best first; of a figure nothing, the least is. `ask` measures one library.
    `is_long`: it takes seconds, or a server of its own. `is_alone`: and nothing else may go on
    meanwhile. `is_figure`: so, and the answer is a figure, told as a multiple of ours.
    """

    name: str
    section: str
    asked: str
    wanted: Sequence[str]
    ask: Ask
    is_long: bool = False
    is_alone: bool = False
    is_figure: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """What some rows are about: `@section(asked, wanted)` makes one of a function that measures."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def __call__(
        self,
        asked: str,
        *wanted: str,
        is_long: bool = False,
        is_alone: bool = False,
        is_figure: bool = False,
    ) -> Callable[[Ask], Ask]:
        def kept(ask: Ask) -> Ask:
            self.rows.append(
                Row(
                    name=getattr(ask, "__name__", asked), section=self.title, asked=asked,
                    wanted=wanted, ask=ask, is_long=is_long, is_alone=is_alone or is_figure,
                    is_figure=is_figure,
                )
            )  # fmt: skip
            return ask

        return kept


def relative(row: Row, answers: Mapping[str, str]) -> Mapping[str, str]:
    """A figure's answers as multiples of ours."""
    own = float(answers[LIBRARIES[0]]) if row.is_figure else 0
    if not own:
        return answers
    ratios = {library: float(answer) / own for library, answer in answers.items()}
    return {name: f"× {ratio:.1f}" if ratio < 10 else f"× {ratio:.0f}"
            for name, ratio in ratios.items()}  # fmt: skip


def is_good(row: Row, answers: Mapping[str, str], library: str) -> bool:
    """Whether a library's answer is the one that is wanted; `answers` as `relative` has them."""
    if row.is_figure:
        figures = {name: float(answer.removeprefix("× ")) for name, answer in answers.items()}
        return figures[library] == min(figures.values())
    return answers[library] in row.wanted


def page(lead: str, versions: Mapping[str, str], rows: Iterable[Row], answers: Answers) -> str:
    """The whole page; `versions` by library."""
    rows = list(rows)
    heads = ["asked", "wanted", *(f"{library} {versions[library]}" for library in LIBRARIES)]
    ruled = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    parts = [lead.strip(), _sums(rows, answers)]
    for title in dict.fromkeys(row.section for row in rows):
        own = [_line(row, answers[row.name]) for row in rows if row.section == title]
        parts.append(f"## {title}\n\n" + "\n".join([*ruled, *own]))
    return "\n\n".join(parts) + "\n"


def _sums(rows: Sequence[Row], answers: Answers) -> str:
    sums = []
    for library in LIBRARIES:
        good = [is_good(row, answers[row.name], library) for row in rows]
        sums.append(f"{library} {sum(good)}")
    return f"{len(rows)} questions; answers as wanted: {', '.join(sums)}."


def _line(row: Row, answers: Mapping[str, str]) -> str:
    cells = [row.asked, wanted(row)]
    for library in LIBRARIES:
        is_as_wanted = is_good(row, answers, library)
        cells.append(f"✓ {answers[library]}" if is_as_wanted else answers[library])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def wanted(row: Row) -> str:
    """As the page has it."""
    return " or ".join(row.wanted) or "the least"


def read(page: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The rows of a page: what was asked, what is wanted, and each library's answer."""
    for line in page.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 2 + len(LIBRARIES) and cells[0] != "asked" and not line.startswith("|--"):
            answers = (cell.removeprefix("✓ ") for cell in cells[2:])
            yield cells[0], cells[1], dict(zip(LIBRARIES, answers, strict=True))
