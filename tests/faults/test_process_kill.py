"""A server with operations in processes of their own is killed, or told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.runners.sweep import sweep
from tests.processes import ROOT, START_SECONDS, Served, free_port, marked, until

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(log: Path, loop: str = "uvloop") -> Iterator[Served]:
    port = free_port()
    said = log.parent / f"server-{port}.txt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TAILRACE_TEST_LOG": str(log)}
    argv = [
        sys.executable, "-m", "uvicorn", "tests.apps.heavyweb:app",
        "--port", str(port), "--loop", loop,
    ]  # fmt: skip
    with said.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    served = Served("uvicorn", port, process, said)
    try:
        until(lambda: served.is_ready, "ready", START_SECONDS)
        yield served
    finally:
        served.kill()


@pytest.fixture
def started() -> Iterator[list[str]]:
    """The runs of a test, of which nothing is left even if it fails."""
    runs: list[str] = []
    yield runs
    sweep(*runs)


def begun(served: Served, run: str) -> dict[str, Any]:
    """What the run's `begun` event says."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        page = served.ask("GET", f"/runs/{run}/events?format=json")[1]
        assert page, "a page"
        found[:] = [event for event in page["events"] if event["type"] == "begun"]
        return bool(found)

    until(look, "begun", 30.0)
    return dict(found[0]["data"])


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return False


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_killed_server_takes_its_processes_with_it(
    tmp_path: Path, loop: str, started: list[str]
) -> None:
    log = tmp_path / "log.db"
    with serving(log, loop) as served:
        busy = served.start("loops")
        stubborn = served.start("stubborn")
        started += [busy, stubborn]
        pids = [begun(served, run)["pid"] for run in (busy, stubborn)]
        served.kill()
        took = until(lambda: not any(map(is_there, pids)), "gone")
    print(f"\n{loop}: both processes were gone {took:.3f} s after kill -9 of their server")
    with serving(log, loop) as again:
        until(lambda: again.show(busy)["state"] == "lost", "lost")
        until(lambda: again.show(stubborn)["state"] == "lost", "lost")
        # What a killed process had started is ended by the next server.
        until(lambda: marked(stubborn) == [], "swept")


@pytest.mark.parametrize("to_all", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_everybody_ends_runs_in_order(tmp_path: Path, to_all: signal.Signals) -> None:
    log = tmp_path / "log.db"
    with serving(log) as served:
        run = served.start("loops")
        pid = begun(served, run)["pid"]
        # As a service manager does, and a terminal to those of its group.
        os.kill(pid, to_all)
        served.process.send_signal(to_all)
        served.wait(10.0)
        until(lambda: not is_there(pid), "gone")
    with serving(log) as again:
        told = again.show(run)
        assert told["state"] == "lost"
        assert "server was stopped" in told["error"]["error"]
        page = again.ask("GET", f"/runs/{run}/events?format=json")[1]
        assert "cleaning" in [event["type"] for event in page["events"]]
