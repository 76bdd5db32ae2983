"""All rows, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.compare.rows import comings, costs, ends, frames, heads, lives, yields
from tests.compare.table import Row, Section

SECTIONS: Final[tuple[Section, ...]] = (
    heads.row,
    yields.row,
    frames.row,
    lives.quiet,
    lives.leaving,
    lives.slow,
    ends.row,
    comings.back,
    comings.between,
    costs.row,
)

ROWS: Final[Mapping[str, Row]] = {row.name: row for section in SECTIONS for row in section.rows}
