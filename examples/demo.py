"""`make demo`: the promise, shown on a real server, a real script and real cuts.

Starts a server on a free port with a fresh log and runs a script that indexes the standard
library. One watcher has its connection cut three times and comes back by Last-Event-ID,
another joins late; a second run is cancelled half-way and a third one fails. In the end
what both watchers have must equal a full replay, byte for byte. Exit status 0 only then.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

SCRIPTS = Path(__file__).parent / "scripts"
TERMINAL = ("complete", "error", "cancelled")


@dataclass
class Watcher:
    """Somebody who watches a run, and what they have of it: the frames, as bytes."""

    http: httpx2.AsyncClient
    url: str
    frames: list[bytes] = field(default_factory=list)
    last_id: str = ""
    last_type: str = ""
    cuts: int = 0
    first_byte: float = 0.0
    delays: list[float] = field(default_factory=list)

    async def watch(self, *, cut_after: int | None = None) -> None:
        """Read on from where we are, up to the end, or until we cut after so many events."""
        began, got = time.perf_counter(), 0
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        async with self.http.stream("GET", self.url, headers=headers) as answer:
            if answer.status_code == 204:  # nothing more, for ever
                return
            answer.raise_for_status()
            async for frame in _frames(answer.aiter_raw(), self._opened(began)):
                self._take(frame)
                got += 1
                if got == cut_after:
                    self.cuts += 1
                    return  # leaving the block closes the socket in the middle of the stream

    def _opened(self, began: float) -> Any:
        def note() -> None:
            self.first_byte = self.first_byte or time.perf_counter() - began

        return note

    def _take(self, frame: bytes) -> None:
        now = time.time()
        named = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
        self.frames.append(frame)
        self.last_id = named[b"id"].decode()
        self.last_type = named[b"event"].decode()
        stamped = json.loads(named[b"data"])["timestamp"]
        self.delays.append(now - datetime.fromisoformat(stamped).timestamp())


async def _frames(chunks: AsyncIterator[bytes], opened: Any) -> AsyncIterator[bytes]:
    """The events of a stream, as the bytes between blank lines, without comments."""
    rest = b""
    async for chunk in chunks:
        opened()
        *whole, rest = (rest + chunk).split(b"\n\n")
        for frame in whole:
            lines = [n for n in frame.split(b"\n") if not n.startswith((b":", b"retry:"))]
            yield b"\n".join(lines)


async def serve(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """A real server of its own, and the address it says it has."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace.cli.main", "serve", "--no-auth", "--port", "0",
        "--log", str(folder / "demo.db"), "--allow-root", str(SCRIPTS),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if found := re.search(r"http://\S+", line):
                return process, found[0].rstrip("/")
    raise SystemExit("The server did not start.")


async def start(http: httpx2.AsyncClient, file: str, *args: str) -> str:
    """Start a script; the path of its run."""
    body = {"operation": "script", "input": {"file": file, "args": list(args)}}
    answer = await http.post("/runs", json=body)
    answer.raise_for_status()
    return str(answer.headers["location"])


async def cut_three_times(http: httpx2.AsyncClient, run: str) -> Watcher:
    """Watch from the start; lose the connection at three points nobody chose."""
    watcher = Watcher(http, f"{run}/events")
    for after in random.sample(range(5, 60), 3):
        await watcher.watch(cut_after=after)
    await watcher.watch()
    return watcher


async def join_late(http: httpx2.AsyncClient, run: str) -> Watcher:
    """Come when much of it is over, and ask for all of it."""
    while int((await http.get(run)).json()["last_event_id"]) < 100:
        await asyncio.sleep(0.05)
    watcher = Watcher(http, f"{run}/events")
    await watcher.watch()
    return watcher


async def cancel_half_way(http: httpx2.AsyncClient) -> str:
    """Start the same script again and stop it when it says that it is half through."""
    run = await start(http, "index_stdlib.py")
    async with http.stream("GET", f"{run}/output") as answer:
        async for text in answer.aiter_text():
            marks = re.findall(r"^\[(\d+)/(\d+)\]", text, re.MULTILINE)
            if marks and 2 * int(marks[-1][0]) >= int(marks[-1][1]):
                break
    (await http.post(f"{run}/cancel")).raise_for_status()
    return await ended(http, run)


async def ended(http: httpx2.AsyncClient, run: str) -> str:
    """Wait for a run's end; its state."""
    await Watcher(http, f"{run}/events").watch()
    return str((await http.get(run)).json()["state"])


async def fail(http: httpx2.AsyncClient) -> str:
    """Run something that goes wrong; how it ended."""
    run = await start(http, "fail.py")
    state = await ended(http, run)
    error = (await http.get(run)).json()["error"]
    return f"{state} with exit code {error.get('exit_code')}"


async def demonstrate(url: str, folder: Path) -> bool:
    """All of it; whether all of it held."""
    timeout = httpx2.Timeout(60)
    async with httpx2.AsyncClient(base_url=url, timeout=timeout) as http:
        run = await start(http, "index_stdlib.py", str(folder / "index.json"))
        print(f"  {url}{run}/events  (a script that indexes the standard library)")
        cut, late, second, third = await asyncio.gather(
            cut_three_times(http, run), join_late(http, run), cancel_half_way(http), fail(http)
        )
        replay = Watcher(http, f"{run}/events")
        await replay.watch()
        again = await http.get(f"{run}/events", headers={"Last-Event-ID": replay.last_id})
        last = int((await http.get(run)).json()["last_event_id"])
        output = (await http.get(f"{run}/output", params={"stream": "stdout"})).text
    told = len(re.findall(r"^\[\d+/\d+\]", output, re.MULTILINE))
    indexed = len(json.loads((folder / "index.json").read_text(encoding="utf-8")))
    ids = [int(frame.split(b"\n", 1)[0][4:]) for frame in cut.frames]
    lost, doubled = len(set(range(1, last + 1)) - set(ids)), len(ids) - len(set(ids))
    live = sorted(cut.delays)
    checks = {
        "the cut watcher has what the log has, byte for byte": cut.frames == replay.frames,
        "the late watcher has what the log has, byte for byte": late.frames == replay.frames,
        "nothing lost, nothing twice, nothing out of order": ids == [*range(1, last + 1)],
        "the run completed": replay.last_type == "complete",
        "its last event is terminal, and coming back answers 204": again.status_code == 204,
        "the script's own index has every file it told of": indexed == told > 0,
        "the second run was cancelled half-way": second == "cancelled",
        "the third run failed, with its own exit code": third == "failed with exit code 7",
    }
    print(f"  events {last:,} · cuts {cut.cuts} · lost {lost} · duplicates {doubled}")
    print(f"  time to first byte {cut.first_byte * 1000:.1f} ms")
    p50, p99 = statistics.median(live) * 1000, live[int(len(live) * 0.99)] * 1000
    print(f"  publish → receive p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for check, held in checks.items():
        print(f"  {'✓' if held else '✗'} {check}")
    return all(checks.values())


async def main() -> int:
    """Serve, demonstrate, stop the server."""
    print("Tailrace: run something real, watch it live, leave, come back, lose nothing.\n")
    with tempfile.TemporaryDirectory() as place:
        server, url = await serve(Path(place))
        try:
            held = await demonstrate(url, Path(place))
        finally:
            server.send_signal(signal.SIGTERM)
            stopped = await asyncio.wait_for(server.wait(), 15)
    print(f"  {'✓' if not stopped else '✗'} the server stopped properly")
    print("\nLook for yourself: make serve" if held else "\nSomething did not hold.")
    return 0 if held and not stopped else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
