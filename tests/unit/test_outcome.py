from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import outcome as outcomes
from tailrace.errors import (
    EventInvalid,
    LogClosed,
    LogFull,
    RunLost,
    RunUnknown,
    ScriptFailed,
    TailraceError,
)
from tailrace.eventlog.contract import Append
from tailrace.eventlog.memory import MemoryLog
from tailrace.outcome import Outcome, failure, settle
from tailrace.protocol.events import MAX_EVENT_BYTES, TERMINAL_TYPES, Event, loads
from tailrace.protocol.lifecycle import ACTIVE, TERMINAL, TERMINAL_EVENTS, Signal, State, after
from tailrace.protocol.runs import RunRecord
from tailrace.testing.logbook import kept, new_run, record, started, using
from tests.faultylog import FaultyLog
from tests.waiting import soon

pytestmark = pytest.mark.anyio

AT = 1_700_000_012.5


def clock() -> float:
    return AT


@pytest.fixture
async def log() -> AsyncIterator[FaultyLog]:
    async with using(MemoryLog()) as log:
        yield FaultyLog(log)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_RETRY_SECONDS", 0.001)


async def put(log: FaultyLog, state: State) -> RunRecord:
    """A run in that state."""
    run = await log.create(new_run(state=State.QUEUED))
    if state is not State.QUEUED:
        patch = {"started_at": AT - 10}
        await log.append(Append(run.id, move=(State.QUEUED, State.RUNNING), patch=patch))
    if state is State.CANCELLING:
        await log.append(Append(run.id, move=(State.RUNNING, State.CANCELLING)))
    return await record(log, run.id)


async def last(log: FaultyLog, run: RunRecord) -> tuple[RunRecord, Event]:
    return await record(log, run.id), (await kept(log, run.id))[-1]


# --- the table -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "signal"),
    list(itertools.product(sorted(ACTIVE), sorted(set(Signal) - {Signal.START}))),
)
async def test_every_move_of_the_table(log: FaultyLog, state: State, signal: Signal) -> None:
    run = await put(log, state)
    commit = await settle(log, run, Outcome(signal, result=1, error={"error": "e"}), clock=clock)
    target = after(state, signal)
    now = await record(log, run.id)
    if target is None:
        assert commit is None
        assert (now.state, await kept(log, run.id)) == (state, [])
        return
    assert commit is not None
    assert commit.state is now.state is target
    (event,) = await kept(log, run.id)
    assert event.type == TERMINAL_EVENTS.get(target, "status")
    assert (now.ended_at == AT) is (target in TERMINAL)
    assert event.payload["status"] == target.value


async def test_a_completed_run(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, Outcome(Signal.FINISH, result={"rows": 3}), clock=clock)
    now, event = await last(log, run)
    assert event.payload == {
        "status": "completed",
        "result": {"rows": 3},
        "duration_seconds": 10.0,
        "timestamp": "2023-11-14T22:13:32.500Z",
    }
    assert loads(now.result) == {"rows": 3}
    assert (now.error, now.ended_at) == (None, AT)


@pytest.mark.parametrize(
    ("signal", "reason", "said"),
    [
        (Signal.FAIL, "failed", "The run failed."),
        (Signal.TIMEOUT, "timed_out", "The run took longer than its timeout."),
        (Signal.LOSE, "lost", "The run was lost: the process that ran it is gone."),
    ],
)
async def test_a_run_that_did_not_complete(
    log: FaultyLog, signal: Signal, reason: str, said: str
) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, Outcome(signal, forced=True), clock=clock)
    now, event = await last(log, run)
    payload = event.payload
    assert payload.pop("timestamp")
    told = {"error": said, "type": reason, "reason": reason}
    assert payload == {"status": reason, **told, "forced": True, "duration_seconds": 10.0}
    assert loads(now.error) == told
    assert now.result is None


async def test_a_cancelled_run(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, Outcome(Signal.CANCEL, reason="too dear"), clock=clock)
    now, event = await last(log, run)
    assert (now.state, now.ended_at) == (State.CANCELLING, None)
    assert event.payload["reason"] == "too dear"
    await settle(log, now, Outcome(Signal.STOPPED, reason="too dear"), clock=clock)
    now, event = await last(log, run)
    assert (event.type, event.payload["reason"]) == ("cancelled", "too dear")
    assert "forced" not in event.payload
    assert (now.state, now.error) == (State.CANCELLED, None)


async def test_a_run_that_never_began_took_no_time(log: FaultyLog) -> None:
    run = await put(log, State.QUEUED)
    await settle(log, run, Outcome(Signal.CANCEL), clock=clock)
    _, event = await last(log, run)
    assert (event.type, event.payload["duration_seconds"]) == ("cancelled", 0.0)


# --- what cannot be kept ---------------------------------------------------------------


class Unspeakable:
    pass


@pytest.mark.parametrize(
    ("result", "kind", "said"),
    [
        (Unspeakable(), "EventInvalid", "Unspeakable"),
        ({"deep": [1, {2, object()}]}, "EventInvalid", "object"),
        (2**64, "EventInvalid", "64-bit"),
        ("\ud800", "EventInvalid", "surrogates"),
        ("x" * MAX_EVENT_BYTES, "EventTooLarge", "262,144"),
    ],
    ids=["object", "nested", "integer", "surrogate", "large"],
)
async def test_a_result_that_cannot_be_kept_fails_the_run(
    log: FaultyLog, result: Any, kind: str, said: str
) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, Outcome(Signal.FINISH, result=result), clock=clock)
    now, event = await last(log, run)
    assert (event.type, event.payload["type"]) == ("error", kind)
    assert said in event.payload["error"]
    assert now.state is State.FAILED


async def test_a_reason_that_cannot_be_kept_fails_nobody(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    with pytest.raises(EventInvalid):
        await settle(log, run, Outcome(Signal.CANCEL, reason="\ud800"))
    assert (await record(log, run.id)).state is State.RUNNING


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Custom(TailraceError):
    pass


@pytest.mark.parametrize(
    ("error", "said", "kind"),
    [
        (ValueError("no rows"), "no rows", "ValueError"),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError("a"), "'a'", "KeyError"),
        (Mute(), "Mute", "Mute"),
        (ExceptionGroup("two", [ValueError("a"), TypeError("b")]), "two (2 sub-exceptions)",
         "ExceptionGroup"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt"),
        (OSError(2, "No file", "\udcff"), "[Errno 2] No file: '\\udcff'", "FileNotFoundError"),
        (ValueError("a\udcffb"), "a?b", "ValueError"),
        (ValueError("x" * 1_000_000), "x" * 10_000, "ValueError"),
    ],
)  # fmt: skip
async def test_what_is_said_of_an_exception(
    log: FaultyLog, error: BaseException, said: str, kind: str
) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, failure(error))
    now, event = await last(log, run)
    assert (event.payload["error"], event.payload["type"]) == (said, kind)
    assert loads(now.error) == {"error": said, "type": kind, "reason": "failed"}


async def test_the_details_of_our_own_errors_are_told() -> None:
    outcome = failure(ScriptFailed("It exited with code 3.", exit_code=3))
    told = {"error": "It exited with code 3.", "type": "ScriptFailed", "exit_code": 3}
    assert outcome == Outcome(Signal.FAIL, error=told)


@pytest.mark.parametrize(
    ("state", "expected"), [(State.RUNNING, State.LOST), (State.CANCELLING, State.CANCELLED)]
)
async def test_work_that_is_gone_is_lost(log: FaultyLog, state: State, expected: State) -> None:
    outcome = failure(RunLost("The program is gone.", exit_code=137))
    assert outcome.signal is Signal.LOSE
    run = await put(log, state)
    await settle(log, run, outcome, clock=clock)
    found, event = await last(log, run)
    assert found.state is expected
    # Nobody has closed what it had opened.
    assert event.payload.get("forced", False) is (expected is State.CANCELLED)
    if expected is State.LOST:
        told = {key: event.payload[key] for key in ("error", "type", "reason", "exit_code")}
        assert told == {
            "error": "The program is gone.", "type": "lost", "reason": "lost", "exit_code": 137,
        }  # fmt: skip
    assert failure(RunLost("")).error == {"error": "RunLost"}


async def test_details_that_cannot_be_kept_still_fail_the_run(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, failure(Custom("no", what=object())))
    now, event = await last(log, run)
    assert (now.state, event.type) == (State.FAILED, "error")


# --- races -----------------------------------------------------------------------------


async def test_what_happened_first_is_believed(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    commits = await soon(
        asyncio.gather(*(settle(log, run, Outcome(signal)) for signal in (
            Signal.FINISH, Signal.FAIL, Signal.TIMEOUT, Signal.LOSE, Signal.STOPPED,
        )))
    )  # fmt: skip
    assert [commit is None for commit in commits] == [False, True, True, True, True]
    assert [event.type for event in await kept(log, run.id)] == ["complete"]


async def test_a_stale_snapshot_is_offered_again(log: FaultyLog) -> None:
    run = await put(log, State.QUEUED)
    await log.append(Append(run.id, move=(State.QUEUED, State.RUNNING)))
    commit = await settle(log, run, Outcome(Signal.CANCEL))
    assert commit is not None
    assert commit.state is State.CANCELLING
    commit = await settle(log, run, Outcome(Signal.FINISH, result=1))
    assert commit is None, "a queued run does not finish"


async def test_a_cancelled_run_never_completes(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    await settle(log, run, Outcome(Signal.CANCEL))
    commit = await settle(log, run, Outcome(Signal.FINISH, result=1))
    assert commit is not None
    assert commit.state is State.CANCELLED
    assert [event.type for event in await kept(log, run.id)] == ["status", "cancelled"]


async def test_an_older_attempt_means_nothing(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    await log.append(Append(run.id, patch={"attempt": 2}))
    assert await settle(log, run, Outcome(Signal.FINISH), fence=1) is None
    assert await kept(log, run.id) == []


# --- a log that cannot write -----------------------------------------------------------


async def test_it_waits_for_space(log: FaultyLog, caplog: pytest.LogCaptureFixture) -> None:
    run = await put(log, State.RUNNING)
    log.faults.extend([LogFull("no space", fix="Make some.")] * 3)
    commit = await soon(settle(log, run, Outcome(Signal.FINISH)))
    assert commit is not None
    assert caplog.messages == [f"{run.id} cannot be ended yet: no space Make some."] * 3


async def test_who_is_not_patient_does_not_wait(log: FaultyLog) -> None:
    run = await put(log, State.RUNNING)
    log.faults.append(LogFull("no space"))
    with pytest.raises(LogFull):
        await soon(settle(log, run, Outcome(Signal.CANCEL), patient=False))
    assert (await record(log, run.id)).state is State.RUNNING


async def test_a_closed_log_and_a_forgotten_run_are_told(log: FaultyLog) -> None:
    run = await started(log)
    snapshot = await record(log, run)
    with pytest.raises(RunUnknown):
        await settle(log, new_run(state=State.RUNNING), Outcome(Signal.FINISH))
    await log.close()
    with pytest.raises(LogClosed):
        await soon(settle(log, snapshot, Outcome(Signal.FINISH)))
    await log.open()


def test_terminal_events_are_all_there_are() -> None:
    assert set(TERMINAL_EVENTS.values()) == set(TERMINAL_TYPES)
