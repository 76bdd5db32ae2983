from __future__ import annotations

import asyncio
import time as real
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI, Request, Response

from tailrace import (
    EventSourceResponse,
    Retention,
    RunContext,
    State,
    Tailrace,
    TailraceError,
    time,
)
from tailrace.protocol.wire import HEARTBEAT_SECONDS, WRITE_DEADLINE_SECONDS
from tailrace.testing import ManualClock, StreamClient, assert_events
from tests.waiting import soon, turns

pytestmark = pytest.mark.anyio

BEGAN = 1_700_000_000.0


async def silent() -> AsyncIterator[str]:
    yield "hello"
    await asyncio.Event().wait()


async def every(seconds: float, told: list[float]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(seconds)
        told.append(round(loop.time() - began, 3))


# --- the loop --------------------------------------------------------------------------


async def test_whoever_sleeps_wakes_in_order_and_as_often_as_it_would() -> None:
    fast: list[float] = []
    slow: list[float] = []
    with ManualClock() as clock:
        tasks = [asyncio.create_task(every(1, fast)), asyncio.create_task(every(7, slow))]
        await asyncio.sleep(0)
        await clock.advance(60)
        assert fast == [float(n) for n in range(1, 61)]
        assert slow == [7.0 * n for n in range(1, 9)]
        await clock.advance(2.5)
        await clock.advance(0.5)
        assert len(fast) == 63
        assert len(slow) == 9
    for task in tasks:
        task.cancel()


async def test_timeouts_come_when_they_are_due() -> None:
    with ManualClock() as clock:
        waiting = asyncio.create_task(asyncio.wait_for(asyncio.Event().wait(), 10))
        await clock.advance(8)
        assert not waiting.done()
        await clock.advance(2)
        with pytest.raises(TimeoutError):
            await waiting


async def test_no_other_time_passes_meanwhile() -> None:
    spent: list[float] = []

    async def work() -> None:
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time(), time.monotonic()
        until = real.monotonic() + 0.02
        while real.monotonic() < until:
            pass
        spent.extend([asyncio.get_running_loop().time() - began[0], time.monotonic() - began[1]])

    loop = asyncio.get_running_loop()
    with ManualClock() as clock:
        working = asyncio.create_task(work())
        began = loop.time(), time.monotonic()
        await clock.advance(5)
        await working
        assert spent == [0, 0]
        assert loop.time() - began[0] == pytest.approx(5, abs=2)
        assert time.monotonic() - began[1] == pytest.approx(5, abs=2)


async def test_time_goes_on_by_itself() -> None:
    with ManualClock() as clock:
        began = clock.monotonic()
        await soon(asyncio.sleep(0.02))
        assert 0.02 <= clock.monotonic() - began < 5


@pytest.mark.parametrize("pause", [0, 1e-9])
async def test_who_never_rests_does_not_keep_it(pause: float) -> None:
    async def restless() -> None:
        while True:
            await asyncio.sleep(pause)

    with ManualClock() as clock:
        task = asyncio.create_task(restless())
        await soon(clock.advance(0.1))
    task.cancel()


async def test_what_fails_meanwhile_leaves_the_clock_running() -> None:
    with ManualClock() as clock:
        advancing = asyncio.create_task(clock.advance(1e9))
        keeping = asyncio.create_task(every(1, []))
        await turns(50)
        advancing.cancel()
        await asyncio.wait((advancing,))
        keeping.cancel()
        began = clock.monotonic()
        await soon(asyncio.sleep(0.01))
        assert clock.monotonic() > began


# --- Tailrace's own times ----------------------------------------------------------------


async def test_signs_of_life() -> None:
    app = FastAPI()

    @app.get("/")
    async def quiet() -> EventSourceResponse:
        return EventSourceResponse(silent())

    with ManualClock() as clock:
        async with StreamClient(app) as client, client.stream("GET", "/") as stream:
            await stream.next()
            await clock.advance(HEARTBEAT_SECONDS - 1)
            assert "keep-alive" not in stream.comments
            await clock.advance(2)
            assert stream.comments.count("keep-alive") == 1
            await clock.advance(4 * (HEARTBEAT_SECONDS + 0.25))
            assert stream.comments.count("keep-alive") == 5


async def test_who_does_not_read_is_cut() -> None:
    app = FastAPI()

    @app.get("/")
    async def loud() -> EventSourceResponse:
        return EventSourceResponse(loudly())

    async def loudly() -> AsyncIterator[str]:
        while True:
            yield "x"
            await asyncio.sleep(1)

    with ManualClock() as clock:
        async with StreamClient(app) as client, client.stream("GET", "/") as stream:
            await stream.next()
            stream.stall()
            await clock.advance(WRITE_DEADLINE_SECONDS - 2)
            assert not stream.has_left
            await clock.advance(4)
            assert stream.has_left


@pytest.fixture
async def runs() -> AsyncIterator[Tailrace]:
    async with Tailrace("memory:", grace=0.1) as runs:
        yield runs


async def sleep(run: RunContext, seconds: float = 1e6) -> str:
    run.log("I sleep")
    await run.drain()
    await asyncio.sleep(seconds)
    return "awake"


async def test_runs_are_stamped_with_its_date(runs: Tailrace) -> None:
    work = runs.operation(sleep)
    with ManualClock(BEGAN) as clock:
        run = await work.start(seconds=90)
        await clock.advance(30)
        await clock.advance(60)
        record = await soon(run.wait())
        assert clock.time() == BEGAN + 90
    assert (record.created_at, record.started_at) == (BEGAN, BEGAN)
    assert record.ended_at == pytest.approx(BEGAN + 90, abs=0.5)
    began = {"timestamp": "2023-11-14T22:13:20.000Z"}
    took = {"duration_seconds": pytest.approx(90, abs=0.5)}
    await assert_events(run, [("start", began), ("log", began), ("complete", took)])


async def test_a_run_s_timeout(runs: Tailrace) -> None:
    work = runs.operation(timeout=600)(sleep)
    with ManualClock() as clock:
        run = await work.start()
        await clock.advance(599)
        assert (await run.record()).state is State.RUNNING
        await clock.advance(1.01)
        assert (await soon(run.wait())).state is State.TIMED_OUT
    await assert_events(
        run, ["start", "log", ("error", {"duration_seconds": pytest.approx(600, abs=0.5)})]
    )


async def test_a_run_that_nobody_watches(runs: Tailrace) -> None:
    work = runs.operation(abandon_after=10)(sleep)
    with ManualClock() as clock:
        run = await work.start()
        await clock.advance(9)
        assert (await run.record()).state is State.RUNNING
        await clock.advance(3)
        assert (await soon(run.wait())).state is State.CANCELLED


async def test_ticks_tell_the_time_that_was_made(runs: Tailrace) -> None:
    runs.operation(sleep)
    app = FastAPI(lifespan=runs.lifespan)

    @app.get("/")
    async def start(request: Request) -> Response:
        return await runs.stream("sleep", request, tick=2)

    with ManualClock() as clock:
        async with StreamClient(app) as client, client.stream("GET", "/") as stream:
            await stream.until("log")
            await clock.advance(10)
            ticks = [event.json["elapsed_seconds"] for event in stream.events[2:]]
            assert len(ticks) == 4
            assert ticks == sorted(ticks)
            assert 8 <= ticks[-1] <= 10


async def test_a_cancel_is_stamped_as_well(runs: Tailrace) -> None:
    work = runs.operation(sleep)
    with ManualClock(BEGAN) as clock:
        run = await work.start()
        await clock.advance(5)
        await run.cancel()
        assert (await soon(run.wait())).ended_at == BEGAN + 5.0


async def test_old_runs_are_forgotten() -> None:
    async with Tailrace("memory:", retention=Retention(max_age=3600.0), grace=0.1) as runs:
        work = runs.operation(sleep)
        with ManualClock() as clock:
            run = await work.start(seconds=0)
            await soon(run.wait())
            await clock.advance(3500)
            await run.record()
            await clock.advance(200)
            with pytest.raises(TailraceError, match="There is no run"):
                await run.record()


async def test_one_engine_lives_through_several_clocks(runs: Tailrace) -> None:
    work = runs.operation(sleep)
    for _ in range(3):
        with ManualClock() as clock:
            async with StreamClient(runs.asgi) as client:
                run = await work.start()
                async with client.stream("GET", f"/runs/{run.id}/events") as stream:
                    await stream.until("log")
                    await clock.advance(16)
                    assert stream.comments.count("keep-alive") == 1
                    await clock.advance(1000)


# --- entering and leaving ------------------------------------------------------------------


async def test_it_is_taken_back() -> None:
    loop = asyncio.get_running_loop()
    with ManualClock() as clock:
        await clock.advance(100)
        assert time.time() == clock.time()
        ahead = loop.time() - real.monotonic()
    assert ahead == pytest.approx(100, abs=1)
    assert (time.monotonic, time.time) == (real.monotonic, real.time)
    assert loop.time() - real.monotonic() == pytest.approx(ahead, abs=1), "it never goes back"
    with pytest.raises(TailraceError, match="not in use"):
        await clock.advance(1)
    with ManualClock() as again:
        await again.advance(100)
        assert loop.time() - real.monotonic() == pytest.approx(200, abs=1)
        assert time.monotonic() - real.monotonic() == pytest.approx(100, abs=1)


async def test_there_is_one_at_a_time() -> None:
    with (
        ManualClock(),
        pytest.raises(TailraceError, match="Another ManualClock") as refused,
        ManualClock(),
    ):
        pass
    assert refused.value.fix
    assert time.time is real.time


@pytest.mark.parametrize("seconds", [-1, float("nan")])
async def test_it_is_not_set_back(seconds: float) -> None:
    with ManualClock() as clock, pytest.raises(ValueError, match="set forward"):
        await clock.advance(seconds)


def test_it_belongs_to_a_loop() -> None:
    with pytest.raises(TailraceError, match="none is running"), ManualClock():
        pass


def test_a_loop_with_a_time_of_its_own_is_refused() -> None:
    async def enter() -> None:
        with ManualClock():
            pass

    loop: Any = uvloop.new_event_loop()
    try:
        with pytest.raises(TailraceError, match=r"uvloop\.Loop cannot be set"):
            loop.run_until_complete(enter())
    finally:
        loop.close()
