"""The official conformance suite of the Model Context Protocol, and its Inspector, against the
face: `make conformance`. What they need (Node, two packages) is installed beside this file.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.conformance import node
from tests.conformance.served import served as an_app

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]

_SUITE: Final = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
_INSPECTOR: Final = "node_modules/.bin/mcp-inspector"

SUITES: Final[dict[str, tuple[int, Sequence[str]]]] = {
    "2025-06-18": (27, ("--suite", "all", "--spec-version", "2025-06-18")),
    "2025-11-25": (33, ("--suite", "all", "--spec-version", "2025-11-25")),
    "2026-07-28": (40, ("--suite", "all", "--spec-version", "2026-07-28")),
    "with extensions": (65, ("--suite", "all")),
}
"""By name: how many scenarios there are, and what the suite is asked for."""

ERAS: Final = ("legacy", "modern")


def is_installed() -> bool:
    """Whether nothing needs to be fetched."""
    return node.is_installed(HERE, _SUITE, _INSPECTOR)


def install() -> None:
    """Node, and by it the suite and the Inspector, in the versions of package.json."""
    node.install(HERE)


@contextlib.contextmanager
def served(log: str = "memory:") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The app, in a process of its own: its URL, and the process."""
    with an_app("tests.conformance.mcp.app:app", log) as (port, server):
        # The suite looks whether a server of this machine is asked by its own name.
        yield f"http://localhost:{port}/mcp", server


def checked(url: str, name: str) -> tuple[bool, str]:
    """Run one suite; whether all of it passed, and what it said in the end."""
    scenarios, arguments = SUITES[name]
    done = node.node(_SUITE, "server", "--url", url, *arguments, folder=HERE)
    _, _, summary = done.stdout.partition("=== SUMMARY ===")
    passed = len(re.findall(r"^✓", summary, re.MULTILINE))
    failed = re.findall(r"^✗.*", summary, re.MULTILINE)
    total = re.search(r"Total: .*", summary)
    said = [f"{passed} of {scenarios} scenarios", *(total.group() for _ in [1] if total), *failed]
    if not summary:
        said += [done.stdout[-500:], done.stderr[-500:]]
    return done.returncode == 0 and passed == scenarios, "; ".join(said)


def inspected(url: str, era: str, *arguments: str) -> Any:
    """What the Inspector's command line got for a method."""
    done = node.node(
        _INSPECTOR, "--cli", url, "--transport", "http", "--protocol-era", era, "--format", "json",
        *arguments, folder=HERE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout)["result"]


def looked(url: str, era: str) -> None:
    """What a person would try first. Raises AssertionError."""
    tools = inspected(url, era, "--method", "tools/list")["tools"]
    assert "slow_compute" in {tool["name"] for tool in tools}
    call = ("--method", "tools/call", "--tool-name", "slow_compute", "--tool-arg")
    told = inspected(url, era, *call, "seconds=1")
    assert told["content"][0]["text"] == "computed ", told
    run = told["_meta"]["tailrace/run"]
    got = inspected(
        url, era, "--method", "tools/call", "--tool-name", "run_get", "--tool-arg", f"run={run}"
    )
    assert got["structuredContent"]["state"] == "completed", got
    read = inspected(url, era, "--method", "resources/read", "--uri", f"run://{run}")
    assert json.loads(read["contents"][0]["text"])["id"] == run, read


def main() -> int:
    """Everything, as a table."""
    install()
    ok = True
    with served() as (url, _):
        for name in SUITES:
            passed, said = checked(url, name)
            ok = ok and passed
            print(f"{'ok  ' if passed else 'FAIL'} {name}: {said}", flush=True)
        for era in ERAS:
            try:
                looked(url, era)
            except AssertionError as error:
                ok = False
                print(f"FAIL inspector, {era}: {error}", flush=True)
            else:
                print(f"ok   inspector, {era}", flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
