"""The pages do what they say: their files, servers and commands, in their order, over real HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.playing import played
from tests.docs.snippets import DOCS, PAGES, blocks
from tests.needs import needs

pytestmark = [pytest.mark.slow, needs("curl")]

# The tutorial is played in its own test, which looks at its page as well.
PLAYABLE = [
    page
    for page in PAGES
    if page.name != "tutorial.md" and any(block.mark in ("run", "serve") for block in blocks(page))
]


@pytest.mark.parametrize("page", PLAYABLE, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page(page: Path, tmp_path: Path) -> None:
    with played(page, tmp_path):
        pass
