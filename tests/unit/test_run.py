from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from types import MappingProxyType
from typing import Any

import pytest
from starlette.responses import Response

from tailrace.errors import (
    BufferFull,
    CursorFromFuture,
    CursorMalformed,
    EventInvalid,
    EventTooLarge,
    LogClosed,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunUnknown,
    ScopeMissing,
    TailraceError,
)
from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.hub import Hub
from tailrace.outbox import LIMIT_BYTES, Outbox
from tailrace.outcome import Outcome, failure, settle
from tailrace.protocol.access import SCOPES, Access
from tailrace.protocol.events import CONTROL_TYPES, MAX_EVENT_BYTES, TERMINAL_TYPES, Event
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.run import Run, RunContext, current
from tailrace.testing.logbook import kept, logs, new_run, record, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


class Inside:
    """A run as its work sees it, and what the log has of it."""

    def __init__(self, log: FaultyLog, run: RunRecord) -> None:
        self.log = log
        self.outbox = Outbox(log, run.id, run.attempt, lambda _: None)
        self.run = RunContext(run, self.outbox)

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """What was emitted, without the timestamps."""
        await soon(self.run.drain())
        found = [(event.type, event.payload) for event in await kept(self.log, self.run.id)]
        for _, payload in found:
            assert payload.pop("timestamp")
        return found


@pytest.fixture
async def log() -> AsyncIterator[FaultyLog]:
    async with using(MemoryLog(Retention(run_events=None))) as log:
        yield FaultyLog(log)


@pytest.fixture
async def inside(log: FaultyLog) -> AsyncIterator[Inside]:
    run = await started(log, operation="crunch", principal="ada")
    inside = Inside(log, await record(log, run))
    yield inside
    inside.outbox.close()


# --- telling ---------------------------------------------------------------------------


async def test_it_knows_whose_it_is(inside: Inside) -> None:
    run = inside.run
    assert (run.operation, run.principal, run.attempt) == ("crunch", "ada", 0)
    assert run.thread is None
    assert Inside(inside.log, new_run(thread="t")).run.thread == "t"
    assert (await record(inside.log, run.id)).id == run.id


async def test_what_may_be_emitted(inside: Inside) -> None:
    run = inside.run
    run.emit("one", {"a": 1})
    run.emit("two", a=1, type=2, payload=3)
    run.emit("three", {"a": 1, "b": 2}, b=3)
    run.emit("four", "text")
    run.emit("five", [1], more=2)
    run.emit("six")
    run.emit("seven", MappingProxyType({"a": 1}), b=2)
    run.emit("eight", {"timestamp": "mine"})
    assert await inside.told() == [
        ("one", {"a": 1}),
        ("two", {"a": 1, "type": 2, "payload": 3}),
        ("three", {"a": 1, "b": 3}),
        ("four", {"value": "text"}),
        ("five", {"value": [1], "more": 2}),
        ("six", {}),
        ("seven", {"a": 1, "b": 2}),
        ("eight", {}),
    ]


@pytest.mark.parametrize("type_", sorted(TERMINAL_TYPES | CONTROL_TYPES))
async def test_what_is_not_for_the_work_to_tell(inside: Inside, type_: str) -> None:
    with pytest.raises(EventInvalid) as refused:
        inside.run.emit(type_, {"a": 1})
    assert refused.value.fix
    assert await inside.told() == []


@pytest.mark.parametrize("type_", ["", "a b", "1a", "a\nb", "é", "x" * 65, "a\0"])
async def test_what_is_no_type(inside: Inside, type_: str) -> None:
    with pytest.raises(EventInvalid):
        inside.run.emit(type_)


@pytest.mark.parametrize("payload", [object(), {"a": {1: object()}}, "\ud800", 2**64])
async def test_what_json_cannot_say(inside: Inside, payload: Any) -> None:
    with pytest.raises(EventInvalid):
        inside.run.emit("log", payload)
    assert await inside.told() == []


async def test_what_is_too_large(inside: Inside) -> None:
    with pytest.raises(EventTooLarge):
        inside.run.emit("log", {"message": "x" * MAX_EVENT_BYTES})
    inside.log.is_held = True
    for _ in range(LIMIT_BYTES // 200_000 + 1):
        inside.run.emit("log", {"message": "x" * 200_000})
    with pytest.raises(BufferFull):
        inside.run.emit("log", {"message": "x"})


async def test_nothing_can_be_told_of_a_run_that_is_over(inside: Inside) -> None:
    inside.outbox.close()
    with pytest.raises(RunEnded):
        inside.run.emit("log")


async def test_the_newest_progress_is_in_the_snapshot(inside: Inside) -> None:
    inside.run.progress(1, 3, percent=99)
    assert await inside.told() == [("progress", {"current": 1, "total": 3, "percent": 99})]
    assert b'"percent":99' in ((await record(inside.log, inside.run.id)).progress or b"")


async def test_a_thread_is_told_once_that_it_should_stop(inside: Inside) -> None:
    run = inside.run

    def work() -> str:
        run.log("before")
        run.request_stop()
        with pytest.raises(RunCancelled):
            run.log("never")
        run.log("cleaning up")
        return "done"

    assert await asyncio.to_thread(work) == "done"
    # A coroutine hears of it by its cancellation.
    run.log("on the loop")
    messages = [payload["message"] for _, payload in await inside.told()]
    assert messages == ["before", "cleaning up", "on the loop"]


async def test_what_is_heard(inside: Inside) -> None:
    async def ears(types: Collection[str], after: int) -> Event:
        return Event(after + 1, ",".join(sorted(types)), b"{}")

    run = RunContext(await record(inside.log, inside.run.id), inside.outbox, ears)
    assert (await run.heard("done")).seq == 1
    assert await run.heard("done", "failed", after=7) == Event(8, "done,failed", b"{}")
    with pytest.raises(TailraceError, match="Nobody here hears") as raised:
        await inside.run.heard("done")
    assert raised.value.fix


# --- current ---------------------------------------------------------------------------


async def test_the_current_run(inside: Inside) -> None:
    with pytest.raises(LookupError, match="inside an operation"):
        current()
    with inside.run.entered():
        assert current() is inside.run
        assert await asyncio.to_thread(current) is inside.run
        assert await asyncio.create_task(asyncio.to_thread(current)) is inside.run

        async def below() -> RunContext:
            return current()

        assert await below() is inside.run
    with pytest.raises(LookupError):
        current()


async def test_the_current_run_of_another_thread(inside: Inside) -> None:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(current())
        except LookupError as error:
            found.append(error)

    with inside.run.entered():
        thread = threading.Thread(target=look)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert isinstance(found[0], LookupError)


# --- track -----------------------------------------------------------------------------


async def test_a_coroutine_waits_while_too_much_is_pending(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.voice._PROGRESS_SECONDS", 0.0)
    inside.log.is_held = True
    seen = 0

    async def work() -> None:
        nonlocal seen
        async for _ in inside.run.track(range(40)):
            inside.run.log("x" * 100_000)
            seen += 1

    working = asyncio.create_task(work())
    await until(lambda: seen >= 10)
    await turns(100)
    assert seen <= 12
    inside.log.release()
    await soon(working)
    assert seen == 40


# --- from outside ----------------------------------------------------------------------


RESPONSE = Response()


@dataclasses.dataclass
class Outside:
    """A host as a run's handle needs it."""

    log: FaultyLog
    hub: Hub
    responded: list[Any] = dataclasses.field(default_factory=list)

    async def record(self, run: str, principal: str | None = None) -> RunRecord:
        found = await self.log.get(run)
        if found is None or principal not in (None, found.principal):
            raise RunUnknown(run)
        return found

    async def cancel(
        self, run: str, reason: str = "requested", principal: str | None = None
    ) -> RunRecord:
        record = await self.record(run, principal)
        await settle(self.log, record, Outcome(Signal.CANCEL, reason=reason))
        return await self.record(run)

    async def rerun(
        self, run: str, principal: str | None = None, owner: str | None = None
    ) -> RunRecord:
        old = await self.record(run, principal)
        whose = owner or old.principal
        new = new_run(operation=old.operation, input=old.input, principal=whose)
        return await self.log.create(new)

    async def forget(self, run: str, principal: str | None = None) -> None:
        await self.log.forget((await self.record(run, principal)).id)

    def respond(self, run: str, request: Any, who: Access | None = None) -> Response:
        self.responded.append((run, request, who))
        return RESPONSE

    async def run(self, count: int = 0, **given: Any) -> Run:
        run = Run(await started(self.log, **given), self)
        if count:
            await self.tell(run, count)
        return run

    async def tell(self, run: Run, count: int = 1) -> None:
        await self.log.append(Append(run.id, logs(count)))

    async def end(self, run: Run, outcome: Outcome) -> None:
        assert await settle(self.log, await self.record(run.id), outcome)


@pytest.fixture
async def host(log: FaultyLog) -> AsyncIterator[Outside]:
    hub = Hub(log)
    log.listen(hub.publish)
    hub.begin()
    yield Outside(log, hub)
    hub.end()
    assert hub.channels == 0


async def seen(run: Run, after: int | str = 0) -> list[Event]:
    return [event async for event in run.events(after)]


DONE = Outcome(Signal.FINISH, result={"rows": 3})


async def test_events_from_the_first_to_the_last(host: Outside) -> None:
    run = await host.run(2)
    watching = asyncio.create_task(seen(run))
    await turns()
    await host.tell(run)
    await host.end(run, DONE)
    assert await soon(watching) == await kept(host.log, run.id)
    assert await soon(seen(run)) == await kept(host.log, run.id)


@pytest.mark.parametrize("after", [0, 2, "2", "0-2", "2.0", 3, 4])
async def test_events_after_a_cursor(host: Outside, after: int | str) -> None:
    run = await host.run(3)
    await host.end(run, DONE)
    whole = {0: 0, 2: 2, "2": 2, "0-2": 2, "2.0": 1, 3: 3, 4: 4}[after]
    assert await soon(seen(run, after)) == await kept(host.log, run.id, whole)


async def test_events_from_now_on(host: Outside) -> None:
    run = await host.run(3)
    watching = asyncio.create_task(seen(run, "latest"))
    await until(lambda: host.hub.watchers(run.id))
    await host.end(run, DONE)
    assert [event.seq for event in await soon(watching)] == [4]


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (-1, CursorMalformed),
        ("x", CursorMalformed),
        (9, CursorFromFuture),
        ("1-1", CursorFromFuture),
    ],
)
async def test_a_cursor_that_is_none(
    host: Outside, after: int | str, error: type[Exception]
) -> None:
    run = await host.run(3)
    with pytest.raises(error):
        await soon(seen(run, after))


async def test_what_is_no_longer_kept_is_told() -> None:
    async with using(MemoryLog(Retention(run_events=10))) as log:
        faulty = FaultyLog(log)
        host = Outside(faulty, Hub(faulty))
        run = await host.run()
        for _ in range(30):
            await host.tell(run)
        await host.end(run, DONE)
        first = (await host.record(run.id)).first_seq
        gap, *rest = await soon(seen(run, 2))
        assert (gap.seq, gap.type) == (0, "gap")
        assert gap.payload == {"run": run.id, "from": 3, "to": first - 1}
        assert rest == await kept(faulty, run.id)
        assert (await soon(run.wait())).state is State.COMPLETED


async def test_an_unknown_run(host: Outside) -> None:
    run = Run(new_run().id, host)
    for ask in (run.record, run.wait, run.result, run.cancel, run.rerun, run.forget):
        with pytest.raises(RunUnknown):
            await ask()
    with pytest.raises(RunUnknown):
        await seen(run)


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_waiting_for_the_end(host: Outside, count: int) -> None:
    run = await host.run(count)
    waiting = [asyncio.create_task(run.wait()), asyncio.create_task(run.result())]
    await until(lambda: host.hub.watchers(run.id) == 2)
    assert not any(one.done() for one in waiting)
    await host.end(run, DONE)
    snapshot, result = await soon(asyncio.gather(*waiting))
    assert snapshot == await host.record(run.id)
    assert snapshot.state is State.COMPLETED
    assert result == {"rows": 3}
    assert await soon(run.result()) == {"rows": 3}, "also when it is over"


@pytest.mark.parametrize(
    ("outcome", "state", "said"),
    [
        (failure(ValueError("no rows")), "failed", "no rows"),
        (Outcome(Signal.TIMEOUT), "timed_out", "took longer"),
        (Outcome(Signal.LOSE), "lost", "was lost"),
        (Outcome(Signal.STOPPED), "cancelled", "it was cancelled"),
    ],
)
async def test_another_end_has_no_result(
    host: Outside, outcome: Outcome, state: str, said: str
) -> None:
    run = await host.run()
    await host.end(run, outcome)
    with pytest.raises(RunFailed, match=f"{run.id} is {state}: .*{said}") as failed:
        await soon(run.result())
    assert failed.value.details == {"state": state, "run": run.id}


async def test_no_result_is_none(host: Outside) -> None:
    run = await host.run()
    await host.end(run, Outcome(Signal.FINISH))
    assert await soon(run.result()) is None


async def test_cancelling(host: Outside) -> None:
    run = await host.run()
    snapshot = await run.cancel("too dear")
    assert snapshot.state is State.CANCELLING
    (event,) = await kept(host.log, run.id)
    assert event.payload["reason"] == "too dear"


async def test_an_engine_that_closes_says_so(host: Outside) -> None:
    """An iteration that just stopped would look like the end of the run."""
    run = await host.run(1)
    waiting = [asyncio.create_task(run.wait()), asyncio.create_task(seen(run))]
    await until(lambda: host.hub.watchers(run.id) == 2)
    host.hub.end()
    for one in waiting:
        with pytest.raises(LogClosed, match=f"before {run.id} came to its end"):
            await soon(one)


async def test_who_stops_watching_leaves(host: Outside) -> None:
    run = await host.run(3)
    watching = run.events()
    assert (await soon(anext(watching))).seq == 1
    assert host.hub.watchers(run.id) == 1
    await watching.aclose()  # type: ignore[attr-defined]
    assert host.hub.watchers(run.id) == 0


async def test_a_response_is_the_host_s(host: Outside) -> None:
    run = Run("run_a", host)
    assert run.response("request") is RESPONSE
    assert Run("run_a", host, "ada").response("request") is RESPONSE
    assert host.responded == [("run_a", "request", None), ("run_a", "request", Access.of("ada"))]
    assert repr(run) == "Run('run_a')"


async def test_the_same_again(host: Outside) -> None:
    run = await host.run(operation="train", input=b'{"rows":3}')
    again = await run.rerun()
    assert again.id != run.id
    record = await again.record()
    assert (record.operation, record.input, record.state) == ("train", b'{"rows":3}', State.QUEUED)
    with pytest.raises(RunUnknown):
        await Run(new_run().id, host).rerun()


# --- for somebody ----------------------------------------------------------------------


def verbs(run: Run) -> dict[str, list[Callable[[], Coroutine[Any, Any, Any]]]]:
    """All that a handle does, but answering, which is the host's; and which scope it needs."""
    return {
        "watch": [run.record, run.snapshot, run.wait, run.result, lambda: seen(run)],
        "run": [run.rerun],
        "cancel": [run.cancel, run.forget],
    }


async def test_a_run_of_somebody_else_is_none(host: Outside) -> None:
    run = await host.run(2, principal="ada")
    for whose in ("bob", Access.of("bob")):
        for verb in itertools.chain(*verbs(Run(run.id, host, whose)).values()):
            with pytest.raises(RunUnknown):
                await soon(verb())
    assert [event.type for event in await kept(host.log, run.id)] == ["log", "log"]
    assert (await Run(run.id, host, Access.of("bob", SCOPES)).record()).principal == "ada"


async def test_what_one_s_own_run_does(host: Outside) -> None:
    run = Run((await host.run(2, principal="ada")).id, host, "ada")
    again = await run.rerun()
    assert (await again.record()).principal == "ada"
    assert (await run.cancel()).state is State.CANCELLING
    await host.end(run, DONE)
    assert len(await soon(seen(run))) == 4
    assert (await soon(run.wait())).state is State.CANCELLED
    await run.forget()
    with pytest.raises(RunUnknown):
        await run.record()


async def test_whoever_may_all_has_what_they_start(host: Outside) -> None:
    run = await host.run(principal="ada")
    again = await Run(run.id, host, Access.of("eve", SCOPES)).rerun()
    assert (await again.record()).principal == "eve"
    assert (await (await run.rerun()).record()).principal == "ada"


@pytest.mark.parametrize("scope", ["watch", "run", "cancel"])
async def test_a_handle_does_what_they_may(host: Outside, scope: str) -> None:
    run = await host.run(1, principal="ada")
    others = [other for other in SCOPES[:-1] if other != scope]
    for verb in verbs(Run(run.id, host, Access.of("ada", others)))[scope]:
        with pytest.raises(ScopeMissing):
            await soon(verb())
    assert len(await kept(host.log, run.id)) == 1
