"""How a run comes to its next state: what is told, and who is believed.

Whatever wants to move a run (its work, a cancel, the clock, a reaper) offers an `Outcome`.
The log decides by compare-and-set which of them happened first; `settle` offers it again
against the state it then finds, until it is taken or means nothing any more. So there is
one terminal event, whatever raced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.errors import (
    EventInvalid,
    EventTooLarge,
    LogClosed,
    LogError,
    RunEnded,
    RunLost,
    RunUnknown,
    StateMoved,
    TailraceError,
    WriterFenced,
)
from tailrace.eventlog.contract import Append, Commit, EventLog
from tailrace.protocol import events
from tailrace.protocol.events import Draft, draft, to_json
from tailrace.protocol.lifecycle import TERMINAL, TERMINAL_EVENTS, Signal, State, after
from tailrace.protocol.problems import said
from tailrace.protocol.runs import RunRecord

_RETRY_SECONDS: Final = 0.5

logger = logging.getLogger("tailrace.outcome")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A signal and what is to be said of it.

    `result` is for FINISH, `error` (payload keys of the `error` event) for FAIL, TIMEOUT
    and LOSE, `reason` for CANCEL and STOPPED: why, in a word. `forced`: the work did not
    stop within its grace; so it is told as well of work that was lost while it should stop.
    """

    signal: Signal
    result: Any = None
    error: dict[str, Any] = field(default_factory=dict)
    reason: str = "requested"
    forced: bool = False

    def tell(self, target: State, run: RunRecord, at: float) -> tuple[Draft, dict[str, Any]]:
        """The event and the changed columns for a move to `target`.

        Raises EventInvalid or EventTooLarge for a result that cannot be kept.
        """
        if target not in TERMINAL:
            return draft(events.STATUS, {"status": target.value, "reason": self.reason}, at), {}
        began, forced = run.started_at, self.forced
        payload: dict[str, Any] = {"status": target.value}
        patch: dict[str, Any] = {"ended_at": at}
        match target:
            case State.COMPLETED:
                payload["result"] = self.result
                patch["result"] = to_json(self.result)
            case State.CANCELLED:
                payload["reason"] = self.reason
                # It has not stopped by itself, and nobody has closed what it had opened.
                forced |= self.signal is Signal.LOSE
            case _:
                payload |= {"error": f"The run {_WORDS[target]}.", "type": target.value}
                payload |= self.error
                payload["reason"] = target.value
                patch["error"] = to_json({k: v for k, v in payload.items() if k != "status"})
        if forced:
            payload["forced"] = True
        payload["duration_seconds"] = 0.0 if began is None else round(at - began, 3)
        return draft(TERMINAL_EVENTS[target], payload, at), patch


_WORDS: Final = {
    State.FAILED: "failed",
    State.TIMED_OUT: "took longer than its timeout",
    State.LOST: "was lost: the process that ran it is gone",
}


def failure(error: BaseException) -> Outcome:
    """What is said of an exception: its message and type, never its traceback, which would
    show paths and values of the server to every watcher. Work that says so itself was lost.
    """
    details = dict(error.details) if isinstance(error, TailraceError) else {}
    kind = type(error).__name__
    if isinstance(error, RunLost):
        return Outcome(Signal.LOSE, error={"error": said(error) or kind, **details})
    return Outcome(Signal.FAIL, error={"error": said(error) or kind, "type": kind, **details})


async def settle(
    log: EventLog,
    run: RunRecord,
    outcome: Outcome,
    *,
    fence: int | None = None,
    clock: Callable[[], float] = time.time,
    patient: bool = True,
) -> Commit | None:
    """Move `run` as `outcome` says; None if that means nothing in the state it is in.

    Waits while the log cannot write (disk full), if it is `patient`; otherwise it raises
    that LogError. Raises RunUnknown, LogClosed; EventInvalid, EventTooLarge for the reason
    of a cancel.
    """
    state = run.state
    while True:
        target = after(state, outcome.signal)
        if target is None:
            return None
        try:
            told, patch = outcome.tell(target, run, clock())
        except (EventInvalid, EventTooLarge) as error:
            if outcome.signal is Signal.CANCEL:
                # The reason is at fault, not the run.
                raise
            outcome = failure(error)
            continue
        try:
            return await log.append(
                Append(run.id, (told,), move=(state, target), patch=patch, fence=fence)
            )
        except StateMoved as moved:
            state = State(moved.state)
        except (RunEnded, WriterFenced):
            return None
        except (RunUnknown, LogClosed):
            raise
        except LogError as error:
            if not patient:
                raise
            logger.error("%s cannot be ended yet: %s %s", run.id, error, error.fix)  # noqa: TRY400
            await asyncio.sleep(_RETRY_SECONDS)
