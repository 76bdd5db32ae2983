"""What it costs the server."""

from __future__ import annotations

import asyncio

from bench import measure
from tests.compare.lab import Lab, happens
from tests.compare.table import Section

row = Section("What it costs the server, as multiples of Tailrace's")

EVENTS = 50_000
IDLE = 300


@row("CPU for each of 50,000 events of 100 characters, in a rush to one client", is_figure=True)
async def rush(lab: Lab) -> str:
    async with lab.another() as own:
        pids = [own.server.process.pid]
        await own.whole("/rush?count=1000")
        before = measure.cpu_seconds(pids)
        watcher = await (await own.open(f"/rush?count={EVENTS}")).over(60)
        used = measure.cpu_seconds(pids) - before
        assert watcher.body.count(b"data: ") == EVENTS
    return f"{used / EVENTS * 1e6:.3f}"


@row("CPU for each of 50,000, ten at a time every 10 ms, to 25 clients", is_figure=True)
async def paced(lab: Lab) -> str:
    async with lab.another() as own:
        pids = [own.server.process.pid]
        await own.whole("/tokens?count=100")
        before = measure.cpu_seconds(pids)
        party = [await own.open(f"/tokens?count={EVENTS // 25}") for _ in range(25)]
        for watcher in party:
            await watcher.over(60)
        used = measure.cpu_seconds(pids) - before
        assert sum(watcher.body.count(b"data: ") for watcher in party) == EVENTS
    return f"{used / EVENTS * 1e6:.3f}"


@row("memory for each of 300 idle streams", is_figure=True)
async def memory(lab: Lab) -> str:
    async with lab.another() as own:
        pids = [own.server.process.pid]
        await opened(own, 20)
        before = measure.rss_bytes(pids)
        await opened(own, IDLE)
        return f"{(measure.rss_bytes(pids) - before) / IDLE:.0f}"


@row("tasks for each idle stream", is_figure=True)
async def tasks(lab: Lab) -> str:
    async with lab.another() as own:
        await opened(own, 10)
        before = (await own.ask("/tasks"))["tasks"]
        await opened(own, 50)
        return f"{((await own.ask('/tasks'))['tasks'] - before) / 50:.1f}"


async def opened(lab: Lab, count: int) -> None:
    mark = lab.mark()
    for _ in range(count):
        lab.watchers.append(await lab.open(f"/waiting?mark={mark}"))
    await happens(lambda: lab.noted(f"{mark} begun") == count, 10)
    await asyncio.sleep(0)
