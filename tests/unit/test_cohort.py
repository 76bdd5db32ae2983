from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from anyio import ClosedResourceError

from tailrace import cohort as cohorts
from tailrace import rounds
from tailrace.channel import Channel
from tailrace.cohort import Cohort, Manner
from tailrace.errors import LogFull
from tailrace.eventlog.contract import READ_BYTES, Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.hub import Hub, begins
from tailrace.outlet import End, Frame, Outlet, is_gone
from tailrace.projections import stream
from tailrace.projections.output import Output
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.sse import Decoder
from tailrace.protocol.wire import HEARTBEAT_SECONDS, WRITE_DEADLINE_SECONDS
from tailrace.pulse import LEAVE_SECONDS, Pulse
from tailrace.rounds import BEAT_SECONDS
from tailrace.subscription import Subscription
from tailrace.testing.logbook import ended, ending, logs, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

EVENTS: Final = Manner(stream("events"))
KEEP_ALIVE: Final = b": keep-alive\n"
END: Final = b": end\n"
GOODBYE: Final = b"retry: 500\n: end\n"


class Wire(Outlet):
    """A way out that is blocked when a test says so. `frames` holds the very objects."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []
        self.ends: list[End] = []
        self.cuts = 0
        self.is_waiting = False
        self.has_left = False
        self.fault: BaseException | None = None
        self.then: Callable[[Frame], object] = lambda _: None
        self._is_free = asyncio.Event()
        self._is_free.set()

    def push(self, frame: Frame) -> Awaitable[None] | None:
        assert not self.is_waiting, "sent while something was under way"
        assert not self.ends, "sent after the end"
        if self.has_left:
            return None
        self.frames.append(frame.body)
        self.then(frame)
        if self._is_free.is_set():
            return None
        self.is_waiting = True
        return self._rest()

    async def _rest(self) -> None:
        try:
            await self._is_free.wait()
            if self.fault is not None:
                raise self.fault
        finally:
            self.is_waiting = False

    def close(self, end: End) -> None:
        self.ends.append(end)

    def cut(self) -> None:
        self.cuts += 1

    def left(self) -> None:
        super().left()
        self.has_left = True

    # --- for tests -------------------------------------------------------------------

    def block(self) -> None:
        self._is_free.clear()

    def unblock(self) -> None:
        self._is_free.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.frames)

    @property
    def ids(self) -> list[int]:
        return [int(event.id) for event in Decoder().feed(self.body) if event.id]


@pytest.fixture
async def log() -> AsyncIterator[FaultyLog]:
    async with using(MemoryLog(Retention(run_events=None))) as log:
        yield FaultyLog(log)


@pytest.fixture
async def hub(log: FaultyLog) -> AsyncIterator[Hub]:
    hub = Hub(log)
    log.listen(hub.publish)
    hub.begin()
    yield hub
    hub.end()


async def watch(
    hub: Hub, run: str, after: int | str = 0, manner: Manner = EVENTS, wire: Wire | None = None
) -> Wire:
    wire = wire or Wire()
    async with hub.channel(run) as (channel, record):
        cursor = after if isinstance(after, str) else Cursor(0, after)
        hub.watch(channel, begins(cursor, record, channel.head), manner, wire)
    return wire


async def party(hub: Hub, run: str, count: int = 3, manner: Manner = EVENTS) -> list[Wire]:
    """So many watchers, in step."""
    wires = [await watch(hub, run, manner=manner) for _ in range(count)]
    await until(lambda: len(of(hub)) == 1, "in step")
    return wires


def of(hub: Hub) -> list[Cohort]:
    """The cohorts there are."""
    return [timed for timed in hub.clock._wheel if isinstance(timed, Cohort)]


async def tell(log: EventLog, run: str, count: int = 1) -> None:
    await log.append(Append(run, logs(count)))


async def stored(log: FaultyLog, run: str, after: int = 0) -> bytes:
    """What the log says."""
    blocks: list[Block] = []
    while found := await log.inner.read(run, after):
        blocks += found
        after = found[-1].last
    return b"".join(block.wire for block in blocks)


async def gone(hub: Hub) -> None:
    """Wait until everybody has left; then nothing is there that was made for them."""
    await until(lambda: hub.is_idle, "idle")
    await turns()
    assert hub.channels == 0
    assert not hub._lanes
    assert not hub._subscriptions
    assert not list(hub.clock._wheel)
    assert not hub.clock._wheel._slots
    assert not hub._rounds._due


# --- in step ---------------------------------------------------------------------------


async def test_each_gets_the_very_same_bytes(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    wires = await party(hub, run)
    for _ in range(3):
        await tell(log, run, 2)
        await turns()
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in wires))
    for frames in zip(*(wire.frames for wire in wires), strict=True):
        assert frames[0]
        assert all(frame is frames[0] for frame in frames)
    assert wires[0].body == await stored(log, run) + END
    assert [wire.ends for wire in wires] == [[End.FINISHED]] * 3
    await gone(hub)


@pytest.mark.parametrize("after", [0, 2, 4, 5])
async def test_a_newcomer_catches_up_and_is_in_step(hub: Hub, log: FaultyLog, after: int) -> None:
    run = await started(log)
    old = await watch(hub, run)
    await tell(log, run, 3)
    await tell(log, run, 2)
    await until(lambda: old.ids == [1, 2, 3, 4, 5])
    new = await watch(hub, run, after)
    await until(lambda: len(of(hub)) == 1, "in step")
    assert new.body == await stored(log, run, after)
    assert hub.watchers(run) == hub.connections == 2
    await tell(log, run)
    await until(lambda: new.ids[-1:] == [6])
    assert new.frames[-1] is old.frames[-1]
    old.left()
    new.left()
    await gone(hub)


async def test_a_newcomer_in_the_midst_of_a_slice_misses_nothing(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane's cursor is ahead of those it has not served yet."""
    run = await started(log)
    wires = await party(hub, run, 3)
    monkeypatch.setattr(cohorts, "_WRITES", 1)
    monkeypatch.setattr(rounds, "SLICE_SECONDS", -1.0)
    await tell(log, run)
    async with asyncio.timeout(5):
        while not any(wire.frames for wire in wires):
            await asyncio.sleep(0)
    assert sum(bool(wire.frames) for wire in wires) == 1
    newcomers = [await watch(hub, run, after) for after in (0, 1)]
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in (*wires, *newcomers)))
    whole = await stored(log, run) + END
    assert [wire.body for wire in wires] == [whole] * 3
    assert newcomers[0].body == whole
    assert newcomers[1].body == await stored(log, run, 1) + END
    await gone(hub)


async def test_who_is_told_otherwise_has_another_lane(hub: Hub, log: FaultyLog) -> None:
    run, other = await started(log), await started(log)
    manners = [
        EVENTS,
        Manner(stream("text")),
        Manner(stream("events"), frozenset({"log"})),
        Manner(stream("events"), None, 2.0),
        Manner(stream("events"), None, 2.0, 1.0),
        Manner(Output()),
        Manner(Output("stderr")),
    ]
    wires = [await watch(hub, run, manner=manner) for manner in [*manners, *manners]]
    wires.append(await watch(hub, other))
    await until(lambda: len(of(hub)) == len(manners) + 1)
    assert sorted(len(cohort.members) for cohort in of(hub)) == [1] + [2] * len(manners)
    await tell(log, run)
    await turns()
    assert not wires[-1].frames
    for wire in wires:
        wire.left()
    await gone(hub)


async def test_a_filter_that_lets_nothing_through_sends_nothing(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    await tell(log, run, 5)
    manner = Manner(stream("events"), frozenset({"none"}))
    wires = [await watch(hub, run, manner=manner) for _ in range(2)]
    await tell(log, run, 5)
    await turns()
    assert [wire.frames for wire in wires] == [[], []]
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in wires))
    assert wires[0].ids == [11]
    await gone(hub)


async def test_a_crowd_is_served_in_slices(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher of another run does not wait for five thousand."""
    now = time.monotonic()
    said: list[str] = []

    class Clock:
        time = staticmethod(time.time)

        @staticmethod
        def monotonic() -> float:
            return now

    class Dear(Wire):
        """Each send takes a fifth of a millisecond."""

        def push(self, frame: Frame) -> Awaitable[None] | None:
            nonlocal now
            now += 0.0002
            said.append("crowd")
            return super().push(frame)

    class Other(Wire):
        def push(self, frame: Frame) -> Awaitable[None] | None:
            said.append("other")
            return super().push(frame)

    run, another = await started(log), await started(log)
    crowd = [await watch(hub, run, wire=Dear()) for _ in range(400)]
    other = await watch(hub, another, wire=Other())
    await until(lambda: len(of(hub)) == 2, "in step")
    for module in (cohorts, rounds):
        monkeypatch.setattr(module, "time", Clock)
    await asyncio.gather(tell(log, run), tell(log, another))
    await until(lambda: len(said) == 401, "all are served")
    # 25 sends take 5 ms, and the clock is asked after each 32nd.
    assert said.index("other") <= 64
    assert all(wire.ids == [1] for wire in (*crowd, other))
    for wire in (*crowd, other):
        wire.left()
    await gone(hub)


# --- left behind -----------------------------------------------------------------------


async def test_one_that_is_slow_holds_nobody_up_and_joins_again(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    slow, *quick = await party(hub, run, 4)
    await tell(log, run)
    await until(lambda: slow.frames)
    slow.block()
    for number in range(2, 7):
        await tell(log, run)
        await until(lambda seen=number: all(wire.ids[-1] == seen for wire in quick))  # type: ignore[misc]
    assert slow.ids == [1, 2]
    assert len(of(hub)) == 2
    slow.unblock()
    await until(lambda: len(of(hub)) == 1, "in step again")
    # All that it missed, as one.
    assert [Decoder().feed(frame)[0].id for frame in slow.frames] == ["1", "2", "3"]
    assert slow.body == quick[0].body
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in (slow, *quick)))
    assert slow.frames[-1] is quick[0].frames[-1]
    assert slow.body == await stored(log, run) + END
    await gone(hub)


async def test_all_of_them_may_be_slow(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    wires = await party(hub, run, 5)
    for wire in wires:
        wire.block()
    await tell(log, run)
    await until(lambda: all(wire.is_waiting for wire in wires))
    await tell(log, run, 3)
    assert len(of(hub)) == 5
    for wire in wires:
        wire.unblock()
    await until(lambda: len(of(hub)) == 1, "in step again")
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in wires))
    assert {wire.body for wire in wires} == {await stored(log, run) + END}
    await gone(hub)


async def test_a_lane_that_is_blocked_is_replaced(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    first = await watch(hub, run)
    first.block()
    await tell(log, run)
    await until(lambda: first.is_waiting)
    others = [await watch(hub, run) for _ in range(2)]
    await until(lambda: len(of(hub)) == 2, "the others are in step")
    await tell(log, run)
    await until(lambda: all(wire.ids == [1, 2] for wire in others))
    assert others[0].frames[-1] is others[1].frames[-1]
    first.unblock()
    await until(lambda: len(of(hub)) == 1, "all are in step")
    await tell(log, run)
    await until(lambda: first.ids == [1, 2, 3])
    assert first.frames[-1] is others[0].frames[-1]
    for wire in (first, *others):
        wire.left()
    await gone(hub)


async def test_the_last_frame_may_block_as_well(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    slow, quick = await party(hub, run, 2)
    slow.then = lambda frame: slow.block() if frame.is_last else None
    await log.append(ending(run))
    await until(lambda: quick.ends)
    assert (slow.frames[-1], slow.ends) == (END, [])
    slow.unblock()
    await until(lambda: slow.ends)
    assert slow.ends == [End.FINISHED]
    assert slow.body == quick.body
    await gone(hub)


async def test_one_that_is_blocked_at_the_end_gets_it_all_the_same(
    hub: Hub, log: FaultyLog
) -> None:
    run = await started(log)
    slow, quick = await party(hub, run, 2)
    slow.block()
    await tell(log, run)
    await log.append(ending(run))
    await until(lambda: quick.ends)
    slow.unblock()
    await until(lambda: slow.ends)
    assert slow.body == quick.body == await stored(log, run) + END
    await gone(hub)


# --- behind the tail -------------------------------------------------------------------


async def test_who_fell_out_of_the_tail_reads_the_log_once_for_all(log: FaultyLog) -> None:
    hub = Hub(log)
    untold: list[Block] = []
    log.listen(untold.append)
    run = await started(log)
    wires = await party(hub, run, 20)
    await tell(log, run, 3)
    await tell(log, run)
    await until(lambda: len(untold) == 2)
    log.reads.clear()
    # The first block is never told of.
    hub.publish(untold[1])
    await until(lambda: all(wire.ids == [1, 2, 3, 4] for wire in wires))
    assert log.reads == [0]
    assert all(wire.frames[0] is wires[0].frames[0] for wire in wires)
    assert len(of(hub)) == 1
    for wire in wires:
        wire.left()
    await gone(hub)


async def test_a_long_history_lets_others_pass(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.subscription.CHUNK_BYTES", 500)
    run, other = await started(log), await started(log)
    for _ in range(200):
        await tell(log, run, 5)
    quick, late = Wire(), Wire()
    seen: list[int] = []
    quick.then = lambda _: seen.append(len(late.frames))
    await watch(hub, other, wire=quick)
    await turns()
    await watch(hub, run, wire=late)
    await tell(log, other)
    await until(lambda: seen, "served beside it")
    assert seen[0] < 20
    await until(lambda: len(late.ids) == 1000)
    assert late.body == await stored(log, run)
    assert len(late.frames) > 50
    late.left()
    quick.left()
    await gone(hub)


async def test_what_comes_while_the_log_is_read_is_not_missed(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started(log)
    await tell(log, run, 3)
    may_read = asyncio.Event()
    read = log.read

    async def slowly(run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        found = await read(run, after, limit)
        await may_read.wait()
        return found

    monkeypatch.setattr(log, "read", slowly)
    late = await watch(hub, run)
    await until(lambda: log.reads, "reading")
    live = await watch(hub, run, "latest")
    await tell(log, run, 2)
    await log.append(ending(run))
    await until(lambda: live.ends)
    may_read.set()
    await until(lambda: late.ends)
    assert late.body == await stored(log, run) + END
    assert live.body == await stored(log, run, 3) + END
    await gone(hub)


async def test_what_is_no_longer_kept_is_said_once(hub: Hub, log: FaultyLog) -> None:
    trimmed = MemoryLog(Retention(run_events=4))
    async with using(trimmed):
        hub = Hub(trimmed)
        run = await started(trimmed)
        for _ in range(20):
            await tell(trimmed, run)
        await trimmed.append(ending(run))
        wires = [await watch(hub, run) for _ in range(2)]
        await until(lambda: all(wire.ends for wire in wires))
        record = await trimmed.get(run)
        assert record is not None
        gap = Decoder().feed(wires[0].body)[0]
        assert gap.event == "gap"
        assert json.loads(gap.data) == {"run": run, "from": 1, "to": record.first_seq - 1}
        for wire in wires:
            assert wire.body.count(b"event: gap") == 1
            assert wire.ids == list(range(record.first_seq, 22))
        await gone(hub)


# --- faults ----------------------------------------------------------------------------


async def test_a_fault_of_the_log_is_told_to_all(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(log)
    untold: list[Block] = []
    log.listen(untold.append)
    run = await started(log)
    wires = await party(hub, run)

    async def full(*_: object) -> list[Block]:
        raise LogFull("No space.", fix="Make some.")

    monkeypatch.setattr(log, "read", full)
    await tell(log, run)
    await tell(log, run)
    await until(lambda: len(untold) == 2)
    # What it was not told of has to be read.
    hub.publish(untold[1])
    await until(lambda: all(wire.ends for wire in wires))
    for wire in wires:
        [told] = Decoder().feed(wire.body)
        assert (told.event, told.id) == ("error", "")
        assert json.loads(told.data)["code"] == "log-full"
        assert wire.body.endswith(b"\n\n" + END)
        assert wire.ends == [End.FINISHED]
    assert wires[0].frames[0] is wires[1].frames[0]
    await gone(hub)


async def test_any_other_fault_is_told_to_them_and_to_us(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for ever for a reader that is dead, and nobody comes back to it for ever."""
    run = await ended(log, 1.0)

    async def broken(*_: object) -> list[Block]:
        raise ZeroDivisionError

    monkeypatch.setattr(log, "read", broken)
    wire = await watch(hub, run)
    await until(lambda: wire.has_left)
    (told,) = Decoder().feed(wire.body)
    assert (told.event, json.loads(told.data)["code"]) == ("error", "internal")
    assert wire.body.endswith(b"\n\n" + END)
    await gone(hub)
    assert "cannot be told" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionResetError(),
        ClosedResourceError(),
        RuntimeError("the handler is closed"),
        RuntimeError(),
        ZeroDivisionError(),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
async def test_a_send_that_fails_is_its_own_watchers_end(
    hub: Hub, log: FaultyLog, fault: Exception, count: int
) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, why: told.append(why["exception"]))
    run = await started(log)
    broken, *sound = await party(hub, run, count)
    broken.block()
    await tell(log, run)
    await until(lambda: broken.is_waiting)
    broken.fault = fault
    broken.unblock()
    await until(lambda: hub.connections == count - 1)
    assert broken.has_left
    assert not broken.ends
    gc.collect()
    assert told == ([] if is_gone(fault) else [fault])
    asyncio.get_running_loop().set_exception_handler(None)
    await log.append(ending(run))
    await until(lambda: all(wire.ends for wire in sound))
    assert all(wire.ids == [1, 2] for wire in sound)
    await gone(hub)


# --- leaving ---------------------------------------------------------------------------


async def test_leaving_at_any_moment(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    early = await watch(hub, run)
    early.left()
    wires = await party(hub, run)
    wires[0].left()
    wires[0].left()
    assert (hub.connections, hub.watchers(run)) == (2, 2)
    await tell(log, run)
    await until(lambda: all(wire.ids == [1] for wire in wires[1:]))
    assert not wires[0].frames
    assert not early.frames
    for wire in wires:
        wire.left()
    await gone(hub)
    await tell(log, run)
    again = await watch(hub, run)
    await until(lambda: again.ids == [1, 2])
    again.left()
    await gone(hub)


async def test_leaving_while_others_are_served(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)

    class Pushing(Wire):
        """Its send shows that everybody has left: itself as well."""

        def push(self, frame: Frame) -> Awaitable[None] | None:
            for wire in wires:
                wire.left()
            return super().push(frame)

    wires: list[Wire] = []
    wires += [await watch(hub, run, wire=Pushing()) for _ in range(3)]
    await until(lambda: len(of(hub)) == 1)
    await tell(log, run)
    await gone(hub)
    assert [wire.frames for wire in wires] == [[], [], []]


@pytest.mark.parametrize("count", [1, 3])
async def test_who_leaves_in_the_midst_of_a_send_is_dropped_when_it_is_over(
    hub: Hub, log: FaultyLog, count: int
) -> None:
    run = await started(log)
    slow, *others = await party(hub, run, count)
    slow.block()
    await tell(log, run)
    await until(lambda: slow.is_waiting)
    slow.left()
    await tell(log, run)
    await turns()
    assert hub.connections == count, "still waited for"
    assert slow.is_waiting
    slow.unblock()
    await until(lambda: hub.connections == count - 1)
    assert len(slow.frames) == 1
    assert not slow.ends
    for wire in others:
        wire.left()
    await gone(hub)


async def test_who_leaves_while_the_log_is_read(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await ended(log, 1.0)
    may_read = asyncio.Event()

    async def slowly(*_: object) -> list[Block]:
        await may_read.wait()
        return await log.inner.read(run, 0)

    monkeypatch.setattr(log, "read", slowly)
    wire = await watch(hub, run)
    await turns()
    wire.left()
    may_read.set()
    await gone(hub)
    await turns()
    assert not wire.frames


# --- going away ------------------------------------------------------------------------


async def test_the_server_goes_away(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    slow, quick = await party(hub, run, 2)
    slow.block()
    await tell(log, run)
    await until(lambda: slow.is_waiting)
    hub.drain()
    late = await watch(hub, run)
    await until(lambda: quick.ends and late.ends)
    assert (quick.ends, late.ends, slow.ends) == ([End.SHUTDOWN], [End.SHUTDOWN], [])
    assert quick.body == await stored(log, run) + GOODBYE
    assert late.body == GOODBYE
    slow.unblock()
    await until(lambda: slow.ends)
    assert slow.body == quick.body
    assert slow.ends == [End.SHUTDOWN]
    await gone(hub)


async def test_a_server_that_goes_waits_a_moment_for_who_does_not_read(
    hub: Hub, log: FaultyLog
) -> None:
    run = await started(log)
    blocked, wire, quick = await party(hub, run, 3)
    blocked.block()
    await tell(log, run)
    await until(lambda: blocked.is_waiting and quick.frames)
    # Looked at once, it would not be again before its deadline.
    hub.clock.beat(time.monotonic() + 2 * BEAT_SECONDS)
    wire.block()
    hub.drain()
    await until(lambda: wire.is_waiting and quick.ends)
    now = time.monotonic()
    hub.clock.beat(now + LEAVE_SECONDS / 2)
    assert (blocked.cuts, wire.cuts) == (0, 0)
    hub.clock.beat(now + LEAVE_SECONDS + 2 * BEAT_SECONDS)
    assert (blocked.cuts, wire.cuts) == (1, 1)
    hub.clock.beat(now + 2 * LEAVE_SECONDS + 4 * BEAT_SECONDS)
    # The cut did not help: its send is cancelled.
    await gone(hub)
    assert not blocked.ends
    assert not wire.ends


async def test_a_long_history_does_not_keep_a_server_that_goes(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.subscription.CHUNK_BYTES", 500)
    run = await started(log)
    for _ in range(200):
        await tell(log, run, 5)
    wire = Wire()
    wire.then = lambda _: hub.drain() if len(wire.frames) == 3 else None
    await watch(hub, run, wire=wire)
    await until(lambda: wire.ends)
    assert len(wire.frames) == 4
    assert wire.body == (await stored(log, run))[: len(wire.body) - len(GOODBYE)] + GOODBYE
    await gone(hub)


# --- the clock -------------------------------------------------------------------------


async def test_a_lane_is_kept_alive_as_one(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    wires = await party(hub, run)
    now = time.monotonic()
    hub.clock.beat(now + HEARTBEAT_SECONDS - 1)
    await turns()
    assert wires[0].frames == []
    for round_ in (1, 2):
        hub.clock.beat(now + round_ * (HEARTBEAT_SECONDS + 1))
        await until(lambda: all(wire.frames[-1:] == [KEEP_ALIVE] for wire in wires))
        await turns()
        assert [wire.body for wire in wires] == [KEEP_ALIVE * round_] * 3
    for wire in wires:
        wire.left()
    await gone(hub)


async def test_ticks_are_for_those_who_asked(
    hub: Hub, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started(log)
    monkeypatch.setattr("tailrace.cohort.time.time", lambda: 107.04)
    timed = await party(hub, run, 2, Manner(stream("events"), None, 2.0, 100.0))
    often = await watch(hub, run, manner=Manner(stream("text"), None, 1.0, 107.0))
    never = await watch(hub, run)
    now = time.monotonic()
    hub.clock.beat(now + 1 + BEAT_SECONDS)
    hub.clock.beat(now + 2 + 2 * BEAT_SECONDS)
    await until(lambda: all(wire.frames for wire in timed))
    await turns()
    tick = b'event: tick\ndata: {"elapsed_seconds":7.0}\n\n'
    assert [wire.body for wire in timed] == [tick, tick]
    assert timed[0].frames[0] is timed[1].frames[0]
    assert often.body == b"data: [0 s]\n\n" * 2
    assert never.body == b""
    for wire in (*timed, often, never):
        wire.left()
    await gone(hub)


async def test_ticks_in_silence_are_for_those_who_asked(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    always = Manner(stream("events"), None, 2.0, 100.0)
    patient = Manner(stream("events"), None, 2.0, 100.0, in_silence=True)
    first, second = [await watch(hub, run, manner=manner) for manner in (always, patient)]
    assert len(of(hub)) == 2
    now = time.monotonic()
    began = now - 1.5
    for cohort in of(hub):
        # Both began a while ago; the run speaks now.
        cohort._pulse = Pulse(began, 2.0, in_silence=cohort.manner.in_silence)
        hub.arm(cohort, began + 2)
    await tell(log, run)
    await until(lambda: first.ids == second.ids == [1])
    hub.clock.beat(began + 2 + 2 * BEAT_SECONDS)
    await turns()
    assert b"tick" in first.body
    assert b"tick" not in second.body
    hub.clock.beat(now + 3)
    await until(lambda: b"tick" in second.body)
    for wire in (first, second):
        wire.left()
    await gone(hub)


async def test_who_does_not_read_is_cut_in_the_end(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    slow, quick = await party(hub, run, 2)
    slow.block()
    await tell(log, run)
    await until(lambda: slow.is_waiting)
    now = time.monotonic()
    hub.clock.beat(now + HEARTBEAT_SECONDS + 1)
    await until(lambda: quick.frames[-1] == KEEP_ALIVE)
    hub.clock.beat(now + WRITE_DEADLINE_SECONDS - 1)
    assert (slow.cuts, len(slow.frames)) == (0, 1)
    hub.clock.beat(now + WRITE_DEADLINE_SECONDS + 1)
    assert slow.cuts == 1
    slow.left()
    slow.unblock()
    await until(lambda: hub.connections == 1)
    assert quick.cuts == 0
    quick.left()
    await gone(hub)


async def test_a_cut_that_does_not_reach_the_connection(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    wire = await watch(hub, run)
    wire.block()
    await tell(log, run)
    await until(lambda: wire.is_waiting)
    now = time.monotonic() + WRITE_DEADLINE_SECONDS + 1
    hub.clock.beat(now)
    hub.clock.beat(now + LEAVE_SECONDS / 2)
    assert (wire.cuts, wire.has_left) == (1, False)
    hub.clock.beat(now + LEAVE_SECONDS + 1)
    await gone(hub)
    assert wire.has_left
    assert wire.cuts == 1


@pytest.mark.parametrize(("tick", "due"), [(None, HEARTBEAT_SECONDS), (2.0, 2.0)])
async def test_a_send_that_was_held_up_does_not_put_off_the_next_sign(
    hub: Hub, log: FaultyLog, tick: float | None, due: float
) -> None:
    """Silence is what proxies cut: a moment of back-pressure must not double it."""
    run = await started(log)
    wire = await watch(hub, run, manner=Manner(stream("events"), None, tick))
    await turns()
    wire.block()
    await tell(log, run)
    await until(lambda: wire.is_waiting)
    now = time.monotonic() + due
    hub.clock.beat(now + 2 * BEAT_SECONDS)
    wire.unblock()
    await until(lambda: not wire.is_waiting)
    await turns()
    hub.clock.beat(now + 4 * BEAT_SECONDS)
    await turns()
    sent = len(wire.frames)
    wire.left()
    await gone(hub)
    assert sent == 2


# --- the hub's end ---------------------------------------------------------------------


async def test_a_hub_that_ends_says_goodbye(hub: Hub, log: FaultyLog) -> None:
    run = await started(log)
    wires = await party(hub, run)
    hub.end()
    await until(lambda: all(wire.ends for wire in wires))
    assert [wire.body for wire in wires] == [GOODBYE] * 3
    assert hub.is_idle


async def test_the_readers_of_a_channel_are_the_cohorts(hub: Hub, log: FaultyLog) -> None:
    """Merged ones are not woken for nothing."""
    run = await started(log)
    wires = await party(hub, run, 10)
    async with hub.channel(run) as (channel, _):
        assert isinstance(channel, Channel)
        assert len(channel.readers) == 1
    for wire in wires:
        wire.left()
    await soon(gone(hub))


async def test_who_was_told_elsewhere_is_not_from_the_future(log: FaultyLog) -> None:
    """Another server, over the same log, may hear of an event before this one does."""
    hub = Hub(log)
    run = await started(log)
    here = await watch(hub, run)
    await tell(log, run)
    async with hub.subscribe(run, Cursor(0, 1), stream("events")) as (_, start):
        assert start.after == 1
    here.left()
    await gone(hub)


def alive() -> dict[int, object]:
    """Whatever sends, or is sent."""
    kinds = Frame | Cohort | Subscription
    return {id(thing): thing for thing in gc.get_objects() if isinstance(thing, kinds)}


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_whoever_has_left_holds_nothing(hub: Hub, log: FaultyLog, is_blocked: bool) -> None:
    """The collector counts objects, and does not know how much each of them holds."""
    gc.collect()
    before = alive()
    run = await started(log)
    wires = await party(hub, run, 2)
    for wire in wires if is_blocked else ():
        wire.block()
    await log.append(Append(run, logs(50)))
    await until(lambda: all(wire.frames for wire in wires))
    gc.disable()
    try:
        for wire in wires:
            wire.left()
            wire.unblock()
        await gone(hub)
        await turns(5)
        assert alive().keys() <= before.keys()
    finally:
        gc.enable()
