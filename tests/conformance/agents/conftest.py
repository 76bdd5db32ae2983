from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance.agents import run


@pytest.fixture(scope="session")
def clients() -> None:
    """The official clients are here."""
    if not run.is_installed():
        if not os.environ.get("CI"):
            pytest.skip("`make conformance` installs what this needs")
        run.install()


@pytest.fixture(scope="session")
def chat_url() -> Iterator[str]:
    with run.chatting() as url:
        yield url
