from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tailrace import outbox as outboxes
from tailrace.errors import (
    BufferFull,
    LogClosed,
    LogCorrupt,
    LogFull,
    RunEnded,
    TailraceError,
    WriterFenced,
)
from tailrace.eventlog.contract import Append, Commit
from tailrace.eventlog.memory import MemoryLog
from tailrace.outbox import HIGH_WATER_BYTES, LIMIT_BYTES, Outbox
from tailrace.protocol.events import Draft, draft
from tailrace.testing.logbook import ending, kept, record, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until, until_here

pytestmark = pytest.mark.anyio

LARGE = b'{"message":"%b"}' % (b"x" * 200_000)


def said(number: int) -> Draft:
    return draft("log", {"message": str(number)}, 0.0)


class Scene:
    def __init__(self, log: FaultyLog, run: str) -> None:
        self.log = log
        self.run = run
        self.refusals: list[TailraceError] = []
        self.outbox = Outbox(log, run, 0, self.refusals.append)
        log.offered.clear()

    async def messages(self) -> list[str]:
        return [event.payload["message"] for event in await kept(self.log, self.run)]

    @property
    def batches(self) -> list[int]:
        return [len(append.drafts) for append in self.log.offered]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with using(MemoryLog()) as inner:
        log = FaultyLog(inner)
        scene = Scene(log, await started(log))
        yield scene
        scene.outbox.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_SECONDS", 0.001)


@contextlib.contextmanager
def thread(work: Any) -> Iterator[threading.Thread]:
    """A thread that must have ended by the end of the block."""
    running = threading.Thread(target=work, daemon=True)
    running.start()
    yield running
    running.join(10.0)
    assert not running.is_alive()


# --- order and batches -----------------------------------------------------------------


async def test_what_is_put_is_kept_in_order(scene: Scene) -> None:
    for number in range(5):
        scene.outbox.put(said(number))
    await soon(scene.outbox.drain())
    scene.outbox.put(said(5))
    await soon(scene.outbox.drain())
    assert await scene.messages() == [str(number) for number in range(6)]
    assert scene.batches == [5, 1]
    assert [append.fence for append in scene.log.offered] == [0, 0]


async def test_what_gathers_during_a_write_goes_with_the_next(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await turns()
    for number in range(1, 8):
        scene.outbox.put(said(number))
        await turns(2)
    assert scene.batches == [1]
    scene.log.release()
    await soon(scene.outbox.drain())
    assert scene.batches == [1, 7]
    assert await scene.messages() == [str(number) for number in range(8)]


async def test_an_idle_one_offers_at_the_next_turn(scene: Scene) -> None:
    scene.outbox.put(said(0))
    assert scene.batches == []
    await asyncio.sleep(0)
    assert scene.batches == [1]


async def test_a_batch_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_BATCH_BYTES", 500_000)
    for _ in range(10):
        scene.outbox.put(Draft("log", LARGE))
    await soon(scene.outbox.drain())
    assert scene.batches == [3, 3, 3, 1]
    assert len(await kept(scene.log, scene.run)) == 10


async def test_the_newest_progress_goes_into_the_snapshot(scene: Scene) -> None:
    newest = draft("progress", {"current": 2}, 0.0)
    for one in (draft("progress", {"current": 1}, 0.0), newest, said(1)):
        scene.outbox.put(one)
    await soon(scene.outbox.drain())
    assert (await record(scene.log, scene.run)).progress == newest.data
    scene.outbox.put(said(2))
    await soon(scene.outbox.drain())
    assert (await record(scene.log, scene.run)).progress == newest.data


async def test_threads_and_the_loop_keep_their_own_order(scene: Scene) -> None:
    def work(name: str) -> None:
        for number in range(300):
            scene.outbox.put(draft("log", {"message": f"{name} {number}"}, 0.0))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for one in threads:
        one.start()
    for number in range(300):
        scene.outbox.put(draft("log", {"message": f"loop {number}"}, 0.0))
        if number % 10 == 0:
            await asyncio.sleep(0)
    await until(lambda: not any(one.is_alive() for one in threads))
    await soon(scene.outbox.drain())
    messages = await scene.messages()
    assert len(messages) == 1200
    for name in ("a", "b", "c", "loop"):
        mine = [message for message in messages if message.startswith(f"{name} ")]
        assert mine == [f"{name} {number}" for number in range(300)]


# --- lingering -------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy run would wait for longer than any test."""
    monkeypatch.setattr(outboxes, "LINGER_SECONDS", 600.0)


async def busy(scene: Scene) -> None:
    """Leave it with one event that lingers."""
    scene.outbox.put(said(0))
    await until(lambda: scene.batches == [1])
    await turns()
    scene.outbox.put(said(1))
    await turns(20)
    assert scene.batches == [1]


async def test_a_busy_one_lingers_and_goes_on_by_itself(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    scene.outbox.put(said(0))
    await turns()
    assert scene.batches == [1]
    for number in range(1, 20):
        scene.outbox.put(said(number))
        await turns(2)
    is_slow_machine = loop.time() - began > outboxes.LINGER_SECONDS
    assert scene.batches == [1] or is_slow_machine
    await until(lambda: sum(scene.batches) == 20)
    assert loop.time() - began >= outboxes.LINGER_SECONDS * 0.9
    assert len(scene.batches) == 2 or is_slow_machine
    assert await scene.messages() == [str(number) for number in range(20)]


@pytest.mark.usefixtures("patient")
async def test_one_that_waits_for_a_write_lingers_after_it(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await turns()
    scene.outbox.put(said(1))
    scene.log.release()
    await turns(20)
    assert scene.batches == [1]
    scene.outbox.put(said(2))
    await turns(20)
    assert scene.batches == [1]
    await soon(scene.outbox.drain())
    assert scene.batches == [1, 2]


@pytest.mark.usefixtures("patient")
async def test_a_drain_does_not_linger(scene: Scene) -> None:
    for number in range(5):
        scene.outbox.put(said(number))
        await soon(scene.outbox.drain())
    scene.outbox.put(said(5))
    await turns()
    assert scene.batches == [1] * 5
    draining = [asyncio.ensure_future(scene.outbox.drain()) for _ in range(2)]
    await turns(2)
    scene.outbox.put(said(6))
    for one in draining:
        await soon(one)
    await soon(scene.outbox.drain())
    assert await scene.messages() == [str(number) for number in range(7)]


@pytest.mark.usefixtures("patient")
async def test_a_drain_from_another_loop_does_not_linger(scene: Scene) -> None:
    await busy(scene)
    with thread(lambda: asyncio.run(scene.outbox.drain())) as running:
        await until(lambda: not running.is_alive())
    assert scene.batches == [1, 1]


@pytest.mark.usefixtures("patient")
async def test_a_seal_does_not_linger(scene: Scene) -> None:
    await busy(scene)
    scene.outbox.seal()
    await until(lambda: scene.batches == [1, 1])
    await soon(scene.outbox.drain())
    assert await scene.messages() == ["0", "1"]


@pytest.mark.usefixtures("patient")
async def test_what_was_put_during_a_write_does_not_linger_when_sealed(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await turns()
    scene.outbox.put(said(1))
    scene.outbox.seal()
    scene.log.release()
    await until(lambda: scene.batches == [1, 1])


@pytest.mark.usefixtures("patient")
async def test_a_full_buffer_does_not_linger(scene: Scene) -> None:
    await busy(scene)
    while not scene.outbox.is_high:
        scene.outbox.put(Draft("log", LARGE))
    await soon(scene.outbox.ebb())
    assert scene.batches[0] == 1
    assert len(scene.batches) == 2


@pytest.mark.usefixtures("patient")
async def test_a_thread_that_fills_the_buffer_does_not_linger(scene: Scene) -> None:
    await busy(scene)
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(40):
            scene.outbox.put(Draft("log", LARGE))
            count += 1

    with thread(work):
        await until(lambda: count == 40)
    await soon(scene.outbox.drain())
    assert len(await kept(scene.log, scene.run)) == 42


@pytest.mark.usefixtures("patient")
async def test_nothing_is_left_of_one_that_was_closed(scene: Scene) -> None:
    await busy(scene)
    scene.outbox.close()
    await turns(20)
    assert scene.batches == [1]
    assert scene.outbox._linger is None


async def test_after_its_rest_it_offers_at_the_next_turn_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(outboxes, "monotonic", lambda: now)
    for number in range(1, 5):
        now += outboxes.LINGER_SECONDS * 1.01
        scene.outbox.put(said(number))
        await asyncio.sleep(0)
        assert scene.batches == [1] * number
        await turns()


# --- back-pressure ---------------------------------------------------------------------


async def test_a_thread_blocks_while_it_is_high_and_goes_on(scene: Scene) -> None:
    scene.log.is_held = True
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(20):
            scene.outbox.put(Draft("log", LARGE))
            count += 1

    with thread(work):
        await until(lambda: scene.outbox.is_high)
        seen = count
        await until(lambda: count == HIGH_WATER_BYTES // len(LARGE) + 1)
        await turns(100)
        assert seen <= count <= HIGH_WATER_BYTES // len(LARGE) + 1
        scene.log.release()
        await until(lambda: count == 20)
        await soon(scene.outbox.drain())
    assert len(await kept(scene.log, scene.run)) == 20
    assert not scene.outbox.is_high


async def test_ebb_waits_only_while_it_is_high(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await soon(scene.outbox.ebb())
    while not scene.outbox.is_high:
        scene.outbox.put(Draft("log", LARGE))
    waiting = asyncio.ensure_future(scene.outbox.ebb())
    await turns()
    assert not waiting.done()
    scene.log.release()
    await soon(waiting)


async def test_on_the_loop_the_buffer_may_be_full(scene: Scene) -> None:
    scene.log.is_held = True
    for _ in range(LIMIT_BYTES // len(LARGE) + 1):
        scene.outbox.put(Draft("log", LARGE))
    with pytest.raises(BufferFull) as full:
        scene.outbox.put(said(0))
    assert "drain()" in full.value.fix
    scene.log.release()
    await soon(scene.outbox.drain())
    scene.outbox.put(said(1))
    await soon(scene.outbox.drain())
    assert len(await kept(scene.log, scene.run)) == LIMIT_BYTES // len(LARGE) + 2


async def test_drain_waits_for_what_was_put_before_only() -> None:
    """Somebody who never stops emitting keeps nobody waiting."""

    class Endless(FaultyLog):
        outbox: Outbox | None = None

        def append(self, append: Append) -> asyncio.Future[Commit]:
            if self.outbox is not None:
                self.outbox.put(said(len(self.offered)))
            return super().append(append)

    async with using(MemoryLog()) as inner:
        log = Endless(inner)
        scene = Scene(log, await started(log))
        log.outbox = scene.outbox
        for number in range(5):
            scene.outbox.put(said(1000 + number))
            await soon(scene.outbox.drain())
            assert str(1000 + number) in await scene.messages()
        scene.outbox.close()


async def test_a_thread_that_never_stops_keeps_nobody_waiting(scene: Scene) -> None:
    is_over = threading.Event()

    def work() -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            scene.outbox.put(said(number))

    with thread(work):
        try:
            await until(lambda: scene.batches)
            for _ in range(5):
                await soon(scene.outbox.drain())
                await soon(scene.outbox.ebb())
        finally:
            is_over.set()


async def test_drain_waits_for_all_that_was_put_before(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await turns()
    scene.outbox.put(said(1))
    draining = asyncio.ensure_future(scene.outbox.drain())
    scene.outbox.put(said(2))
    await turns()
    assert not draining.done()
    scene.log.release()
    await soon(draining)
    assert (await scene.messages())[:2] == ["0", "1"]


async def test_another_loop_may_drain(scene: Scene) -> None:
    """`asyncio.run` in a plain function has a loop of its own."""

    def work() -> None:
        async def main() -> None:
            scene.outbox.put(said(1))
            await scene.outbox.drain()
            await scene.outbox.ebb()

        asyncio.run(main())

    with thread(work) as running:
        await until(lambda: not running.is_alive())
    assert await scene.messages() == ["1"]


async def test_a_cancelled_drain_disturbs_nobody(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    waiting = [asyncio.ensure_future(scene.outbox.drain()) for _ in range(2)]
    await turns()
    waiting[0].cancel()
    await turns()
    scene.log.release()
    await soon(waiting[1])
    assert waiting[0].cancelled()


# --- a log that cannot write for now ---------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [LogFull("no space"), LogCorrupt("damaged")])
async def test_a_log_without_space_loses_nothing(scene: Scene, fault: Exception) -> None:
    scene.log.faults.extend([fault] * 3)
    for number in range(3):
        scene.outbox.put(said(number))
        await turns(2)
    await soon(scene.outbox.drain())
    assert await scene.messages() == ["0", "1", "2"]
    assert not scene.refusals
    assert len(scene.batches) >= 4


@pytest.mark.usefixtures("quick")
async def test_what_comes_meanwhile_stays_behind(scene: Scene) -> None:
    scene.log.faults.append(LogFull("no space"))
    scene.outbox.put(said(0))
    await turns(3)
    scene.log.faults.append(LogFull("no space"))
    scene.outbox.put(said(1))
    await until(lambda: not scene.log.faults)
    scene.outbox.put(said(2))
    await soon(scene.outbox.drain())
    assert await scene.messages() == ["0", "1", "2"]


@pytest.mark.usefixtures("quick")
async def test_it_is_reported_now_and_then(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.log.faults.extend([LogFull("no space", fix="Make some.")] * 25)
    scene.outbox.put(said(0))
    await soon(scene.outbox.drain())
    assert [entry.getMessage() for entry in caplog.records] == [
        f"{scene.run} waits for its log: no space Make some."
    ] * 2


@pytest.mark.usefixtures("quick")
async def test_a_full_log_holds_back_threads(scene: Scene) -> None:
    scene.log.faults.extend([LogFull("no space")] * 10_000)
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(12):
            scene.outbox.put(Draft("log", LARGE))
            count += 1

    with thread(work):
        await until(lambda: scene.outbox.is_high)
        await turns(50)
        assert count < 12
        scene.log.faults.clear()
        await until(lambda: count == 12)
        await soon(scene.outbox.drain())
    assert len(await kept(scene.log, scene.run)) == 12


# --- refused, sealed, closed -----------------------------------------------------------


async def test_a_newer_attempt_refuses_for_good_and_once(scene: Scene) -> None:
    await scene.log.inner.append(Append(scene.run, patch={"attempt": 1}))
    scene.outbox.put(said(0))
    draining = asyncio.ensure_future(scene.outbox.drain())
    with pytest.raises(WriterFenced):
        await soon(draining)
    for _ in range(2):
        with pytest.raises(WriterFenced):
            scene.outbox.put(said(1))
        with pytest.raises(WriterFenced):
            await soon(scene.outbox.drain())
    assert [type(refusal) for refusal in scene.refusals] == [WriterFenced]
    assert await scene.messages() == []


async def test_a_run_that_has_ended_refuses(scene: Scene) -> None:
    await scene.log.append(ending(scene.run))
    scene.outbox.put(said(0))
    with pytest.raises(RunEnded):
        await soon(scene.outbox.drain())
    assert [type(refusal) for refusal in scene.refusals] == [RunEnded]


async def test_a_log_that_was_closed_refuses(scene: Scene) -> None:
    """It will not open again for this run: nobody must wait for that."""
    await scene.log.close()
    scene.outbox.put(said(0))
    with pytest.raises(LogClosed):
        await soon(scene.outbox.drain())
    assert [type(refusal) for refusal in scene.refusals] == [LogClosed]
    await scene.log.open()


async def test_a_fault_that_is_not_ours_refuses(scene: Scene) -> None:
    scene.log.faults.append(ZeroDivisionError("oh"))
    scene.outbox.put(said(0))
    with pytest.raises(TailraceError, match="oh"):
        await soon(scene.outbox.drain())
    assert len(scene.refusals) == 1


async def test_a_refusal_lets_blocked_threads_go(scene: Scene) -> None:
    scene.log.is_held = True
    raised: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                scene.outbox.put(Draft("log", LARGE))
        except TailraceError as error:
            raised.append(error)

    await scene.log.inner.append(Append(scene.run, patch={"attempt": 1}))
    with thread(work):
        await until(lambda: scene.outbox.is_high)
        scene.log.release()
        await until(lambda: raised)
    assert isinstance(raised[0], WriterFenced)


async def test_a_seal_lets_what_is_pending_through(scene: Scene) -> None:
    scene.log.is_held = True
    for number in range(3):
        scene.outbox.put(said(number))
        await turns(2)
    scene.outbox.seal()
    with pytest.raises(RunEnded):
        scene.outbox.put(said(3))
    scene.log.release()
    await soon(scene.outbox.drain())
    assert await scene.messages() == ["0", "1", "2"]
    assert not scene.refusals


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_the_end_lets_a_blocked_thread_go(scene: Scene, is_sealed: bool) -> None:
    scene.log.is_held = True
    raised: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                scene.outbox.put(Draft("log", LARGE))
        except RunEnded as error:
            raised.append(error)

    with thread(work) as running:
        await until(lambda: scene.outbox.is_high)
        if is_sealed:
            scene.outbox.seal()
        else:
            scene.outbox.close()
        until_here(lambda: not running.is_alive())
    assert "run.cancelled" in str(getattr(raised[0], "fix", ""))


async def test_closing_forgets_what_is_pending(scene: Scene) -> None:
    scene.log.is_held = True
    scene.outbox.put(said(0))
    await turns()
    scene.outbox.put(said(1))
    draining = asyncio.ensure_future(scene.outbox.drain())
    await turns()
    scene.outbox.close()
    with pytest.raises(RunEnded):
        await soon(draining)
    scene.log.release()
    await turns()
    # What was under way cannot be called back.
    assert await scene.messages() == ["0"]
    assert scene.batches == [1]
    assert not scene.refusals


async def test_the_first_reason_stays(scene: Scene) -> None:
    scene.outbox.close(LogFull("first"))
    scene.outbox.close(RunEnded("second"))
    with pytest.raises(LogFull):
        scene.outbox.put(said(0))


async def test_whose_thread_it_is(scene: Scene) -> None:
    assert not scene.outbox.is_foreign_thread
    assert await asyncio.to_thread(lambda: scene.outbox.is_foreign_thread)


# --- forked --------------------------------------------------------------------------------

FORKED = """
import asyncio, os, threading
from tailrace.errors import TailraceError
from tailrace.eventlog.memory import MemoryLog
from tailrace.outbox import Outbox
from tailrace.testing.logbook import kept, started, using
from tests.unit.test_outbox import said

def refusal(use):
    try:
        use()
    except TailraceError as error:
        return "forked" in str(error) and bool(error.fix)

def fork(box, where):
    with box._changed:
        if pid := os.fork():
            return os.waitpid(pid, 0)
    woken = []
    box._loop.call_soon = box._loop.call_soon_threadsafe = lambda *what: woken.append(what)
    uses = [lambda: box.put(said(2))] * 2
    if where != "loop":
        uses.append(lambda: asyncio.run(box.drain()))
    print(where, [refusal(use) for use in uses], woken, flush=True)
    os._exit(0)

async def main():
    async with using(MemoryLog()) as log:
        run = await started(log)
        box = Outbox(log, run, 0, print)
        box.put(said(1))
        fork(box, "loop")
        await asyncio.to_thread(fork, box, "thread")
        box.put(said(3))
        await box.drain()
        print([event.payload["message"] for event in await kept(log, run)])

asyncio.run(main())
"""


def test_a_forked_process_tells_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "loop [True, True] []",
        "thread [True, True, True] []",
        "['1', '3']",
    ], done.stderr
