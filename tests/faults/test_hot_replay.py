"""200,000 events, replayed at full speed by clients that leave in the middle, again and again."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import DIRECT, Served, eventually, serving
from tests.watching import Watcher, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

EVENTS = 200_000
CLIENTS = 6
SECONDS = 3.0
GROWTH_KIB = 200 * 1024

# DESIGN: the loop stays live. What others on this machine take of its time is not its fault,
# and one round of three will do.
P99_SECONDS = 0.100
ROUNDS = 3


class Storm:
    """What the clients have done."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = 0


@asynccontextmanager
async def storm(served: Served, target: str) -> AsyncIterator[Storm]:
    """Clients that replay and leave, while the block lasts."""
    counted = Storm()
    chance = random.Random(7)

    async def client() -> None:
        while True:
            watcher = await Watcher.open(served.port, target, keeps=False)
            try:
                counted.connections += 1
                await asyncio.sleep(chance.uniform(0.01, 0.3))
            finally:
                counted.received += watcher.received
                if chance.random() < 0.5:
                    watcher.vanish()
                else:
                    watcher.leave()

    tasks = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        yield counted
    finally:
        for task in tasks:
            task.cancel()
        # Those that found the server gone have failed, as they should.
        await asyncio.gather(*tasks, return_exceptions=True)


async def asked(served: Served, seconds: float) -> list[float]:
    """How long /healthz took, each time, for so many seconds; sorted."""
    loop = asyncio.get_running_loop()
    found: list[float] = []
    until = loop.time() + seconds
    async with watchers() as party:
        while loop.time() < until:
            began = loop.time()
            watcher = await Watcher.open(served.port, "/healthz")
            party.append(watcher)
            await watcher.until(lambda w: w.is_complete, "answered", 30)
            assert watcher.status == 200
            found.append(loop.time() - began)
            watcher.leave()
            await asyncio.sleep(0.002)
    return sorted(found)


class Crowd:
    """How much slower the server's thread was than on a machine of its own."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}/schedstat")
        self._before = self._read()

    def _read(self) -> tuple[int, int]:
        had, waited, _ = self._place.read_text(encoding="ascii").split()
        return int(had), int(waited)

    def factor(self) -> float:
        (had, waited), (has, waits) = self._before, self._read()
        return (has - had + waits - waited) / max(1, has - had)


async def measured(served: Served, name: str, target: str) -> float:
    """The 99th percentile of /healthz in a storm, as on a machine of its own."""
    crowd = Crowd(served.probe()["pid"])
    async with storm(served, target) as counted:
        found = await asked(served, SECONDS)
    factor = crowd.factor()
    p50, p99 = found[len(found) // 2], found[len(found) * 99 // 100]
    print(
        f"{served.kind} {name}: {len(found)} × /healthz, p50 {1000 * p50:.1f} ms, "
        f"p99 {1000 * p99:.1f} ms, max {1000 * found[-1]:.1f} ms; {counted.connections} replays, "
        f"{counted.received / SECONDS / 1e6:.0f} MB/s; slowed {factor:.1f} × by others"
    )
    assert counted.connections > 5 * CLIENTS
    return p99 / factor


async def written(served: Served) -> str:
    run = served.start("burst", events=EVENTS, size=60)
    await eventually(lambda: served.show(run)["state"] == "completed", "written", 60)
    return run


@pytest.mark.parametrize(
    ("way", "in_memory"),
    [
        ("events", False),
        ("text", False),
        ("many", False),
        ("nothing", False),
        # Reading never suspends here, and neither does sending once the client has left.
        ("text", True),
        ("nothing", True),
    ],
)
async def test_uvicorn_answers_meanwhile(way: str, in_memory: bool, tmp_path: Path) -> None:
    with serving("uvicorn", tmp_path / "log.db", in_memory=in_memory) as served:
        run = await written(served)
        target = {
            "events": served.events_of(run),
            "text": f"{served.events_of(run)}?format=text",
            "many": f"/events?runs={run}",
            # A filter that lets nothing pass: nothing is sent, and so no send ever waits.
            "nothing": f"{served.events_of(run)}?types=none",
        }[way]
        before = served.probe()["resident_kib"]
        found: list[float] = []
        for _ in range(ROUNDS):
            found.append(await measured(served, way, target))
            if found[-1] <= P99_SECONDS:
                break
        assert min(found) <= P99_SECONDS
        await eventually(lambda: served.probe()["connections"] == 0, "all have left")
        grown = served.probe()["resident_kib"] - before
        print(f"{served.kind} {way}: grown by {grown} KiB")
        assert grown < GROWTH_KIB


@pytest.mark.parametrize(
    ("kind", "in_memory"),
    [
        ("tailrace", False),
        ("tailrace", True),
        ("uvicorn-asyncio", False),
        ("granian", False),
        ("hypercorn", False),
        ("hypercorn-asyncio", False),
        ("hypercorn", True),
    ],
)
async def test_other_servers_answer_too(kind: str, in_memory: bool, tmp_path: Path) -> None:
    with serving(kind, tmp_path / "log.db", in_memory=in_memory) as served:
        run = await written(served)
        before = served.probe()["resident_kib"]
        await measured(served, "events", served.events_of(run))
        await eventually(lambda: served.probe()["connections"] == 0, "all have left")
        grown = served.probe()["resident_kib"] - before
        print(f"{served.kind}: grown by {grown} KiB")
        assert grown < GROWTH_KIB


@pytest.mark.parametrize("kind", [*DIRECT, "uvicorn", "uvicorn-asyncio", "granian", "hypercorn"])
async def test_a_storm_does_not_hold_up_a_shutdown(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path / "log.db") as served:
        run = await written(served)
        async with storm(served, served.events_of(run)) as counted:
            await eventually(lambda: counted.connections > 5 * CLIENTS, "a storm", 30)
            served.terminate()
            took = await eventually(lambda: served.process.poll() is not None, "ended")
        print(f"{kind}: ended {took:.2f} s after SIGTERM")
        assert "Traceback" not in served.log, served.log
