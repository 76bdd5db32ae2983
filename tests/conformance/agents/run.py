"""The official clients of the chat's dialects against a real server: `make conformance`. What they
need (Node, and packages of package.json) is installed beside this file.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conformance import node
from tests.conformance.served import ROOT, served

HERE: Final = Path(__file__).parent
CLIENT: Final = ROOT / "clients" / "js"

SCRIPTS: Final = {
    "agui.test.js": 11,
    "aisdk.test.js": 11,
    "responses.test.js": 11,
    "story.test.js": 3,
}
"""By name: how many trials there are."""

_TSC: Final = "node_modules/typescript/bin/tsc"
_NEEDED: Final = (
    *("node_modules/ai/package.json", "node_modules/openai/package.json", _TSC),
    *("node_modules/@ag-ui/client/package.json", "node_modules/@types/node/package.json"),
)


def is_installed() -> bool:
    """Whether nothing needs to be fetched."""
    return node.is_installed(HERE, *_NEEDED)


def install() -> None:
    """Node, and the clients in the versions of package.json."""
    node.install(HERE)


@contextlib.contextmanager
def chatting() -> Iterator[str]:
    """The app, in a process of its own: its URL."""
    with served("tests.conformance.agents.app:app") as (port, _):
        yield f"http://127.0.0.1:{port}"


def tried(folder: Path, scripts: list[str], url: str = "") -> tuple[int, str]:
    """Run tests of JavaScript's: how many passed if all did, otherwise 0, and what failed."""
    done = node.node(
        *("--test", "--test-reporter=spec", "--test-timeout=120000", *scripts),
        folder=folder,
        environment={"TAILRACE_URL": url},
    )
    before, _, failures = done.stdout.partition("failing tests:")
    counts = {name: int(n) for name, n in re.findall(r"^. (\w+) (\d+)$", before, re.MULTILINE)}
    is_well = done.returncode == 0 and counts["pass"] == counts["tests"]
    return counts["pass"] if is_well else 0, failures or before[-5000:] + done.stderr[-5000:]


def typed() -> str:
    """What the type checker has against the client, its types, and a user's code."""
    done = node.node(_TSC, "-p", ".", folder=HERE)
    return done.stdout if done.returncode else ""


if __name__ == "__main__":
    install()
    sys.exit(pytest.main([str(HERE), "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider"]))
