"""Another MCP server, in a process of its own: `tests/apps/market.py`, started and killed."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.processes import ROOT, START_SECONDS, free_port, until

APP: Final = str(ROOT / "tests" / "apps" / "market.py")
ERAS: Final = ("modern", "legacy")


class Market:
    """It can be killed and started again, at the same address."""

    def __init__(self, era: str, environment: Mapping[str, str]) -> None:
        self.era = era
        self.port = free_port()
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._process = subprocess.Popen(
            [sys.executable, APP, str(self.port), self.era], cwd=ROOT, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        self.launch()
        until(lambda: bool(self.probe()), "the market answers", START_SECONDS)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Stop it where it stands, or let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def probe(self) -> dict[str, Any]:
        """How the calls of its tools began and ended; empty when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/probe", headers={"connection": "close"})
            return dict(json.loads(connection.getresponse().read()))
        except OSError:
            return {}
        finally:
            connection.close()

    def seen(self, what: str) -> int:
        return int(self.probe().get(what, 0))


@contextlib.contextmanager
def market(era: str = "modern", **environment: str) -> Iterator[Market]:
    one = Market(era, environment)
    try:
        one.start()
        yield one
    finally:
        one.kill()
