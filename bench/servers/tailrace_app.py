"""Tailrace: an operation for each scenario. The environment says where the log is."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from tailrace import RunContext, Tailrace

# What a frame has besides the filling: id, event, the other keys, the timestamp.
FIXED = 114

runs = Tailrace(os.environ.get("BENCH_LOG", "memory:"))
app = runs.asgi

_gates: list[asyncio.Event] = []


async def opened() -> None:
    """Wait for `go`: until then the watchers come."""
    gate = asyncio.Event()
    _gates.append(gate)
    await gate.wait()


def tell(run: RunContext, publisher: int, n: int, pad: str) -> None:
    run.emit("message", {"p": publisher, "n": n, "t": time.monotonic_ns(), "pad": pad})


async def ended(run: RunContext, total: int) -> dict[str, int]:
    """Say how many there were, and stay a little: to end is not what is measured."""
    run.emit("end", {"total": total})
    await asyncio.sleep(1)
    return {"published": total}


@runs.operation
async def go() -> int:
    count = len(_gates)
    for gate in _gates:
        gate.set()
    _gates.clear()
    return count


@runs.operation
async def publish(
    run: RunContext, seconds: float, rate: float = 0, publishers: int = 1, size: int = 206
) -> dict[str, int]:
    """At a rate, or with rate 0 by publishers that wait until their event is kept."""
    pad = "x" * (size - FIXED)

    async def publisher(p: int) -> int:
        n, began = 0, time.monotonic()
        while n < rate * seconds if rate else time.monotonic() - began < seconds:
            if rate:
                await asyncio.sleep(began + n / rate - time.monotonic())
            n += 1
            tell(run, p, n, pad)
            if not rate:
                await run.drain()
        return n

    await opened()
    amounts = await asyncio.gather(*(publisher(p) for p in range(publishers)))
    return await ended(run, sum(amounts))


@runs.operation
async def firehose(run: RunContext, count: int, size: int = 206) -> dict[str, int]:
    pad = "x" * (size - FIXED)
    await opened()
    for n in range(1, count + 1):
        tell(run, 0, n, pad)
        if n % 100 == 0:
            await run.ebb()
    return await ended(run, count)


@runs.operation
async def tokens(run: RunContext, count: int, size: int = 206) -> dict[str, int]:
    """As they come from a model: several in one read of the network, then none for a while."""
    pad = "x" * (size - FIXED)
    for n in range(1, count + 1):
        tell(run, 0, n, pad)
        if n % 10 == 0:
            await asyncio.sleep(0.01)
    return await ended(run, count)


@runs.operation
async def store(run: RunContext, count: int, size: int = 206) -> dict[str, int]:
    """A history to be replayed."""
    pad = "x" * (size - FIXED)
    for n in range(1, count + 1):
        tell(run, 0, n, pad)
        if n % 100 == 0:
            await run.ebb()
    run.emit("end", {"total": count})
    return {"stored": count}


@runs.operation
async def one(run: RunContext, size: int = 206) -> None:
    """One event, and then nothing for as long as anybody watches."""
    tell(run, 0, 1, "x" * (size - FIXED))
    await asyncio.Event().wait()


@runs.operation
async def listen(run: RunContext) -> None:
    """Says nothing: its events come over HTTP."""
    await asyncio.Event().wait()


@runs.operation
async def write(run: RunContext, seconds: float, rate: float = 0, size: int = 206) -> Any:
    """One writer of many. At rate 0 it waits for each event to be kept before the next; at
    another the writers keep no time together.
    """
    pad = "x" * (size - FIXED)
    await opened()
    if rate:
        await asyncio.sleep(random.random() / rate)
    n, began = 0, time.monotonic()
    while n < rate * seconds if rate else time.monotonic() - began < seconds:
        if rate:
            await asyncio.sleep(began + n / rate - time.monotonic())
        n += 1
        tell(run, 0, n, pad)
        if not rate:
            await run.drain()
    return await ended(run, n)


def spin(seconds: float) -> dict[str, int]:
    end, turns = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turns += 1
    return {"turns": turns}


@runs.operation
def busy(seconds: float) -> dict[str, int]:
    """A thread that computes and never waits."""
    return spin(seconds)


runs.operation(name="busy-process", process=True)(spin)
