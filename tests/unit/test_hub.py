from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace import clock, rounds
from tailrace.errors import CursorFromFuture, LogFull, RunUnknown
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.hub import Hub
from tailrace.outlet import End
from tailrace.projections import stream
from tailrace.protocol.cursor import Cursor, Kind
from tailrace.protocol.runs import RunRecord
from tailrace.protocol.sse import Decoder
from tailrace.subscription import Subscription
from tailrace.testing.logbook import ended, ending, kept, logs, new_run, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

EVENTS = stream("events")
START = Cursor(0, 0)


class Connected:
    def __init__(self) -> None:
        self.beats: list[float] = []
        self.farewells: list[bool] = []
        self.fault: Exception | None = None

    def beat(self, now: float) -> float | None:
        self.beats.append(now)
        if self.fault is not None:
            raise self.fault
        return now

    def leave(self) -> None:
        self.farewells.append(True)


@pytest.fixture
async def log() -> AsyncIterator[FaultyLog]:
    async with using(MemoryLog()) as log:
        yield FaultyLog(log)


@pytest.fixture
async def hub(log: FaultyLog) -> AsyncIterator[Hub]:
    hub = Hub(log)
    log.listen(hub.publish)
    hub.begin()
    yield hub
    hub.end()


async def read(reader: Subscription) -> list[int]:
    told = b"".join([chunk async for chunk in reader])
    return [int(event.id) for event in Decoder().feed(told)]


def tell(log: EventLog, run: str, count: int = 1) -> asyncio.Future[object]:
    return log.append(Append(run, logs(count)))  # type: ignore[return-value]


# --- subscriptions ---------------------------------------------------------------------


async def test_history_then_live(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    await tell(log, run, 2)
    async with hub.subscribe(run, Cursor(0, 1), EVENTS) as (reader, start):
        assert (start.kind, start.after) == (Kind.REPLAY, 1)
        reading = asyncio.create_task(read(reader))
        await turns()
        await tell(log, run)
        await log.append(ending(run))
        assert await soon(reading) == [2, 3, 4]
    assert reader.end is End.FINISHED


async def test_latest_is_from_now_on(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    await tell(log, run, 5)
    async with hub.subscribe(run, "latest", EVENTS) as (reader, start):
        assert (start.kind, start.after) == (Kind.LIVE, 5)
        await tell(log, run)
        await log.append(ending(run))
        assert await soon(read(reader)) == [6, 7]


async def test_a_finished_run_is_replayed_and_not_followed(hub: Hub, log: FaultyLog) -> None:
    run = await ended(log, 1.0)
    async with hub.subscribe(run, START, EVENTS) as (reader, _), hub.channel(run) as (channel, _):
        assert not channel.is_followed
        assert await soon(read(reader)) == [1]
    async with hub.subscribe(run, Cursor(0, 1), EVENTS) as (reader, start):
        assert start.kind is Kind.FINISHED
        assert await soon(read(reader)) == []


async def test_what_is_not_there_leaves_nothing_behind(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    with pytest.raises(RunUnknown):
        async with hub.subscribe(new_run().id, START, EVENTS):
            pass
    with pytest.raises(CursorFromFuture):
        async with hub.subscribe(run, Cursor(0, 1), EVENTS):
            pass
    log.read_faults.append(LogFull("no"))
    with pytest.raises(LogFull):
        async with hub.subscribe(run, START, EVENTS):
            pass
    assert hub.channels == 0


async def test_watchers_share_a_channel_and_the_last_one_closes_it(
    hub: Hub, log: FaultyLog
) -> None:
    run = await started(log)
    async with contextlib.AsyncExitStack() as stack:
        readers = [
            (await stack.enter_async_context(hub.subscribe(run, START, EVENTS)))[0]
            for _ in range(3)
        ]
        assert (hub.channels, hub.watchers(run)) == (1, 3)
        await tell(log, run)
        chunks = [await soon(reader.pull()) for reader in readers]
        assert chunks[0]
        assert all(chunk is chunks[0] for chunk in chunks)
    assert (hub.channels, hub.watchers(run)) == (0, 0)
    assert {reader.end for reader in readers} == {End.LEFT}
    await tell(log, run)
    async with hub.subscribe(run, START, EVENTS) as (reader, _):
        await log.append(ending(run))
        assert await soon(read(reader)) == [1, 2, 3]


async def test_many_come_at_once(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)

    async def watch() -> list[int]:
        async with hub.subscribe(run, START, EVENTS) as (reader, _):
            return await read(reader)

    watching = [asyncio.create_task(watch()) for _ in range(20)]
    for _ in range(5):
        await tell(log, run)
        await asyncio.sleep(0)
    await log.append(ending(run))
    assert await soon(asyncio.gather(*watching)) == [[1, 2, 3, 4, 5, 6]] * 20


async def test_what_is_committed_while_one_subscribes(hub: Hub, log: FaultyLog) -> None:
    """Between the snapshot and the following, and in the turn in between."""
    run = await started(log)

    class Early(FaultyLog):
        async def get(self, run: str) -> RunRecord | None:
            record = await super().get(run)
            await tell(self.inner, run)
            return record

    early = Hub(Early(log.inner))
    log.listen(early.publish)
    async with early.subscribe(run, START, EVENTS) as (reader, _):
        reading = asyncio.create_task(read(reader))
        await turns()
        await log.append(ending(run))
        assert await soon(reading) == [1, 2]


async def test_a_run_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with using(SqliteLog(path)) as here, using(SqliteLog(path)) as there:
        hub = Hub(here)
        here.listen(hub.publish)
        run = await started(there)
        await tell(there, run, 2)
        async with hub.subscribe(run, START, EVENTS) as (one, _):
            first = asyncio.create_task(read(one))
            for _ in range(10):
                await tell(there, run)
                # Whoever comes reads a snapshot that is ahead of what was heard here.
                async with hub.subscribe(run, "latest", EVENTS):
                    pass
            await there.append(ending(run))
            async with hub.subscribe(run, START, EVENTS) as (two, _):
                assert await soon(read(two)) == list(range(1, 14))
            assert await soon(first) == list(range(1, 14))


async def test_blocks_of_runs_nobody_watches_are_nothing(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    log.follow(run, 0)
    await tell(log, run)
    await turns()
    assert hub.channels == 0
    assert len(await kept(log, run)) == 1


# --- who is watched --------------------------------------------------------------------


async def test_only_those_whose_owner_wants_to_know(hub: Hub, log: FaultyLog) -> None:
    asked = await started(log, abandon_after=5.0)
    other = await started(log)
    over = await ended(log, 1.0, abandon_after=5.0)
    async with contextlib.AsyncExitStack() as stack:
        for run in (asked, other, over):
            await stack.enter_async_context(hub.subscribe(run, START, EVENTS))
        assert hub.watched() == [asked]
        # At once, though nobody waits for it: another process may be about to give it up.
        await until(lambda: log.touched == [asked])
        record = await log.get(asked)
        assert record is not None
        assert record.watched_at is not None
    assert hub.watched() == []


async def test_a_note_that_cannot_be_written_harms_no_watcher(hub: Hub) -> None:
    class Full(FaultyLog):
        async def touch(self, *_: object) -> None:
            raise LogFull("no space")

    async with using(MemoryLog()) as log:
        full = Hub(Full(log))
        run = await ended(log, 1.0, abandon_after=5.0)
        also = await started(log, abandon_after=5.0)
        for one in (run, also):
            async with full.subscribe(one, START, EVENTS) as (reader, _):
                assert reader.end is None


# --- the one timer ---------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(rounds, "BEAT_SECONDS", 0.001)


@pytest.mark.usefixtures("quick")
async def test_the_timer_beats_for_all_and_stops_with_the_last(hub: Hub) -> None:
    one, two = Connected(), Connected()
    hub.connect(one)
    hub.connect(two)
    assert hub.connections == 2
    await until(lambda: len(one.beats) >= 3 and len(two.beats) >= 3)
    assert one.beats == sorted(one.beats)
    hub.disconnect(one)
    hub.disconnect(one)
    seen = len(one.beats)
    await until(lambda: len(two.beats) >= 6)
    assert len(one.beats) == seen
    hub.disconnect(two)
    assert hub.is_idle
    await until(lambda: hub.clock._timer is None)
    hub.connect(one)
    await until(lambda: len(one.beats) > seen)
    hub.disconnect(one)


@pytest.mark.usefixtures("quick")
async def test_one_fault_does_not_stop_the_timer(hub: Hub) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, why: told.append(why["exception"]))
    faulty = Connected()
    faulty.fault = ZeroDivisionError()
    hub.connect(faulty)
    await until(lambda: len(faulty.beats) >= 3)
    hub.disconnect(faulty)
    asyncio.get_running_loop().set_exception_handler(None)
    assert set(told) == {faulty.fault}


@pytest.mark.usefixtures("quick")
async def test_a_sign_of_the_server_ends_every_stream(hub: Hub) -> None:
    signs = [False]
    hub.begin([lambda: signs[0]])
    connected = Connected()
    hub.connect(connected)
    await until(lambda: len(connected.beats) >= 2)
    assert connected.farewells == []
    signs[0] = True
    await until(lambda: connected.farewells)
    assert hub.is_draining
    seen = len(connected.beats)
    await until(lambda: len(connected.beats) > seen)
    assert connected.farewells == [True]
    late = Connected()
    hub.connect(late)
    assert late.farewells == [True]
    for one in (connected, late):
        hub.disconnect(one)


async def test_a_reader_in_this_process_outlives_the_streams(hub: Hub, log: FaultyLog) -> None:
    """Its run still comes to its end, and it hears of it."""
    run = await started(log)
    hub.drain()
    async with hub.subscribe(run, START, EVENTS) as (reader, _):
        reading = asyncio.create_task(read(reader))
        await turns()
        await log.append(ending(run))
        assert await soon(reading) == [1]


# --- begin and end ---------------------------------------------------------------------


async def test_the_end_lets_readers_go(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    async with hub.subscribe(run, START, EVENTS) as (reader, _):
        reading = asyncio.create_task(read(reader))
        await turns()
        hub.end()
        assert await soon(reading) == []
        assert reader.end is End.SHUTDOWN
        assert hub.channels == 0


@pytest.mark.usefixtures("quick")
async def test_it_begins_again(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    connected = Connected()
    hub.connect(connected)
    async with hub.subscribe(run, START, EVENTS) as (old, _):
        hub.drain()
        hub.end()
        await log.close()
        hub.disconnect(connected)
        await log.open()
        hub.begin()
        assert not hub.is_draining
        # One whom the old reader, still there, must not deprive of its channel.
        async with hub.subscribe(run, START, EVENTS) as (new, _):
            reading = asyncio.create_task(read(new))
            await turns()
            await tell(log, run)
            await turns()
            assert hub.watchers(run) == 1
            await log.append(ending(run))
            assert await soon(reading) == [1, 2]
    assert old.end is End.SHUTDOWN
    assert hub.channels == 0
    hub.connect(connected)
    seen = len(connected.beats)
    await until(lambda: len(connected.beats) > seen + 1)
    hub.disconnect(connected)
