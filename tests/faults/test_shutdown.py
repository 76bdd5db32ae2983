"""P9: SIGTERM with open streams ends each of them properly, on every server."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tailrace.engine import Engine
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.runs import RunRecord
from tests.processes import DIRECT, ONE_OF_EACH, SERVERS, Served, eventually, serving
from tests.watching import Stalled, Watcher, drip, stuck, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

STREAMS = 100
GRACE_SECONDS = 10.0
OPENING = b": tailrace\nretry: 1000\n"
CLOSING = b"retry: 500\n: end\n"

# What no server writes when all is well.
TROUBLE = ("Traceback", "Exception", "was never awaited", "was destroyed", "ResourceWarning")


async def stop(served: Served, party: Sequence[Watcher]) -> None:
    """SIGTERM; wait for the streams and the process, and say how long they took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    served.terminate()
    ends: list[float] = []

    async def over(watcher: Watcher) -> None:
        await watcher.over(GRACE_SECONDS)
        ends.append(loop.time() - began)

    await asyncio.gather(*map(over, party))
    left = GRACE_SECONDS - (loop.time() - began)
    await eventually(lambda: served.process.poll() is not None, "the process has ended", left)
    print(
        f"{served.kind}: {len(party)} streams over after {max(ends, default=0):.2f} s, "
        f"the process after {loop.time() - began:.2f} s, code {served.process.returncode}"
    )


def check_ended_properly(served: Served) -> None:
    # uvicorn raises the signal again when it is done.
    assert served.process.returncode in (0, -signal.SIGTERM)
    assert [word for word in TROUBLE if word in served.log] == [], served.log


async def kept(log: Path, run: str) -> tuple[RunRecord, bytes]:
    """What the file says of a run, and all of its events as they are sent."""
    store = SqliteLog(log)
    await store.open()
    try:
        record = await store.get(run)
        assert record is not None
        blocks = await store.read(run, 0, 1 << 30)
        return record, b"".join(block.wire for block in blocks)
    finally:
        await store.close()


async def check_goodbyes(party: Sequence[Watcher], log: Path, run: str, seen: int) -> None:
    """Every stream: its last chunk, the hint, and all that was committed before the signal."""
    _, wire = await kept(log, run)
    for watcher in party:
        assert watcher.is_complete, watcher
        body = bytes(watcher.body)
        assert body.startswith(OPENING), watcher
        assert body.endswith(CLOSING), watcher
        told = body.removeprefix(OPENING).removesuffix(CLOSING)
        assert wire.startswith(told), watcher
        assert int(watcher.last_event_id) >= seen


async def check_lost(log: Path, run: str) -> None:
    record, wire = await kept(log, run)
    assert (record.state, record.ended_at is not None) == ("lost", True)
    assert wire.count(b'"reason":"lost"') == 1


@pytest.mark.parametrize("kind", SERVERS)
async def test_every_stream_gets_its_goodbye(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log) as served:
        run = served.start("count", events=100_000, every=0.005)
        thread = served.start("count_in_thread", events=100_000, every=0.05)
        async with watchers() as party:
            for _ in range(STREAMS):
                party.append(await Watcher.open(served.port, served.events_of(run)))
            await asyncio.gather(*(watcher.told(b"event: count") for watcher in party))
            seen = int(served.show(run)["last_event_id"])
            await stop(served, party)
            await check_goodbyes(party, log, run, seen)
        check_ended_properly(served)
    await check_lost(log, run)
    await check_lost(log, thread)


@pytest.mark.parametrize(
    "kind", [*DIRECT, "uvicorn", "uvicorn-asyncio", "thread", "granian", "hypercorn"]
)
@pytest.mark.parametrize("shape", ["alone", "wrapped"])
async def test_one_who_does_not_read_holds_up_nobody(kind: str, shape: str, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log, shape=shape) as served:
        run = served.start("count", events=100_000, every=0.02)
        big = served.start("burst", events=50_000, hold=True)
        await eventually(lambda: served.show(big)["last_event_id"] == "50002", "written", 30)
        async with watchers() as party:
            for _ in range(20):
                party.append(await Watcher.open(served.port, served.events_of(run)))
            idle = [Stalled(served.port, served.events_of(big)) for _ in range(3)]
            try:
                await stuck(idle)
                await asyncio.gather(*(watcher.told(b"event: count") for watcher in party))
                seen = int(served.show(run)["last_event_id"])
                await stop(served, party)
            finally:
                for connection in idle:
                    connection.close()
            await check_goodbyes(party, log, run, seen)
        check_ended_properly(served)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
async def test_nor_one_with_little_left_to_read(kind: str, tmp_path: Path) -> None:
    """Its kernel buffer is full, but what the server holds is below its mark: no send waits."""
    with serving(kind, tmp_path / "log.db") as served:
        run = served.start("burst", events=1, hold=True)
        connection = Stalled(served.port, served.events_of(run))
        try:
            await drip(connection, lambda count: append(served, run, count))
            await stop(served, ())
        finally:
            connection.close()
        check_ended_properly(served)


def append(served: Served, run: str, count: int) -> None:
    event = {"type": "drip", "data": {"text": "x" * 30_000}}
    for start in range(0, count, 25):
        events = [event] * min(25, count - start)
        status, told = served.ask("POST", f"/runs/{run}/events", {"events": events})
        assert status == 200, told


@pytest.mark.parametrize("kind", [*DIRECT, "uvicorn", "thread", "granian", "hypercorn"])
@pytest.mark.parametrize("shape", ["mounted", "unwired", "wrapped"])
async def test_mounted_in_a_host(kind: str, shape: str, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log, shape=shape) as served:
        run = served.start("burst", events=3, hold=True)
        headers = {"accept-encoding": "gzip", "origin": "https://page.example"}
        async with watchers() as party:
            for _ in range(20):
                party.append(
                    await Watcher.open(served.port, served.events_of(run), headers=headers)
                )
            # The run tells nothing more: whoever buffers would hold this back.
            await asyncio.gather(*(watcher.told(b"event: held") for watcher in party))
            assert "content-encoding" not in party[0].headers
            if shape == "wrapped":
                assert party[0].headers["access-control-allow-origin"] == "https://page.example"
            seen = int(served.show(run)["last_event_id"])
            await stop(served, party)
            await check_goodbyes(party, log, run, seen)
        check_ended_properly(served)
    if shape == "unwired":
        # Nobody closed the engine. Whoever opens the log next finds what is left.
        async with Engine(log):
            pass
    await check_lost(log, run)


@pytest.mark.parametrize("kind", ["thread", "hypercorn"])
async def test_stubborn_work_does_not_keep_an_unwired_host(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log, shape="unwired") as served:
        script = tmp_path / "scripts" / "stubborn.sh"
        script.write_text("trap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
        run = served.start("script", file=script.name)
        async with watchers() as party:
            party.append(await Watcher.open(served.port, served.events_of(run)))
            await party[0].told(b"ready")
            await stop(served, party)
        check_ended_properly(served)
    async with Engine(log):
        pass
    await check_lost(log, run)


async def test_uvicorn_that_has_served_its_maximum(tmp_path: Path) -> None:
    """It ends without should_exit, and without a signal."""
    with serving("uvicorn-limited", tmp_path / "log.db") as served:
        run = served.start("burst", events=3, hold=True)
        async with watchers() as party:
            party.append(await Watcher.open(served.port, served.events_of(run)))
            await party[0].told(b"event: held")

            def is_over() -> bool:
                if not party[0].is_complete and served.process.poll() is None:
                    with contextlib.suppress(OSError):
                        served.ask("GET", "/healthz")
                return party[0].is_complete

            await eventually(is_over, "the stream has ended")
            assert party[0].body.endswith(CLOSING)
            await eventually(lambda: served.process.poll() is not None, "uvicorn has ended")
        check_ended_properly(served)
