"""Watchers in step, left behind and back again: whatever is committed, told late or never, and
whoever is blocked, unblocked or gone in whatever order, each has exactly the bytes of the log
from its cursor on, once, and its end once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.cohort import Manner
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.hub import Hub, begins
from tailrace.outlet import End, Frame, Outlet
from tailrace.projections import stream
from tailrace.projections.contract import Types
from tailrace.projections.output import Output
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import Draft
from tailrace.protocol.wire import RETRY_AFTER_SHUTDOWN_MS
from tailrace.testing.logbook import ending, started, using

FILTERS: Final[tuple[Types, ...]] = (None, frozenset({"log"}), frozenset({"none"}))
MANNERS: Final = [
    *(Manner(stream(name), types) for name in ("events", "ndjson") for types in FILTERS),
    Manner(stream("text")),
    Manner(Output()),
]


class Wire(Outlet):
    """A way out that blocks when told to, and then takes what it has begun to take."""

    def __init__(self, begin: int, manner: Manner) -> None:
        super().__init__()
        self.begin = begin
        self.manner = manner
        self.body = b""
        self.lasts = 0
        self.ends: list[End] = []
        self.has_left = False
        self._is_sending = False
        self._is_free = asyncio.Event()
        self._is_free.set()

    def push(self, frame: Frame) -> Awaitable[None] | None:
        assert not self._is_sending, "sent while something was under way"
        assert not self.lasts, "sent after the end"
        if self.has_left:
            return None
        self.lasts += frame.is_last
        if self._is_free.is_set():
            self.body += frame.body
            return None
        self._is_sending = True
        return self._rest(frame)

    async def _rest(self, frame: Frame) -> None:
        await self._is_free.wait()
        self._is_sending = False
        self.body += frame.body

    def close(self, end: End) -> None:
        self.ends.append(end)

    def cut(self) -> None:
        raise AssertionError("nobody is late")

    def left(self) -> None:
        super().left()
        self.has_left = True

    # --- for tests -------------------------------------------------------------------

    def block(self) -> None:
        self._is_free.clear()

    def unblock(self) -> None:
        self._is_free.set()


async def stored(log: EventLog, run: str, wire: Wire) -> bytes:
    blocks: list[Block] = []
    after = wire.begin
    while found := await log.read(run, after):
        blocks += found
        after = found[-1].last
    return b"".join(wire.manner.projection.tell(block, wire.manner.types) for block in blocks)


def small() -> contextlib.ExitStack:
    """Bounds so small that they are met all the time."""
    stack = contextlib.ExitStack()
    for place, size in (
        ("channel.TAIL_BYTES", 1500),
        ("channel.CHUNK_BYTES", 400),
        ("channel.PIECE_BYTES", 300),
        ("subscription.CHUNK_BYTES", 500),
        ("hub.LATE_SECONDS", 0),
        # Every second send is the last of its slice.
        ("rounds.SLICE_SECONDS", 0),
        ("cohort.SLICE_SECONDS", 0),
        ("cohort._WRITES", 2),
    ):
        stack.enter_context(mock.patch(f"tailrace.{place}", size))
    return stack


def drafts(sizes: Sequence[int]) -> list[Draft]:
    types = ("log", "progress", "output")
    return [
        Draft(
            types[size % 3],
            b'{"stream":"stdout","text":"%b","timestamp":"t"}' % (b"%d;" % size * (size // 4)),
        )
        for size in sizes
    ]


# What may happen, one thing after the other.
who = st.integers(0, 7)
sizes = st.lists(st.integers(0, 400), min_size=1, max_size=5)
few = st.lists(st.integers(0, 40), min_size=1, max_size=2)
say = st.tuples(st.just("say"), few)
append = st.tuples(st.just("append"), st.one_of(few, sizes))
tell = st.tuples(st.just("tell"), st.integers(1, 4))
miss = st.tuples(st.just("miss"), st.integers(1, 2))
join = st.tuples(st.just("join"), st.integers(0, 40), st.integers(0, 40))
come = st.tuples(st.just("join"), st.just(40), st.just(0))
block = st.tuples(st.just("block"), who)
unblock = st.tuples(st.just("unblock"), who)
leave = st.tuples(st.just("leave"), who)
turns = st.tuples(st.just("turns"), st.integers(1, 6))
often = (say, say, block, unblock, turns, turns)
step = st.one_of(*often, *often, *often, append, tell, miss, join, come, leave)
plays = st.lists(step, min_size=20, max_size=60)


class Play:
    """A log, a hub that hears of it late, and a crowd of watchers."""

    def __init__(self, log: MemoryLog, run: str) -> None:
        self.log = log
        self.run = run
        self.hub = Hub(log)
        self.head = 0
        self.untold: deque[Block] = deque()
        self.wires: list[Wire] = []
        log.listen(self.untold.append)

    async def step(self, what: str, given: tuple[object, ...]) -> None:
        match what, given:
            case "say", (list() as sizes,):
                await self.step("append", (sizes,))
                await self.step("tell", (len(self.untold),))
            case "append", (list() as sizes,):
                self.head = (await self.log.append(Append(self.run, drafts(sizes)))).last
                await asyncio.sleep(0)
            case "tell", (int() as count,):
                for _ in range(min(count, len(self.untold))):
                    self.hub.publish(self.untold.popleft())
            case "miss", (int() as count,):
                # A log may miss blocks, but never swaps them.
                for _ in range(min(count, len(self.untold))):
                    self.untold.popleft()
            case "join", (int() as after, int() as manner):
                await self.join(min(after, self.head), MANNERS[manner % len(MANNERS)])
            case "turns", (int() as count,):
                for _ in range(count):
                    await asyncio.sleep(0)
            case _, (int() as which,) if self.wires:
                wire = self.wires[which % len(self.wires)]
                {"block": wire.block, "unblock": wire.unblock, "leave": wire.left}[what]()
            case _:
                pass

    async def join(self, after: int, manner: Manner) -> None:
        wire = Wire(after, manner)
        async with self.hub.channel(self.run) as (channel, record):
            # What this process has not heard of yet, nobody can come back with.
            wire.begin = min(after, max(record.last_seq, channel.head))
            start = begins(Cursor(0, wire.begin), record, channel.head)
            self.hub.watch(channel, start, manner, wire)
        self.wires.append(wire)

    async def end(self, *, is_told: bool) -> None:
        await self.log.append(ending(self.run))
        await asyncio.sleep(0)
        while is_told and self.untold:
            self.hub.publish(self.untold.popleft())
        # Whoever comes now reads a snapshot, and nobody stays behind it.
        await self.join(0, MANNERS[0])
        await self.gone()

    async def gone(self) -> None:
        # Some of them cannot take their last frames at once.
        for _ in range(8):
            await asyncio.sleep(0)
        for wire in self.wires:
            wire.unblock()
        async with asyncio.timeout(3):
            while not self.hub.is_idle:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        hub = self.hub
        assert hub.channels == 0
        assert not hub._lanes
        assert not hub._subscriptions
        assert not list(hub.clock._wheel)
        hub.clock.stop()


@pytest.mark.parametrize("is_shutdown", [False, True])
@settings(max_examples=300)
@given(steps=plays, is_told=st.booleans())
def test_watchers_have_exactly_the_log(
    steps: list[tuple[object, ...]], is_told: bool, is_shutdown: bool
) -> None:
    async def play() -> None:
        async with using(MemoryLog(Retention(run_events=None))) as log:
            assert isinstance(log, MemoryLog)
            played = Play(log, await started(log))
            for what, *given in [("join", 0, 0), ("join", 0, 0), ("join", 0, 0), *steps]:
                await played.step(str(what), tuple(given))
            if is_shutdown:
                played.hub.drain()
                await played.gone()
            else:
                await played.end(is_told=is_told)
            for wire in played.wires:
                whole = await stored(log, played.run, wire)
                if not wire.ends:
                    assert wire.has_left
                    assert whole.startswith(wire.body)
                    continue
                [end] = wire.ends
                hint = RETRY_AFTER_SHUTDOWN_MS if end is End.SHUTDOWN else None
                closing = wire.manner.projection.closing(hint)
                assert wire.body.endswith(closing)
                told = wire.body.removesuffix(closing)
                assert end is (End.SHUTDOWN if is_shutdown else End.FINISHED)
                assert whole.startswith(told) if is_shutdown else whole == told

    with small():
        asyncio.run(play())
