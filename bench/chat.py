"""What a token of a chat costs, and how late it is, beside the same endpoint written by hand.

    python -m bench.chat                  about four minutes; a table

A model that does nothing but say when it said each token, at a pace. Server CPU is counted, that of
all threads; the servers are asked in turn, and the figures are medians of the rounds.

    cpu      µs of server CPU per token, with TURNS turns of TOKENS tokens at once
    first    ms from the request to the first event, asked one after the other
    late     ms from the model's saying a token to the client's having it, median and p99
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure
from bench.places import PACKAGES, ROOT, install, is_importable

TURNS = 100
TOKENS = 500
PACE = 20
ROUNDS = 3

# Several tokens, where a backlog is told as one chunk.
_CHUNK = re.compile(rb'"chunk": ?"((?:[0-9]+ )+)"')
_BODY = {"messages": [{"role": "user", "content": ""}]}

TAILRACE = ["tailrace.cli.main", "serve", "bench.servers.chat_tailrace:app", "--port"]
BY_HAND = ["uvicorn", "bench.servers.chat_by_hand:app", "--log-level", "critical", "--port"]


@dataclass
class Server:
    """One of those that are compared, while it runs."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    body: dict[str, object] = field(default_factory=dict)

    def cpu(self) -> float:
        return measure.cpu_seconds(measure.tree([self.process.pid]))


@contextlib.contextmanager
def served(name: str, words: list[str], body: dict[str, object], **env: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join((str(ROOT), str(PACKAGES)))
    process = subprocess.Popen(
        [sys.executable, "-m", *words, str(port)], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env={**os.environ, **env, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        ends = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, f"{name} has ended"
            assert time.monotonic() < ends, f"{name} does not answer"
            time.sleep(0.05)
        yield Server(name, port, process, body)
    finally:
        process.terminate()
        process.wait(30)


async def turn(server: Server, tokens: int, pace: int) -> tuple[float, list[float]]:
    """Ask for a turn and have all of it: seconds to its first event, and of each token how late
    it was.
    """
    asked = {**_BODY, **server.body}
    asked["messages"] = [{"role": "user", "content": f"{tokens} tokens {pace} ms"}]
    sent = json.dumps(asked).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    began = time.perf_counter()
    writer.write(
        b"POST /mcp/chat/stream HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\n"
        b"content-type: application/json\r\naccept: text/event-stream\r\ncontent-length: %d\r\n\r\n"
        % (server.port, len(sent))
        + sent
    )
    first, late, rest = 0.0, [], b""
    while True:
        part = await reader.read(1 << 16)
        now = time.time_ns()
        if not part:
            break
        rest += part
        if not first and b"session_start" in rest:
            first = time.perf_counter() - began
        end = 0
        for found in _CHUNK.finditer(rest):
            late += [(now - int(said)) / 1e6 for said in found[1].split()]
            end = found.end()
        rest = rest[end:][-4096:] if end else rest[-65536:]
    writer.close()
    assert len(late) == tokens, f"{server.name}: {len(late)} of {tokens} tokens came"
    return first, late


async def cpu(server: Server, turns: int, tokens: int, pace: int = PACE) -> float:
    before = server.cpu()
    await asyncio.gather(*(turn(server, tokens, pace) for _ in range(turns)))
    return (server.cpu() - before) / (turns * tokens) * 1e6


async def lateness(server: Server) -> tuple[float, float, float]:
    """Of single turns: the first event, and the tokens, median and p99."""
    firsts = [(await turn(server, 1, 0))[0] * 1000 for _ in range(30)]
    _, late = await turn(server, 300, 10)
    late.sort()
    return statistics.median(firsts), statistics.median(late), late[int(len(late) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--pace", type=int, default=PACE, help="ms between two; 0: none")
    asked = parser.parse_args()
    if not is_importable("sse_starlette"):
        install()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain: dict[str, object] = {"accumulated": False}
        servers = [
            stack.enter_context(served(name, words, body, **env))
            for name, words, body, env in (
                ("by hand", BY_HAND, {}, {}),
                ("tailrace, memory", TAILRACE, plain, {}),
                ("tailrace, SQLite", TAILRACE, plain, {"BENCH_LOG": str(folder / "runs.db")}),
                (
                    "tailrace, SQLite, accumulated",
                    TAILRACE,
                    {},
                    {"BENCH_LOG": str(folder / "b.db")},
                ),
            )
        ]
        told: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            asyncio.run(cpu(server, 10, 50))
        for _ in range(asked.rounds):
            for server in servers:
                told[server.name].append(
                    asyncio.run(cpu(server, asked.turns, asked.tokens, asked.pace))
                )
        peer = statistics.median(told["by hand"])
        print(f"{'':32}{'µs/token':>10}{'ratio':>8}{'first ms':>10}{'late ms':>10}{'p99':>8}")
        for server in servers:
            spent = statistics.median(told[server.name])
            first, late, worst = asyncio.run(lateness(server))
            print(
                f"{server.name:32}{spent:10.1f}{spent / peer:8.2f}{first:10.1f}{late:10.2f}"
                f"{worst:8.2f}"
            )


if __name__ == "__main__":
    main()
