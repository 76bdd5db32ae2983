"""The documentation can be built without a complaint, and asks nothing of other hosts."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium
from tests.docs.snippets import DOCS, PAGES

IS_THERE = importlib.util.find_spec("zensical") is not None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not IS_THERE and not os.environ.get("CI"),
        reason="the generator is not installed: make docs",
    ),
]

# What a page loads by itself; links are for people.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=[\"']?([^\"'\s>]+)"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev))[^>]*?\bhref=[\"']?([^\"'\s>]+)"
    r"|@import\s+[\"']?([^\"';\s]+)|url\([\"']?([^)\"']+)",
)


def test_it_is_built_whole(tmp_path: Path) -> None:
    site = tmp_path / "site"
    words = [sys.executable, str(DOCS / "build.py"), str(site)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    check_pages(site)
    check_addresses(site)
    if shutil.which("chromium") or os.environ.get("CI"):
        check_requests(site)


def check_pages(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file(), page
    assert "tutorial.html" in (site / "index.html").read_text(encoding="utf-8")
    reference = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("Tailrace.submit", "RunContext.emit", "attach"):
        assert f'id="tailrace.{name}"' in reference, name


def check_addresses(site: Path) -> None:
    loaded = {
        (str(file.relative_to(site)), next(filter(None, found.groups())))
        for file in [*site.rglob("*.html"), *site.rglob("*.css")]
        for found in LOADED.finditer(file.read_text(encoding="utf-8"))
    }
    assert loaded
    assert {told for told in loaded if re.match(r"(\w+:)?//", told[1])} == set()


def check_requests(site: Path) -> None:
    asked: set[str] = set()
    with chromium() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.add(request.url))
        for file in sorted(site.rglob("*.html")):
            page.goto(file.as_uri(), wait_until="load")
    assert len(asked) > len(PAGES)
    assert {url for url in asked if urlsplit(url).scheme not in ("file", "data", "blob")} == set()
