from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WAIT_SECONDS = 20.0

PREAMBLE = """
import asyncio, os, sys
from tailrace.errors import TailraceError
from tailrace.eventlog.contract import Append
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.testing.logbook import Heard, logs, started, using

path = sys.argv[1]

def say(*words):
    print(*words, flush=True)

async def told():
    return (await asyncio.to_thread(sys.stdin.readline)).split()
"""


class Child:
    """Another Python process, talked to line by line."""

    def __init__(self, code: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def says(self) -> list[str]:
        """The words of its next line; none once it has ended."""
        return self._lines.get(timeout=WAIT_SECONDS).split()

    def tell(self, *words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")

    def kill(self) -> None:
        """End it as the kernel would: without a word."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        self.kill()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


Spawn = Callable[[str, Path], Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[Child] = []

    def made(code: str, path: Path) -> Child:
        children.append(Child(code, path))
        return children[-1]

    yield made
    for child in children:
        child.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"
