from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from tailrace import going as goings
from tailrace import outbox as outboxes
from tailrace import outcome as outcomes
from tailrace import supervisor as supervisors
from tailrace.errors import (
    LogClosed,
    LogError,
    LogFull,
    RunCancelled,
    RunEnded,
    RunLost,
    ScriptFailed,
)
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.hub import Hub
from tailrace.operations import Operation, Traits
from tailrace.outcome import Outcome, settle
from tailrace.projections import stream
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import MAX_EVENT_BYTES, Event, loads, to_json
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord, snapshot
from tailrace.registry import Operations
from tailrace.run import RunContext, current
from tailrace.supervisor import Supervisor
from tailrace.testing.logbook import kept, logs, new_run, record, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

GRACE = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "FORCED_SECONDS", 0.05)
    monkeypatch.setattr(supervisors, "_WATCH_SECONDS", 0.005)
    monkeypatch.setattr(goings, "_NOTED_SECONDS", 0.0)
    monkeypatch.setattr(supervisors, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(goings, "_LAST_SECONDS", 0.05)
    monkeypatch.setattr(goings, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(goings, "_TELL_SECONDS", 0.01)
    monkeypatch.setattr(outboxes, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(outcomes, "_RETRY_SECONDS", 0.001)


@dataclasses.dataclass
class House:
    """A log, and somebody who executes runs against it."""

    log: FaultyLog
    hub: Hub
    operations: Operations
    supervisor: Supervisor
    tasks: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)

    @classmethod
    def build(cls, inner: EventLog) -> House:
        log, operations = FaultyLog(inner), Operations()
        hub = Hub(log)
        supervisor = Supervisor(log, hub, operations, grace=GRACE)

        def arrived(block: Block) -> None:
            hub.publish(block)
            supervisor.notice(block)

        log.listen(arrived)
        return cls(log, hub, operations, supervisor)

    def offer(self, function: Callable[..., Any], **options: Any) -> str:
        async def never(*_: Any) -> None:
            raise AssertionError

        operation: Operation[..., None] = Operation(function, never, **options)
        self.operations.add(operation)
        return operation.name

    async def queue(self, operation: str, /, input: Any = None, **given: Any) -> str:
        stored = b"{}" if input is None else to_json(input)
        made = new_run(operation=operation, input=stored, worker=self.log.worker, **given)
        return (await self.log.create(made)).id

    def execute(self, run: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self.supervisor.execute(run))
        self.tasks.append(task)
        return task

    @property
    def followed(self) -> object:
        """The runs the log tells of."""
        inner = self.log.inner
        return inner._followers if isinstance(inner, MemoryLog) else None

    async def begin(self, function: Callable[..., Any] | str, /, **given: Any) -> str:
        """A run that is going on."""
        name = function if isinstance(function, str) else self.offer(function)
        run = await self.queue(name, **given)
        self.execute(run)
        return run

    async def over(self, run: str) -> Ended:
        await soon(asyncio.gather(*self.tasks))
        return await self.ended(run)

    async def ended(self, run: str) -> Ended:
        return Ended(await record(self.log, run), await kept(self.log, run))

    async def run(self, function: Callable[..., Any] | str, /, **given: Any) -> Ended:
        return await self.over(await self.begin(function, **given))

    async def cancel(self, run: str, reason: str = "requested") -> None:
        wish = Outcome(Signal.CANCEL, reason=reason)
        await settle(self.log, await record(self.log, run), wish)

    async def ended_of(self, run: str) -> Ended:
        """`over`, where others go on."""
        await soon(self.tasks[-1])
        return await self.ended(run)

    async def queued(self, run: str, position: int) -> None:
        """Wait until it is told that position."""

        async def look() -> None:
            while snapshot(await record(self.log, run))["position"] != position:
                await asyncio.sleep(0.001)

        await soon(look())

    async def going(self, run: str) -> None:
        async def look() -> None:
            while (await record(self.log, run)).state is not State.RUNNING:
                await asyncio.sleep(0.001)

        await soon(look())


@dataclasses.dataclass
class Ended:
    record: RunRecord
    events: list[Event]

    @property
    def state(self) -> State:
        """Checked against the events on the way."""
        terminal = [event for event in self.events if event.terminal]
        assert len(terminal) == 1
        assert self.events[-1] is terminal[0]
        assert self.last["status"] == self.record.state.value
        assert self.record.ended_at is not None
        return self.record.state

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1].payload

    def messages(self) -> list[str]:
        return [event.payload["message"] for event in self.events if event.type == "log"]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with using(MemoryLog()) as log:
        house = House.build(log)
        yield house
        await soon(asyncio.gather(*house.tasks, return_exceptions=True))
        assert house.supervisor.going == 0
        assert not house.followed


@pytest.fixture
def latch() -> Iterator[threading.Event]:
    """What work in threads waits for; opened at the end at the latest."""
    latch = threading.Event()
    yield latch
    latch.set()


# --- from the start to the end ---------------------------------------------------------


async def test_a_run_that_completes(house: House) -> None:
    async def crunch(run: RunContext, rows: int = 3) -> dict[str, int]:
        assert current() is run
        run.log("one")
        await run.drain()
        run.progress(rows, rows)
        run.log("two")
        return {"rows": rows}

    ended = await house.run(crunch, input={"rows": 5})
    assert ended.state is State.COMPLETED
    assert ended.types == ["start", "log", "progress", "log", "complete"]
    start = ended.events[0].payload
    assert (start["run"], start["operation"]) == (ended.record.id, "crunch")
    assert (start["input"], start["attempt"]) == ({"rows": 5}, 1)
    assert (ended.last["result"], loads(ended.record.result)) == ({"rows": 5}, {"rows": 5})
    assert ended.record.attempt == 1
    assert ended.record.worker == house.log.worker
    assert ended.record.started_at is not None
    assert loads(ended.record.progress)["current"] == 5


async def test_every_kind_of_work(house: House) -> None:
    def plain(run: RunContext) -> int:
        assert current() is run
        run.log("plain")
        return 1

    def generator(run: RunContext) -> Iterator[Any]:
        assert current() is run
        yield "log", {"message": "generator"}

    async def async_generator() -> AsyncIterator[Any]:
        yield "log", {"message": current().operation}

    for work, result in ((plain, 1), (generator, None), (async_generator, None)):
        ended = await house.run(work)
        assert ended.state is State.COMPLETED
        assert ended.messages() == [work.__name__]
        assert ended.last["result"] == result


async def test_all_that_was_emitted_comes_before_the_end(house: House) -> None:
    def chatty(run: RunContext) -> None:
        for number in range(5000):
            run.log(str(number))

    async def quick(run: RunContext) -> None:
        for number in range(5000):
            run.log(str(number))

    for work in (chatty, quick):
        ended = await house.run(work)
        assert ended.state is State.COMPLETED
        assert ended.messages() == [str(number) for number in range(5000)]


async def test_many_at_once(house: House) -> None:
    async def crunch(run: RunContext, number: int) -> int:
        for _ in range(3):
            run.log(str(number))
            await run.drain()
        return number

    name = house.offer(crunch)
    started = [await house.begin(name, input={"number": number}) for number in range(20)]
    for number, run in enumerate(started):
        ended = await house.over(run)
        assert (ended.state, ended.last["result"]) == (State.COMPLETED, number)
        assert ended.messages() == [str(number)] * 3


# --- what cannot be run ----------------------------------------------------------------


async def test_an_unknown_operation(house: House) -> None:
    house.offer(lambda: None, name="crunch")
    run = await house.begin("crunsh")
    ended = await house.over(run)
    assert ended.state is State.FAILED
    assert ended.types == ["start", "error"]
    assert ended.last["type"] == "OperationUnknown"
    assert "crunsh" in ended.last["error"]


class Odd(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _odd(cls, value: int) -> int:
        raise RuntimeError("the validator broke")


async def test_an_input_that_does_not_fit_any_more(house: House) -> None:
    def crunch(rows: int) -> None: ...

    ended = await house.run(crunch, input={"rows": "many"})
    assert (ended.state, ended.last["type"]) == (State.FAILED, "InputInvalid")
    assert ended.last["errors"][0]["where"] == "rows"


async def test_an_input_whose_validator_breaks(house: House) -> None:
    def crunch(odd: Odd) -> None: ...

    ended = await house.run(crunch, input={"odd": {"size": 1}})
    assert (ended.state, ended.last["error"]) == (State.FAILED, "the validator broke")


async def test_a_run_that_is_taken_is_left_alone(house: House) -> None:
    def crunch() -> None: ...

    run = await house.begin(crunch)
    house.execute(run)
    ended = await house.over(run)
    assert ended.types == ["start", "complete"]
    await soon(house.supervisor.execute(run))
    await soon(house.supervisor.execute(new_run().id))
    assert (await house.ended(run)).types == ["start", "complete"]


async def test_two_claims_at_once(house: House) -> None:
    """As it is when two workers are told of the same run."""

    def crunch() -> None: ...

    house.offer(crunch)
    other = House.build(house.log.inner)
    other.offer(crunch)
    house.log.listen(lambda _: None)
    run = await house.queue("crunch")
    tasks = [each.execute(run) for each in (house, other, house, other)]
    await soon(asyncio.gather(*tasks))
    assert (await house.ended(run)).types == ["start", "complete"]


# --- what work may raise ---------------------------------------------------------------


class Base(BaseException):
    pass


@pytest.mark.parametrize("is_threaded", [False, True], ids=["coroutine", "thread"])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("no rows"), "ValueError", "no rows"),
        (Base("no rows"), "Base", "no rows"),
        (ExceptionGroup("two", [ValueError("a"), OSError("b")]), "ExceptionGroup", "two (2 sub"),
        (BaseExceptionGroup("one", [Base()]), "BaseExceptionGroup", "one (1 sub"),
        (StopIteration(3), "RuntimeError", "StopIteration"),
        (SystemExit(3), "RuntimeError", "SystemExit(3)"),
        (GeneratorExit(), "GeneratorExit", "GeneratorExit"),
        (TimeoutError(), "TimeoutError", "TimeoutError"),
        (ScriptFailed("It failed.", exit_code=3), "ScriptFailed", "It failed."),
        (LogFull("not the log's"), "LogFull", "not the log's"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else "",
)
async def test_work_that_raises(
    house: House, error: BaseException, kind: str, said: str, is_threaded: bool
) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    ended = await house.run(plain if is_threaded else coroutine)
    assert ended.state is State.FAILED
    assert (ended.last["type"], ended.last["reason"]) == (kind, "failed")
    assert ended.last["error"].startswith(said) or said in ended.last["error"]
    assert "Traceback" not in str(ended.last)


async def test_ctrl_c_in_a_thread(house: House) -> None:
    def plain() -> None:
        raise KeyboardInterrupt

    ended = await house.run(plain)
    assert (ended.state, ended.last["type"]) == (State.FAILED, "RuntimeError")
    assert "KeyboardInterrupt" in ended.last["error"]


async def test_what_was_told_before_it_raised_is_kept(house: House) -> None:
    def crunch(run: RunContext) -> None:
        run.log("one")
        raise ValueError("no")

    ended = await house.run(crunch)
    assert ended.types == ["start", "log", "error"]


@pytest.mark.parametrize(
    ("result", "kind"),
    [(object(), "EventInvalid"), ("x" * MAX_EVENT_BYTES, "EventTooLarge")],
    ids=["object", "large"],
)
async def test_a_result_that_cannot_be_kept(house: House, result: Any, kind: str) -> None:
    async def crunch() -> Any:
        return result

    ended = await house.run(crunch)
    assert (ended.state, ended.last["type"]) == (State.FAILED, kind)
    assert ended.record.result is None


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), RunCancelled("enough")], ids=["task", "run"]
)
@pytest.mark.parametrize("is_threaded", [False, True], ids=["coroutine", "thread"])
async def test_work_that_gives_itself_up(
    house: House, error: BaseException, is_threaded: bool
) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    ended = await house.run(plain if is_threaded else coroutine)
    assert ended.state is State.CANCELLED
    assert ended.last["reason"] == "the work cancelled itself"


async def test_work_that_cancels_its_own_task(house: House) -> None:
    async def crunch() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    ended = await house.run(crunch)
    assert ended.state is State.CANCELLED
    assert ended.types == ["start", "cancelled"]


# --- timeout ---------------------------------------------------------------------------


async def forever(run: RunContext) -> None:
    run.log("on")
    await asyncio.sleep(60)


async def test_work_that_takes_too_long(house: House) -> None:
    ended = await house.run(forever, timeout=0.02)
    assert ended.state is State.TIMED_OUT
    assert ended.types == ["start", "log", "error"]
    assert ended.last["error"] == "The run took longer than its timeout of 0.02 s."
    assert (ended.last["reason"], "forced" in ended.last) == ("timed_out", False)


async def test_what_it_returns_in_its_grace_comes_too_late(house: House) -> None:
    async def crunch(run: RunContext) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            run.log("late")
        return "late"

    ended = await house.run(crunch, timeout=0.02)
    assert ended.state is State.TIMED_OUT
    assert ended.messages() == ["late"]
    assert "forced" not in ended.last


async def test_work_that_is_quick_enough(house: House) -> None:
    ended = await house.run(lambda: 3, timeout=30.0)
    assert ended.state is State.COMPLETED


# --- cancel ----------------------------------------------------------------------------


async def test_a_coroutine_is_cancelled(house: House) -> None:
    async def crunch(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            run.log("bye" if run.cancelled else "?")

    run = await house.begin(crunch)
    await house.going(run)
    await turns()
    await house.cancel(run, "too dear")
    ended = await house.over(run)
    assert ended.state is State.CANCELLED
    assert ended.types == ["start", "status", "log", "cancelled"]
    assert ended.events[1].payload["status"] == "cancelling"
    assert (ended.last["reason"], ended.messages()) == ("too dear", ["bye"])
    assert "forced" not in ended.last


async def test_one_that_has_hardly_begun(house: House) -> None:
    for count in range(12):
        run = await house.begin(house.offer(forever, name=f"forever{count}"))
        await turns(count)
        await house.cancel(run)
        ended = await house.over(run)
        assert ended.state is State.CANCELLED


async def test_one_that_is_queued_never_starts(house: House) -> None:
    run = await house.queue(house.offer(forever))
    await house.cancel(run)
    await soon(house.supervisor.execute(run))
    ended = await house.ended(run)
    assert (ended.state, ended.types) == (State.CANCELLED, ["cancelled"])


async def test_one_that_swallows_it_is_forced(house: House) -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1

    run = await house.begin(stubborn)
    await house.going(run)
    await house.cancel(run)
    ended = await house.over(run)
    assert ended.state is State.CANCELLED
    assert ended.last["forced"] is True
    assert swallowed == 2


async def test_one_that_swallows_all_is_given_up(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = asyncio.Event()
    refused: list[BaseException] = []

    async def stubborn(run: RunContext) -> None:
        while not is_over.is_set():
            try:
                await is_over.wait()
            except asyncio.CancelledError:
                continue
        try:
            run.log("after the end")
        except RunEnded as error:
            refused.append(error)

    run = await house.begin(stubborn)
    await house.going(run)
    await house.cancel(run)
    ended = await house.over(run)
    assert (ended.state, ended.last["forced"]) == (State.CANCELLED, True)
    assert "its coroutine goes on" in caplog.text
    is_over.set()
    await until(lambda: refused)
    assert (await house.ended(run)).events == ended.events


async def test_a_thread_that_ignores_it_is_given_up(
    house: House, latch: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[BaseException] = []

    def stubborn(run: RunContext) -> None:
        latch.wait()
        for _ in range(2):
            try:
                run.log("after the end")
            except (RunCancelled, RunEnded) as error:
                refused.append(error)

    run = await house.begin(stubborn, timeout=0.02)
    ended = await house.over(run)
    assert (ended.state, ended.last["forced"]) == (State.TIMED_OUT, True)
    assert "The thread tailrace-stubborn ignores that it should stop" in caplog.text
    latch.set()
    await until(lambda: len(refused) == 2)
    assert [type(error) for error in refused] == [RunCancelled, RunEnded]
    assert (await house.ended(run)).events == ended.events


async def test_a_thread_that_never_stops_emitting_is_given_up(
    house: House, latch: threading.Event
) -> None:
    def stubborn(run: RunContext) -> None:
        while not latch.is_set():
            try:
                run.log("more")
            except RunCancelled:
                run.log("never mind")
            except RunEnded:
                return

    run = await house.begin(stubborn)
    await house.going(run)
    await house.cancel(run)
    ended = await house.over(run)
    assert (ended.state, ended.last["forced"]) == (State.CANCELLED, True)
    await turns(50)
    assert (await house.ended(run)).events == ended.events


async def test_a_thread_that_looks_ends_in_time(house: House) -> None:
    def loop(run: RunContext) -> None:
        run.log("on")
        while not run.cancelled:
            run.wait_cancelled(0.01)

    def checking(run: RunContext) -> None:
        while True:
            run.check()
            run.wait_cancelled(10)

    def emitting(run: RunContext) -> None:
        try:
            while True:
                run.progress(1)
                run.wait_cancelled(0.001)
        finally:
            run.log("bye")

    def tracking(run: RunContext) -> Iterator[int]:
        yield from run.track(range(10**9))

    for work in (loop, checking, emitting, tracking):
        run = await house.begin(work)
        await house.going(run)
        await turns()
        await house.cancel(run)
        ended = await house.over(run)
        assert ended.state is State.CANCELLED
        assert "forced" not in ended.last, work.__name__


async def test_an_operation_may_have_more_grace(house: House) -> None:
    async def slow(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(4 * GRACE)
            run.log("bye")

    name = house.offer(slow, grace=10.0)
    run = await house.begin(name)
    await house.going(run)
    await turns()
    await house.cancel(run)
    ended = await house.over(run)
    assert (ended.state, ended.messages()) == (State.CANCELLED, ["bye"])
    assert "forced" not in ended.last


async def test_an_operation_may_have_none(house: House) -> None:
    async def slow(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    run = await house.begin(house.offer(slow, grace=0.0))
    await house.going(run)
    await turns()
    await house.cancel(run)
    ended = await house.over(run)
    assert ended.last["forced"] is True


@pytest.mark.parametrize("does", ["returns", "raises"])
async def test_a_wish_to_cancel_stands_whatever_the_work_does(house: House, does: str) -> None:
    async def crunch(run: RunContext) -> int:
        run.log("on")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if does == "raises":
                raise ValueError("no") from None
        return 3

    run = await house.begin(crunch)
    await house.going(run)
    await turns()
    await house.cancel(run)
    ended = await house.over(run)
    assert ended.state is State.CANCELLED
    assert (ended.record.result, ended.record.error) == (None, None)


async def test_an_end_that_races_with_the_wish(house: House) -> None:
    """Whichever is first, `cancelling` is never followed by `complete`."""
    name = house.offer(lambda: 3, name="crunch")
    seen = set()
    for count in range(0, 60, 3):
        run = await house.begin(name)
        await turns(count)
        await house.cancel(run)
        ended = await house.over(run)
        seen.add(ended.state)
        if "status" in ended.types:
            assert ended.state is State.CANCELLED
    assert seen <= {State.COMPLETED, State.CANCELLED}
    assert State.CANCELLED in seen


async def test_work_that_only_says_it_is_cancelling_goes_on(house: House) -> None:
    async def order(run: RunContext) -> int:
        run.emit("status", {"status": "cancelling", "reason": "the order"})
        await run.drain()
        await turns(20)
        return 3

    ended = await house.run(order)
    assert ended.state is State.COMPLETED


async def test_a_wish_that_nobody_can_check_is_believed(house: House) -> None:
    run = await house.begin(forever)
    await house.going(run)
    house.log.read_faults.append(LogError("cannot read"))
    wish = Outcome(Signal.CANCEL, reason="requested")
    snapshot = new_run(id=run, operation="forever", state=State.RUNNING)
    await settle(house.log, snapshot, wish)
    assert (await house.over(run)).state is State.CANCELLED


# --- ended elsewhere -------------------------------------------------------------------


async def test_a_newer_attempt_takes_over(house: House) -> None:
    async def crunch(run: RunContext) -> None:
        while True:
            run.log("on")
            await asyncio.sleep(0.001)

    run = await house.begin(crunch)
    await house.going(run)
    await house.log.append(Append(run, patch={"attempt": 2}))
    await soon(asyncio.gather(*house.tasks))
    now = await house.ended(run)
    assert now.record.state is State.RUNNING
    assert set(now.types) <= {"start", "log"}


async def test_an_end_from_elsewhere_stops_the_work(house: House) -> None:
    stopped: list[str] = []

    async def crunch() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append("yes")

    run = await house.begin(crunch)
    await house.going(run)
    await turns()
    await settle(house.log, await record(house.log, run), Outcome(Signal.LOSE))
    ended = await house.over(run)
    assert (ended.state, ended.types) == (State.LOST, ["start", "error"])
    assert stopped == ["yes"]


# --- abandoned -------------------------------------------------------------------------


async def test_a_run_nobody_watches_is_abandoned(house: House) -> None:
    ended = await house.run(forever, abandon_after=0.02)
    assert ended.state is State.CANCELLED
    assert ended.types == ["start", "log", "status", "cancelled"]
    assert ended.last["reason"] == "abandoned"


async def test_a_run_is_not_abandoned_while_somebody_watches(house: House) -> None:
    run = await house.begin(forever, abandon_after=0.03)
    async with house.hub.subscribe(run, Cursor(0, 0), stream("events")):
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert not house.tasks[-1].done()
    ended = await house.over(run)
    assert ended.last["reason"] == "abandoned"


async def test_a_watcher_at_another_process_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with using(SqliteLog(path)) as here, using(SqliteLog(path)) as there:
        house, other = House.build(here), House.build(there)
        run = await house.begin(forever, abandon_after=0.25)
        async with other.hub.subscribe(run, Cursor(0, 0), stream("events")):
            for _ in range(12):
                # What the other engine's upkeep does, once a second.
                await there.touch(other.hub.watched(), time.time())
                await asyncio.sleep(0.05)
                assert not house.tasks[-1].done()
        ended = await house.over(run)
        assert ended.last["reason"] == "abandoned"


async def test_a_note_is_believed_until_the_next_is_due(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others note their watchers once a second: less patience would cut them off."""
    monkeypatch.setattr(goings, "_NOTED_SECONDS", 60.0)
    run = await house.begin(forever, abandon_after=0.01)
    await house.going(run)
    await house.log.touch([run], time.time())
    looked = house.log.gets
    # Five times the patience is over, and the note is looked at.
    await until(lambda: house.log.gets >= looked + 5)
    assert not house.tasks[-1].done()
    await house.cancel(run)
    await house.over(run)


async def test_nobody_is_cut_off_by_a_log_that_cannot_be_read(house: House) -> None:
    run = await house.begin(forever, abandon_after=0.01)
    await house.going(run)
    house.log.read_faults.extend([LogError("no")] * 3)
    ended = await house.over(run)
    assert ended.last["reason"] == "abandoned"
    assert not house.log.read_faults


async def test_a_log_that_cannot_write_does_not_keep_abandoned_work(house: House) -> None:
    stopped = asyncio.Event()

    async def crunch() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    run = await house.begin(crunch, abandon_after=0.02)
    await house.going(run)
    house.log.faults.extend([LogFull("no space")] * 2)
    await soon(stopped.wait())
    ended = await house.over(run)
    assert (ended.state, ended.last["reason"]) == (State.CANCELLED, "abandoned")


# --- a log that cannot write -----------------------------------------------------------


async def test_a_run_starts_when_there_is_space(house: House) -> None:
    run = await house.queue(house.offer(lambda: 3, name="crunch"))
    house.log.faults.extend([LogFull("no space", fix="Make some.")] * 3)
    house.execute(run)
    ended = await house.over(run)
    assert ended.types == ["start", "complete"]


async def test_a_run_ends_when_there_is_space(house: House) -> None:
    async def crunch(run: RunContext) -> int:
        for number in range(3):
            run.log(str(number))
            await turns(2)
        house.log.faults.extend([LogFull("no space")] * 5)
        run.log("3")
        return 3

    ended = await house.run(crunch)
    assert ended.state is State.COMPLETED
    assert ended.messages() == ["0", "1", "2", "3"]


async def test_one_that_waits_for_space_may_be_cancelled(house: House) -> None:
    run = await house.queue(house.offer(forever))
    house.log.faults.extend([LogFull("no space")] * 100_000)
    house.execute(run)
    await turns(20)
    house.log.faults.clear()
    snapshot = await record(house.log, run)
    await settle(house.log.inner, snapshot, Outcome(Signal.CANCEL))
    ended = await house.over(run)
    assert ended.state is State.CANCELLED


async def test_a_closed_log_leaves_the_run_as_it_is(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    stopped: list[str] = []

    async def crunch(run: RunContext) -> None:
        try:
            while True:
                run.log("on")
                await asyncio.sleep(0.001)
        finally:
            stopped.append("yes")

    run = await house.begin(crunch)
    await house.going(run)
    await house.log.close()
    await soon(asyncio.gather(*house.tasks))
    assert stopped == ["yes"]
    assert f"{run} was left as it is" in caplog.text
    late = asyncio.ensure_future(house.supervisor.execute(run))
    await soon(late)
    await house.log.open()


async def test_a_closed_log_starts_nothing(house: House) -> None:
    run = await house.queue(house.offer(forever))
    house.log.read_faults.append(LogClosed("closed"))
    await soon(house.supervisor.execute(run))
    assert (await record(house.log, run)).state is State.QUEUED


# --- the process goes away -------------------------------------------------------------


async def test_all_runs_end_as_lost(house: House) -> None:
    cleaned: list[str] = []

    async def crunch(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            run.log("bye")
            cleaned.append("up")

    name = house.offer(crunch)
    runs = [await house.begin(name) for _ in range(3)]
    for run in runs:
        await house.going(run)
    await turns()
    assert house.supervisor.going == 3
    house.supervisor.stop_all()
    for run in runs:
        ended = await house.over(run)
        assert (ended.state, ended.messages()) == (State.LOST, ["bye"])
        assert ended.last["error"] == "The server was stopped while the run was going on."
    assert len(cleaned) == 3


async def test_one_that_was_about_to_start_does_not(house: House) -> None:
    """Somebody waits for all of them to be over, and it might take hours."""
    name = house.offer(forever)
    for count in range(8):
        run = await house.queue(name)
        house.execute(run)
        await turns(count)
        house.supervisor.stop_all()
        ended = await house.over(run)
        assert ended.state is State.LOST
        house.supervisor.begin()
    run = await house.queue(name)
    house.supervisor.stop_all()
    house.execute(run)
    ended = await house.over(run)
    assert ended.types == ["error"]
    assert ended.last["error"] == "The server was stopped before the run was started."


async def test_it_begins_again(house: House) -> None:
    house.supervisor.stop_all()
    house.supervisor.begin()
    ended = await house.run(lambda: 3)
    assert ended.state is State.COMPLETED


@pytest.mark.parametrize("when", ["claiming", "working", "ending"])
async def test_a_log_without_space_does_not_keep_the_process(house: House, when: str) -> None:
    """What is left behind is found by the next one, and ends as lost."""

    def fill() -> None:
        house.log.faults.extend([LogFull("no space")] * 100_000)

    async def crunch(run: RunContext) -> None:
        fill()
        run.log("one")
        if when == "working":
            await asyncio.sleep(60)

    run = await house.queue(house.offer(crunch))
    if when == "claiming":
        fill()
    house.execute(run)
    await until(lambda: len(house.log.offered) > 3)
    assert not house.tasks[0].done()
    house.supervisor.stop_all()
    house.supervisor.stop_all()
    await soon(asyncio.gather(*house.tasks))
    house.log.faults.clear()
    now = await record(house.log, run)
    assert now.state is (State.QUEUED if when == "claiming" else State.RUNNING)
    assert await settle(house.log, now, Outcome(Signal.LOSE))


async def test_a_loop_that_ends_takes_the_work_along(house: House) -> None:
    """`asyncio.run` cancels every task and waits for them."""
    stopped: list[str] = []

    async def crunch() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append("yes")

    run = await house.begin(crunch)
    await house.going(run)
    await turns()
    house.tasks[0].cancel()
    ended = await house.over(run)
    assert ended.state is State.LOST
    assert stopped == ["yes"]


# --- a log that does not tell of everything --------------------------------------------


@pytest.mark.parametrize("fault", [None, LogError("cannot read")])
async def test_a_wish_that_was_not_told_is_found(
    house: House, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    """Blocks may be missed; what follows shows the hole, and the log has what lies in it."""
    run = await house.begin(forever)
    await house.going(run)
    await until(lambda: house.supervisor.going)
    blocks: list[Block] = []
    house.log.listen(blocks.append)
    await house.cancel(run)
    await house.log.append(Append(run, logs(1)))
    read, faults = house.log.read, [] if fault is None else [fault]

    async def faulty(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return await read(*given)

    monkeypatch.setattr(house.log, "read", faulty)
    assert [block.first for block in blocks[-2:]] == [3, 4]
    house.supervisor.notice(blocks[-1])
    ended = await house.over(run)
    assert (ended.state, ended.last["reason"]) == (State.CANCELLED, "requested")
    assert not faults


async def test_a_fault_while_waiting_does_not_leave_the_work_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = asyncio.Event()

    async def crunch() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def broken(*_: Any) -> bool:
        await turns()
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(goings.Going, "is_abandoned", broken)
    run = await house.begin(crunch, abandon_after=5.0)
    await house.going(run)
    await soon(stopped.wait())
    ended = await house.over(run)
    assert (ended.state, ended.last["error"]) == (State.FAILED, "oh")


# --- more than there are slots for -----------------------------------------------------


async def test_at_most_so_many_execute_and_the_rest_wait_their_turn(house: House) -> None:
    gate, order = asyncio.Event(), list[int]()
    most = 0

    async def crunch(number: int) -> None:
        nonlocal most
        order.append(number)
        most = max(most, house.supervisor.going)
        await gate.wait()

    name = house.offer(crunch, concurrency=2)
    runs = [await house.begin(name, input={"number": number}) for number in range(6)]
    await until(lambda: len(order) == 2)
    for place, run in enumerate(runs[2:], 1):
        await house.queued(run, place)
    assert house.supervisor.going == 2
    gate.set()
    for run in runs:
        ended = await house.over(run)
        assert ended.state is State.COMPLETED
        assert ended.record.progress is None
    assert (order, most) == ([*range(6)], 2)
    assert (await house.ended(runs[5])).types == ["status", "start", "complete"]


async def test_one_operation_does_not_wait_for_another(house: House) -> None:
    first = await house.begin(house.offer(forever, concurrency=1))
    await house.going(first)
    ended = await house.ended_of(await house.begin(house.offer(lambda: 3, concurrency=1)))
    assert ended.state is State.COMPLETED
    await house.cancel(first)


async def test_one_that_is_cancelled_in_the_queue_makes_room_for_those_behind(
    house: House,
) -> None:
    name = house.offer(forever, concurrency=1)
    runs = [await house.begin(name) for _ in range(4)]
    for place, run in enumerate(runs[1:], 1):
        await house.queued(run, place)
    await house.cancel(runs[1])
    await soon(house.tasks[1])
    await house.queued(runs[2], 1)
    await house.queued(runs[3], 2)
    ended = await house.ended(runs[1])
    assert (ended.state, ended.types) == (State.CANCELLED, ["status", "cancelled"])
    for run in (runs[0], runs[2], runs[3]):
        await house.going(run)
        await house.cancel(run)
    await house.over(runs[3])


async def test_however_a_run_ends_its_slot_is_free(house: House) -> None:
    is_over = asyncio.Event()

    async def crunch(how: str) -> None:
        if how == "raises":
            raise ValueError("no")
        while how == "ignores" and not is_over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await is_over.wait()
        if how == "sleeps":
            await asyncio.sleep(60)

    name = house.offer(crunch, concurrency=1)
    hows = ("raises", "ignores", "sleeps", "returns")
    runs = [await house.begin(name, input={"how": how}, timeout=0.05) for how in hows]
    states = [(await house.over(run)).state for run in runs]
    assert states == [State.FAILED, State.TIMED_OUT, State.TIMED_OUT, State.COMPLETED]
    assert (await house.ended(runs[1])).last["forced"] is True
    is_over.set()
    await turns()


async def test_a_timeout_counts_from_the_start(house: House) -> None:
    gate = asyncio.Event()
    name = house.offer(gate.wait, name="wait", concurrency=1)
    first = await house.begin(name)
    second = await house.begin(name, timeout=0.2)
    await house.queued(second, 1)
    loop = asyncio.get_running_loop()
    queued_at = loop.time()
    await until(lambda: loop.time() - queued_at > 0.3)
    assert (await record(house.log, second)).state is State.QUEUED
    gate.set()
    assert (await house.over(first)).state is State.COMPLETED
    assert (await house.ended(second)).state is State.COMPLETED


async def test_who_waits_when_the_process_goes_never_starts(house: House) -> None:
    name = house.offer(forever, concurrency=1)
    runs = [await house.begin(name) for _ in range(3)]
    await house.queued(runs[2], 2)
    house.supervisor.stop_all()
    for run in runs:
        assert (await house.over(run)).state is State.LOST
    assert (await house.ended(runs[2])).types == ["status", "error"]
    house.supervisor.begin()
    assert (await house.run(house.offer(lambda: 3, concurrency=1))).state is State.COMPLETED


async def test_the_same_run_waits_once(house: House) -> None:
    """A dispatcher may be told twice; that must not take two places."""
    name = house.offer(forever, concurrency=1)
    first, second = await house.begin(name), await house.queue(name)
    for _ in range(3):
        house.execute(second)
    third = await house.begin(name)
    await house.queued(third, 2)
    for run in (first, second, third):
        await house.going(run)
        await house.cancel(run)
    await house.over(third)


# --- titles ----------------------------------------------------------------------------


async def test_a_start_carries_the_title(house: House) -> None:
    def crunch(file: str) -> None: ...

    name = house.offer(crunch, traits=Traits(title=lambda given: f"<{given['file']}>"))
    ended = await house.run(name, input={"file": "train.py"})
    assert ended.events[0].payload["title"] == "<train.py>"


async def test_a_title_that_cannot_be_made_is_missing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    name = house.offer(lambda: 3, name="crunch", traits=Traits(title=lambda given: given["file"]))
    ended = await house.run(name)
    assert ended.state is State.COMPLETED
    assert "title" not in ended.events[0].payload
    assert "has no title" in caplog.text


# --- work that outlives its process ----------------------------------------------------

SURVIVES = Traits(survives=True, resumes=lambda _: True)


class Lasting:
    """An operation whose real work is elsewhere: it only watches."""

    def __init__(self, house: House, **options: Any) -> None:
        self.stopped: list[str] = []
        self.attempts: list[int] = []
        self.name = house.offer(self.watch, name="lasting", traits=SURVIVES, **options)

    async def watch(self, run: RunContext) -> str:
        self.attempts.append(run.attempt)
        run.log("on")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.stopped.append("let go" if run.released else "ended")
            run.log("bye")
            raise
        return "done"


async def test_a_run_that_survives_is_let_go(house: House) -> None:
    lasting = Lasting(house)
    run = await house.begin(lasting.name)
    await house.going(run)
    await until(lambda: lasting.attempts)
    house.supervisor.stop_all()
    await soon(asyncio.gather(*house.tasks))
    left = await house.ended(run)
    assert (left.record.state, left.record.worker) == (State.RUNNING, house.log.worker)
    # What was told is kept, to the last word.
    assert (left.types, left.messages()) == (["start", "log", "log"], ["on", "bye"])
    assert lasting.stopped == ["let go"]


async def test_a_loop_that_ends_lets_it_go_as_well(house: House) -> None:
    """`asyncio.run` cancels all tasks in one turn: the work may hear of it first."""
    seen: list[tuple[int, bool]] = []

    async def watch(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            seen.append((task.cancelling(), run.released))
            raise

    run = await house.begin(house.offer(watch, traits=SURVIVES))
    await house.going(run)
    await turns()
    (work,) = [task for task in asyncio.all_tasks() if task.get_name().endswith(run)]
    work.cancel()
    house.tasks[0].cancel()
    await soon(asyncio.wait((house.tasks[0],)))
    assert (await record(house.log, run)).state is State.RUNNING
    assert seen == [(1, True)], "once, and not to be ended"


async def test_one_that_does_not_let_go_is_left_behind(house: House) -> None:
    is_over = asyncio.Event()

    async def stubborn(run: RunContext) -> None:
        while not is_over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await is_over.wait()

    run = await house.begin(house.offer(stubborn, traits=SURVIVES))
    await house.going(run)
    await turns()
    house.supervisor.stop_all()
    await soon(asyncio.gather(*house.tasks))
    assert (await record(house.log, run)).state is State.RUNNING
    is_over.set()
    await turns()


async def test_a_log_without_space_does_not_keep_who_lets_go(house: House) -> None:
    lasting = Lasting(house)
    run = await house.begin(lasting.name)
    await house.going(run)
    await until(lambda: lasting.attempts)
    house.log.faults.extend([LogFull("no space")] * 100_000)
    house.supervisor.stop_all()
    await soon(asyncio.gather(*house.tasks))
    assert (await record(house.log, run)).state is State.RUNNING


async def test_one_that_is_asked_to_stop_first_is_ended(house: House) -> None:
    lasting = Lasting(house)
    run = await house.begin(lasting.name)
    await house.going(run)
    await until(lambda: lasting.attempts)
    await house.cancel(run)
    await turns()
    house.supervisor.stop_all()
    assert (await house.over(run)).state is State.CANCELLED
    assert lasting.stopped == ["ended"]


async def test_a_queued_run_that_survives_stays_queued(house: House) -> None:
    lasting = Lasting(house, concurrency=1)
    runs = [await house.begin(lasting.name) for _ in range(2)]
    await house.queued(runs[1], 1)
    house.supervisor.stop_all()
    late = await house.begin(lasting.name)
    await soon(asyncio.gather(*house.tasks))
    states = [(await record(house.log, run)).state for run in (*runs, late)]
    assert states == [State.RUNNING, State.QUEUED, State.QUEUED]


# --- taken up where another process left it --------------------------------------------


async def left(house: House, name: str, **given: Any) -> str:
    """A run that this process has taken over."""
    given = {"started_at": time.time(), "attempt": 2, "state": State.RUNNING, **given}
    return await house.queue(name, **given)


async def test_a_run_that_was_taken_over_goes_on(house: House) -> None:
    async def crunch(run: RunContext) -> int:
        run.log("on")
        return run.attempt

    name = house.offer(crunch, traits=SURVIVES)
    run = await left(house, name)
    house.execute(run)
    ended = await house.over(run)
    assert (ended.state, ended.types) == (State.COMPLETED, ["log", "complete"])
    assert (ended.last["result"], ended.record.attempt) == (2, 2)


async def test_it_takes_a_slot_though_there_is_none(house: House) -> None:
    name = Lasting(house, concurrency=1).name
    first = await house.begin(name)
    await house.going(first)
    second = await left(house, name)
    house.execute(second)
    await until(lambda: house.supervisor.going == 2)
    third = await house.begin(name)
    await house.queued(third, 1)
    await house.cancel(first)
    await soon(house.tasks[0])
    await turns(50)
    assert (await record(house.log, third)).state is State.QUEUED
    await house.cancel(second)
    await house.going(third)
    await house.cancel(third)
    await house.over(third)


async def test_one_that_is_asked_to_stop_stops_at_once(house: House) -> None:
    lasting = Lasting(house)
    run = await left(house, lasting.name, state=State.CANCELLING)
    house.execute(run)
    ended = await house.over(run)
    assert (ended.state, ended.last["reason"]) == (State.CANCELLED, "requested")
    assert (lasting.stopped, lasting.attempts) == (["ended"], [2])


async def test_the_time_elsewhere_counts(house: House) -> None:
    lasting = Lasting(house)
    run = await left(house, lasting.name, started_at=time.time() - 30, timeout=20.0)
    house.execute(run)
    assert (await house.over(run)).state is State.TIMED_OUT
    assert lasting.stopped == ["ended"]
    run = await left(house, lasting.name, started_at=time.time() - 30, timeout=60.0)
    house.execute(run)
    await until(lambda: len(lasting.attempts) == 2)
    await turns(50)
    assert not house.tasks[-1].done()
    await house.cancel(run)
    await house.over(run)


@pytest.mark.parametrize(
    ("given", "traits"),
    [
        ({"worker": "somebody"}, SURVIVES),
        ({}, Traits(survives=True)),
        ({}, None),
    ],
    ids=["another's", "cannot resume", "plain"],
)
async def test_what_was_not_taken_over_is_left_alone(
    house: House, given: dict[str, Any], traits: Traits | None
) -> None:
    """To begin anything else twice would be to do it twice."""
    name = house.offer(forever, traits=traits)
    made = new_run(operation=name, **{"worker": house.log.worker, "state": State.RUNNING, **given})
    run = (await house.log.create(made)).id
    await soon(house.supervisor.execute(run))
    assert (await kept(house.log, run), house.supervisor.going) == ([], 0)


async def test_a_process_that_goes_away_takes_nothing_up(house: House) -> None:
    lasting = Lasting(house)
    run = await left(house, lasting.name)
    house.supervisor.stop_all()
    await soon(house.supervisor.execute(run))
    assert (await record(house.log, run)).state is State.RUNNING
    assert lasting.attempts == []


async def test_a_run_that_goes_on_is_not_begun_again(house: House) -> None:
    lasting = Lasting(house)
    run = await house.begin(lasting.name)
    await house.going(run)
    await soon(house.supervisor.execute(run))
    await until(lambda: lasting.attempts)
    assert lasting.attempts == [1]
    await house.cancel(run)
    await house.over(run)


@pytest.mark.parametrize("does", ["emits", "sleeps"])
async def test_what_a_newer_attempt_goes_on_with_is_let_go(house: House, does: str) -> None:
    """Whoever was taken for dead must not stop what somebody else has taken up."""
    seen: list[bool] = []
    is_fenced = asyncio.Event()

    async def watch(run: RunContext) -> None:
        await is_fenced.wait()
        try:
            run.log("on")
            while does == "emits":
                await run.drain()
                run.log("on")
            await asyncio.sleep(60)
        finally:
            seen.append(run.released)

    run = await house.begin(house.offer(watch, traits=SURVIVES))
    await house.going(run)
    await house.log.append(Append(run, patch={"attempt": 2, "worker": "another"}))
    is_fenced.set()
    await soon(asyncio.gather(*house.tasks))
    assert (await record(house.log, run)).state is State.RUNNING
    assert seen == [True]


async def test_an_older_attempt_cannot_end_it(house: House) -> None:
    """Whoever was taken for dead goes on, and ends what is another's by now."""
    gate = asyncio.Event()
    name = house.offer(gate.wait, name="wait", traits=SURVIVES)
    run = await house.begin(name)
    await house.going(run)
    await house.log.append(Append(run, patch={"attempt": 2, "worker": "another"}))
    gate.set()
    await soon(asyncio.gather(*house.tasks))
    assert (await record(house.log, run)).state is State.RUNNING


# --- lost ------------------------------------------------------------------------------


async def test_work_may_say_that_it_was_lost(house: House) -> None:
    async def crunch() -> None:
        raise RunLost("The program is gone.", exit_code=137)

    ended = await house.run(crunch)
    assert (ended.state, ended.last["reason"]) == (State.LOST, "lost")
    assert (ended.last["error"], ended.last["exit_code"]) == ("The program is gone.", 137)


async def test_what_is_lost_while_it_is_cancelled_is_cancelled(house: House) -> None:
    async def crunch() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RunLost("The program is gone.") from None

    run = await house.begin(crunch)
    await house.going(run)
    await turns()
    await house.cancel(run)
    assert (await house.over(run)).state is State.CANCELLED
