"""What docs/compared.md says of Tailrace is what is measured here and now."""

from __future__ import annotations

import pytest

from tests.compare.__main__ import PAGE, measured
from tests.compare.asked import ROWS
from tests.compare.table import LIBRARIES, read

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

OWN = LIBRARIES[0]

# The others take longer, or say what other tests say as well: `make compare` asks them all.
SAMPLE = [row for row in ROWS.values() if not row.is_long and not row.is_alone]
SAMPLE += [ROWS["uvicorn"], ROWS["granian"], ROWS["never_waits_left"]]


async def test_ours() -> None:
    told = {asked: answers[OWN] for asked, _, answers in read(PAGE.read_text(encoding="utf-8"))}
    found = await measured(SAMPLE, [OWN])
    assert {row.asked: found[row.name][OWN] for row in SAMPLE} == {
        row.asked: told[row.asked] for row in SAMPLE
    }
