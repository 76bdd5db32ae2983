"""Logs against a list: whatever is done to a run, in whatever order, and however it crashes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tailrace.errors import (
    CursorFromFuture,
    ProducerGap,
    RunActive,
    RunEnded,
    StateMoved,
    TailraceError,
    ThreadBusy,
    WriterFenced,
)
from tailrace.eventlog.contract import Append, Commit, EventLog, Producer
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor, Kind, resume
from tailrace.protocol.events import TERMINAL_TYPES, Draft
from tailrace.protocol.lifecycle import TERMINAL, TERMINAL_EVENTS, Signal, State, after
from tailrace.protocol.runs import RunQuery
from tailrace.testing.logbook import new_run, record

_Made = TypeVar("_Made")

KEPT = 15
RULES = Retention(None, None, None, run_events=KEPT, run_bytes=None)


@dataclass
class Model:
    """What a run must be."""

    id: str
    thread: str | None = None
    events: list[Draft] = field(default_factory=list)
    state: State = State.QUEUED
    attempt: int = 0
    first: int = 1
    newest: int = 1
    produced: tuple[int, int] | None = None
    told: int = 0

    def refusal(self, append: Append) -> type[TailraceError] | None:
        """Why the log must refuse, in the order in which it must say so."""
        producer = append.producer
        if append.fence not in (None, self.attempt):
            return WriterFenced
        if producer is not None:
            epoch, last = self.produced or (producer.epoch, 0)
            if producer.epoch < epoch:
                return WriterFenced
            last = last if producer.epoch == epoch else 0
            if producer.seq > last + 1:
                return ProducerGap
            if producer.seq + len(append.drafts) - 1 <= last and append.drafts:
                return None
        if self.state in TERMINAL and (append.drafts or append.move):
            return RunEnded
        if append.move is not None and append.move[0] is not self.state:
            return StateMoved
        return None

    def take(self, append: Append) -> Sequence[Draft]:
        """What is new of an append that is not refused."""
        new, producer = append.drafts, append.producer
        if producer is not None and new:
            same = self.produced is not None and self.produced[0] == producer.epoch
            last = self.produced[1] if self.produced is not None and same else 0
            new = new[max(0, last + 1 - producer.seq) :]
            if not new:
                return new
            self.produced = (producer.epoch, producer.seq + len(append.drafts) - 1)
        if new:
            self.newest = len(self.events) + 1
        self.events += new
        if append.move is not None:
            self.state = append.move[1]
        self.attempt = append.patch.get("attempt", self.attempt)
        return new


class LogMachine(RuleBasedStateMachine):
    """The rules; the subclasses say which log, and what a crash is."""

    runs: Bundle[Model] = Bundle("runs")
    counts = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.seen: dict[tuple[str, int], bytes] = {}
        self.models: dict[str, Model] = {}
        self.faults: list[Exception] = []
        self.number = 0

    def make(self) -> EventLog:
        raise NotImplementedError

    async def crashed(self) -> EventLog:
        raise NotImplementedError

    def do(self, asked: Coroutine[Any, Any, _Made]) -> _Made:
        return self.loop.run(asyncio.wait_for(asked, 20))

    def listener(self, block: Block) -> None:
        try:
            model = self.models[block.run]
            assert block.first > model.told, "never back"
            model.told = block.last
            self.compare(model, [block])
        except Exception as fault:
            # A log survives its listener, and so would this mistake.
            self.faults.append(fault)

    def compare(self, model: Model, blocks: Sequence[Block]) -> None:
        """Under one id the same bytes, for ever, and they are those that were appended."""
        for block in blocks:
            for event, wire in zip(block.events, block.wire.split(b"\n\n"), strict=False):
                assert self.seen.setdefault((block.run, event.seq), wire) == wire
                told = model.events[event.seq - 1]
                assert (event.type, event.data) == (told.type, told.data)

    def drafts(self, count: int) -> list[Draft]:
        self.number += count
        return [Draft("log", b'{"n":%d}' % n) for n in range(self.number - count, self.number)]

    async def submit(self, model: Model, appends: Sequence[Append]) -> None:
        """Offer appends at once; the log must judge each as the model does."""
        expected: list[type[TailraceError] | tuple[int, int, State]] = []
        for append in appends:
            refusal = model.refusal(append)
            if refusal is not None:
                expected.append(refusal)
                continue
            first = len(model.events) + 1
            new = model.take(append)
            expected.append((first, first + len(new) - 1, model.state))
        futures = [self.log.append(append) for append in appends]
        outcomes: list[Any] = []
        for outcome in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(outcome, Commit):
                outcomes.append((outcome.first, outcome.last, outcome.state))
            else:
                outcomes.append(type(outcome))
        assert outcomes == expected

    def ending(self, seen: State, signal: Signal, *, drafts: Sequence[Draft] = ()) -> Append | None:
        target = after(seen, signal)
        if target is None:
            return None
        told = [Draft(TERMINAL_EVENTS[target], b"{}")] if target in TERMINAL else []
        patch = {"ended_at": 1.0} if target in TERMINAL else {}
        return Append("", [*drafts, *told], move=(seen, target), patch=patch)

    # --- what is done ----------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.log = self.make()
        self.do(self.opened(self.log))

    async def opened(self, log: EventLog) -> None:
        await log.open()
        log.listen(self.listener)
        for model in self.models.values():
            log.follow(model.id, model.told)

    @rule(target=runs, is_followed=st.booleans(), thread=st.sampled_from([None, "t", "u"]))
    def create(self, is_followed: bool, thread: str | None) -> Any:
        active = [model for model in self.models.values() if model.state not in TERMINAL]
        known = [model.id for model in active if model.thread == thread is not None]

        async def act() -> Any:
            if known:
                with pytest.raises(ThreadBusy, match=known[0]):
                    await self.log.create(new_run(thread=thread))
                return multiple()
            model = Model((await self.log.create(new_run(thread=thread))).id, thread)
            self.models[model.id] = model
            if is_followed:
                self.log.follow(model.id, 0)
            return model

        return self.do(act())

    @rule(model=runs)
    def start(self, model: Model) -> None:
        move = (State.QUEUED, State.RUNNING)
        self.do(self.submit(model, [Append(model.id, self.drafts(1), move=move)]))

    @rule(model=runs, counts=st.lists(counts, min_size=1, max_size=5), fence=st.integers(-1, 2))
    def append(self, model: Model, counts: list[int], fence: int) -> None:
        given = None if fence < 0 else fence
        batches = [Append(model.id, self.drafts(count), fence=given) for count in counts]
        self.do(self.submit(model, batches))

    @rule(model=runs, count=st.integers(0, 4), epoch=st.integers(0, 2), back=st.integers(-2, 4))
    def produce(self, model: Model, count: int, epoch: int, back: int) -> None:
        epoch_, last = model.produced or (epoch, 0)
        seq = max(1, (last if epoch == epoch_ else 0) + 1 - back)
        append = Append(model.id, self.drafts(count), producer=Producer("p", epoch, seq))
        self.do(self.submit(model, [append]))

    @rule(model=runs)
    def take_over(self, model: Model) -> None:
        patch = {"attempt": (model.attempt + 1) % 3}
        self.do(self.submit(model, [Append(model.id, patch=patch)]))

    @rule(model=runs, seen=st.sampled_from(State), signal=st.sampled_from(Signal))
    def signal_with_an_old_view(self, model: Model, seen: State, signal: Signal) -> None:
        append = self.ending(seen, signal)
        if append is not None:
            mine = Append(model.id, append.drafts, append.move, append.patch)
            self.do(self.submit(model, [mine]))

    @rule(model=runs, signals=st.lists(st.sampled_from(Signal), min_size=2, max_size=5))
    def race(self, model: Model, signals: list[Signal]) -> None:
        """All of them saw the same state, and an event comes between."""
        appends = []
        for signal in signals:
            append = self.ending(model.state, signal, drafts=self.drafts(1))
            if append is not None:
                appends.append(Append(model.id, append.drafts, append.move, append.patch))
                appends.append(Append(model.id, self.drafts(1)))
        self.do(self.submit(model, appends))

    @rule(model=consumes(runs), target=runs)
    def forget(self, model: Model) -> Any:
        async def act() -> bool:
            try:
                await self.log.forget(model.id)
            except RunActive:
                assert model.state not in TERMINAL
                return False
            assert model.state in TERMINAL
            self.log.unfollow(model.id)
            assert await self.log.get(model.id) is None
            assert await self.log.read(model.id, 0) == []
            del self.models[model.id]
            return True

        return multiple() if self.do(act()) else model

    @rule()
    def crash(self) -> None:
        async def act() -> None:
            self.log = await self.crashed()
            await self.opened(self.log)

        self.do(act())

    @rule(
        model=runs,
        seq=st.integers(0, 60),
        frame=st.none() | st.integers(0, 2),
        limit=st.sampled_from([0, 50, 200, 10_000]),
    )
    def come_back(self, model: Model, seq: int, frame: int | None, limit: int) -> None:
        async def act() -> None:
            run = await record(self.log, model.id)
            cursor = Cursor(0, seq, frame)
            try:
                decision = resume(cursor, run.extent)
            except CursorFromFuture:
                assert seq > len(model.events)
                return
            at, got = decision.after, []
            while blocks := await self.log.read(model.id, at, limit):
                assert blocks[0].first == at + 1, "no hole where none was told of"
                self.compare(model, blocks)
                got += [event.seq for block in blocks for event in block.events]
                at = blocks[-1].last
            assert got == list(range(decision.after + 1, len(model.events) + 1))
            assert (decision.lost is not None) == (cursor.complete + 1 < run.first_seq)
            assert (decision.kind is Kind.FINISHED) == (
                run.ended and not got and decision.lost is None
            )

        self.do(act())

    # --- what is always so -----------------------------------------------------------

    @invariant()
    def nothing_wrong_was_told(self) -> None:
        assert self.faults == []

    @invariant()
    def the_runs_of_a_thread_are_found(self) -> None:
        async def act() -> None:
            for thread in ("t", "u"):
                found = await self.log.find(RunQuery(principal="ada", thread=thread))
                mine = [model.id for model in self.models.values() if model.thread == thread]
                assert [run.id for run in found] == mine[::-1]

        if self.models:
            self.do(act())

    @invariant()
    def every_run_is_as_the_model_says(self) -> None:
        async def act() -> None:
            for model in self.models.values():
                run = await record(self.log, model.id)
                assert (run.state, run.last_seq, run.attempt) == (
                    model.state,
                    len(model.events),
                    model.attempt,
                )
                assert model.first <= run.first_seq <= model.newest, "never back"
                model.first = run.first_seq
                assert run.last_seq - run.first_seq < KEPT or run.first_seq == model.newest
                ends = [n for n, told in enumerate(model.events, 1) if told.type in TERMINAL_TYPES]
                assert ends == ([run.last_seq] if run.ended else [])

        if self.models:
            self.do(act())

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.do(self.log.close())
        self.loop.close()


class MemoryMachine(LogMachine):
    def make(self) -> EventLog:
        return MemoryLog(RULES)

    async def crashed(self) -> EventLog:
        # It has nothing to crash into: closing and opening again is all it knows.
        await self.log.close()
        return self.log


class SqliteMachine(LogMachine):
    def make(self) -> EventLog:
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name) / "0.db"
        return SqliteLog(self.place, RULES)

    async def crashed(self) -> EventLog:
        # What a killed process leaves is the file and its WAL, as they are in mid-flight.
        old = self.place
        self.place = old.with_name(f"{int(old.stem) + 1}.db")
        for suffix in ("", "-wal"):
            if Path(f"{old}{suffix}").exists():
                shutil.copyfile(f"{old}{suffix}", f"{self.place}{suffix}")
        await self.log.close()
        return SqliteLog(self.place, RULES)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestMemoryLog = MemoryMachine.TestCase
TestMemoryLog.settings = settings(max_examples=100, stateful_step_count=30)
TestSqliteLog = SqliteMachine.TestCase
TestSqliteLog.settings = settings(max_examples=40, stateful_step_count=30)
