"""Real servers, in processes of their own, for tests that end them."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tailrace.runners.sweep import MARK

ROOT: Final = Path(__file__).parents[1]

_UVICORN: Final = ("-m", "uvicorn", "{app}", "--port", "{port}")
_GRANIAN: Final = ("-m", "granian", "{app}", "--interface", "asgi", "--port", "{port}")
_HYPERCORN: Final = ("-m", "hypercorn", "{app}", "--bind", "127.0.0.1:{port}")

_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "uvicorn-limited": (*_UVICORN, "--limit-max-requests", "40"),
}

# Our own server, and its protocol under a server that is not ours: the direct way to send.
DIRECT: Final = ("tailrace", "direct-asyncio")

SERVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "tailrace": ("-m", "tailrace.cli.main", "serve", "{app}", "--port", "{port}"),
    "direct-asyncio": (
        *_UVICORN,
        "--loop",
        "asyncio",
        "--http",
        "tailrace.server.protocol:Protocol",
    ),
    "uvicorn": (*_UVICORN, "--loop", "uvloop", "--http", "httptools"),
    "uvicorn-asyncio": (*_UVICORN, "--loop", "asyncio", "--http", "h11"),
    "thread": ("tests/apps/threaded.py", "{app}", "{port}", "uvloop"),
    "thread-asyncio": ("tests/apps/threaded.py", "{app}", "{port}", "asyncio"),
    "granian": (*_GRANIAN, "--loop", "uvloop"),
    "granian-asyncio": (*_GRANIAN, "--loop", "asyncio"),
    # With a worker process, as is its default, the worker hears of no signal.
    "hypercorn": (*_HYPERCORN, "--worker-class", "uvloop"),
    "hypercorn-asyncio": (*_HYPERCORN, "--worker-class", "asyncio"),
    "hypercorn-single": (*_HYPERCORN, "--worker-class", "asyncio", "--workers", "0"),
}

ONE_OF_EACH: Final = ("tailrace", "uvicorn", "granian", "hypercorn")

START_SECONDS: Final = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Callable[[], bool], what: str, within: float = 10.0) -> float:
    """Wait for a condition; how long it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < within, f"after {within:g} s still not: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


async def eventually(done: Callable[[], bool], what: str, within: float = 10.0) -> float:
    """`until`, for the event loop, which goes on meanwhile."""
    began = time.monotonic()
    while not await asyncio.to_thread(done):
        assert time.monotonic() - began < within, f"after {within:g} s still not: {what}"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def marked(run: str) -> list[int]:
    """The processes that a run's program started, wherever they hide."""
    mark = f"{MARK}={run}".encode()
    found: list[int] = []
    for name in filter(str.isdigit, (place.name for place in Path("/proc").iterdir())):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


@dataclass
class Served:
    """A server process."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    said: Path
    prefix: str = ""
    _closed: bool = field(default=False, init=False)

    def ask(
        self, method: str, path: str, body: Any = None, timeout: float = 10.0
    ) -> tuple[int, Any]:
        """A plain request; the answer's status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            # hypercorn keeps a connection for 5 s after its client has closed it.
            headers = {"connection": "close"}
            if body is not None:
                headers["content-type"] = "application/json"
            sent = None if body is None else json.dumps(body)
            connection.request(method, self.prefix + path, sent, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        finally:
            connection.close()

    def start(self, operation: str, **given: Any) -> str:
        """Start a run; its id."""
        status, told = self.ask("POST", "/runs", {"operation": operation, "input": given})
        assert status == 201, told
        return str(told["id"])

    def show(self, run: str) -> dict[str, Any]:
        status, told = self.ask("GET", f"/runs/{run}")
        assert status == 200, told
        return dict(told)

    def probe(self) -> dict[str, Any]:
        return dict(self.ask("GET", "/probe")[1])

    def events_of(self, run: str) -> str:
        """The target of a run's stream."""
        return f"{self.prefix}/runs/{run}/events"

    @property
    def log(self) -> str:
        """What the process has written."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.kind} ended at once:\n{self.log}"
        try:
            return self.ask("GET", "/healthz", timeout=2.0)[0] == 200
        except OSError:
            return False

    def terminate(self) -> None:
        """SIGTERM to the process that was started, as systemd and containers send it."""
        self.process.terminate()

    def wait(self, within: float) -> float:
        """Wait for the end; how long it took."""
        return until(lambda: self.process.poll() is not None, f"{self.kind} ended", within)

    def kill(self) -> None:
        """`kill -9` to the server and its workers."""
        # The group is its own, made at its start: nobody else is in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def serving(
    kind: str,
    log: Path,
    *,
    in_memory: bool = False,
    shape: str = "alone",
    port: int | None = None,
    grace: float = 1.0,
    write_deadline: float = 30.0,
    survives: bool = False,
) -> Iterator[Served]:
    """A server of `kind` with `tests/apps/served.py`, ready to answer. `survives`: its scripts
    do, whatever becomes of it.
    """
    folder = log.parent
    scripts = folder / "scripts"
    scripts.mkdir(exist_ok=True)
    port = port or free_port()
    app = "tests.apps.served:app"
    words = [word.format(app=app, port=port) for word in {**SERVERS, **_OTHERS}[kind]]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
        "TAILRACE_TEST_LOG": "memory:" if in_memory else str(log),
        "TAILRACE_TEST_SHAPE": shape,
        "TAILRACE_TEST_GRACE": str(grace),
        "TAILRACE_TEST_SCRIPTS": str(scripts),
        "TAILRACE_TEST_WRITE_DEADLINE": str(write_deadline),
        "TAILRACE_TEST_SURVIVES": "1" if survives else "",
    }
    said = folder / f"{kind}-{port}-{time.monotonic_ns()}.txt"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    prefix = "" if shape == "alone" else "/inner"
    served = Served(kind, port, process, said, prefix)
    try:
        until(lambda: served.is_ready, f"{kind} is ready", START_SECONDS)
        yield served
    except BaseException:
        print(f"--- {kind} said:\n{served.log[-5000:]}")
        raise
    finally:
        served.kill()
