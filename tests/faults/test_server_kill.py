"""`kill -9` of the server in the middle of everything, and a restart on the same log."""

import asyncio
from pathlib import Path

import pytest

from tailrace.protocol.lifecycle import TERMINAL
from tests.processes import ONE_OF_EACH, Served, eventually, marked, serving
from tests.watching import Watcher, decoded, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

SCRIPT = "echo ready\ni=0\nwhile :; do i=$((i+1)); echo line $i; sleep 0.02; done\n"


@pytest.mark.parametrize("kind", ONE_OF_EACH)
async def test_watchers_lose_nothing_and_runs_end(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log) as served:
        (tmp_path / "scripts" / "chatty.sh").write_text(SCRIPT)
        runs = started(served)
        async with watchers() as party:
            for run in runs:
                party.append(await Watcher.open(served.port, served.events_of(run)))
            await asyncio.gather(
                *(w.until(lambda w: len(w.events) > 8 or w.is_complete, "told", 30) for w in party)
            )
            served.kill()
            await asyncio.gather(*(watcher.over() for watcher in party))
            before = [bytes(watcher.body) for watcher in party]
            finished = sum(watcher.is_complete for watcher in party)
            lasts = [watcher.last_event_id for watcher in party]
        assert 0 < finished < len(runs) / 2
    with serving(kind, log, port=served.port) as again:
        took = await eventually(lambda: all_over(again, runs), "every run has ended")
        print(f"{kind}: all of {len(runs)} runs had ended {took:.2f} s after the restart was ready")
        assert took < 2.0
        states = {again.show(run)["state"] for run in runs}
        assert states == {"completed", "lost"}
        async with watchers() as party:
            for run, first, last in zip(runs, before, lasts, strict=True):
                target = again.events_of(run)
                rest = await Watcher.open(again.port, target, headers={"last-event-id": last})
                whole = await Watcher.open(again.port, target)
                party += [rest, whole]
                await rest.over()
                await whole.over()
                assert rest.status == (204 if rest.received == 0 else 200)
                assert decoded(first) + decoded(bytes(rest.body)) == decoded(bytes(whole.body))
        left = [number for run in runs for number in marked(run)]
        assert left == []


def started(served: Served) -> list[str]:
    """50 runs of all kinds; five of them soon over."""
    runs = [served.start("count", events=10_000, every=0.01) for _ in range(18)]
    runs += [served.start("count_in_thread", events=10_000, every=0.01) for _ in range(17)]
    runs += [served.start("script", file="chatty.sh") for _ in range(10)]
    return runs + [served.start("count", events=3, every=0.0) for _ in range(5)]


def all_over(served: Served, runs: list[str]) -> bool:
    told = served.ask("GET", "/runs?limit=200")[1]["runs"]
    return {run["id"] for run in told if run["state"] in TERMINAL} >= set(runs)
