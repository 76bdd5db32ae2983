"""One terminal event, whatever raced: finish, failure, cancel, timeout, crash, zombies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import RunEnded
from tailrace.eventlog.contract import Append, Commit
from tailrace.eventlog.memory import MemoryLog
from tailrace.outcome import Outcome, settle
from tailrace.protocol.events import draft
from tailrace.protocol.lifecycle import TERMINAL, TERMINAL_EVENTS, Signal, State
from tailrace.protocol.runs import RunRecord, run_id

RUN = run_id(bytes(16))

# Each racer: what it wants, of which state it has heard, how many turns of the loop it takes
# before each of its appends. A process that crashed is a racer that LOSEs for it.
racers = st.lists(
    st.tuples(st.sampled_from(Signal), st.sampled_from(State), st.integers(0, 4)),
    min_size=1,
    max_size=8,
)


class SlowLog(MemoryLog):
    """Takes its time between being asked and deciding, as a log on a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: dict[asyncio.Task[object] | None, int] = {}

    def append(self, append: Append) -> asyncio.Future[Commit]:
        inner = super().append
        turns = self.turns.get(asyncio.current_task(), 0)

        async def later() -> Commit:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await inner(append)

        return asyncio.ensure_future(later())


async def offer(log: SlowLog, signal: Signal, heard: State, turns: int) -> None:
    log.turns[asyncio.current_task()] = turns
    rumour = RunRecord(id=RUN, operation="x", principal="me", created_at=0.0, state=heard)
    await settle(log, rumour, Outcome(signal, result=1), clock=lambda: 1.0)


async def emit(log: SlowLog, turns: int) -> None:
    """A producer that goes on as if nothing had happened."""
    log.turns[asyncio.current_task()] = turns
    with contextlib.suppress(RunEnded):
        await log.append(Append(RUN, [draft("log", {"message": str(turns)}, 0.0)]))


@given(
    racers, st.lists(st.integers(0, 30), max_size=5), st.sampled_from([State.QUEUED, State.RUNNING])
)
def test_one_terminal_event(
    racers: list[tuple[Signal, State, int]], emits: list[int], begin: State
) -> None:
    async def race() -> None:
        log = SlowLog()
        await log.open()
        run = RunRecord(id=RUN, operation="x", principal="me", created_at=0.0, state=begin)
        await log.create(run)
        work: list[Awaitable[None]] = [offer(log, *racer) for racer in racers]
        work += [emit(log, turns) for turns in emits]
        async with asyncio.timeout(10):
            await asyncio.gather(*work)
            # In the end the reaper comes by, as it does for every run nobody cares for.
            await offer(log, Signal.LOSE, begin, 0)
        events = [event for block in await log.read(RUN, 0) for event in block.events]
        record = await log.get(RUN)
        assert record is not None
        assert record.state in TERMINAL
        assert [event.terminal for event in events].count(True) == 1
        assert events[-1].terminal
        assert events[-1].type == TERMINAL_EVENTS[record.state]
        assert [event.seq for event in events] == [*range(1, len(events) + 1)]
        shown = [event.payload.get("status") for event in events]
        if State.CANCELLING in shown:
            assert record.state is State.CANCELLED

    asyncio.run(race())
