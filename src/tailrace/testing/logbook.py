"""Words for tests of event logs: make runs, fill them, read them back, hear of them."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol
from uuid import uuid4

from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.retention import Retention
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Draft, Event, draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, run_id

WAIT_SECONDS: Final = 10.0
"""Bound of every wait: far beyond what a sound log needs, so that a hang is a failure."""


class LogFactory(Protocol):
    """Makes an empty log, not yet open."""

    def __call__(self, retention: Retention | None = None) -> EventLog:
        """A log of its own with each call."""


class Heard:
    """A listener that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._more = asyncio.Event()

    def __call__(self, block: Block) -> None:
        """Take a block from the log."""
        self.blocks.append(block)
        self._more.set()

    async def until(self, run: str, seq: int) -> list[Block]:
        """The blocks of `run`, once event `seq` was told of."""
        # A log may tell in a later turn of the loop than the one that commits.
        await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_SECONDS):
            while not any(block.run == run and block.last >= seq for block in self.blocks):
                self._more.clear()
                await self._more.wait()
        return [block for block in self.blocks if block.run == run]


@contextlib.asynccontextmanager
async def using(log: EventLog) -> AsyncIterator[EventLog]:
    """The log, open while the block lasts."""
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def new_run(**given: Any) -> RunRecord:
    """A run nobody has heard of."""
    defaults = {"operation": "crunch", "principal": "ada", "created_at": 1_700_000_000.0}
    return RunRecord(**{"id": run_id(uuid4().bytes), **defaults, **given})


def logs(count: int, text: str = "hello") -> list[Draft]:
    """Drafts to append."""
    return [draft("log", {"message": f"{text} {number}"}, 0.0) for number in range(count)]


def ending(run: str, at: float = 10.0, *, before: State = State.RUNNING) -> Append:
    """The append that completes a run."""
    told = draft("complete", {"status": "completed"}, at)
    return Append(run, [told], move=(before, State.COMPLETED), patch={"ended_at": at})


async def started(log: EventLog, **given: Any) -> str:
    """A running run's id."""
    run = await log.create(new_run(**given))
    await log.append(Append(run.id, move=(State.QUEUED, State.RUNNING)))
    return run.id


async def ended(log: EventLog, at: float, **given: Any) -> str:
    """A completed run's id."""
    run = await started(log, **given)
    await log.append(ending(run, at))
    return run


async def kept(log: EventLog, run: str, after: int = 0) -> list[Event]:
    """Every event after `after`, however many reads it takes."""
    found: list[Event] = []
    while blocks := await log.read(run, after):
        found += [event for block in blocks for event in block.events]
        after = blocks[-1].last
    return found


async def seqs(log: EventLog, run: str, after: int = 0) -> list[int]:
    """The numbers of `kept`."""
    return [event.seq for event in await kept(log, run, after)]


async def record(log: EventLog, run: str) -> RunRecord:
    """The snapshot of a run that must be there."""
    found = await log.get(run)
    assert found is not None
    return found
