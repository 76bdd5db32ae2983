"""The table of a run's life."""

from __future__ import annotations

import pytest

from tailrace.protocol.events import TERMINAL_TYPES
from tailrace.protocol.lifecycle import (
    ACTIVE,
    TERMINAL,
    TERMINAL_EVENTS,
    TRANSITIONS,
    Signal,
    State,
    after,
    diagram,
)

# Written out a second time on purpose: a slip in the table must show.
WAYS = {
    ("queued", "start"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "fail"): "failed",
    ("queued", "lose"): "lost",
    ("running", "finish"): "completed",
    ("running", "fail"): "failed",
    ("running", "cancel"): "cancelling",
    ("running", "stopped"): "cancelled",
    ("running", "timeout"): "timed_out",
    ("running", "lose"): "lost",
    ("cancelling", "finish"): "cancelled",
    ("cancelling", "fail"): "cancelled",
    ("cancelling", "stopped"): "cancelled",
    ("cancelling", "timeout"): "cancelled",
    ("cancelling", "lose"): "cancelled",
}


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("state", State)
def test_every_state_and_signal(state: State, signal: Signal) -> None:
    expected = WAYS.get((state.value, signal.value))
    assert after(state, signal) == expected


def test_the_terminal_states() -> None:
    assert {"completed", "failed", "cancelled", "timed_out", "lost"} == TERMINAL
    assert {"queued", "running", "cancelling"} == ACTIVE
    assert set(TRANSITIONS) == set(State)


def test_every_terminal_state_is_told_by_a_terminal_event() -> None:
    assert set(TERMINAL_EVENTS) == TERMINAL
    assert set(TERMINAL_EVENTS.values()) == TERMINAL_TYPES


def test_the_diagram_shows_the_table() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> queued"]
    drawn = {}
    for line in lines[2:]:
        source, _, rest = line.strip().partition(" --> ")
        target, _, signals = rest.partition(": ")
        drawn.update({(source, signal): target for signal in signals.split(", ") if signal})
    assert drawn == WAYS
    assert {line.split()[0] for line in lines if line.endswith("--> [*]")} == TERMINAL
