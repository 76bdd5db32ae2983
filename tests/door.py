"""A real `tailrace serve`, and what it answers, byte by byte, over bare sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailrace.protocol.access import SCOPES
from tests.processes import ROOT, START_SECONDS, until
from tests.readers import Answer, answers

ANSWER_SECONDS: Final = 10.0

UNBOUND: Final = tuple(word for scope in SCOPES[:-1] for word in ("--rate", f"{scope}=none"))
"""Options for who asks more often than one may."""

Headers = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass
class Door:
    """A server process, and the port at which it listens."""

    process: subprocess.Popen[bytes]
    said: Path
    port: int = 0

    @property
    def log(self) -> str:
        """What the process has written."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def is_open(self) -> bool:
        assert self.process.poll() is None, f"the server ended at once:\n{self.log}"
        found = re.search(r"listens at http://\S+:([0-9]+)$", self.log, re.MULTILINE)
        self.port = int(found[1]) if found else 0
        return found is not None

    def raw(self, sent: bytes, within: float = ANSWER_SECONDS) -> bytes:
        """Everything that comes back, to the end of the connection."""
        parts: list[bytes] = []
        ends = time.monotonic() + within
        with socket.create_connection(("127.0.0.1", self.port), timeout=within) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    parts.append(part)
                    assert time.monotonic() < ends, f"no end of {sent[:200]!r}: {parts[-1]!r}"
        return b"".join(parts)

    def ask(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        body: Any = None,
        *,
        host: str | bytes | None = "127.0.0.1",
    ) -> Answer:
        """The answer to a request, which must be the only one."""
        (answer,) = answers(self.raw(request(method, target, headers, body, host=host)))
        return answer

    def start(self, operation: str, **given: Any) -> str:
        """Start a run; its id."""
        answer = self.ask("POST", "/runs", (), {"operation": operation, "input": given})
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def show(self, run: str) -> Any:
        """A run's snapshot."""
        return self.ask("GET", f"/runs/{run}").json

    def ended(self, run: str, within: float = 30.0) -> Any:
        """Wait for a run's end; its snapshot."""
        until(lambda: self.show(run)["ended_at"] is not None, f"{run} has ended", within)
        return self.show(run)


def request(
    method: str,
    target: str | bytes,
    headers: Headers = (),
    body: Any = None,
    *,
    host: str | bytes | None = "127.0.0.1",
) -> bytes:
    """The bytes of a request, with whatever it is given in it as it is. A `body` that is no bytes
    is sent as JSON; the connection is to end with the answer.
    """
    lines = [b"%b %b HTTP/1.1" % (method.encode(), _bytes(target)), b"connection: close"]
    if host is not None:
        lines.append(b"host: " + _bytes(host))
    content = b""
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += [b"content-type: application/json", b"content-length: %d" % len(content)]
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines += [b"%b: %b" % (name.encode(), _bytes(value)) for name, value in pairs]
    return b"\r\n".join((*lines, b"", content))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def opened(folder: Path, *options: str, program: Sequence[str] = ()) -> Iterator[Door]:
    """`tailrace serve` with a log in `folder` and these options, until the block ends; `program`
    is another command that serves, which gets them as well.
    """
    words = [*(program or (sys.executable, "-m", "tailrace.cli.main", "serve"))]
    words += ["--port", "0", "--log", str(folder / "log.db"), "--grace", "1", *options]
    said = folder / f"said-{time.monotonic_ns()}.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    with said.open("wb") as out:
        process = subprocess.Popen(
            words, cwd=ROOT, env={**kept, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    door = Door(process, said)
    try:
        until(lambda: door.is_open, "the server listens", START_SECONDS)
        yield door
    except BaseException:
        print(f"--- the server said:\n{door.log[-5000:]}")
        raise
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            # The group is its own, made at its start: nobody else is in it.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
