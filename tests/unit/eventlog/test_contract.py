"""Who may write, decided without a log."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.errors import (
    ProducerGap,
    RunEnded,
    RunUnknown,
    StateMoved,
    TailraceError,
    WriterFenced,
)
from tailrace.eventlog.contract import (
    PATCHABLE,
    Append,
    EventLog,
    Producer,
    Standing,
    admit,
)
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.events import Draft
from tailrace.protocol.lifecycle import TERMINAL, State

DRAFTS = tuple(Draft("log", b'{"n":%d}' % n) for n in range(1, 6))
RUNNING = Standing(State.RUNNING, 2)
DONE = Standing(State.COMPLETED, 2)
Position = tuple[int, int] | None


def append(**given: Any) -> Append:
    return Append("run", **{"drafts": DRAFTS, **given})


def by(epoch: int, seq: int) -> Producer:
    return Producer("p", epoch, seq)


@pytest.mark.parametrize(
    ("standing", "given", "position", "new"),
    [
        (RUNNING, {}, None, DRAFTS),
        (RUNNING, {"fence": 2}, None, DRAFTS),
        (RUNNING, {"drafts": ()}, None, ()),
        (RUNNING, {"move": (State.RUNNING, State.FAILED)}, None, DRAFTS),
        (DONE, {"drafts": (), "patch": {"result": b"1"}}, None, ()),
        # Of a producer: the first batch, the next one, overlaps, repetitions, a new epoch.
        (RUNNING, {"producer": by(0, 1)}, None, DRAFTS),
        (RUNNING, {"producer": by(0, 4)}, (0, 3), DRAFTS),
        (RUNNING, {"producer": by(0, 3)}, (0, 3), DRAFTS[1:]),
        (RUNNING, {"producer": by(0, 1)}, (0, 3), DRAFTS[3:]),
        (RUNNING, {"producer": by(0, 1)}, (0, 5), ()),
        (RUNNING, {"producer": by(0, 1)}, (0, 99), ()),
        (RUNNING, {"producer": by(7, 1)}, (6, 99), DRAFTS),
        (RUNNING, {"producer": by(7, 1), "drafts": ()}, (7, 99), ()),
        # What is only repeated succeeds, though the first time ended or moved the run.
        (DONE, {"producer": by(0, 1), "move": (State.RUNNING, State.COMPLETED)}, (0, 5), ()),
        (RUNNING, {"producer": by(0, 1), "move": (State.QUEUED, State.RUNNING)}, (0, 5), ()),
    ],
)
def test_what_is_admitted(
    standing: Standing, given: dict[str, Any], position: Position, new: tuple[Draft, ...]
) -> None:
    assert tuple(admit(standing, append(**given), position)) == new


@pytest.mark.parametrize(
    ("standing", "given", "position", "error"),
    [
        (None, {}, None, RunUnknown),
        (RUNNING, {"fence": 1}, None, WriterFenced),
        (RUNNING, {"fence": 3}, None, WriterFenced),
        (DONE, {}, None, RunEnded),
        (DONE, {"drafts": (), "move": (State.COMPLETED, State.RUNNING)}, None, RunEnded),
        (RUNNING, {"move": (State.QUEUED, State.RUNNING)}, None, StateMoved),
        (RUNNING, {"producer": by(0, 2)}, None, ProducerGap),
        (RUNNING, {"producer": by(0, 5)}, (0, 3), ProducerGap),
        (RUNNING, {"producer": by(1, 4)}, (0, 3), ProducerGap),
        (RUNNING, {"producer": by(0, 4)}, (1, 3), WriterFenced),
        # The fence speaks first: an old attempt must learn that it is one.
        (DONE, {"fence": 1, "producer": by(0, 9)}, None, WriterFenced),
        (DONE, {"producer": by(0, 1)}, (0, 4), RunEnded),
        (DONE, {"drafts": (), "producer": by(0, 1), "move": (State.RUNNING,) * 2}, None, RunEnded),
    ],
)
def test_what_is_refused(
    standing: Standing | None,
    given: dict[str, Any],
    position: Position,
    error: type[TailraceError],
) -> None:
    with pytest.raises(error) as refusal:
        admit(standing, append(**given), position)
    assert refusal.value.fix


def test_a_gap_says_what_is_expected() -> None:
    with pytest.raises(ProducerGap) as gap:
        admit(RUNNING, append(producer=by(0, 9)), (0, 3))
    assert gap.value.details == {"expected": 4}


def test_a_moved_state_is_told() -> None:
    with pytest.raises(StateMoved) as moved:
        admit(RUNNING, append(move=(State.CANCELLING, State.CANCELLED)), None)
    assert moved.value.state == "running"


@pytest.mark.parametrize("state", State)
def test_only_active_runs_take_events(state: State) -> None:
    standing = Standing(state, 0)
    if state in TERMINAL:
        with pytest.raises(RunEnded):
            admit(standing, append(), None)
    else:
        assert admit(standing, append(), None) == DRAFTS


@pytest.mark.parametrize("name", ["id", "principal", "state", "last_seq", "x = 1; --"])
def test_only_some_columns_can_be_patched(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be patched"):
        append(patch={name: 1})
    assert append(patch=dict.fromkeys(PATCHABLE)).patch


@pytest.mark.parametrize(("epoch", "seq"), [(0, 0), (0, -1), (-1, 1)])
def test_a_producer_counts_from_one(epoch: int, seq: int) -> None:
    with pytest.raises(ValueError, match="starts at 1"):
        Producer("p", epoch, seq)


def test_our_logs_have_the_shape_of_the_port() -> None:
    assert isinstance(MemoryLog(), EventLog)
    assert isinstance(SqliteLog("never-opened.db"), EventLog)
