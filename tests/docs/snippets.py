"""The fenced blocks of a page, and what a test is to do with each of them.

A comment of HTML before a block says so; it is not seen on the page:

    <!-- file: main.py -->      the block is this file, in the page's own folder
    <!-- append: main.py -->    it is added to that file
    <!-- serve -->              it starts a server; what was served before is stopped
    <!-- run -->                it is run, and ends with code 0; `run: 28` wants another code
    <!-- says -->               it is what the block before has printed; … stands for anything
    <!-- fragment: why -->      it cannot stand alone
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
PLAYED: Final = ("file", "append", "serve", "run", "says")

_MARK: Final = re.compile(r"<!-- (file|append|serve|run|says|fragment)(?:: (.+?))? -->")
_FENCE: Final = re.compile(r"```([a-z]*)$")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    mark, argument = "", ""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            said = _MARK.fullmatch(line)
            # A mark is for the block that follows at once.
            mark, argument = (said[1], said[2] or "") if said else ("", "")
            continue
        held: list[str] = []
        for _, inner in lines:
            if inner == "```":
                break
            held.append(inner)
        else:
            raise AssertionError(f"{page}:{number}: the block has no end")
        name = str(page.relative_to(DOCS))
        yield Block(name, number, fence[1], "\n".join(held) + "\n", mark, argument)
        mark, argument = "", ""


def strays(page: Path) -> list[int]:
    """Lines that look like a mark and are none, or mark no block."""
    told = page.read_text(encoding="utf-8").splitlines()
    looks = [
        n for n, line in enumerate(told, 1) if re.match(r"<!-- *(file|append|serve|run|says)", line)
    ]
    marked = {block.line - 1 for block in blocks(page) if block.mark}
    return [number for number in looks if number not in marked]
