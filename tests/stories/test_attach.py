"""Work that happens elsewhere: killed and done again, replaced, cut off; each event once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tailrace
from tailrace.errors import RunEnded
from tests.apps.elsewhere import FENCED
from tests.processes import ROOT, START_SECONDS, Served, serving, until

pytestmark = pytest.mark.slow

ROWS = 2000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving("tailrace", tmp_path / "log.db") as served:
        yield served


def url(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


@contextlib.contextmanager
def worker(
    served: Served, run: str, rows: int = ROWS, *, epoch: int = 0, pace: float = 0.001
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker's process, until the block ends."""
    words = [url(served), run, str(rows), str(epoch), str(pace)]
    process = subprocess.Popen([sys.executable, "-m", "tests.apps.elsewhere", *words], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rows(served: Served, run: str) -> list[dict[str, Any]]:
    """What its rows say, in the order of the log."""
    found: list[dict[str, Any]] = []
    after = "0"
    while True:
        status, page = served.ask("GET", f"/runs/{run}/events?format=json&after={after}")
        assert status == 200
        if not page["events"]:
            return found
        found += [event["data"] for event in page["events"] if event["type"] == "row"]
        after = page["next"]


def numbers(served: Served, run: str) -> list[int]:
    return [row["n"] for row in rows(served, run)]


def last(served: Served, run: str) -> int:
    return int(served.show(run)["last_event_id"])


def reach(served: Served, run: str, wanted: float, within: float = START_SECONDS) -> None:
    """Wait until so many events are kept: the moment is the point, more of them are under way."""
    until(lambda: last(served, run) > wanted, f"{run} has {wanted:g} events", within)


def ended(served: Served, run: str, within: float = 30.0) -> dict[str, Any]:
    until(lambda: served.show(run)["ended_at"] is not None, f"{run} has ended", within)
    return served.show(run)


# --- killed, and done again ----------------------------------------------------------------


def test_work_that_is_killed_and_done_again_is_told_once(served: Served) -> None:
    run = served.start("elsewhere")
    for share in (0.1, 0.3, 0.5, 0.8):
        with worker(served, run) as process:
            reach(served, run, share * ROWS)
            assert process.poll() is None
    with worker(served, run) as process:
        assert process.wait(60) == 0
    shown = ended(served, run)
    assert (shown["state"], shown["result"]) == ("completed", ROWS)
    assert numbers(served, run) == list(range(1, ROWS + 1))


def test_a_zombie_is_shut_out_by_who_took_its_place(served: Served) -> None:
    run = served.start("elsewhere")
    with worker(served, run) as zombie:
        reach(served, run, 100)
        zombie.send_signal(signal.SIGSTOP)
        with worker(served, run, 100_000, epoch=1) as heir:
            until(
                lambda: rows(served, run)[-1]["epoch"] == 1, "another is under way", START_SECONDS
            )
            zombie.send_signal(signal.SIGCONT)
            assert zombie.wait(30) == FENCED
            heir.kill()
    told = [(row["epoch"], row["n"]) for row in rows(served, run)]
    before = sum(epoch == 0 for epoch, _ in told)
    assert 100 <= before < ROWS
    assert told[:before] == [(0, n) for n in range(1, before + 1)]
    assert told[before:] == [(1, n) for n in range(1, len(told) - before + 1)]
    served.ask("POST", f"/runs/{run}/cancel")


# --- the server goes away, and comes back --------------------------------------------------


def test_through_restarts_of_the_server(tmp_path: Path) -> None:
    log, go = tmp_path / "log.db", tmp_path / "go"
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "wait.sh").write_text(f"while [ ! -e {go} ]; do sleep 0.02; done\n")
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving("tailrace", log, survives=True))
        # A run that outlives its server.
        run = served.start("script", file="wait.sh")
        is_over = threading.Event()

        def work() -> None:
            with tailrace.attach(url(served), run) as attached:
                for number in range(1, ROWS + 1):
                    attached.emit("row", n=number)
                    time.sleep(0.001)
                attached.flush()
                is_over.set()

        working = threading.Thread(target=work)
        working.start()
        for share in (0.1, 0.4, 0.6):
            reach(served, run, share * ROWS)
            served.kill()
            served = stack.enter_context(serving("tailrace", log, port=served.port, survives=True))
        working.join(30)
        assert is_over.is_set()
        assert served.show(run)["attempt"] == 4
        go.touch()
        assert ended(served, run)["state"] == "completed"
        assert numbers(served, run) == list(range(1, ROWS + 1))


# --- asynchronously ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_coroutines_tell_and_hear_of_the_end(served: Served) -> None:
    runs = [served.start("elsewhere") for _ in range(5)]

    async def work(run: str) -> None:
        async with tailrace.attach(url(served), run) as attached:
            async for number in attached.track(range(1, 301), "Counting"):
                attached.emit("row", n=number)
                await attached.ebb()
            await attached.drain()
            assert (await asyncio.to_thread(served.show, run))["progress"]["current"] == 300
            attached.emit("done", result=run)

    await asyncio.gather(*map(work, runs))
    for run in runs:
        assert (await asyncio.to_thread(ended, served, run))["result"] == run
        assert numbers(served, run) == list(range(1, 301))


@pytest.mark.anyio
async def test_a_cancel_reaches_work_elsewhere(served: Served) -> None:
    run = served.start("elsewhere")
    seen: list[int] = []

    async def work() -> None:
        async with tailrace.attach(url(served), run) as attached:
            async for number in attached.track(range(1_000_000)):
                seen.append(number)
                attached.emit("row", n=number)
                await asyncio.sleep(0.001)

    working = asyncio.create_task(work())
    await asyncio.to_thread(reach, served, run, 50)
    assert served.ask("POST", f"/runs/{run}/cancel")[0] == 202
    with pytest.raises(RunEnded):
        await asyncio.wait_for(working, 5)
    shown = await asyncio.to_thread(ended, served, run)
    assert shown["state"] == "cancelled"
    told = numbers(served, run)
    assert told == seen[: len(told)]


def test_a_silent_worker_hears_of_a_cancel(served: Served) -> None:
    run = served.start("elsewhere")
    with tailrace.attach(url(served), run) as attached:
        assert served.ask("POST", f"/runs/{run}/cancel")[0] == 202
        assert attached.wait_cancelled(10)
        # Too late to tell, and nobody is blamed for it.
        attached.log("cleaned up")


# --- how much it costs ---------------------------------------------------------------------


def test_ten_thousand_events_a_second(served: Served) -> None:
    run = served.start("elsewhere")
    count, rate = 30_000, 10_000
    cpu, began = time.process_time(), time.monotonic()
    with tailrace.attach(url(served), run) as attached:
        for number in range(1, count + 1):
            attached.emit("row", n=number, text="some words to read")
            if number % 100 == 0:
                ahead = began + number / rate - time.monotonic()
                if ahead > 0:
                    time.sleep(ahead)
    took, spent = time.monotonic() - began, time.process_time() - cpu
    print(f"{count / took:,.0f} events/s, {1e6 * spent / count:.1f} µs of CPU each")
    assert numbers(served, run) == list(range(1, count + 1))
    assert took < 30
    served.ask("POST", f"/runs/{run}/cancel")
