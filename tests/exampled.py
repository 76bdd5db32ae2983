"""An example, served as its docstring says, and what its streams tell."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from tailrace.protocol.sse import Decoder, ServerSentEvent
from tests.processes import ROOT, START_SECONDS, free_port, until


class Example:
    """A running example. `module`: such as examples.tutorial."""

    def __init__(self, module: str, folder: Path, **env: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._module, self._env = module, env
        self._out = folder / "server"
        self.start()

    def start(self) -> None:
        words = ("serve", f"{self._module}:app", "--port", str(self.port))
        with self._out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", *words], cwd=ROOT, stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **self._env},
            )  # fmt: skip
        until(lambda: self._answers, "the example answers", START_SECONDS)

    @property
    def _answers(self) -> bool:
        assert self.process.poll() is None, self._out.read_text()
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.base}/", trust_env=False).status_code == 200
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def ask(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        return httpx2.request(method, f"{self.base}{path}", trust_env=False, timeout=30, **sent)

    def told(
        self,
        path: str,
        method: str = "GET",
        *,
        most: int | None = None,
        headers: Mapping[str, str] | None = None,
        **sent: Any,
    ) -> Told:
        """What a stream tells, to its end or until there are `most` events."""
        told = Told()
        decoder = Decoder()
        with httpx2.stream(
            method, f"{self.base}{path}", headers=headers, trust_env=False, timeout=30, **sent
        ) as answer:
            told.began, told.headers = time.monotonic(), dict(answer.headers)
            assert answer.status_code == 200, answer.read()
            for chunk in answer.iter_bytes():
                told.events += decoder.feed(chunk)
                if most is not None and len(told.events) >= most:
                    break
        return told


class Told:
    """What came."""

    def __init__(self) -> None:
        self.events: list[ServerSentEvent] = []
        self.headers: dict[str, str] = {}
        self.began = 0.0

    @property
    def types(self) -> list[str]:
        return [event.event for event in self.events]


@contextlib.contextmanager
def example(module: str, folder: Path, **env: str) -> Iterator[Example]:
    """A running example, until the block ends."""
    running = Example(module, folder, **env)
    try:
        yield running
    finally:
        running.stop()
