"""Clients that come and go: nothing is left of them."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.processes import DIRECT, Served, eventually, serving
from tests.watching import Watcher, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

VISITS = 2_000
AT_ONCE = 40

KINDS = [*DIRECT, "uvicorn", "uvicorn-asyncio", "granian", "granian-asyncio", "hypercorn"]
COUNTED = ("connections", "channels", "tasks", "descriptors")


def counted(served: Served) -> dict[str, Any]:
    told = served.probe()
    return {name: told[name] for name in COUNTED}


async def visited(served: Served, target: str, visits: int) -> None:
    """So many visits that end at any moment: before the head, within the body, by FIN or RST."""
    chance = random.Random(7)
    left = iter(range(visits))

    async def client() -> None:
        for _ in left:
            watcher = await Watcher.open(served.port, target, keeps=False)
            try:
                if chance.random() < 0.6:
                    await watcher.until(lambda w: w.received > 30, "told")
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.uniform(0, 0.02))
            finally:
                if chance.random() < 0.5:
                    watcher.vanish()
                else:
                    watcher.leave()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_left_of_them(kind: str, tmp_path: Path) -> None:
    visits = VISITS if kind == "uvicorn" else VISITS // 2
    with serving(kind, tmp_path / "log.db") as served:
        idle = served.start("burst", events=3, hold=True)
        busy = served.start("count", events=100_000, every=0.005)
        # Once, so that whatever is made for good is there.
        await visited(served, served.events_of(idle), 2 * AT_ONCE)
        # The threads that read the log, too, each with its files.
        asking = (asyncio.to_thread(served.ask, "GET", "/runs") for _ in range(4 * AT_ONCE))
        await asyncio.gather(*asking)
        await eventually(lambda: counted(served)["connections"] == 0, "the first have left")
        await asyncio.sleep(0)
        before = counted(served)
        await visited(served, served.events_of(idle), visits // 2)
        await visited(served, served.events_of(busy), visits // 4)
        await visited(served, f"/events?runs={idle},{busy}", visits // 4)

        def is_as_before() -> bool:
            now = counted(served)
            # The probe's own connection may still be closing, and so may the one before it.
            return all(now[name] <= before[name] + 2 for name in COUNTED)

        try:
            await eventually(is_as_before, "as before")
        finally:
            print(f"{kind}: after {visits} visits {counted(served)}, before {before}")
        assert counted(served)["connections"] == 0
        assert counted(served)["channels"] == 0
        assert "Traceback" not in served.log, served.log


@pytest.mark.parametrize("kind", [*KINDS, "thread", "hypercorn-asyncio"])
@pytest.mark.parametrize("shape", ["alone", "wrapped"])
async def test_leaving_is_noticed(kind: str, shape: str, tmp_path: Path) -> None:
    """Also where nothing is sent that could fail."""
    with serving(kind, tmp_path / "log.db", shape=shape) as served:
        run = served.start("burst", events=3, hold=True)
        targets = [served.events_of(run), f"{served.prefix}/events?runs={run}"]
        for how in ("leave", "vanish"):
            async with watchers() as party:
                for target in targets * 5:
                    party.append(await Watcher.open(served.port, target))
                    await party[-1].told(b"event: held")
                assert served.probe()["connections"] == 10
                for watcher in party:
                    getattr(watcher, how)()
                took = await eventually(
                    lambda: served.probe()["connections"] == 0, f"noticed a {how}"
                )
                print(f"{kind} {shape}: a {how} was noticed after {1000 * took:.0f} ms")
        assert served.show(run)["state"] == "running", "leaving is not cancelling"
        assert "Traceback" not in served.log, served.log
