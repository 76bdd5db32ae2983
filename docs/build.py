"""Build the documentation: `build.py [FOLDER]`, by default into site/ (`make docs`).

A page may link to any file of the project, as it does where the project is read as it is. In the
site there are the pages, and those that stand beside them (PAGES_BESIDE); a link to another file
becomes its text. So the generator gets a copy, and every link that is left must lead somewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
# Two levels down, as zensical.toml has it; and of this process, because two may build at a time.
STAGE: Final = ROOT / "build" / f"docs-{os.getpid()}"
PAGES: Final = STAGE / "pages"
PAGES_BESIDE: Final = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_LINK: Final = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_MARK: Final = re.compile(r"^<!-- .*? -->\n(?=```)", re.MULTILINE)


def staged(source: Path) -> Path | None:
    """Where a file of the project stands in the site, if it does."""
    if source.parent == ROOT and source.name in PAGES_BESIDE:
        return PAGES / source.name.lower()
    if source.is_relative_to(HERE) and source.suffix == ".md":
        return PAGES / source.relative_to(HERE)
    return None


def linked(text: str, source: Path, place: Path) -> str:
    """A page's text with its links as they are in the site."""

    def link(found: re.Match[str]) -> str:
        label, target, part = found.groups(default="")
        there = (source.parent / target).resolve()
        stage = staged(there)
        if stage is not None:
            return f"[{label}]({os.path.relpath(stage, place.parent)}{part})"
        # What is no file at all stays, for the generator to refuse.
        return label if there.exists() else found[0]

    # Blocks of code are every second part.
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def stage() -> None:
    """Make the copy."""
    shutil.rmtree(STAGE, ignore_errors=True)
    beside = [ROOT / name for name in PAGES_BESIDE]
    for source in [*sorted(HERE.rglob("*.md")), *beside]:
        place = staged(source)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            text = _MARK.sub("", source.read_text(encoding="utf-8"))
            place.write_text(linked(text, source, place), encoding="utf-8")
    shutil.copy(HERE / "zensical.toml", STAGE)


def build(site: Path) -> int:
    """Build into a folder, which is replaced; 0 if there is nothing to complain of."""
    stage()
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(STAGE / "zensical.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = _COLOUR.sub("", done.stdout + done.stderr)
        # Behind what is wrong comes a traceback of the generator's own.
        sys.stderr.write(said.partition("Traceback")[0] or said)
        return done.returncode
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(STAGE / "site", site)
    return 0


def main() -> int:
    """The command line."""
    began = time.monotonic()
    site = Path(*sys.argv[1:]) if sys.argv[1:] else ROOT / "site"
    try:
        code = build(site)
    finally:
        shutil.rmtree(STAGE, ignore_errors=True)
    if code == 0:
        pages = len(list(site.rglob("*.html")))
        sys.stdout.write(f"{site.name}/: {pages} pages, {time.monotonic() - began:.1f} s\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
