"""Reading feeds in processes of their own: some bytes take hours, and hold the interpreter."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from typing import Final

from tailrace.market_news.articles import Article
from tailrace.market_news.downloads import Unavailable
from tailrace.market_news.feeds import Feed
from tailrace.market_news.worker import READY

READ_SECONDS: Final = 5.0
"""What reading one feed may take; 200 articles take 0.05 s."""

PAUSE_SECONDS: Final = 60.0
"""For how long a feed that took longer is left alone."""

START_SECONDS: Final = 30.0

# While one of them has a hostile feed, the other reads on.
_MOST: Final = 2

# It finds us where we were found, and runs no file of the folder it happens to be in.
_START: Final = (
    "import sys; seconds, *sys.path[:] = sys.argv[1:];"
    "from tailrace.market_news.worker import main; main(int(seconds))"
)


class Readers:
    """At most two processes that read feeds, started with the first one. For one event loop."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self._seconds = seconds
        self._idle: list[Process] = []
        self._free = asyncio.Semaphore(_MOST)

    async def read(
        self, body: bytes, feed: Feed, content_type: str = ""
    ) -> tuple[list[Article], str | None]:
        """What `articles.read` answers. Raises Unavailable where that takes too long."""
        async with self._free:
            worker = self._idle.pop() if self._idle else None
            # One that was killed from outside while nobody needed it.
            if worker is None or worker.returncode is not None:
                worker = await self._started()
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await _asked(worker, body, feed, content_type)
            except TimeoutError:
                await _end(worker)
                raise Unavailable("It could not be read in time.", PAUSE_SECONDS) from None
            except (OSError, EOFError):
                await _end(worker)
                raise Unavailable("It could not be read.", PAUSE_SECONDS) from None
            except BaseException:
                # Its answer would be taken for that to the next.
                await _end(worker)
                raise
            self._idle.append(worker)
        told, flaw = json.loads(answer)
        return [
            Article(**{**one, "keys": frozenset(tuple(key) for key in one["keys"])}) for one in told
        ], flaw

    async def close(self) -> None:
        """End the processes; those that still read are ended by the cancel of their `read`."""
        while self._idle:
            await _end(self._idle.pop())

    async def _started(self) -> Process:
        # Later than we do: it is for when we are not there.
        bound = str(math.ceil(self._seconds) + 1)
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _START, bound, *sys.path, stdin=PIPE, stdout=PIPE
        )
        assert worker.stdout is not None  # noqa: S101 - as was asked for
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker.stdout.readexactly(len(READY))
        except BaseException:
            await _end(worker)
            raise
        return worker


async def _asked(worker: Process, body: bytes, feed: Feed, content_type: str) -> bytes:
    assert worker.stdin is not None  # noqa: S101 - as was asked for
    assert worker.stdout is not None  # noqa: S101
    head = json.dumps({"feed": asdict(feed), "content_type": content_type}).encode()
    for piece in (head, body):
        worker.stdin.write(len(piece).to_bytes(4, "big") + piece)
    await worker.stdin.drain()
    size = int.from_bytes(await worker.stdout.readexactly(4), "big")
    return await worker.stdout.readexactly(size)


async def _end(worker: Process) -> None:
    if worker.returncode is None:
        worker.kill()
    assert worker.stdin is not None  # noqa: S101 - as was asked for
    worker.stdin.close()
    await worker.wait()
