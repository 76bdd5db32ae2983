from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tailrace.channel import CHUNK_BYTES, TAIL_BYTES, Channel
from tailrace.eventlog.contract import READ_BYTES, Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.outlet import End
from tailrace.projections import stream
from tailrace.projections.contract import Types
from tailrace.protocol import events
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.cursor import Kind, Resume
from tailrace.protocol.events import Draft
from tailrace.protocol.sse import Decoder
from tailrace.subscription import Subscription
from tailrace.testing.logbook import ending, logs, started
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

EVENTS = stream("events")


class Interposed(FaultyLog):
    """A log in which something happens between a read and its answer."""

    meanwhile: Callable[[], Any] = staticmethod(lambda: None)
    joins = False

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        blocks = await super().read(run, after, limit)
        if blocks and self.joins:
            # As SQLite does: a reader wants few large sends.
            wire = b"".join(block.wire for block in blocks)
            blocks = [Block(run, blocks[0].first, blocks[-1].last, wire)]
        happened, self.meanwhile = self.meanwhile, lambda: None
        happened()
        return blocks


class Scene:
    """A run, its log and its channel."""

    def __init__(self, log: EventLog, run: str) -> None:
        self.log = log
        self.run = run
        self.channel = Channel(run)
        log.listen(self.channel.publish)

    async def follow(self) -> None:
        record = await self.log.get(self.run)
        assert record is not None
        self.channel.settle(record.last_seq, ended=record.ended)
        self.log.follow(self.run, record.last_seq)
        await turns(3)

    def tell(self, count: int = 1, text: str = "hello") -> asyncio.Future[Any]:
        return self.log.append(Append(self.run, logs(count, text)))

    def end(self) -> asyncio.Future[Any]:
        return self.log.append(ending(self.run))

    def reader(
        self, after: int = 0, types: Types = None, start: Resume | None = None, **more: Any
    ) -> Subscription:
        start = start or Resume(Kind.REPLAY, after)
        reader = Subscription(self.log, self.channel, start, EVENTS, types, **more)
        self.channel.readers.add(reader)
        return reader

    async def kept(self, after: int = 0) -> bytes:
        """What the log has, as it is sent."""
        wire = b""
        while blocks := await self.log.read(self.run, after):
            wire += b"".join(block.wire for block in blocks)
            after = blocks[-1].last
        return wire


@pytest.fixture
async def log() -> AsyncIterator[Interposed]:
    log = Interposed(MemoryLog(Retention(run_events=None)))
    await log.open()
    yield log
    await log.close()


@pytest.fixture
async def scene(log: Interposed) -> Scene:
    return Scene(log, await started(log))


async def drained(reader: Subscription) -> bytes:
    """All there is, and then nothing."""
    wire = b""
    while chunk := await soon(reader.pull()):
        wire += chunk
    return wire


async def whole(reader: Subscription) -> bytes:
    """To the end."""

    async def read() -> bytes:
        return b"".join([chunk async for chunk in reader])

    return await soon(read())


def seqs(wire: bytes) -> list[int]:
    return [int(event.id) for event in Decoder().feed(wire)]


# --- from history to live --------------------------------------------------------------


async def test_history_then_live_then_the_end(scene: Scene) -> None:
    await scene.tell(3)
    await scene.follow()
    reader = scene.reader()
    reading = asyncio.create_task(whole(reader))
    await turns()
    await scene.tell(2)
    await turns()
    await scene.end()
    assert await soon(reading) == await scene.kept()
    assert reader.end is End.FINISHED
    assert reader.cursor == 6


@pytest.mark.parametrize("after", range(7))
async def test_a_reader_starts_anywhere(scene: Scene, after: int) -> None:
    await scene.tell(3)
    await scene.follow()
    await scene.tell(2)
    await scene.end()
    assert await whole(scene.reader(after)) == await scene.kept(after)


async def test_everything_pending_comes_in_one_chunk(scene: Scene) -> None:
    await scene.follow()
    reader = scene.reader()
    for count in (1, 3, 2):
        await scene.tell(count)
    chunk = await soon(reader.pull())
    assert chunk == await scene.kept()
    assert await soon(reader.pull()) == b""
    assert reader.end is None


async def test_readers_in_step_get_the_same_object(scene: Scene) -> None:
    await scene.follow()
    readers = [scene.reader() for _ in range(5)]
    for count in (1, 4):
        await scene.tell(count)
        await scene.tell(count)
        chunks = [await soon(reader.pull()) for reader in readers]
        assert len(seqs(chunks[0])) == 2 * count
        assert all(chunk is chunks[0] for chunk in chunks)


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_what_is_published_while_the_log_is_read(
    scene: Scene, log: Interposed, count: int
) -> None:
    """Neither twice, though it is in the tail too, nor never."""
    await scene.tell(3)
    await scene.follow()
    reader = scene.reader()
    log.meanwhile = lambda: scene.tell(count, "meanwhile")
    assert await drained(reader) == await scene.kept()
    await scene.end()
    assert seqs(await whole(reader)) == [4 + count]


async def test_the_end_may_come_while_the_log_is_read(scene: Scene, log: Interposed) -> None:
    await scene.tell(3)
    await scene.follow()
    reader = scene.reader()
    log.meanwhile = scene.end
    assert await whole(reader) == await scene.kept()
    assert reader.end is End.FINISHED


async def test_the_tail_may_overflow_while_the_log_is_read(scene: Scene, log: Interposed) -> None:
    await scene.tell(3)
    await scene.follow()
    reader = scene.reader()

    def overflow() -> None:
        for _ in range(12):
            scene.tell(1, "x" * 100_000)

    log.meanwhile = overflow
    assert await drained(reader) == await scene.kept()
    assert len(await scene.kept()) > TAIL_BYTES


async def test_a_reader_that_falls_out_of_the_tail_joins_it_again(
    scene: Scene, log: Interposed
) -> None:
    await scene.follow()
    reader = scene.reader()
    await scene.tell(1)
    wire = await soon(reader.pull())
    assert log.reads == []
    for number in range(30):
        await scene.tell(1, f"{number} " + "x" * 60_000)
    assert scene.channel.take(reader.cursor, EVENTS, None) is None
    wire += await soon(reader.pull())
    assert log.reads == [1]
    wire += await drained(reader)
    assert wire == await scene.kept()
    reads = len(log.reads)
    await scene.tell(2)
    assert seqs(await soon(reader.pull())) == [32, 33]
    assert len(log.reads) == reads


async def test_a_hole_in_what_is_heard_is_read(scene: Scene) -> None:
    await scene.follow()
    reader = scene.reader()
    blocks: list[Block] = []
    scene.log.listen(blocks.append)
    for _ in range(6):
        await scene.tell(1)
    for heard in (blocks[0], blocks[3], blocks[5]):
        scene.channel.publish(heard)
    assert await drained(reader) == await scene.kept()
    assert reader.cursor == 6


async def test_a_reader_may_be_ahead_of_what_was_heard(scene: Scene, log: Interposed) -> None:
    log.joins = True
    await scene.tell(1)
    await scene.follow()
    blocks: list[Block] = []
    scene.log.listen(blocks.append)
    reader = scene.reader()
    for count in (2, 1):
        await scene.tell(count)
    await scene.end()
    chunk = await drained(reader)
    assert chunk == await scene.kept()
    assert reader.cursor == 5 > scene.channel.head
    assert reader.end is None
    assert not reader.is_behind
    reading = asyncio.create_task(whole(reader))
    await turns()
    for block in blocks:
        scene.channel.publish(block)
    assert await soon(reading) == b""
    assert reader.end is End.FINISHED


async def test_a_reader_ahead_may_stand_within_a_block(scene: Scene, log: Interposed) -> None:
    log.joins = True
    await scene.tell(1)
    await scene.follow()
    scene.log.listen(lambda _: None)
    reader = scene.reader()
    await scene.tell(2)
    await drained(reader)
    await scene.tell(2)
    scene.channel.publish(Block(scene.run, 2, 5, await scene.kept(1)))
    assert seqs(await drained(reader)) == [4, 5]


async def test_a_snapshot_of_another_reader_wakes_who_waits(scene: Scene) -> None:
    """Two processes share a log: what one hears late, a snapshot says early."""
    await scene.tell(1)
    await scene.follow()
    scene.log.listen(lambda _: None)
    reader = scene.reader()
    reading = asyncio.create_task(whole(reader))
    await turns()
    await scene.tell(1)
    await scene.end()
    scene.channel.settle(3, ended=True)
    assert await soon(reading) == await scene.kept()
    assert reader.end is End.FINISHED


# --- bounds ----------------------------------------------------------------------------


async def test_a_chunk_of_history_is_bounded(scene: Scene) -> None:
    await scene.tell(5000, "x" * 150)
    await scene.follow()
    reader = scene.reader()
    chunks = [chunk for chunk in [await soon(reader.pull()) for _ in range(10)] if chunk]
    assert max(map(len, chunks)) < 2 * CHUNK_BYTES
    assert b"".join(chunks) == await scene.kept()


async def test_others_have_their_turn_though_a_filter_passes_nothing(scene: Scene) -> None:
    for _ in range(40):
        await scene.tell(1, "x" * 100_000)
    await scene.follow()
    reader = scene.reader(types=frozenset({"progress"}))
    counted = 0

    async def count() -> None:
        nonlocal counted
        while reader.cursor < 40:
            counted += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await soon(reader.pull()) == b""
    await soon(counting)
    assert counted >= 10


# --- what is lost ----------------------------------------------------------------------


def controls(wire: bytes) -> list[tuple[str, dict[str, Any], str]]:
    return [
        (event.event, events.loads(event.data.encode()), event.id)
        for event in Decoder().feed(wire)
        if event.event in events.CONTROL_TYPES
    ]


async def test_what_was_trimmed_before_is_a_gap(scene: Scene) -> None:
    await scene.tell(5)
    await scene.follow()
    reader = scene.reader(start=Resume(Kind.GONE, 3, (2, 3)))
    wire = await drained(reader)
    assert controls(wire) == [("gap", {"run": scene.run, "from": 2, "to": 3}, "")]
    assert [event.id for event in Decoder().feed(wire)] == ["", "4", "5"]


async def test_what_was_trimmed_meanwhile_is_a_gap() -> None:
    log = Interposed(MemoryLog(Retention(run_events=10)))
    await log.open()
    scene = Scene(log, await started(log))
    await scene.tell(2)
    await scene.follow()
    reader = scene.reader()
    first = await soon(reader.pull())
    assert seqs(first) == [1, 2]
    log.listen(lambda _: None)
    for _ in range(30):
        await scene.tell(1)
    scene.channel.settle(32, ended=False)
    wire = await drained(reader)
    record = await log.get(scene.run)
    assert record is not None
    assert record.first_seq > 3
    gap = {"run": scene.run, "from": 3, "to": record.first_seq - 1}
    assert controls(wire) == [("gap", gap, "")]
    assert wire.endswith(await scene.kept(2))
    assert reader.cursor == 32


async def test_a_run_that_was_forgotten_is_a_gap(scene: Scene) -> None:
    await scene.tell(4)
    await scene.end()
    await scene.follow()
    reader = scene.reader(2)
    await scene.log.forget(scene.run)
    assert controls(await whole(reader)) == [("gap", {"run": scene.run, "from": 3, "to": 5}, "")]
    assert reader.end is End.FINISHED


async def test_a_lost_tail_is_a_reset(scene: Scene) -> None:
    await scene.tell(5)
    await scene.follow()
    reader = scene.reader(start=Resume(Kind.RESET, 3, (4, 9)))
    wire = await drained(reader)
    assert controls(wire) == [("reset", {"run": scene.run, "from": 4, "to": 9}, "")]
    assert [event.id for event in Decoder().feed(wire)] == ["", "4", "5"]


async def test_a_filter_lets_gaps_and_the_end_pass(scene: Scene) -> None:
    await scene.tell(3)
    await scene.log.append(Append(scene.run, [Draft("progress", b'{"current":1}')]))
    await scene.end()
    await scene.follow()
    nothing = frozenset({"nothing"})
    reader = scene.reader(types=nothing, start=Resume(Kind.GONE, 1, (1, 1)))
    told = [event.event for event in Decoder().feed(await whole(reader))]
    assert told == ["gap", "complete"]
    reader = scene.reader(types=frozenset({"progress"}))
    told = [event.event for event in Decoder().feed(await whole(reader))]
    assert told == ["progress", "complete"]


# --- control ---------------------------------------------------------------------------


async def test_a_frame_slips_in_between(scene: Scene) -> None:
    await scene.follow()
    reader = scene.reader()
    chunks = aiter(reader)
    waiting = asyncio.ensure_future(anext(chunks))
    await turns()
    reader.interject(b": one\n")
    reader.interject(b": two\n")
    assert await soon(waiting) == b": one\n: two\n"
    reader.interject(b": three\n")
    await scene.tell(1)
    assert await soon(anext(chunks)) == b": three\n"
    assert seqs(await soon(anext(chunks))) == [1]
    reader.close(End.LEFT)
    with pytest.raises(StopAsyncIteration):
        await soon(anext(chunks))


async def test_an_empty_frame_is_nothing(scene: Scene) -> None:
    await scene.follow()
    woken: list[Subscription] = []
    reader = scene.reader(woken=woken.append)
    reader.interject(b"")
    assert not woken
    assert await soon(reader.pull()) == b""


async def test_a_frame_is_not_forgotten_while_the_log_is_read(
    scene: Scene, log: Interposed
) -> None:
    await scene.tell(3)
    await scene.follow()
    reader = scene.reader(types=frozenset({"progress"}))
    log.meanwhile = lambda: reader.interject(b": keep-alive\n")
    assert await soon(reader.pull()) == b": keep-alive\n"


@pytest.mark.parametrize("end", [End.LEFT, End.SHUTDOWN])
async def test_closing_ends_who_waits(scene: Scene, end: End) -> None:
    await scene.tell(1)
    await scene.follow()
    reader = scene.reader()
    reading = asyncio.create_task(whole(reader))
    await turns()
    reader.close(end)
    reader.close(End.FINISHED)
    assert seqs(await soon(reading)) == [1]
    assert reader.end is end


async def test_closing_while_the_log_is_read_is_not_forgotten(
    scene: Scene, log: Interposed
) -> None:
    await scene.tell(3)
    await scene.end()
    await scene.follow()
    reader = scene.reader(3, types=frozenset({"progress"}))
    scene.channel.settle(4, ended=True)
    log.meanwhile = lambda: reader.close(End.SHUTDOWN)
    reader.cursor = 0
    await soon(reader.pull())
    assert reader.end is End.SHUTDOWN


async def test_a_finished_reader_gives_nothing_more(scene: Scene) -> None:
    await scene.end()
    await scene.follow()
    reader = scene.reader(1, start=Resume(Kind.FINISHED, 1))
    assert await whole(reader) == b""
    assert reader.end is End.FINISHED
    reader.interject(b": late\n")
    assert await soon(reader.pull()) == b""


async def test_who_reads_many_is_told_which(scene: Scene) -> None:
    await scene.follow()
    woken: list[Subscription] = []
    reader = scene.reader(woken=woken.append)
    await scene.tell(1)
    assert woken == [reader]
    assert reader.is_behind
    await drained(reader)
    assert not reader.is_behind


async def test_a_cancelled_wait_loses_nothing(scene: Scene) -> None:
    await scene.follow()
    reader = scene.reader()
    reading = asyncio.create_task(whole(reader))
    await turns()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await scene.tell(2)
    assert await drained(reader) == await scene.kept()


async def test_a_torn_read_is_done_again(scene: Scene, log: Interposed) -> None:
    await scene.tell(2)
    await scene.follow()
    reader = scene.reader()

    def tear() -> None:
        raise ZeroDivisionError

    log.meanwhile = tear
    with pytest.raises(ZeroDivisionError):
        await soon(reader.pull())
    assert await drained(reader) == await scene.kept()


async def test_pack_is_what_is_sent(scene: Scene) -> None:
    drafts = logs(3)
    await scene.follow()
    reader = scene.reader()
    await scene.log.append(Append(scene.run, drafts))
    await until(lambda: reader.is_behind)
    assert await soon(reader.pull()) == pack(1, drafts)
