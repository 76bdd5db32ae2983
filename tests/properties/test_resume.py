"""Whatever is cut wherever: who comes back with their last id gets exactly the rest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.hub import Hub
from tailrace.projections import stream
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Kind, parse
from tailrace.protocol.events import draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, run_id
from tailrace.protocol.sse import Decoder, ServerSentEvent

RUN = run_id(bytes(16))


@dataclass
class Watcher:
    """A client behind a bad line: of what is sent, only some bytes arrive before each cut."""

    hub: Hub
    cuts: list[int]
    had: list[ServerSentEvent] = field(default_factory=list)
    last_id: str = "0"

    async def watch(self) -> None:
        """Until the server says that nothing will ever come."""
        while await self.connect(self.cuts.pop() if self.cuts else None):
            pass

    async def connect(self, arrives: int | None) -> bool:
        decoder = Decoder(last_event_id=self.last_id)
        async with self.hub.subscribe(RUN, parse(self.last_id), stream("events")) as (
            reader,
            start,
        ):
            if start.kind is Kind.FINISHED:
                return False
            async for chunk in reader:
                got = chunk if arrives is None else chunk[:arrives]
                self.had += decoder.feed(got)
                self.last_id = decoder.last_event_id or "0"
                if arrives is not None:
                    arrives -= len(got)
                    if not arrives:
                        break
        return True


async def tell(log: MemoryLog, batches: list[int]) -> None:
    """Commit batches of events, and let others run in between."""
    for size in batches:
        drafts = [draft("log", {"message": "x\n" * number}, 0.0) for number in range(size)]
        await log.append(Append(RUN, drafts))
        await asyncio.sleep(0)
    end = [draft("complete", {"status": "completed"}, 0.0)]
    moved = (State.RUNNING, State.COMPLETED)
    await log.append(Append(RUN, end, move=moved, patch={"ended_at": 1.0}))


async def play(
    batches: list[int], watchers: list[list[int]], keep: int | None, delay: int
) -> tuple[list[list[ServerSentEvent]], list[ServerSentEvent]]:
    log = MemoryLog(Retention(run_events=keep))
    await log.open()
    hub = Hub(log)

    async def publish_late(block: Block) -> None:
        # What is committed can be read before it is told of.
        for _ in range(delay):
            await asyncio.sleep(0)
        hub.publish(block)

    run = RunRecord(id=RUN, operation="x", principal="me", created_at=0.0, state=State.RUNNING)
    await log.create(run)
    telling: list[asyncio.Task[None]] = []
    crowd = [Watcher(hub, cuts) for cuts in watchers]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        log.listen(lambda block: telling.append(group.create_task(publish_late(block))))
        group.create_task(tell(log, batches))
        for watcher in crowd:
            group.create_task(watcher.watch())
    kept = b"".join(block.wire for block in await log.read(RUN, 0, 1 << 30))
    assert hub.channels == 0
    return [watcher.had for watcher in crowd], Decoder().feed(kept)


batches = st.lists(st.integers(1, 6), max_size=12)
lines = st.lists(st.lists(st.integers(1, 700), max_size=6), min_size=1, max_size=4)


@given(batches, lines, st.integers(0, 9))
def test_exactly_the_log_however_often_it_was_cut(
    batches: list[int], lines: list[list[int]], delay: int
) -> None:
    everybody, log = asyncio.run(play(batches, lines, None, delay))
    assert [int(event.id) for event in log] == [*range(1, len(log) + 1)]
    for had in everybody:
        assert had == log


@given(batches, lines, st.integers(1, 10), st.integers(0, 9))
def test_what_was_trimmed_is_named_by_a_gap(
    batches: list[int], lines: list[list[int]], keep: int, delay: int
) -> None:
    everybody, log = asyncio.run(play(batches, lines, keep, delay))
    for had in everybody:
        reached = seen = 0
        for event in had:
            if event.event == "gap":
                told = json.loads(event.data)
                # It has no id, so a watcher who is cut right after it is told it again.
                assert told["from"] == seen + 1
                reached = told["to"]
            else:
                assert int(event.id) == reached + 1
                seen = reached = reached + 1
        assert had[-1] == log[-1]
