"""A queue for each watcher, as the documentation of every framework here shows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

FULL = 16


class Crowd(Generic[Item]):
    """The watchers, and whoever publishes to them. `make` gives publisher p's n-th event."""

    def __init__(self, make: Callable[[int, int, int], Item]) -> None:
        self.queues: set[asyncio.Queue[Item]] = set()
        self.make = make

    def join(self) -> asyncio.Queue[Item]:
        queue: asyncio.Queue[Item] = asyncio.Queue()
        self.queues.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[Item]) -> None:
        self.queues.discard(queue)

    async def publish(
        self, rate: float, seconds: float, publishers: int, size: int
    ) -> dict[str, int]:
        """At a rate, or with rate 0 in a closed loop; how many events that made."""
        amounts = await asyncio.gather(
            *(self._publisher(p, rate, seconds, size) for p in range(publishers))
        )
        return {"published": sum(amounts)}

    async def _publisher(self, p: int, rate: float, seconds: float, size: int) -> int:
        began = time.monotonic()
        n = 0
        while n < rate * seconds if rate else time.monotonic() - began < seconds:
            if rate:
                await asyncio.sleep(began + n / rate - time.monotonic())
            n += 1
            event = self.make(p, n, size)
            for queue in tuple(self.queues):
                queue.put_nowait(event)
            if not rate:
                # A closed loop: the next one when this one is on its way.
                await asyncio.sleep(0)
                while any(queue.qsize() > FULL for queue in self.queues):
                    await asyncio.sleep(0)
        return n
