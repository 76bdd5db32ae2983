"""Exactly one terminal event under any interleaving of finish, failure, cancel, timeout and
crash: whole lives, from the claim to the end, by the supervisor itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from hypothesis import event as seen
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import LogClosed, TailraceError
from tailrace.eventlog.contract import Append, Commit, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.hub import Hub
from tailrace.operations import Operation
from tailrace.outcome import Outcome, settle
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event
from tailrace.protocol.lifecycle import TERMINAL, TERMINAL_EVENTS, TRANSITIONS, Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.registry import Operations
from tailrace.run import RunContext
from tailrace.supervisor import Supervisor
from tailrace.testing.logbook import kept, new_run, record, using
from tests.faultylog import FaultyLog

GRACE = 0.002


class MortalLog(FaultyLog):
    """A process's own view of the log; nothing of it gets through after its death."""

    is_dead = False

    def append(self, append: Append) -> asyncio.Future[Commit]:
        if self.is_dead:
            refused: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
            refused.set_exception(LogClosed("this process is dead"))
            return refused
        return super().append(append)

    async def get(self, run: str) -> RunRecord | None:
        if self.is_dead:
            raise LogClosed("this process is dead")
        return await super().get(run)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- what the work does ----------------------------------------------------------------

Work = Callable[[RunContext], Any]


def returning(after: int) -> Work:
    async def work(run: RunContext) -> int:
        for number in range(after):
            run.log(str(number))
            await asyncio.sleep(0)
        return after

    return work


def raising(after: int) -> Work:
    async def work(run: RunContext) -> None:
        await turns(after)
        raise ValueError(str(after))

    return work


def unspeakable(after: int) -> Work:
    async def work(run: RunContext) -> object:
        await turns(after)
        return object()

    return work


def giving_up(after: int) -> Work:
    async def work(run: RunContext) -> None:
        await turns(after)
        raise asyncio.CancelledError

    return work


def stubborn(after: int) -> Work:
    async def work(run: RunContext) -> str:
        """Swallows so many wishes to stop, and then returns all the same."""
        for _ in range(1 + after % 4):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
            with contextlib.suppress(TailraceError):
                run.log("still here")
        return "done"

    return work


def pretending(after: int) -> Work:
    async def work(run: RunContext) -> None:
        for status in ("cancelling", "completed", "failed"):
            run.emit("status", {"status": status, "mine": True})
            await turns(after)

    return work


def plain(after: int) -> Work:
    def work(run: RunContext) -> int:
        for number in range(after * 20):
            run.log(str(number))
        return after

    return work


WORKS = (returning, raising, unspeakable, giving_up, stubborn, pretending, plain)
works = st.tuples(st.sampled_from(WORKS), st.integers(0, 12)).map(lambda drawn: drawn[0](drawn[1]))


# --- what befalls it -------------------------------------------------------------------


@dataclass
class Life:
    """One run, two processes that know of it, and what happens to them."""

    log: EventLog
    run: str
    work: Work
    delays: Iterator[tuple[int, int]]

    def __post_init__(self) -> None:
        self.first, self.second = self.process(), self.process()

        def arrived(block: Block) -> None:
            for log, supervisor in (self.first, self.second):
                if not log.is_dead:
                    supervisor.notice(block)

        self.log.listen(arrived)

    def process(self) -> tuple[MortalLog, Supervisor]:
        log = MortalLog(self.log, self.delays)

        async def never(*_: Any) -> None:
            raise AssertionError

        operations = Operations()
        operations.add(Operation(self.work, never, name="crunch"))
        return log, Supervisor(log, Hub(log), operations, grace=GRACE)

    async def befall(self, what: str, after: int) -> None:
        """Something happens, after so many turns of the loop."""
        log, supervisor = self.first
        snapshot = await record(self.log, self.run)
        await turns(after)
        match what:
            case "execute":
                await supervisor.execute(self.run)
            case "execute elsewhere":
                await self.second[1].execute(self.run)
            case "cancel":
                # By whoever read the snapshot some time ago.
                await settle(MortalLog(self.log, self.delays), snapshot, Outcome(Signal.CANCEL))
            case "crash":
                log.is_dead = True
                await self.reap(after)
            case "taken for dead":
                # It is not dead, and goes on as if nothing had happened.
                await self.reap(after)
            case "server stops":
                supervisor.stop_all()
            case _:
                raise AssertionError(what)

    async def reap(self, after: int) -> None:
        await turns(after % 5)
        orphan = await record(self.log, self.run)
        await settle(MortalLog(self.log, self.delays), orphan, Outcome(Signal.LOSE))


HAPPENINGS = ("execute elsewhere", "cancel", "cancel", "crash", "taken for dead", "server stops")
happenings = st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 60)), max_size=5)
delays = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9)
timeouts = st.sampled_from([None, None, 0.0005, 0.003])


async def live(
    work: Work,
    befalls: list[tuple[str, int]],
    delays: list[tuple[int, int]],
    timeout: float | None,
) -> tuple[RunRecord, list[Event]]:
    async with using(MemoryLog()) as log:
        made = new_run(operation="crunch", timeout=timeout)
        run = (await log.create(made)).id
        life = Life(log, run, work, itertools.cycle(delays))
        async with asyncio.timeout(10):
            await asyncio.gather(
                life.befall("execute", 0), *(life.befall(*befall) for befall in befalls)
            )
            # In the end the reaper comes by, as it does for every run nobody cares for.
            await life.reap(0)
            at_the_end = await kept(log, run)
            await turns(30)
        found = await kept(log, run)
        assert found == at_the_end, "something followed the end"
        return await record(log, run), found


def states(told: list[Event]) -> list[State]:
    """The states a watcher sees, one after the other."""
    shown = [State.QUEUED]
    for event in told:
        if event.type == "start":
            shown.append(State.RUNNING)
        elif event.terminal or (event.type == "status" and "mine" not in event.payload):
            shown.append(State(event.payload["status"]))
    return shown


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with mock.patch("tailrace.supervisor.FORCED_SECONDS", 0.002):
        logging.disable(logging.ERROR)
        yield
        logging.disable(logging.NOTSET)


@given(works, happenings, delays, timeouts)
def test_one_end_whatever_happens(
    work: Work,
    befalls: list[tuple[str, int]],
    delays: list[tuple[int, int]],
    timeout: float | None,
) -> None:
    run, told = asyncio.run(live(work, befalls, delays, timeout))
    seen(run.state.value)
    assert run.state in TERMINAL
    assert run.ended_at is not None
    assert [event.seq for event in told] == [*range(1, len(told) + 1)]
    assert [event.terminal for event in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].type == TERMINAL_EVENTS[run.state]
    assert [event.type for event in told].count("start") <= 1
    shown = states(told)
    assert shown[-1] is run.state
    for before, after in itertools.pairwise(shown):
        assert after in TRANSITIONS[before].values(), shown
    if State.CANCELLING in shown:
        assert run.state is State.CANCELLED
    assert (run.result is None) is (run.state is not State.COMPLETED)
    assert (told[0].type == "start") is (run.attempt == 1)
