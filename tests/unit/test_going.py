from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace import going as goings
from tailrace.errors import LogClosed, LogError, LogFull
from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.going import STOPPED, Going
from tailrace.outcome import Outcome, settle
from tailrace.protocol.events import draft, loads
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import snapshot
from tailrace.slots import Slots
from tailrace.testing.logbook import kept, logs, new_run, record, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goings, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(goings, "_TELL_SECONDS", 0.01)
    monkeypatch.setattr(goings, "_NOTED_SECONDS", 0.0)


@pytest.fixture
async def log() -> AsyncIterator[FaultyLog]:
    async with using(MemoryLog()) as log:
        yield FaultyLog(log)


async def queued(log: FaultyLog, **given: Any) -> Going:
    """A queued run that is heard of here."""
    run = await log.create(new_run(**given))
    going = Going(log, run.id)
    log.listen(lambda block: going.notice(block) if block.run == run.id else None)
    going.follow(run)
    return going


async def begun(log: FaultyLog, **given: Any) -> Going:
    going = await queued(log, **given)
    assert await going.start(None)
    return going


async def told(log: FaultyLog, run: str) -> list[tuple[str, int | None]]:
    found = [event.payload for event in await kept(log, run) if event.type == "status"]
    return [(payload["status"], payload.get("position")) for payload in found]


# --- waiting ---------------------------------------------------------------------------


class Queue:
    """A slot that somebody has, and those who wait for it."""

    def __init__(self) -> None:
        self.slots = Slots(1)
        self.holder = contextlib.ExitStack()
        self.holder.enter_context(self.slots.place())
        self.tasks: list[asyncio.Task[bool]] = []

    def join(self, going: Going) -> asyncio.Task[bool]:
        async def wait() -> bool:
            with self.slots.place() as place:
                await going.wait(place)
                return place.has_slot

        self.tasks.append(asyncio.create_task(wait()))
        return self.tasks[-1]


async def test_who_waits_is_told_where_it_stands(log: FaultyLog) -> None:
    queue = Queue()
    first, second = [await queued(log) for _ in range(2)]
    waiting = [queue.join(going) for going in (first, second)]
    await until(lambda: len(log.offered) == 2)
    assert await told(log, first.run) == [("queued", 1)]
    assert await told(log, second.run) == [("queued", 2)]
    shown = snapshot(await record(log, second.run))
    assert (shown["state"], shown["position"], shown["progress"]) == ("queued", 2, None)
    queue.holder.close()
    assert await soon(asyncio.gather(*waiting)) == [True, True]


async def test_it_is_told_again_when_that_changes_and_not_too_often(log: FaultyLog) -> None:
    queue = Queue()
    goings_ = [await queued(log) for _ in range(5)]
    waiting = [queue.join(going) for going in goings_]
    await until(lambda: len(log.offered) == 5)
    began = time.monotonic()
    # Three leave at once, which makes one change of the last one's position.
    for going in goings_[:3]:
        going.leave()
    await until(lambda: len(log.offered) == 7)
    assert time.monotonic() - began < 5
    assert await told(log, goings_[4].run) == [("queued", 5), ("queued", 2)]
    assert [task.done() for task in waiting] == [True, True, True, False, False]
    goings_[3].leave()
    await until(lambda: len(log.offered) == 8)
    assert loads((await record(log, goings_[4].run)).progress) == {"position": 1}
    queue.holder.close()
    await soon(asyncio.gather(*waiting))


async def test_one_change_is_told_after_a_pause(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goings, "_TELL_SECONDS", 60.0)
    queue = Queue()
    first, second = [await queued(log) for _ in range(2)]
    waiting = [queue.join(going) for going in (first, second)]
    await until(lambda: len(log.offered) == 2)
    first.leave()
    await soon(waiting[0])
    await turns(50)
    assert await told(log, second.run) == [("queued", 2)]
    # Its slot comes all the same.
    queue.holder.close()
    assert await soon(waiting[1])


async def test_who_has_a_slot_is_told_nothing(log: FaultyLog) -> None:
    going = await queued(log)
    with Slots(1).place() as place:
        await soon(going.wait(place))
    assert log.offered == []


async def test_who_is_cancelled_waits_no_longer(log: FaultyLog) -> None:
    queue = Queue()
    going = await queued(log)
    waiting = queue.join(going)
    await until(lambda: len(log.offered) == 1)
    await settle(log, await record(log, going.run), Outcome(Signal.CANCEL))
    assert await soon(waiting) is False
    assert not await going.start(None)


async def test_who_was_started_elsewhere_waits_no_longer(log: FaultyLog) -> None:
    queue = Queue()
    going = await queued(log)
    await log.append(Append(going.run, patch={"attempt": 4}))
    assert await soon(queue.join(going)) is False


async def test_a_full_log_does_not_end_the_waiting(log: FaultyLog) -> None:
    queue = Queue()
    first, second = [await queued(log) for _ in range(2)]
    log.faults.append(LogFull("no space"))
    waiting = [queue.join(going) for going in (first, second)]
    await until(lambda: len(log.offered) == 2)
    assert await told(log, first.run) == []
    queue.holder.close()
    assert await soon(asyncio.gather(*waiting)) == [True, True]


async def test_a_closed_log_does(log: FaultyLog) -> None:
    going = await queued(log)
    log.faults.append(LogClosed("closed"))
    with pytest.raises(LogClosed):
        await soon(Queue().join(going))


async def test_who_is_far_behind_is_told_less_often(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goings, "_PROMPT_POSITIONS", 0.001)
    queue = Queue()
    first, second = [await queued(log) for _ in range(2)]
    waiting = [queue.join(going) for going in (first, second)]
    await until(lambda: len(log.offered) == 2)
    first.leave()
    await soon(waiting[0])
    await turns(50)
    # 0.01 s for the first thousandth, and so 20 s for the second place.
    assert await told(log, second.run) == [("queued", 2)]
    second.leave()
    await soon(waiting[1])


# --- starting --------------------------------------------------------------------------


async def test_it_starts_with_a_title_and_without_what_was_told_in_the_queue(
    log: FaultyLog,
) -> None:
    going = await queued(log, input=b'{"rows":3}')
    await log.append(Append(going.run, patch={"progress": b'{"position":1}'}))
    assert not going.began
    assert await going.start("x" * 1000)
    now = await record(log, going.run)
    assert (now.state, now.attempt, now.worker) == (State.RUNNING, 1, log.worker)
    assert (now.progress, now.size > 0) == (None, True)
    assert going.record.with_(size=now.size) == now
    (event,) = await kept(log, going.run)
    assert event.payload["title"] == "x" * 200
    assert (event.payload["input"], event.payload["attempt"]) == ({"rows": 3}, 1)
    assert going.began


async def test_without_a_title(log: FaultyLog) -> None:
    going = await begun(log)
    (event,) = await kept(log, going.run)
    assert event.payload.keys().isdisjoint({"title", "thread"})


async def test_it_tells_of_its_thread(log: FaultyLog) -> None:
    going = await begun(log, thread="chat-7")
    (event,) = await kept(log, going.run)
    assert event.payload["thread"] == "chat-7"
    assert going.record.thread == "chat-7"


async def test_it_starts_once(log: FaultyLog) -> None:
    going = await begun(log)
    again = Going(log, going.run)
    again.record = (await record(log, going.run)).with_(state=State.QUEUED, attempt=0)
    assert not await again.start(None)


async def test_it_resumes_where_it_was(log: FaultyLog) -> None:
    going = await begun(log)
    now = (await record(log, going.run)).with_(started_at=time.time() - 30)
    again = Going(log, going.run)
    again.record = now
    again.resume()
    assert again.began
    assert 29 < again.spent < 60
    assert not again.stop.done()
    asked = Going(log, going.run)
    asked.record = now.with_(state=State.CANCELLING, started_at=None)
    asked.resume()
    assert asked.spent == 0.0
    assert asked.stop.result() == Outcome(Signal.STOPPED, reason="requested")


# --- what is asked of it ---------------------------------------------------------------


async def test_nothing_is_asked_by_its_own_events(log: FaultyLog) -> None:
    going = await begun(log)
    await log.append(Append(going.run, logs(3)))
    status = draft("status", {"status": "cancelling", "reason": "the order"}, 0.0)
    await log.append(Append(going.run, [status]))
    await turns(20)
    assert not going.stop.done()


async def test_a_wish_to_cancel(log: FaultyLog) -> None:
    going = await begun(log)
    wish = Outcome(Signal.CANCEL, reason="too dear")
    await settle(log, await record(log, going.run), wish)
    assert await soon(going.stop) == Outcome(Signal.STOPPED, reason="too dear")


async def test_an_end_from_elsewhere(log: FaultyLog) -> None:
    going = await begun(log)
    await settle(log, await record(log, going.run), Outcome(Signal.FINISH))
    assert (await soon(going.stop)).signal is Signal.LOSE


async def test_what_a_watcher_hears_before_it_is_followed_counts_once(log: FaultyLog) -> None:
    """The log tells everybody of a run that anybody follows."""
    run = await log.create(new_run())
    going = Going(log, run.id)
    log.listen(going.notice)
    log.follow(run.id, 0)
    await log.append(Append(run.id, logs(1)))
    await settle(log, run, Outcome(Signal.CANCEL))
    assert not going.stop.done()
    going.follow(run)
    assert (await soon(going.stop)).signal is Signal.LOSE


@pytest.mark.parametrize("fault", [None, LogError("cannot read")])
async def test_a_hole_is_read(
    log: FaultyLog, fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = await begun(log)
    log.listen(lambda _: None)
    await settle(log, await record(log, going.run), Outcome(Signal.CANCEL))
    await log.append(Append(going.run, logs(1)))
    read, faults = log.read, [] if fault is None else [fault]

    async def faulty(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return await read(*given)

    monkeypatch.setattr(log, "read", faulty)
    going.notice((await read(going.run, 2))[-1])
    assert (await soon(going.stop)).signal is Signal.STOPPED
    assert not faults


async def test_what_is_told_is_heard(log: FaultyLog) -> None:
    going = await begun(log)
    await log.append(Append(going.run, [draft("done", {"n": 1}, 0.0), draft("log", {}, 0.0)]))
    # What was told before.
    event = await soon(going.heard({"done"}, 0))
    assert (event.type, event.payload["n"]) == ("done", 1)
    assert await soon(going.heard({"log", "done"}, 0)) == event
    # What is told later, among much else, and in one block with it.
    hearing = asyncio.create_task(going.heard({"done"}, event.seq))
    for number in range(3):
        await log.append(Append(going.run, logs(3, text="event: done")))
        await turns()
        assert not hearing.done(), number
    await log.append(Append(going.run, [*logs(2), draft("done", {"n": 2}, 0.0), *logs(2)]))
    assert (await soon(hearing)).payload["n"] == 2


async def test_whoever_hears_does_not_depend_on_a_wake_up(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goings, "_LOOK_SECONDS", 0.01)
    going = await begun(log)
    log.listen(lambda _: None)
    hearing = asyncio.create_task(going.heard({"done"}, 0))
    await turns()
    await log.append(Append(going.run, [draft("done", {}, 0.0)]))
    assert (await soon(hearing)).type == "done"


async def test_what_comes_while_the_log_is_read_is_not_missed(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goings, "_LOOK_SECONDS", 600.0)
    going = await begun(log)
    read = log.read

    async def slowly(run: str, after: int, limit: int = 0) -> Any:
        found = await read(run, after, limit)
        if not found:
            monkeypatch.setattr(log, "read", read)
            await log.append(Append(going.run, [draft("done", {}, 0.0)]))
            await turns()
        return found

    monkeypatch.setattr(log, "read", slowly)
    assert (await soon(going.heard({"done"}, 0))).type == "done"


async def test_the_first_reason_counts(log: FaultyLog) -> None:
    going = await begun(log)
    going.ask(Outcome(Signal.STOPPED, reason="first"))
    going.leave()
    assert going.stop.result().reason == "first"
    assert going.is_leaving
    other = await begun(log)
    other.leave()
    assert other.stop.result() is STOPPED


async def test_its_end_is_bounded_only_for_a_process_that_goes_away(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goings, "_LAST_SECONDS", 0.01)
    going = await begun(log)
    free: list[bool] = []

    async def end() -> None:
        async with going.bounded() as bound:
            free.append(bound.when() is None)
            going.leave()
            await asyncio.sleep(60)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            await soon(end())
    assert free == [True, False]


# --- who watches it --------------------------------------------------------------------


async def test_it_is_abandoned_when_nobody_watches(log: FaultyLog) -> None:
    assert not await (await begun(log)).is_abandoned(0)
    going = await begun(log, abandon_after=0.001)
    assert not await going.is_abandoned(1)
    async with asyncio.timeout(10):
        while not await going.is_abandoned(0):
            await asyncio.sleep(0)
    assert await going.abandon() == Outcome(Signal.STOPPED, reason="abandoned")
    assert (await record(log, going.run)).state is State.CANCELLING


async def test_the_time_in_the_queue_does_not_count(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = await queued(log, abandon_after=5.0)
    later = time.monotonic() + 100
    monkeypatch.setattr(goings, "time", SimpleNamespace(monotonic=lambda: later))
    assert await going.start(None)
    assert not await going.is_abandoned(0)
