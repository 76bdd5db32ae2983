"""The life of a run: one table, from which the documentation's diagram is drawn.

Everything that may change a run's state stands in TRANSITIONS. What is not there cannot
happen: `after` answers None and the caller must leave the run alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a run is. The last five are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


class Signal(StrEnum):
    """What can befall a run."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    LOSE = "lose"


# A wish to cancel is kept whatever the work does afterwards: once `cancelling` was shown,
# a watcher must not see `completed`, so every way out of it leads to `cancelled`.
TRANSITIONS: Final[dict[State, dict[Signal, State]]] = {
    State.QUEUED: {
        Signal.START: State.RUNNING,
        Signal.CANCEL: State.CANCELLED,
        Signal.FAIL: State.FAILED,
        Signal.LOSE: State.LOST,
    },
    State.RUNNING: {
        Signal.FINISH: State.COMPLETED,
        Signal.FAIL: State.FAILED,
        Signal.CANCEL: State.CANCELLING,
        Signal.STOPPED: State.CANCELLED,
        Signal.TIMEOUT: State.TIMED_OUT,
        Signal.LOSE: State.LOST,
    },
    State.CANCELLING: {
        Signal.FINISH: State.CANCELLED,
        Signal.FAIL: State.CANCELLED,
        Signal.STOPPED: State.CANCELLED,
        Signal.TIMEOUT: State.CANCELLED,
        Signal.LOSE: State.CANCELLED,
    },
    State.COMPLETED: {},
    State.FAILED: {},
    State.CANCELLED: {},
    State.TIMED_OUT: {},
    State.LOST: {},
}

TERMINAL: Final = frozenset(state for state, ways in TRANSITIONS.items() if not ways)
ACTIVE: Final = frozenset(State) - TERMINAL

# The terminal event that tells of each terminal state; `error` carries the state's reason.
TERMINAL_EVENTS: Final[dict[State, str]] = {
    State.COMPLETED: "complete",
    State.FAILED: "error",
    State.TIMED_OUT: "error",
    State.LOST: "error",
    State.CANCELLED: "cancelled",
}


def after(state: State, signal: Signal) -> State | None:
    """The state that follows, or None where the signal means nothing (any more)."""
    return TRANSITIONS[state].get(signal)


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for state, ways in TRANSITIONS.items():
        targets: dict[State, list[str]] = {}
        for signal, target in ways.items():
            targets.setdefault(target, []).append(signal.value)
        lines += [f"    {state} --> {to}: {', '.join(why)}" for to, why in targets.items()]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"
