"""The JavaScript client, by its own tests."""

from __future__ import annotations

import os

import pytest

from tests.conformance import node
from tests.conformance.agents import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILES = sorted(path.name for path in (run.CLIENT / "test").glob("*.test.js"))


def test_the_client_passes_its_own_tests() -> None:
    if not node.is_installed():
        if not os.environ.get("CI"):
            pytest.skip("`make conformance` installs Node")
        node.install()
    assert {"frames.test.js", "healing.test.js", "pauses.test.js"} <= set(FILES)
    passed, said = run.tried(run.CLIENT, [f"test/{name}" for name in FILES])
    assert passed > 40, said
