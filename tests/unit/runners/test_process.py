from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tailrace.engine import Engine
from tailrace.errors import LogClosed, RunEnded
from tailrace.eventlog.contract import EventLog
from tailrace.protocol.events import Draft, Event
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, run_id
from tailrace.run import Run
from tailrace.runners import process
from tailrace.runners.child import WINDOW_BYTES, ProcessFailed
from tailrace.runners.process import Address
from tailrace.testing.logbook import kept
from tailrace.work import _there
from tests.apps import heavy
from tests.processes import marked
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

WITHIN = 30.0


@pytest.fixture
async def runs() -> AsyncIterator[Engine]:
    """The engine, whose runs leave no process and no descriptor behind."""
    before = descriptors()
    async with heavy.runs:
        during = descriptors()
        yield heavy.runs
        assert descriptors() == during
    assert descriptors() == before


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def ended(run: Run) -> RunRecord:
    record = await soon(run.wait(), WITHIN)
    # The kernel takes its time with what was killed.
    await until(lambda: marked(run.id) == [], "gone", 2.0)
    return record


async def told(log: EventLog, run: Run) -> list[Event]:
    return await kept(log, run.id)


async def begun(run: Run) -> dict[str, Any]:
    """The payload of the event that says so."""

    async def look() -> dict[str, Any]:
        async for event in run.events():
            if event.type == "begun":
                return event.payload
            assert not event.terminal, event
        raise AssertionError

    return await soon(look(), WITHIN)


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        return state != "Z"
    return False


# --- every kind of function ------------------------------------------------------------------


async def test_a_coroutine_has_all_of_its_context(runs: Engine) -> None:
    run = await heavy.coroutine.start(
        point=heavy.Point(x=3, at=dt.date(2026, 1, 2)),
        when=dt.datetime(2026, 11, 20, 9, 30, tzinfo=dt.UTC),
    )
    record = await ended(run)
    assert record.error is None
    result = await run.result()
    assert result.pop("pid") != os.getpid()
    assert result == {"point": {"x": 3, "at": "2026-01-02"}, "id": run.id, "attempt": 1}
    events = await told(runs.log, run)
    types = [event.type for event in events]
    assert types[:6] == ["start", "typed", "progress", "log", "output", "result"]
    assert types[-2:] == ["progress", "complete"]
    payloads = [event.payload for event in events]
    assert operator.itemgetter("x", "year", "kind")(payloads[1]) == (3, 2026, "Point")
    assert operator.itemgetter("percent", "message")(payloads[2]) == (25.0, "a quarter")
    assert payloads[3]["details"] == {"number": 1}
    assert payloads[-2]["current"] == 3


async def test_a_function_runs_in_a_thread_with_its_run(runs: Engine) -> None:
    run = await heavy.function.start("höi")
    await ended(run)
    assert await run.result() == ["höi", "tailrace-function"]
    assert [e.payload["message"] for e in await told(runs.log, run) if e.type == "log"] == ["höi"]


@pytest.mark.parametrize("kind", [heavy.generator, heavy.async_generator])
async def test_what_generators_yield_is_told(runs: Engine, kind: Any) -> None:
    run = await kind.start(count=5)
    assert (await ended(run)).state is State.COMPLETED
    events = await told(runs.log, run)
    assert [e.payload["n"] for e in events if e.type == "number"] == list(range(5))
    if kind is heavy.generator:
        assert events[-2].payload["value"] == "text"
        assert await run.result() == "the end"


async def test_a_busy_one_tells_everything_in_order(runs: Engine) -> None:
    began = time.perf_counter()
    run = await heavy.firehose.start(events=50_000)
    assert await soon(run.result(), WITHIN) != os.getpid()
    took = time.perf_counter() - began
    print(f"\n50,000 events in {took:.2f} s, the start of the process included")
    numbers = [e.payload["number"] for e in await told(runs.log, run) if e.type == "drop"]
    assert numbers == list(range(50_000))


async def test_an_event_may_be_as_large_as_any(runs: Engine) -> None:
    run = await heavy.firehose.start(events=12, size=260_000)
    assert (await ended(run)).state is State.COMPLETED
    assert len(await told(runs.log, run)) == 14


async def test_drained_is_kept(runs: Engine) -> None:
    run = await heavy.drains.start(count=20)
    assert (await ended(run)).state is State.COMPLETED
    run = await heavy.drains_in_thread.start()
    assert (await ended(run)).state is State.COMPLETED


async def test_several_at_once_have_a_process_each(runs: Engine) -> None:
    started = [await heavy.firehose.start(events=10) for _ in range(5)]
    results = await soon(asyncio.gather(*(run.result() for run in started)), WITHIN)
    assert len({*results}) == 5


async def test_a_function_registered_aside_is_found(runs: Engine) -> None:
    assert await soon((await heavy.plus_one.start(1)).result(), WITHIN) == 2
    assert await soon((await heavy.grouped.start(1)).result(), WITHIN) == "Grouped 1"


# --- failures ---------------------------------------------------------------------------------


def lasting(event: Event) -> dict[str, Any]:
    """What is always the same; how many bytes a number of seconds takes is not."""
    payload = event.payload
    del payload["timestamp"], payload["duration_seconds"]
    if "error" in payload:
        payload["error"] = re.sub(r"1,000,\d+ bytes", "so many bytes", payload["error"])
    return payload


@pytest.mark.parametrize(
    "how", ["plain", "ours", "mute", "exit", "cancelled", "result", "large", "event"]
)
async def test_it_fails_as_it_would_here(
    runs: Engine, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = await heavy.fails.start(how)
    await ended(run)
    there = (await told(runs.log, run))[-1]
    logged = caplog.text
    caplog.clear()
    async with Engine("memory:") as others:
        run = await others.operation(heavy.fails.function).start(how)
        await run.wait()
        here = (await told(others.log, run))[-1]
    assert there.type == here.type
    assert lasting(there) == lasting(here)
    assert bool(logged) is bool(caplog.text)
    if how == "plain":
        # The traceback is the operator's, not the watchers'.
        assert "heavy.py" in logged
        assert b"heavy.py" not in there.data


async def test_an_interrupt_does_not_end_the_server(runs: Engine) -> None:
    run = await heavy.interrupts.start()
    record = await ended(run)
    assert record.state is State.FAILED
    assert b"KeyboardInterrupt" in (record.error or b"")


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        ("exit", "exited with code 3", 3),
        ("zero", "exited with code 0", 0),
        ("SIGKILL", "ended by SIGKILL before its work was done. The system", 137),
        ("SIGABRT", "ended by SIGABRT", 134),
        ("segfault", "ended by SIGSEGV", 139),
    ],
)
async def test_a_process_that_dies_fails_its_run_at_once(
    runs: Engine, how: str, said: str, code: int
) -> None:
    run = await heavy.dies.start(how)
    record = await ended(run)
    assert record.state is State.FAILED
    events = await told(runs.log, run)
    assert said in events[-1].payload["error"]
    assert events[-1].payload["type"] == "ProcessFailed"
    assert events[-1].payload["exit_code"] == code
    assert "last" in [event.type for event in events]
    if how == "exit":
        assert events[-2].type == "unkept", "what it had said is not lost"


async def test_another_function_under_its_name_is_refused(runs: Engine) -> None:
    run = await heavy.hidden.start(1)
    record = await ended(run)
    assert record.state is State.FAILED
    assert b"is not the function of this operation" in (record.error or b"")


# --- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loops", "checks", "waits", "awaits", "hogs"])
async def test_a_cancel_is_heard(runs: Engine, kind: str) -> None:
    run = await runs.operations.get(kind).start()
    await begun(run)
    asked = time.monotonic()
    await run.cancel()
    record = await ended(run)
    assert record.state is State.CANCELLED
    assert time.monotonic() - asked < 1.0
    events = await told(runs.log, run)
    assert "forced" not in events[-1].payload
    types = [event.type for event in events]
    assert "unheard" not in types
    if kind in ("loops", "hogs"):
        assert "cleaning" in types
    if kind == "awaits":
        assert types[-3:] == ["cleaning", "cleaned", "cancelled"]


async def test_who_returns_when_asked_is_cancelled(runs: Engine) -> None:
    run = await heavy.loops.start(told=False)
    await begun(run)
    await run.cancel()
    assert (await ended(run)).state is State.CANCELLED


@pytest.mark.parametrize("end", [False, True])
async def test_nothing_is_left_of_one_that_heeds_nothing(runs: Engine, end: bool) -> None:
    run = await heavy.stubborn.start(end=end)
    pids = (await begun(run))["pids"]
    asked = time.monotonic()
    if not end:
        await run.cancel()
    record = await ended(run)
    assert record.state is (State.FAILED if end else State.CANCELLED)
    assert time.monotonic() - asked < 2.0, "the grace and a second"
    await until(lambda: not any(map(is_there, pids)), "gone")
    if not end:
        assert (await told(runs.log, run))[-1].payload["forced"] is True


async def test_a_timeout_ends_it(runs: Engine) -> None:
    record, _ = await runs.submit("loops", {}, timeout=1.5)
    await runs.run(record.id).wait()
    assert (await ended(runs.run(record.id))).state is State.TIMED_OUT


async def test_a_closed_engine_takes_its_processes_with_it() -> None:
    async with heavy.runs:
        run = await heavy.loops.start()
        pid = (await begun(run))["pid"]
    assert not is_there(pid)
    assert marked(run.id) == []


async def test_signals_to_the_whole_service_are_the_servers_to_heed(runs: Engine) -> None:
    run = await heavy.loops.start()
    pid = (await begun(run))["pid"]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    await run.cancel()
    assert (await ended(run)).state is State.CANCELLED
    types = [event.type for event in await told(runs.log, run)]
    assert "cleaning" in types


async def test_what_it_starts_hears_signals(runs: Engine) -> None:
    assert await soon((await heavy.terminates.start()).result(), WITHIN) == -signal.SIGTERM
    assert await soon((await heavy.pools.start()).result(), WITHIN) == [0, 1, 4, 0, 1, 4]


async def test_threads_that_are_left_over_do_not_hold_up_the_end(runs: Engine) -> None:
    run = await heavy.lingers.start()
    assert (await ended(run)).state is State.COMPLETED


# --- where it runs -----------------------------------------------------------------------------


async def test_it_is_like_its_parent(runs: Engine) -> None:
    run = await heavy.surroundings.start()
    seen = await soon(run.result(), WITHIN)
    assert seen["cwd"] == str(Path.cwd())
    assert seen["path"] == sys.path
    assert seen["argv"] == sys.argv
    assert seen["mark"] == run.id
    assert seen["leader"]


async def test_it_prints_where_the_server_does(
    runs: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (await ended(await heavy.prints.start())).state is State.COMPLETED
    said = capfd.readouterr()
    assert "to the terminal\n" in said.out
    assert "and here\n" in said.err


def test_it_runs_on_uvloop() -> None:
    async def main() -> None:
        async with heavy.runs:
            run = await heavy.firehose.start(events=2000)
            assert (await soon(run.wait(), WITHIN)).state is State.COMPLETED
            run = await heavy.stubborn.start()
            pids = (await begun(run))["pids"]
            await run.cancel()
            assert (await ended(run)).state is State.CANCELLED
            await until(lambda: not any(map(is_there, pids)), "gone")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


PROGRAM = """
    import asyncio
    from tailrace import Tailrace

    runs = Tailrace("memory:")

    @runs.operation(process=True)
    def crunch(number: int) -> str:
        return f"{__name__} {number}"

    async def main():
        async with runs:
            record = await (await crunch.start(7)).wait()
            print(record.state, (record.result or record.error).decode())
"""


def ran(tmp_path: Path, end: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM) + end)
    return subprocess.run(
        [sys.executable, file], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )


def test_a_function_of_the_main_program_is_found(tmp_path: Path) -> None:
    done = ran(tmp_path, 'if __name__ == "__main__":\n    asyncio.run(main())\n')
    assert done.stdout == 'completed "__mp_main__ 7"\n'
    assert done.stderr == ""


def test_a_main_program_without_its_guard_starts_itself_only_once(tmp_path: Path) -> None:
    done = ran(tmp_path, "asyncio.run(main())\n")
    # The child ran the program as well, whose own run was refused; then it did its job.
    first, second = done.stdout.splitlines()
    assert first.startswith("failed")
    assert "bootstrapping phase" in first
    assert second == 'completed "__mp_main__ 7"'


# --- addresses ----------------------------------------------------------------------------------


class Called:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    "function",
    [lambda: None, nested(), functools.partial(nested), Called(), Called().method],
    ids=["lambda", "nested", "partial", "object", "bound"],
)
def test_what_cannot_be_found_again_is_refused(function: Any) -> None:
    runs = Engine("memory:")
    with pytest.raises(TypeError, match="another process cannot find it"):
        runs.operation(name="x", process=True)(function)
    assert list(runs.operations) == []


def test_an_address_finds_what_it_is_of() -> None:
    address = Address.of(heavy.fails.function)
    assert address == Address("tests.apps.heavy", "fails")
    assert address.find() is heavy.fails
    assert Address.of(heavy.Grouped.made).find() == heavy.Grouped.made


@pytest.mark.parametrize("address", [Address("tests.none", "x"), Address("tests.apps.heavy", "x")])
def test_an_address_of_nothing_is_told_in_time(address: Address) -> None:
    with pytest.raises(ProcessFailed, match="not the function of this operation") as caught:
        address.check(nested)
    assert caught.value.fix


# --- the two ends, without an engine ------------------------------------------------------------


class Held:
    """A buffer that is let go by hand."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.fault: Exception | None = None
        self.open = asyncio.Event()

    @property
    def size(self) -> int:
        return sum(len(draft.data) for draft in self.drafts)

    def put(self, draft: Draft) -> None:
        if self.fault is not None:
            raise self.fault
        self.drafts.append(draft)

    async def ebb(self) -> None:
        await self.open.wait()

    async def drain(self) -> None:
        if self.fault is not None:
            raise self.fault
        await self.open.wait()


def job(name: str, input: bytes = b"{}") -> tuple[Any, str]:
    mark = run_id(os.urandom(16))
    record = RunRecord(id=mark, operation=name, principal="me", created_at=0.0, input=input)
    return partial(_there, Address("tests.apps.heavy", name), record), mark


async def test_a_child_waits_while_its_parent_has_too_much() -> None:
    buffer = Held()
    made, mark = job("firehose", b'{"events": 40000, "size": 100}')
    running = asyncio.create_task(process.run(made, buffer, mark))
    seen = -1

    def is_still() -> bool:
        """It would have told all of it in a fraction of the time."""
        nonlocal seen
        before, seen = seen, buffer.size
        return before == seen > WINDOW_BYTES

    async def look() -> None:
        while not is_still():
            await asyncio.sleep(0.2)

    await soon(look(), WITHIN)
    assert WINDOW_BYTES < buffer.size < WINDOW_BYTES + 10_000
    buffer.open.set()
    assert await soon(running, WITHIN) != os.getpid()
    assert len(buffer.drafts) == 40_000
    assert marked(mark) == []


@pytest.mark.parametrize(("name", "input"), [("firehose", b"{}"), ("drains", b'{"count": 1}')])
async def test_a_child_is_told_that_nothing_more_is_taken(name: str, input: bytes) -> None:
    buffer = Held()
    buffer.fault = LogClosed("It is closed.")
    buffer.open.set()
    made, mark = job(name, b'{"events": 200000}' if name == "firehose" else input)
    with pytest.raises(Exception, match="It is closed") as caught:
        await soon(process.run(made, buffer, mark), WITHIN)
    assert type(caught.value).__name__ == RunEnded.__name__


async def test_a_child_that_is_not_ready_yet_is_stopped_at_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    mark = run_id(os.urandom(16))
    running = asyncio.create_task(process.run(heavy.never_ready, Held(), mark))
    said = ""

    def is_importing() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "importing" in said

    await until(is_importing, "importing", WITHIN)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running, 2.0)
    assert marked(mark) == []


async def test_a_module_that_is_not_there_is_said_so() -> None:
    made, mark = job("nothing")
    with pytest.raises(Exception, match=r"could not be made ready: AttributeError: .*nothing"):
        await soon(process.run(made, Held(), mark), WITHIN)


async def test_an_interpreter_that_does_not_start_is_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/nonexistent")
    made, mark = job("prints")
    with pytest.raises(ProcessFailed, match="cannot be started: No such file"):
        await process.run(made, Held(), mark)
