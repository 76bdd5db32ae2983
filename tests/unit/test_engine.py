from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import pytest
from fastapi import FastAPI

from tailrace import outbox as outboxes
from tailrace.dispatch.contract import Execute
from tailrace.engine import LOCAL, Engine
from tailrace.errors import (
    BodyTooLarge,
    Conflict,
    InputInvalid,
    KeyReused,
    LogClosed,
    LogError,
    LogFull,
    OperationUnknown,
    PathForbidden,
    RunActive,
    RunEnded,
    RunFailed,
    RunUnknown,
    SettingsInvalid,
    TailraceError,
    ThreadBusy,
)
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.operations import Operation, Traits
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, run_id
from tailrace.run import Run, RunContext
from tailrace.testing.logbook import kept, logs, new_run, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.05) as engine:
        yield engine


async def crunch(run: RunContext, rows: int = 3) -> int:
    run.log("on")
    return rows


async def forever(run: RunContext) -> None:
    run.log("on")
    await asyncio.sleep(60)


async def going(run: Run) -> None:
    async for _ in run.events():
        break


async def ended(engine: Engine, run: str) -> State:
    return (await soon(engine.run(run).wait())).state


# --- where runs are kept ---------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["memory:", "{}/a.db", "sqlite:{}/b.db", "sqlite://{}/c.db", "{}/deep/er/d.db"],
)
async def test_a_log_is_where_it_is_said_to_be(tmp_path: Path, place: str) -> None:
    async with Engine(place.format(tmp_path)) as engine:
        operation = engine.operation(crunch)
        run = await operation.start(rows=5)
        assert await soon(run.result()) == 5
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")}
    expected = place.rpartition("{}/")[2] if "{}" in place else None
    assert files == ({expected} if expected else set())


async def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a.db", Path("b.db"), "sqlite:c.db"):
        async with Engine(place):
            pass
    assert {path.name for path in tmp_path.glob("*.db")} == {"a.db", "b.db", "c.db"}


async def test_the_platform_s_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    async with Engine():
        pass
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")] == [
        "tailrace/tailrace.db"
    ]


async def test_a_log_of_one_s_own() -> None:
    log: EventLog = MemoryLog()
    assert Engine(log).log is log


@pytest.mark.parametrize("place", ["redis://localhost", "postgres://h/db", "memory://x"])
async def test_a_scheme_that_is_not_known(place: str) -> None:
    with pytest.raises(ValueError, match=f"no event log for {place.partition(':')[0]}://"):
        Engine(place)


async def test_retention_reaches_the_log() -> None:
    async with Engine("memory:", retention=Retention(run_events=10)) as engine:
        run = await engine.operation(forever).start()
        await going(run)
        for _ in range(30):
            await engine.append(Append(run.id, logs(1)))
        assert (await run.record()).first_seq > 1


async def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = Engine(tmp_path / "file" / "a.db")
    for _ in range(2):
        with pytest.raises(LogError):
            await engine.start()
    with pytest.raises(LogError):
        await engine.record(run_id(bytes(16)))
    await engine.close()


# --- lifetime --------------------------------------------------------------------------


async def test_it_starts_with_the_first_thing_asked_of_it() -> None:
    asks: list[Any] = [
        lambda engine: engine.find(RunQuery()),
        lambda engine: engine.operations.get("crunch").start(),
        lambda engine: engine.submit("crunch", {}),
    ]
    unknown: list[Any] = [
        lambda engine: engine.record(run_id(bytes(16))),
        lambda engine: engine.cancel(run_id(bytes(16))),
        lambda engine: engine.forget(run_id(bytes(16))),
        lambda engine: engine.append(Append(run_id(bytes(16)), logs(1))),
        lambda engine: engine.run(run_id(bytes(16))).wait(),
        lambda engine: anext(engine.run(run_id(bytes(16))).events()),
    ]
    for ask in asks + unknown:
        engine = Engine("memory:")
        engine.operation(crunch)
        try:
            await soon(ask(engine))
            assert ask in asks
        except RunUnknown:
            assert ask in unknown
        await soon(engine.close())


async def test_it_starts_and_closes_once() -> None:
    class Counted(FaultyLog):
        opened = closed = 0

        async def open(self) -> None:
            self.opened += 1
            await turns(3)
            await super().open()

        async def close(self) -> None:
            self.closed += 1
            await turns(3)
            await super().close()

    log = Counted(MemoryLog())
    engine = Engine(log)
    await soon(asyncio.gather(*(engine.start() for _ in range(5))))
    await engine.start()
    assert log.opened == 1
    await soon(asyncio.gather(*(engine.close() for _ in range(5))))
    await engine.close()
    assert log.closed == 1
    await engine.start()
    await engine.close()
    assert (log.opened, log.closed) == (2, 2)


async def test_closing_one_that_never_started() -> None:
    await Engine("memory:").close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_it_starts_again_after_it_was_closed(tmp_path: Path, kind: str) -> None:
    engine = Engine("memory:" if kind == "memory" else tmp_path / "a.db", grace=0.05)
    operation = engine.operation(crunch)
    runs: list[Run] = []
    for _ in range(3):
        run = await operation.start()
        watching = asyncio.create_task(collect(run))
        runs.append(run)
        # Live, though the hub said goodbye to everybody the last time.
        assert (await soon(watching))[-1] == "complete"
        await engine.close()
    async with engine:
        for run in runs:
            assert await soon(run.result()) == 3
            assert (await soon(collect(run)))[-1] == "complete"
        assert not engine.hub.is_draining


async def collect(run: Run) -> list[str]:
    return [event.type async for event in run.events()]


def test_it_starts_again_in_another_loop(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "a.db")
    operation = engine.operation(crunch)

    async def main() -> int:
        runs = await asyncio.gather(*(operation.start(rows=n) for n in range(3)))
        results = await asyncio.gather(*(run.result() for run in runs))
        await engine.close()
        return sum(results)

    assert [asyncio.run(main()) for _ in range(3)] == [3, 3, 3]


async def test_it_belongs_to_one_loop_at_a_time(engine: Engine) -> None:
    def elsewhere() -> None:
        asyncio.run(engine.start())

    with pytest.raises(LogClosed, match="works in another event loop"):
        await asyncio.to_thread(elsewhere)
    run = await engine.operation(crunch).start()
    assert await soon(run.result()) == 3


def test_a_loop_may_end_under_it(tmp_path: Path) -> None:
    """As test clients do it: a loop for each request, and the engine is never closed."""
    engine = Engine(tmp_path / "a.db", grace=0.02)
    operation = engine.operation(crunch)
    endless = engine.operation(forever)

    async def one() -> tuple[int, str]:
        result = await soon((await operation.start()).result())
        left = await endless.start()
        await going(left)
        return result, left.id

    async def state(run: str) -> State:
        return (await soon(engine.run(run).wait())).state

    for _ in range(2):
        result, left = asyncio.run(one())
        assert result == 3
        assert asyncio.run(state(left)) is State.LOST
    asyncio.run(engine.start())
    asyncio.run(engine.close())


async def test_a_server_that_is_told_to_go_takes_an_engine_along_that_nobody_closes() -> None:
    engine = Engine("memory:", grace=0.02)
    run = await engine.operation(forever).start()
    await going(run)
    engine._leave()
    assert engine.hub.is_draining
    assert (await soon(run.wait())).state is State.LOST
    await engine.close()


async def test_a_server_that_is_told_to_go_leaves_the_rest_to_who_closes_it(
    engine: Engine,
) -> None:
    run = await engine.operation(forever).start()
    await going(run)
    engine._leave()
    await turns(20)
    assert (await run.record()).state is State.RUNNING


async def test_closing_ends_what_goes_on(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "a.db", grace=0.05)
    run = await engine.operation(forever).start()
    watching = asyncio.create_task(collect(run))
    await going(run)
    await until(lambda: engine.executing == 1)
    await soon(engine.close())
    assert await soon(watching) == ["start", "log", "error"]
    assert engine.executing == 0
    async with engine:
        record = await run.record()
        assert record.state is State.LOST
        with pytest.raises(RunFailed, match="The server was stopped"):
            await soon(run.result())


async def test_closing_does_not_wait_for_what_was_about_to_start() -> None:
    engine = Engine("memory:", grace=0.05)
    operation = engine.operation(forever)
    runs = [await operation.start() for _ in range(3)]
    await soon(engine.close())
    async with engine:
        assert {(await run.record()).state for run in runs} == {State.LOST}


async def test_what_a_run_asks_in_its_grace_does_not_start_the_engine_again() -> None:
    class Counted(FaultyLog):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            await super().open()

    log = Counted(MemoryLog())
    engine = Engine(log, grace=1.0)
    asked: list[State] = []

    @engine.operation
    async def crunch(run: RunContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            asked.append((await engine.record(run.id)).state)

    run = await crunch.start()
    await going(run)
    await turns()
    await soon(engine.close())
    assert asked == [State.RUNNING]
    assert log.opened == 1
    with pytest.raises(LogClosed):
        await log.append(Append(run.id, logs(1)))


async def test_a_full_disk_does_not_keep_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.going._LAST_SECONDS", 0.02)
    monkeypatch.setattr(outboxes, "_RETRY_SECONDS", 0.001)
    log = FaultyLog(MemoryLog())
    engine = Engine(log, grace=0.02)
    run = await engine.operation(forever).start()
    await going(run)
    log.faults.extend([LogFull("no space")] * 100_000)
    await soon(engine.close())


async def test_a_watcher_elsewhere_is_told_that_it_closes(tmp_path: Path) -> None:
    """Its run goes on in another process; here nobody will hear of it any more."""
    path = tmp_path / "a.db"
    async with Engine(path, grace=0.05) as there:
        run = await there.operation(forever).start()
        await going(run)
        here = Engine(path)
        watching = asyncio.create_task(here.run(run.id).wait())
        await until(lambda: here.hub.watchers(run.id))
        await soon(here.close())
        with pytest.raises(LogClosed):
            await soon(watching)


async def test_as_a_lifespan() -> None:
    engine = Engine("memory:")
    app = FastAPI(lifespan=engine.lifespan)
    messages = asyncio.Queue[dict[str, Any]]()
    answers: list[str] = []

    async def send(message: Any) -> None:
        answers.append(message["type"])

    await messages.put({"type": "lifespan.startup"})
    serving = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, messages.get, send)
    )
    await until(lambda: answers)
    assert answers == ["lifespan.startup.complete"]
    assert engine._lifetime.is_open
    await messages.put({"type": "lifespan.shutdown"})
    await soon(serving)
    assert answers[1:] == ["lifespan.shutdown.complete"]
    assert not engine._lifetime.is_open


# --- what a dead process left behind ---------------------------------------------------

LEAVES = """
import asyncio, sys
from tailrace.engine import Engine
async def main():
    engine = Engine({place!r})
    @engine.operation
    async def forever():
        await asyncio.sleep(60)
    await engine.start()
    run = await forever.start()
    async for _ in run.events():
        break
    print(run.id, flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


async def test_the_next_one_ends_what_a_dead_one_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = str(tmp_path / "a.db")
    with subprocess.Popen(
        [sys.executable, "-c", LEAVES.format(place=place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        run = (await asyncio.to_thread(other.stdout.readline)).decode().strip()
        async with Engine(place) as engine:
            assert (await engine.record(run)).state is State.RUNNING
        other.kill()
        await asyncio.to_thread(other.wait)
    async with Engine(place) as engine:
        assert (await engine.record(run)).state is State.LOST
        events = await kept(engine.log, run)
        assert [event.type for event in events] == ["start", "error"]
        assert events[-1].payload["reason"] == "lost"
    assert f"{run} was lost with its process" in caplog.text


async def test_a_full_disk_does_not_keep_it_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It can still show what is kept, and forgetting makes space."""

    class Orphaned(FaultyLog):
        async def orphans(self) -> Any:
            return [await self.inner.create(new_run(key="k"))]

    log = Orphaned(MemoryLog())
    log.faults.extend([LogFull("no space")] * 100_000)
    engine = Engine(log)
    await soon(engine.start())
    assert len(await engine.find(RunQuery())) == 1
    log.faults.clear()
    await soon(engine.close())
    assert "cannot be ended yet: no space" in caplog.text


# --- runs ------------------------------------------------------------------------------


async def test_a_run_by_name_and_by_operation(engine: Engine) -> None:
    operation = engine.operation(crunch)
    for asked in ("crunch", operation):
        record, is_new = await engine.submit(asked, {"rows": 4}, principal="ada")
        assert is_new
        assert (record.state, record.operation) == (State.QUEUED, "crunch")
        assert (record.principal, record.input) == ("ada", b'{"rows":4}')
        assert record.worker == engine.log.worker
        assert await soon(engine.run(record.id).result()) == 4
    assert (await operation.start()).id != (await operation.start()).id
    assert (await engine.record((await operation.start()).id)).principal == LOCAL


async def test_what_is_refused_leaves_no_run(engine: Engine) -> None:
    engine.operation(crunch)
    with pytest.raises(OperationUnknown, match="crunsh"):
        await engine.submit("crunsh", {})
    with pytest.raises(InputInvalid, match="rows"):
        await engine.submit("crunch", {"rows": "many"})
    engine.operation(name="text")(lambda text: text)
    with pytest.raises(BodyTooLarge):
        await engine.submit("text", {"text": "x" * 1_000_000})
    assert await engine.find(RunQuery()) == []


@pytest.mark.parametrize("name", ["timeout", "abandon_after"])
@pytest.mark.parametrize(
    "seconds", [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e9, 366.1 * 86_400]
)
async def test_durations_that_are_none(engine: Engine, name: str, seconds: float) -> None:
    engine.operation(crunch)
    given: dict[str, Any] = {name: seconds}
    with pytest.raises(InputInvalid, match=f"{name} must be a positive number of seconds") as no:
        await engine.submit("crunch", {}, **given)
    assert name in no.value.fix
    assert await engine.find(RunQuery()) == []


async def test_durations(engine: Engine) -> None:
    engine.operation(timeout=20.0, abandon_after=30.0)(crunch)
    record, _ = await engine.submit("crunch", {})
    assert (record.timeout, record.abandon_after) == (20.0, 30.0)
    record, _ = await engine.submit("crunch", {}, timeout=0.5, abandon_after=366 * 86_400)
    assert (record.timeout, record.abandon_after) == (0.5, 366 * 86_400)


async def test_a_timeout_and_a_cancel(engine: Engine) -> None:
    engine.operation(forever)
    record, _ = await engine.submit("forever", {}, timeout=0.02)
    assert await ended(engine, record.id) is State.TIMED_OUT
    record, _ = await engine.submit("forever", {})
    await going(engine.run(record.id))
    snapshot = await engine.cancel(record.id, "too dear")
    assert snapshot.state in {State.CANCELLING, State.CANCELLED}
    assert await ended(engine, record.id) is State.CANCELLED
    assert (await engine.cancel(record.id)).state is State.CANCELLED
    assert len([e for e in await kept(engine.log, record.id) if e.terminal]) == 1


async def test_who_waits_watches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.going._NOTED_SECONDS", 0.0)
    engine.operation(forever)
    record, _ = await engine.submit("forever", {}, abandon_after=0.05)
    with pytest.raises(TimeoutError):
        await soon(engine.run(record.id).wait(), within=0.3)
    log, run = engine.log, record.id

    async def is_over() -> bool:
        found = await log.get(run)
        return found is not None and found.ended

    async with asyncio.timeout(10):
        while not await is_over():
            await asyncio.sleep(0.005)
    assert (await kept(log, run))[-1].payload["reason"] == "abandoned"


async def test_a_cancel_from_another_process(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with Engine(path, grace=0.05) as here, Engine(path) as there:
        run = await here.operation(forever).start()
        await going(run)
        await there.cancel(run.id, "from there")
        assert (await soon(there.run(run.id).wait())).state is State.CANCELLED
        assert await ended(here, run.id) is State.CANCELLED
        assert (await kept(here.log, run.id))[-1].payload["reason"] == "from there"


async def test_a_wish_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    log = FaultyLog(MemoryLog())
    async with Engine(log, grace=0.05) as engine:
        run = await engine.operation(forever).start()
        await going(run)
        await turns()
        log.faults.append(LogFull("no space"))
        with pytest.raises(LogFull):
            await soon(run.cancel())
        await run.cancel()
        assert await ended(engine, run.id) is State.CANCELLED


async def test_a_key_names_one_request(engine: Engine) -> None:
    engine.operation(crunch)
    engine.operation(name="other")(crunch)
    first, is_new = await engine.submit("crunch", {"rows": 1}, key="k", timeout=5.0)
    assert is_new
    again, is_new = await engine.submit("crunch", {"rows": 1}, key="k", timeout=5.0)
    assert (again.id, is_new) == (first.id, False)
    await ended(engine, first.id)
    again, is_new = await engine.submit("crunch", {"rows": 1.0}, key="k", timeout=5.0)
    assert (again.id, is_new, again.state) == (first.id, False, State.COMPLETED)
    different: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("crunch", {"rows": 2}, {"timeout": 5.0}),
        ("other", {"rows": 1}, {"timeout": 5.0}),
        ("crunch", {"rows": 1}, {"timeout": 6.0}),
        ("crunch", {"rows": 1}, {}),
        ("crunch", {"rows": 1}, {"timeout": 5.0, "thread": "t"}),
    ]
    for operation, given, more in different:
        with pytest.raises(KeyReused, match=f"'k' already names {first.id}"):
            await engine.submit(operation, given, key="k", **more)
    other, is_new = await engine.submit("crunch", {"rows": 1}, key="l", timeout=5.0)
    assert is_new
    theirs, is_new = await engine.submit("crunch", {"rows": 9}, key="k", principal="bob")
    assert is_new
    assert len({first.id, other.id, theirs.id}) == 3
    await engine.forget(first.id)
    _, is_new = await engine.submit("crunch", {"rows": 2}, key="k")
    assert is_new


async def test_a_key_that_is_used_at_once(engine: Engine) -> None:
    engine.operation(crunch)
    answers = await soon(asyncio.gather(*(engine.submit("crunch", {}, key="k") for _ in range(10))))
    assert len({record.id for record, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    events = [event.type async for event in engine.run(answers[0][0].id).events()]
    assert events == ["start", "log", "complete"]


async def test_the_runs_of_a_thread_follow_each_other(engine: Engine) -> None:
    engine.operation(forever)

    @engine.operation
    async def told(run: RunContext) -> str | None:
        return run.thread

    first, is_new = await engine.submit("forever", {}, thread="chat-7", key="k")
    assert (first.thread, is_new) == ("chat-7", True)
    await going(engine.run(first.id))
    with pytest.raises(ThreadBusy, match=first.id) as busy:
        await engine.submit("told", {}, thread="chat-7")
    assert busy.value.details["run"] == first.id
    again, is_new = await engine.submit("forever", {}, thread="chat-7", key="k")
    assert (again.id, is_new) == (first.id, False)
    others: list[dict[str, Any]] = [{"thread": "chat-8"}, {}]
    for other in (*others, {"thread": "chat-7", "principal": "bob"}):
        record, _ = await engine.submit("told", {}, **other)
        assert await soon(engine.run(record.id).result()) == other.get("thread")
    await engine.cancel(first.id)
    await ended(engine, first.id)
    second, _ = await engine.submit("told", {}, thread="chat-7")
    assert await soon(engine.run(second.id).result()) == "chat-7"
    third = await engine.rerun(second.id)
    assert third.thread == "chat-7"
    assert await soon(engine.run(third.id).result()) == "chat-7"
    found = await engine.find(RunQuery(principal=LOCAL, thread="chat-7"))
    assert [run.id for run in found] == [third.id, second.id, first.id]


async def test_of_turns_that_come_at_once_one_begins(engine: Engine) -> None:
    engine.operation(forever)
    asked = (engine.submit("forever", {}, thread="t") for _ in range(10))
    answers = await soon(asyncio.gather(*asked, return_exceptions=True))
    assert sum(isinstance(answer, ThreadBusy) for answer in answers) == 9
    (run,) = await engine.find(RunQuery())
    await going(engine.run(run.id))
    assert engine.executing == 1


@pytest.mark.parametrize("thread", ["", "x" * 201, "a\nb", "\ud800"])
async def test_a_thread_that_none_is(engine: Engine, thread: str) -> None:
    engine.operation(crunch)
    with pytest.raises(InputInvalid, match="thread must be"):
        await engine.submit("crunch", {}, thread=thread)
    assert await engine.find(RunQuery()) == []


async def test_a_thread_is_free_again_when_its_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with using(SqliteLog(path)) as log:
        lost = await started(log, worker="f" * 32, principal=LOCAL, thread="t")
    async with Engine(path) as engine:
        engine.operation(crunch)
        assert await ended(engine, lost) is State.LOST
        record, _ = await engine.submit("crunch", {}, thread="t")
        assert await ended(engine, record.id) is State.COMPLETED


async def test_another_s_run_is_unknown(engine: Engine) -> None:
    engine.operation(crunch)
    record, _ = await engine.submit("crunch", {}, principal="ada")
    assert (await engine.record(record.id)).id == record.id
    assert (await engine.record(record.id, "ada")).id == record.id
    with pytest.raises(RunUnknown) as others:
        await engine.record(record.id, "bob")
    with pytest.raises(RunUnknown) as nobodys:
        await engine.record(run_id(bytes(16)), "bob")
    said = str(others.value).replace(record.id, "…"), others.value.fix
    assert said == (str(nobodys.value).replace(run_id(bytes(16)), "…"), nobodys.value.fix)


@pytest.mark.parametrize("run", ["", "run_", "x" * 1000, "run_" + "a" * 25, "../etc", "run_\n"])
async def test_what_is_no_id(engine: Engine, run: str) -> None:
    asks: list[Awaitable[Any]] = [engine.record(run), engine.cancel(run), engine.forget(run)]
    for ask in asks:
        with pytest.raises(RunUnknown):
            await ask
    with pytest.raises(RunUnknown):
        engine.run(run)


async def test_forgetting(engine: Engine) -> None:
    run = await engine.operation(forever).start()
    await going(run)
    with pytest.raises(RunActive):
        await engine.forget(run.id)
    await run.cancel()
    await soon(run.wait())
    await engine.forget(run.id)
    with pytest.raises(RunUnknown):
        await run.record()
    with pytest.raises(RunUnknown):
        await engine.forget(run.id)


async def test_events_from_elsewhere(engine: Engine) -> None:
    run = await engine.operation(forever).start()
    await going(run)
    commit = await engine.append(Append(run.id, logs(2, "remote"), fence=1))
    assert commit.last - commit.first == 1
    with pytest.raises(Conflict):
        await engine.append(Append(run.id, logs(1), fence=0))
    await run.cancel()
    await soon(run.wait())
    with pytest.raises(RunEnded):
        await engine.append(Append(run.id, logs(1)))


async def test_finding(engine: Engine) -> None:
    operation = engine.operation(crunch)
    runs = [await operation.start() for _ in range(3)]
    found = await engine.find(RunQuery(operation="crunch"))
    assert [record.id for record in found] == [run.id for run in reversed(runs)]


async def test_a_dispatcher_of_one_s_own() -> None:
    submitted: list[str] = []

    class Elsewhere:
        execute: Execute | None = None

        def bind(self, execute: Execute) -> None:
            self.execute = execute

        async def submit(self, run: str) -> None:
            submitted.append(run)

        async def close(self) -> None:
            self.execute = None

    dispatcher = Elsewhere()
    async with Engine("memory:", dispatcher=dispatcher) as engine:
        run = await engine.operation(crunch).start()
        assert submitted == [run.id]
        assert (await run.record()).state is State.QUEUED
        assert dispatcher.execute is not None
        # At least once each: the log makes sure that it is only once.
        await soon(asyncio.gather(*(dispatcher.execute(run.id) for _ in range(3))))
        assert [event.type for event in await kept(engine.log, run.id)].count("start") == 1
    assert dispatcher.execute is None


async def test_an_engine_alone_has_no_http_face(engine: Engine) -> None:
    run = await engine.operation(crunch).start()
    with pytest.raises(TailraceError, match="no HTTP face"):
        run.response(None)


async def test_runs_start_runs_and_wait_for_them(engine: Engine) -> None:
    inner = engine.operation(crunch)

    @engine.operation
    async def outer(run: RunContext) -> int:
        runs = [await inner.start(rows=rows) for rows in range(3)]
        return sum([await one.result() for one in runs])

    assert await soon((await outer.start()).result()) == 3


async def test_the_clock_and_the_name_of_threads(engine: Engine) -> None:
    @engine.operation
    def plain() -> str:
        return threading.current_thread().name

    before = engine.now()
    run = await plain.start()
    assert await soon(run.result()) == "tailrace-plain"
    record = await run.record()
    assert record.started_at is not None
    assert before <= record.created_at <= record.started_at <= engine.now()


# --- operations ------------------------------------------------------------------------


async def test_ways_to_make_an_operation(engine: Engine) -> None:
    @engine.operation
    async def one(run: RunContext, rows: int = 1) -> int:
        return rows

    @engine.operation(name="second", timeout=5.0, grace=1.0)
    def two(rows: int) -> int:
        """Count."""
        return rows

    three = engine.operation(name="three")(lambda: 3)
    assert [operation.name for operation in engine.operations] == ["one", "second", "three"]
    assert (two.timeout, two.grace, two.description) == (5.0, 1.0, "Count.")
    assert two(5) == 5
    for operation, expected in ((one, 1), (three, 3)):
        assert await soon((await operation.start()).result()) == expected
    with pytest.raises(ValueError, match="an operation 'one' already"):
        engine.operation(name="one")(two.function)


async def test_what_type_checkers_know(engine: Engine) -> None:
    """Run by mypy; here it is only seen that it runs."""

    @engine.operation
    async def coroutine(run: RunContext, rows: int = 1, *, name: str = "a") -> dict[str, int]:
        return {name: rows}

    @engine.operation
    def plain(rows: int) -> int:
        return rows

    @engine.operation(timeout=5.0)
    def generator(run: RunContext, rows: int = 1) -> Iterator[int]:
        yield rows

    assert_type(await coroutine.start(), Run)
    assert_type(await coroutine.start(2, name="b"), Run)
    assert_type(await plain.start(1), Run)
    assert_type(await generator.start(rows=2), Run)
    by_name: Operation[..., Run] = plain
    assert_type(await by_name.start(1), Run)
    wrong: list[Callable[[], Awaitable[Run]]] = [
        lambda: coroutine.start("x"),  # type: ignore[arg-type]
        lambda: coroutine.start(nothing=1),  # type: ignore[call-arg]
        lambda: plain.start(),  # type: ignore[call-arg]  # noqa: PLW0108
        lambda: generator.start(1, 2),  # type: ignore[call-arg]
    ]
    for start in wrong:
        with pytest.raises(InputInvalid):
            await start()


async def test_scripts_are_allowed_below_folders(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        engine.allow_scripts(tmp_path / "missing")
    (tmp_path / "hello.sh").write_text("echo hello $1")
    engine.allow_scripts(tmp_path, str(tmp_path))
    record, _ = await engine.submit("script", {"file": "hello.sh", "args": ["ada"]})
    assert await soon(engine.run(record.id).result()) == {"exit_code": 0}
    (output,) = [e for e in await kept(engine.log, record.id) if e.type == "output"]
    assert output.payload["text"] == "hello ada\n"
    with pytest.raises(PathForbidden, match="not a file below an allowed folder"):
        await engine.submit("script", {"file": "../etc/passwd"})


def test_nothing_is_said_when_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Engine(tmp_path / "a.db") as engine:
            run = await engine.operation(crunch).start()
            await soon(run.result())

    with caplog.at_level(logging.INFO, "tailrace"):
        asyncio.run(main())
    assert [entry for entry in caplog.records if entry.name.startswith("tailrace")] == []


# --- traits ----------------------------------------------------------------------------


async def test_a_guard_refuses_before_anything_is_kept(engine: Engine) -> None:
    def guard(given: Mapping[str, Any]) -> None:
        if given["rows"] != 3:
            raise PathForbidden("Only three.")

    operation = engine.offer(crunch, traits=Traits(guard=guard))
    for refused in (engine.submit("crunch", {"rows": 4}), operation.start(rows=5)):
        with pytest.raises(PathForbidden, match="Only three"):
            await refused
    assert await engine.find(RunQuery()) == []
    assert await soon((await operation.start()).result()) == 3


async def test_a_run_has_the_title_its_operation_gives_it(engine: Engine) -> None:
    operation = engine.offer(crunch, traits=Traits(title=lambda given: f"{given['rows']} rows"))
    run = await operation.start(rows=4)
    await soon(run.wait())
    assert (await kept(engine.log, run.id))[0].payload["title"] == "4 rows"


async def test_so_many_at_once(engine: Engine) -> None:
    gate = asyncio.Event()

    @engine.operation(concurrency=2)
    async def crunch() -> None:
        await gate.wait()

    runs = [await crunch.start() for _ in range(4)]
    async with asyncio.timeout(10):
        while (await runs[3].snapshot())["position"] != 2:
            await asyncio.sleep(0.001)
    assert engine.executing == 2
    await runs[2].cancel()
    assert (await soon(runs[2].wait())).state is State.CANCELLED
    gate.set()
    for run in (runs[0], runs[1], runs[3]):
        assert (await soon(run.wait())).state is State.COMPLETED
    with pytest.raises(ValueError, match="cannot have a concurrency of 0"):
        engine.operation(name="none", concurrency=0)(lambda: 3)


# --- the same again --------------------------------------------------------------------


async def test_a_run_is_run_again(engine: Engine) -> None:
    engine.operation(crunch)
    first, _ = await engine.submit(
        "crunch", {"rows": 5}, principal="ada", timeout=20.0, abandon_after=30.0, key="k"
    )
    assert await ended(engine, first.id) is State.COMPLETED
    for principal in (None, "ada"):
        again = await engine.rerun(first.id, principal)
        assert again.id != first.id
        assert (again.operation, again.input, again.principal) == ("crunch", first.input, "ada")
        assert (again.timeout, again.abandon_after, again.key) == (20.0, 30.0, None)
        assert await soon(engine.run(again.id).result()) == 5
    assert await soon((await engine.run(first.id).rerun()).result()) == 5


async def test_what_cannot_be_run_again(tmp_path: Path) -> None:
    async with Engine(tmp_path / "a.db") as engine:
        run = await engine.operation(crunch).start()
        await soon(run.wait())
        with pytest.raises(RunUnknown):
            await engine.rerun(run.id, "bob")
        with pytest.raises(RunUnknown):
            await engine.rerun(run_id(bytes(16)))
    async with Engine(tmp_path / "a.db") as other:
        with pytest.raises(OperationUnknown):
            await other.rerun(run.id)

        @other.operation(name="crunch")
        async def changed(rows: str) -> None: ...

        with pytest.raises(InputInvalid):
            await other.rerun(run.id)
        assert len(await other.find(RunQuery())) == 1


# --- what another process goes on with -------------------------------------------------


class Programs:
    """Work that goes on without any engine: an engine's run only waits for its result."""

    def __init__(self) -> None:
        self.results: dict[str, asyncio.Future[int]] = {}
        self.stopped: list[str] = []

    def offer(self, engine: Engine, **options: Any) -> Operation[..., Run]:
        traits = Traits(resumes=self.results.__contains__, survives=True)
        return engine.offer(self.program, traits=traits, **options)

    async def program(self, run: RunContext) -> int:
        if run.id not in self.results:
            self.results[run.id] = asyncio.get_running_loop().create_future()
        run.log(f"attempt {run.attempt}")
        try:
            return await asyncio.shield(self.results[run.id])
        except asyncio.CancelledError:
            if not run.released:
                self.stopped.append(run.id)
            raise


async def test_the_next_engine_takes_up_what_one_that_was_closed_let_go(tmp_path: Path) -> None:
    programs = Programs()
    first = Engine(tmp_path / "a.db", grace=0.05)
    operation = programs.offer(first, concurrency=1)
    run, waiting = await operation.start(), await operation.start()
    await until(lambda: programs.results)
    async with asyncio.timeout(10):
        while (await waiting.snapshot())["position"] != 1:
            await asyncio.sleep(0.001)
    await soon(first.close())

    second = Engine(tmp_path / "a.db", grace=0.05)
    programs.offer(second, concurrency=1)
    async with second:
        went_on = second.run(run.id)
        watching = asyncio.create_task(collect(went_on))
        await until(lambda: second.executing)
        # Who was let go has the slot, and who waited waits on.
        async with asyncio.timeout(10):
            while (await second.run(waiting.id).snapshot())["position"] != 1:
                await asyncio.sleep(0.001)
        programs.results[run.id].set_result(7)
        assert await soon(went_on.result()) == 7
        assert await soon(watching) == ["start", "log", "status", "log", "complete"]
        said = [e.payload["message"] for e in await kept(second.log, run.id) if e.type == "log"]
        assert said == ["attempt 1", "attempt 2"]
        await until(lambda: waiting.id in programs.results)
        programs.results[waiting.id].set_result(8)
        assert await soon(second.run(waiting.id).result()) == 8
        types = [event.type for event in await kept(second.log, waiting.id)]
        assert types.count("start") == 1
    assert programs.stopped == []


async def test_of_two_engines_one_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.upkeep._ROUND_SECONDS", 0.002)
    programs = Programs()
    engines = [Engine(tmp_path / "a.db", grace=0.05) for _ in range(3)]
    for engine in engines:
        programs.offer(engine)
    first, *others = engines
    runs = [await first.operations.get("program").start() for _ in range(5)]
    await until(lambda: len(programs.results) == 5)
    for other in others:
        await other.start()
    await soon(first.close())
    await until(lambda: sum(other.executing for other in others) == 5)
    for run in runs:
        programs.results[run.id].set_result(7)
    for run in runs:
        assert (await soon(others[0].run(run.id).wait())).state is State.COMPLETED
        record = await others[0].record(run.id)
        assert record.attempt == 2
        told = [event.type for event in await kept(others[0].log, run.id)]
        assert told == ["start", "log", "status", "log", "complete"]
    for other in others:
        await soon(other.close())
    assert programs.stopped == []


async def test_a_wish_to_cancel_reaches_the_one_that_took_it_up(tmp_path: Path) -> None:
    programs = Programs()
    first, second, third = [Engine(tmp_path / "a.db", grace=0.05) for _ in range(3)]
    for engine in (first, third):
        programs.offer(engine)
    run = await first.operations.get("program").start()
    await until(lambda: programs.results)
    await soon(first.close())
    async with third:
        await until(lambda: third.executing)
        async with second:
            await second.cancel(run.id, "enough")
            assert await ended(second, run.id) is State.CANCELLED
    assert programs.stopped == [run.id]


async def test_what_cannot_be_taken_up_is_lost(tmp_path: Path) -> None:
    programs = Programs()
    first = Engine(tmp_path / "a.db", grace=0.05)
    run = await programs.offer(first).start()
    await until(lambda: programs.results)
    await soon(first.close())
    second = Engine(tmp_path / "a.db")
    Programs().offer(second)
    async with second:
        assert await ended(second, run.id) is State.LOST


# --- secrets ---------------------------------------------------------------------------

SECRET = "hunter2-hunter2"


async def test_no_secret_is_kept_whoever_tells_it(tmp_path: Path) -> None:
    async def tells(run: RunContext, key: str) -> dict[str, str]:
        run.log(f"the key is {key}", key=key)
        run.output(f"{key}\n")
        run.progress(1, 2, message=key)
        if run.operation == "fails":
            raise ValueError(f"{key} is refused")
        return {key: key}

    engine = Engine(tmp_path / "a.db", secrets=[SECRET])
    tell, fail = (engine.operation(name=name)(tells) for name in ("tells", "fails"))
    async with engine:
        for run in [await operation.start(key=SECRET) for operation in (tell, fail)]:
            await soon(run.wait())
            told = [event.data for event in await kept(engine.log, run.id)]
            assert SECRET.encode() not in b"".join(told)
            record = await run.record()
            for column in (record.progress, record.result, record.error):
                assert SECRET.encode() not in (column or b"")
            # The work needs it as it is: what starts a run is no place for secrets.
            assert SECRET.encode() in record.input
        assert b'"error":"*** is refused"' in told[-1]


async def test_secrets_that_cannot_be_masked(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="8 characters"):
        Engine(tmp_path / "a.db", secrets=["short"])


def test_without_secrets_the_log_is_as_it_was() -> None:
    log = MemoryLog()
    assert Engine(log).log is log
    assert not Engine(log).masks


async def test_a_run_is_whose_it_was_started_for(engine: Engine) -> None:
    operation = engine.operation(crunch)
    run = await operation.by("ada").start(rows=2)
    assert (await run.record()).principal == "ada"
    assert await soon(run.result()) == 2
    assert await soon(engine.run(run.id, "ada").result()) == 2
    theirs = engine.run(run.id, "bob")
    refused: list[Awaitable[Any]] = [
        engine.cancel(run.id, principal="bob"),
        engine.forget(run.id, "bob"),
        theirs.rerun(),
        theirs.forget(),
    ]
    for asked in refused:
        with pytest.raises(RunUnknown):
            await asked
    assert await engine.newest("t", "ada") is None
    await engine.submit("crunch", {}, principal="ada", thread="t")
    newest = await engine.newest("t", "ada")
    assert newest is not None
    assert (await soon(newest.wait())).principal == "ada"
    await engine.run(run.id, "ada").forget()
    with pytest.raises(RunUnknown):
        await run.record()
