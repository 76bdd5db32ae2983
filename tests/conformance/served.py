"""An app of the conformance tests, in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.processes import free_port

ROOT: Final = Path(__file__).parents[2]

_START_SECONDS: Final = 60


@contextlib.contextmanager
def served(app: str, log: str = "memory:") -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Serve `app`, as `module:name`: its port, and the process."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "critical"],
        cwd=ROOT,
        env={**os.environ, "TAILRACE_LOG": log},
        # What fails on purpose is logged.
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port, server)
        yield port, server
    finally:
        server.terminate()
        server.wait(30)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _START_SECONDS
    while True:
        assert server.poll() is None, "the server ended at once"
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
