"""A real Chromium, without a screen."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Final

from playwright.sync_api import Browser, sync_playwright

# Nothing but what is asked of it: no sandbox, because tests may run as root in a container.
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """The system's Chromium, until the block ends."""
    with sync_playwright() as tools:
        path = shutil.which("chromium")
        browser = tools.chromium.launch(executable_path=path, args=[*_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()
