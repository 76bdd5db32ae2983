"""One library's app on a real server, and what one sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.processes import ROOT, SERVERS, START_SECONDS, Served, free_port, until
from tests.watching import Watcher

APP: Final = "tests.compare.app:served"
ENOUGH: Final = 2.0
"""After so many seconds without it, something does not happen."""

# Kept short where a row does not ask for it: the servers are many.
MORE: Final[Mapping[str, tuple[str, ...]]] = {"uvicorn": ("--ws", "wsproto")}

_marks = itertools.count()


@dataclass
class Lab:
    """`server` serves the app of `library`; `diary` is what its generators note."""

    library: str
    folder: Path
    server: Served
    diary: Path
    watchers: list[Watcher] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, library: str, folder: Path, kind: str = "uvicorn", *more: str, middleware: str = ""
    ) -> Iterator[Self]:
        """A server of `kind` with `more` options, until the block ends."""
        name = f"{library}-{kind}-{next(_marks)}"
        diary, said = folder / f"{name}.diary", folder / f"{name}.said"
        diary.touch()
        port = free_port()
        words = [word.format(app=APP, port=port) for word in SERVERS[kind]]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "COMPARE_LIBRARY": library,
            "COMPARE_DIARY": str(diary),
            "COMPARE_MIDDLEWARE": middleware,
        }
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *words, *MORE.get(kind, ()), *more], cwd=ROOT, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        server = Served(kind, port, process, said)
        try:
            until(lambda: server.is_ready, f"{name} is ready", START_SECONDS)
            yield cls(library, folder, server, diary)
        finally:
            server.kill()

    @contextlib.asynccontextmanager
    async def another(
        self, kind: str = "uvicorn", *more: str, middleware: str = ""
    ) -> AsyncIterator[Lab]:
        """The same library on a server of its own, started while others go on."""
        with contextlib.ExitStack() as stack:
            making = Lab.of(self.library, self.folder, kind, *more, middleware=middleware)
            lab = await asyncio.to_thread(stack.enter_context, making)
            async with lab.visited():
                yield lab

    @contextlib.asynccontextmanager
    async def visited(self) -> AsyncIterator[None]:
        """Whoever came leaves at the end."""
        try:
            yield
        finally:
            for watcher in self.watchers:
                watcher.transport.abort()
            self.watchers.clear()
            # Let the transports tell their ends.
            await asyncio.sleep(0)

    # --- asking --------------------------------------------------------------------------------

    async def open(
        self,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Watcher:
        """Ask, and go on."""
        watcher = await Watcher.open(
            self.server.port, target, method=method, headers=headers, body=body
        )
        self.watchers.append(watcher)
        return watcher

    async def whole(self, target: str, **asked: Any) -> Watcher:
        """Ask, and wait for the end, of the answer or of the connection."""
        return await (await self.open(target, **asked)).over()

    async def begun(self, target: str, **asked: Any) -> Watcher:
        """Ask, and wait for the first event."""
        watcher = await self.open(target, **asked)
        return await watcher.until(lambda seen: seen.events, "an event came")

    async def offers(self, parameter: str) -> bool:
        """Whether the library's response can be given it."""
        return parameter in await self.ask("/parameters")

    async def ask(self, path: str, within: float = 10.0) -> Any:
        """What a plain endpoint says."""
        return (await asyncio.to_thread(self.server.ask, "GET", path, timeout=within))[1]

    @contextlib.contextmanager
    def raw(self, sent: bytes) -> Iterator[Raw]:
        """A connection that has sent these bytes, and whatever comes back."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(sent)
            connection.setblocking(False)
            yield Raw(connection)

    # --- seeing --------------------------------------------------------------------------------

    @staticmethod
    def mark() -> str:
        """A word that nobody else has noted."""
        return f"m{next(_marks)}"

    def noted(self, words: str) -> int:
        """How often a generator noted it."""
        return self.diary.read_text(encoding="utf-8").splitlines().count(words)

    def notes(self, mark: str) -> list[str]:
        """What was noted under a mark."""
        lines = self.diary.read_text(encoding="utf-8").splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{mark} ")]

    def logged(self, since: int = 0) -> str:
        """What the server has written, from a place on."""
        return self.server.log[since:]


class Raw:
    """A connection, byte by byte. `is_over`: its other end has closed it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._told = b""
        self.is_over = False

    def send(self, more: bytes) -> None:
        self._connection.sendall(more)

    async def until(self, text: bytes | None, within: float = 2 * ENOUGH) -> bytes:
        """All that has come when `text` has, or the end, or when the time is over."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.is_over and (text is None or text not in self._told):
                    part = await loop.sock_recv(self._connection, 65536)
                    self._told += part
                    self.is_over = not part
        return self._told


async def happens(done: Callable[[], Any], within: float = ENOUGH) -> bool:
    """Whether it becomes so."""
    ends = time.monotonic() + within
    while not done():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.01)
    return True
