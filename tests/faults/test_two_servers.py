"""Two server processes on one SQLite file: a watcher need not be where its run is."""

from pathlib import Path

import pytest

from tests.processes import eventually, marked, serving
from tests.watching import Watcher, decoded, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

EVENTS = 150


async def test_one_watches_what_the_other_runs(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving("uvicorn", log) as here, serving("uvicorn", log) as there:
        run = here.start("count", events=EVENTS, every=0.02)
        async with watchers() as party:
            party.append(await Watcher.open(here.port, here.events_of(run)))
            party.append(await Watcher.open(there.port, there.events_of(run)))
            for watcher in party:
                await watcher.over(30)
            near, far = party
            assert near.is_complete
            assert far.is_complete
            assert len(far.events) == EVENTS + 2
            assert decoded(bytes(far.body)) == decoded(bytes(near.body))
            for name, watcher in (("same", near), ("other", far)):
                delays = sorted(1000 * delay for delay in watcher.delays("count"))
                p50, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
                print(f"publish to receive, {name} process: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            # Whoever is not woken would learn of it from the reaper's round, or never.
            assert sorted(far.delays("count"))[EVENTS // 2] < 0.5


async def test_cancel_reaches_the_other(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving("uvicorn", log) as here, serving("uvicorn", log) as there:
        runs = [
            here.start("count", events=100_000),
            here.start("count_in_thread", events=100_000),
        ]
        await eventually(lambda: here.probe()["executing"] == 2, "they are going on")
        for run in runs:
            assert there.ask("POST", f"/runs/{run}/cancel")[0] == 202
        took = await eventually(
            lambda: {there.show(run)["state"] for run in runs} == {"cancelled"}, "cancelled"
        )
        print(f"cancelled from the other process after {1000 * took:.0f} ms")
        await eventually(lambda: here.probe()["executing"] == 0, "the work has stopped")


async def test_one_ends_what_the_other_left_behind(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving("uvicorn", log) as here, serving("uvicorn", log) as there:
        (tmp_path / "scripts" / "long.sh").write_text("echo ready\nsleep 1000\n")
        runs = [here.start("count", events=100_000) for _ in range(5)]
        runs += [here.start("script", file="long.sh") for _ in range(3)]
        others = there.start("count", events=100_000)
        async with watchers() as party:
            for run in runs:
                party.append(await Watcher.open(there.port, there.events_of(run)))
                await party[-1].until(lambda w: len(w.events) > 1, "told")
            here.kill()
            took = await eventually(
                lambda: {there.show(run)["state"] for run in runs} == {"lost"}, "lost"
            )
            print(f"lost {took:.2f} s after the kill")
            for watcher in party:
                await watcher.over()
                assert watcher.events[-1].event == "error"
                assert '"reason":"lost"' in watcher.events[-1].data
        assert there.show(others)["state"] == "running"
        assert [number for run in runs for number in marked(run)] == []
