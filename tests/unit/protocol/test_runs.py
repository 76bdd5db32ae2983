"""A run's id, its snapshot, and what one may ask about runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tailrace.errors import RunUnknown
from tailrace.protocol.cursor import Extent
from tailrace.protocol.lifecycle import TERMINAL, State
from tailrace.protocol.runs import (
    THREAD,
    RunQuery,
    RunRecord,
    check_run_id,
    run_id,
    snapshot,
)

ID = "run_" + "a" * 26


def record(**given: Any) -> RunRecord:
    defaults = {"id": ID, "operation": "crunch", "principal": "ada", "created_at": 0.0}
    return RunRecord(**{**defaults, **given})


@pytest.mark.parametrize("entropy", [bytes(16), b"\xff" * 16, bytes(range(16))])
def test_an_id_has_128_bits_and_the_shape(entropy: bytes) -> None:
    made = run_id(entropy)
    assert check_run_id(made) == made
    assert len(made) == 30


def test_ids_differ_where_the_entropy_does() -> None:
    assert len({run_id(bytes([n]) + bytes(15)) for n in range(256)}) == 256
    assert len({run_id(bytes(15) + bytes([n])) for n in range(256)}) == 256


@pytest.mark.parametrize(
    "text",
    [
        *("", "run_", ID[:-1], ID + "a", ID.upper(), "run_" + "1" * 26, "job_" + "a" * 26),
        *(ID + "\n", "\n" + ID, "../" + ID, "run_" + "é" * 26, "x" * 100_000),
    ],
)
def test_what_is_no_id_names_no_run(text: str) -> None:
    with pytest.raises(RunUnknown) as error:
        check_run_id(text)
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("state", State)
def test_a_run_has_ended_in_a_terminal_state(state: State) -> None:
    assert record(state=state).ended is (state in TERMINAL)


def test_the_extent_is_the_runs() -> None:
    run = record(state=State.LOST, first_seq=3, last_seq=9, epoch=2, base=5)
    assert run.extent == Extent(first=3, last=9, ended=True, epoch=2, base=5)
    assert record().extent == Extent()


def test_a_copy_differs_only_where_told() -> None:
    run = record()
    assert run.with_(attempt=2) == record(attempt=2)
    assert run.attempt == 0


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({}, True),
        ({"principal": "ada"}, True),
        ({"principal": "bob"}, False),
        ({"states": frozenset({State.QUEUED, State.LOST})}, True),
        ({"states": frozenset({State.LOST})}, False),
        ({"operation": "crunch"}, True),
        ({"operation": "crun"}, False),
        ({"thread": "t"}, True),
        ({"thread": "T"}, False),
        ({"principal": "bob", "thread": "t"}, False),
        ({"text": "run"}, True),
        ({"text": "aaa"}, True),
        ({"text": "Crunch"}, False),
        ({"text": "%"}, False),
        ({"text": ""}, True),
        ({"before": 6}, True),
        ({"before": 5}, False),
        ({"since": 4}, True),
        ({"since": 5}, False),
        ({"principal": "ada", "operation": "other"}, False),
    ],
)
def test_what_a_query_matches(query: dict[str, Any], matches: bool) -> None:
    assert RunQuery(**query).matches(record(ordinal=5, thread="t")) is matches


def test_a_run_of_its_own_is_in_no_thread() -> None:
    assert RunQuery().matches(record())
    assert not RunQuery(thread="t").matches(record())


def test_the_snapshot_of_a_new_run() -> None:
    assert snapshot(record(input=b'{"rows":3}'), "/tailrace") == {
        "id": ID,
        "operation": "crunch",
        "thread": None,
        "state": "queued",
        "input": {"rows": 3},
        "created_at": "1970-01-01T00:00:00.000Z",
        "started_at": None,
        "ended_at": None,
        "duration_seconds": None,
        "timeout": None,
        "abandon_after": None,
        "attempt": 0,
        "position": None,
        "progress": None,
        "result": None,
        "error": None,
        "last_event_id": "0",
        "links": {
            "self": f"/tailrace/runs/{ID}",
            "events": f"/tailrace/runs/{ID}/events",
            "output": f"/tailrace/runs/{ID}/output",
            "cancel": f"/tailrace/runs/{ID}/cancel",
        },
    }


def test_the_snapshot_of_a_run_of_a_thread() -> None:
    assert snapshot(record(thread="chat-7"))["thread"] == "chat-7"


@pytest.mark.parametrize("text", ["a", "x" * 200, "chat 7: ☃\u00a0\U0001f469\u200d\U0001f680", "'"])
def test_what_a_thread_may_be_called(text: str) -> None:
    assert re.fullmatch(THREAD, text)


@pytest.mark.parametrize("text", ["", "x" * 201, "a\n", "\n", "a\0", "\x1b[1m", "\x7f", "\x85"])
def test_what_no_thread_is_called(text: str) -> None:
    assert re.fullmatch(THREAD, text) is None


def test_the_snapshot_of_a_finished_run() -> None:
    shown = snapshot(
        record(
            state=State.FAILED,
            started_at=1.0,
            ended_at=2.23456,
            progress=b'{"percent":50}',
            result=b"null",
            error=b'{"error":"no"}',
            last_seq=9,
            epoch=1,
        )
    )
    assert shown["state"] == "failed"
    assert (shown["started_at"], shown["ended_at"]) == (
        "1970-01-01T00:00:01.000Z",
        "1970-01-01T00:00:02.234Z",
    )
    assert shown["duration_seconds"] == 1.235
    assert (shown["progress"], shown["result"], shown["error"]) == (
        {"percent": 50},
        None,
        {"error": "no"},
    )
    assert shown["last_event_id"] == "1-9"


def test_a_run_that_was_cancelled_in_the_queue_took_no_time() -> None:
    shown = snapshot(record(state=State.CANCELLED, ended_at=2.0))
    assert (shown["ended_at"], shown["duration_seconds"]) == ("1970-01-01T00:00:02.000Z", None)


def test_a_run_that_waits_shows_its_position_and_no_progress() -> None:
    shown = snapshot(record(progress=b'{"position":3}'))
    assert (shown["position"], shown["progress"]) == (3, None)
    shown = snapshot(record(progress=b'{"position":3,"timestamp":"x"}'))
    assert (shown["position"], shown["progress"]) == (None, None)


@pytest.mark.parametrize("state", [State.CANCELLED, State.LOST, State.FAILED])
def test_one_that_ended_in_the_queue_shows_neither(state: State) -> None:
    shown = snapshot(record(state=state, ended_at=2.0, progress=b'{"position":3}'))
    assert (shown["position"], shown["progress"]) == (None, None)


def test_work_may_have_a_position_of_its_own() -> None:
    shown = snapshot(record(state=State.RUNNING, started_at=1.0, progress=b'{"position":3}'))
    assert (shown["position"], shown["progress"]) == (None, {"position": 3})
