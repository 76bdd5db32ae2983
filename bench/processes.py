"""A server while it runs: its processes, on the first core, and how it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import measure
from bench.lineup import Ground, Server
from bench.places import BUILT, PACKAGES, ROOT

START_SECONDS = 30
STOP_SECONDS = 5


class NotStarted(Exception):
    """A server did not come up; the message says what it wrote."""


class Running:
    """`with Running(server) as running:` a server that answers at `running.port`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        BUILT.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{server.name}-", dir=BUILT))
        self.ports = list(_free_ports(6))
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def port(self) -> int:
        return self.ports[0]

    def __enter__(self) -> Self:
        ground = Ground(self.folder, self.ports)
        log = f"sqlite:{self.folder / 'runs.db'}" if self.server.log == "SQLite" else "memory:"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(PACKAGES))),
            "BENCH_LOG": log,
            **self.server.environment,
        }
        try:
            for command in self.server.commands(ground):
                with (self.folder / "said").open("ab") as said, measure.pinned(0):
                    self._processes.append(
                        subprocess.Popen(
                            command,
                            cwd=ROOT,
                            env=environment,
                            stdin=subprocess.DEVNULL,
                            stdout=said,
                            stderr=said,
                            start_new_session=True,
                        )
                    )
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def pids(self) -> list[int]:
        return measure.tree(process.pid for process in self._processes)

    def cpu(self) -> float:
        return measure.cpu_seconds(self.pids())

    def rss(self) -> int:
        return measure.rss_bytes(self.pids())

    def said(self) -> str:
        """The last of what it wrote."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "said").read_text(errors="replace").strip().splitlines()
            return " | ".join(line.strip() for line in lines[-3:])[:400]
        return ""

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            for process in self._processes:
                if process.poll() is not None:
                    raise NotStarted(f"it ended at once: {self.said() or 'without a word'}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1),
            ):
                break
            if time.monotonic() > end:
                raise NotStarted(f"it does not listen: {self.said() or 'without a word'}")
            time.sleep(0.02)
        # Some listen before everything behind the port is up.
        time.sleep(self.server.ready_seconds)

    def _stop(self) -> None:
        """End what was started here, and whatever that has started itself."""
        mine = self.pids()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in mine:
            # A child of one that was killed has moved away from it, but not to a new number:
            # nobody has had the time to use that up.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_ports(count: int) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            yield listener.getsockname()[1]
