"""From history to live without a seam: whatever is committed, told late or never, pulled, cut
and resumed in whatever order, a reader has exactly the bytes of the log, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.hub import Hub
from tailrace.outlet import End
from tailrace.projections import Projection, stream
from tailrace.projections.contract import Types
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import Draft
from tailrace.subscription import Subscription
from tailrace.testing.logbook import ending, started, using

FILTERS: tuple[Types, ...] = (None, frozenset({"log"}), frozenset({"none"}))
WAYS = [(stream(name), types) for name in ("events", "text", "ndjson") for types in FILTERS]


@dataclass
class Reader:
    """A watcher behind a line that is cut now and then, wherever it happens to be."""

    hub: Hub
    run: str
    begin: int
    projection: Projection
    types: Types
    wire: bytes = b""
    reached: int = 0
    subscription: Subscription | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def __post_init__(self) -> None:
        self.reached = self.begin

    async def connect(self) -> Subscription:
        if self.subscription is not None:
            return self.subscription
        made, _ = await self._stack.enter_async_context(
            self.hub.subscribe(self.run, Cursor(0, self.reached), self.projection, self.types)
        )
        self.subscription = made
        return made

    async def pull(self, arrives: int | None = None) -> bytes:
        """Have what there is; with `arrives`, only so much of it before the line is cut."""
        subscription = await self.connect()
        chunk = await subscription.pull()
        if arrives is None or arrives >= len(chunk):
            self.wire += chunk
            self.reached = subscription.cursor
            return chunk
        whole = chunk[: chunk.rfind(self._end, 0, arrives) + len(self._end)]
        if len(whole) >= len(self._end):
            self.wire += whole
            self.reached = self._last_id(whole)
        await self.cut()
        return chunk

    async def cut(self) -> None:
        self.subscription = None
        await self._stack.aclose()

    @property
    def _end(self) -> bytes:
        return b"\n" if self.projection.name == "ndjson" else b"\n\n"

    def _last_id(self, wire: bytes) -> int:
        mark = b'{"id":"' if self.projection.name == "ndjson" else b"id: "
        at = wire.rfind(mark) + len(mark)
        return int(bytes(wire[at : at + 18]).split(b'"')[0].split(b"\n")[0])

    async def finish(self) -> None:
        """Until nothing will ever come; woken when there is more."""
        subscription = await self.connect()
        self.wire += b"".join([chunk async for chunk in subscription])
        assert subscription.end is End.FINISHED
        await self.cut()


async def expected(log: EventLog, reader: Reader) -> bytes:
    blocks: list[Block] = []
    after = reader.begin
    while found := await log.read(reader.run, after):
        blocks += found
        after = found[-1].last
    return b"".join(reader.projection.tell(block, reader.types) for block in blocks)


def small() -> contextlib.ExitStack:
    """Bounds so small that they are met all the time."""
    stack = contextlib.ExitStack()
    for place, size in (
        ("channel.TAIL_BYTES", 1500),
        ("channel.CHUNK_BYTES", 400),
        ("channel.PIECE_BYTES", 300),
        ("subscription.CHUNK_BYTES", 500),
        ("hub.LATE_SECONDS", 0),
    ):
        stack.enter_context(mock.patch(f"tailrace.{place}", size))
    return stack


def drafts(sizes: Sequence[int]) -> list[Draft]:
    types = ("log", "progress")
    return [
        Draft(types[size % 2], b'{"message":"%b","timestamp":"t"}' % (b"x" * size))
        for size in sizes
    ]


# What may happen, one thing after the other.
append = st.tuples(st.just("append"), st.lists(st.integers(0, 400), min_size=1, max_size=5))
tell = st.tuples(st.just("tell"), st.integers(1, 4))
miss = st.tuples(st.just("miss"), st.integers(1, 2))
join = st.tuples(st.just("join"), st.integers(0, 40), st.sampled_from(range(len(WAYS))))
pull = st.tuples(st.just("pull"), st.integers(0, 5))
cut = st.tuples(st.just("cut"), st.integers(0, 5), st.integers(0, 900))
steps = st.lists(st.one_of(append, append, tell, miss, join, pull, pull, cut), max_size=40)


class Play:
    """A log, a hub that hears of it late, and a crowd of readers."""

    def __init__(self, log: MemoryLog, run: str) -> None:
        self.log = log
        self.run = run
        self.hub = Hub(log)
        self.head = 0
        self.untold: deque[Block] = deque()
        self.readers: list[Reader] = []
        log.listen(self.untold.append)

    async def step(self, what: str, given: tuple[object, ...]) -> None:
        match what, given:
            case "append", (list() as sizes,):
                self.head = (await self.log.append(Append(self.run, drafts(sizes)))).last
            case "tell", (int() as count,):
                for _ in range(min(count, len(self.untold))):
                    self.hub.publish(self.untold.popleft())
            case "miss", (int() as count,):
                # A log may miss blocks, but never swaps them.
                for _ in range(min(count, len(self.untold))):
                    self.untold.popleft()
            case "join", (int() as after, int() as way):
                reader = Reader(self.hub, self.run, min(after, self.head), *WAYS[way])
                self.readers.append(reader)
                await reader.connect()
            case "pull", (int() as which,) if self.readers:
                await self.readers[which % len(self.readers)].pull()
            case "cut", (int() as which, int() as arrives) if self.readers:
                await self.readers[which % len(self.readers)].pull(arrives)
            case _:
                pass
        # A listener is called in a turn of the loop of its own.
        await asyncio.sleep(0)

    async def end(self, is_told: bool) -> None:
        finishing = [asyncio.create_task(reader.finish()) for reader in self.readers]
        await asyncio.sleep(0)
        await self.log.append(ending(self.run))
        await asyncio.sleep(0)
        while is_told and self.untold:
            self.hub.publish(self.untold.popleft())
        # Whoever comes now reads a snapshot, and nobody stays behind it.
        self.readers.append(Reader(self.hub, self.run, 0, *WAYS[0]))
        async with asyncio.timeout(3):
            await asyncio.gather(self.readers[-1].finish(), *finishing)


@settings(max_examples=200)
@given(steps, st.booleans())
def test_readers_have_exactly_the_log(steps: list[tuple[object, ...]], is_told: bool) -> None:
    async def play() -> None:
        async with using(MemoryLog(Retention(run_events=None))) as log:
            assert isinstance(log, MemoryLog)
            played = Play(log, await started(log))
            for what, *given in [("join", 0, 0), *steps]:
                await played.step(str(what), tuple(given))
            await played.end(is_told)
            for reader in played.readers:
                assert reader.wire == await expected(log, reader)
            assert played.hub.channels == 0

    with small():
        asyncio.run(play())


crowd = st.lists(
    st.tuples(st.integers(0, 12), st.lists(st.integers(0, 900), max_size=4), st.integers(0, 2)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=12)
@given(st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=4), max_size=8), crowd)
def test_also_in_another_process(
    batches: list[list[int]], crowd: list[tuple[int, list[int], int]]
) -> None:
    """Over one SQLite file: written through one log, and read through another."""

    async def write(log: EventLog, run: str) -> None:
        for sizes in batches:
            await log.append(Append(run, drafts(sizes)))
        await log.append(ending(run))

    async def watch(reader: Reader, cuts: list[int]) -> None:
        for arrives in cuts:
            await reader.pull(arrives)
        await reader.finish()

    async def play(path: Path) -> None:
        async with using(SqliteLog(path)) as here, using(SqliteLog(path)) as there:
            hub = Hub(here)
            here.listen(hub.publish)
            run = await started(there)
            first = await there.append(Append(run, drafts([10] * 12)))
            readers = [
                Reader(hub, run, min(begin, first.last), stream("events"), FILTERS[types])
                for begin, _, types in crowd
            ]
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(write(there, run))
                for reader, (_, cuts, _) in zip(readers, crowd, strict=True):
                    group.create_task(watch(reader, cuts))
            for reader in readers:
                assert reader.wire == await expected(here, reader)

    with small(), tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder) / "log.db"))
