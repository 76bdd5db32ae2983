"""A run's snapshot, the grammar of its id, and the questions one may ask about many."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from tailrace.errors import RunUnknown
from tailrace.protocol.cursor import Cursor, Extent
from tailrace.protocol.events import seconds, stamp
from tailrace.protocol.lifecycle import TERMINAL, State

_RUN_ID: Final = re.compile(r"run_[a-z2-7]{26}", re.ASCII)

THREAD: Final = r"^[^\x00-\x1f\x7f-\x9f]{1,200}$"
"""What a thread is called: any text without control characters."""


def run_id(entropy: bytes) -> str:
    """A run's id from 16 random bytes: 128 bits, so that it cannot be guessed."""
    return "run_" + base64.b32encode(entropy).decode("ascii").rstrip("=").lower()


def check_run_id(text: str) -> str:
    """`text` if it has the shape of a run's id. Raises RunUnknown: no such run can exist."""
    if _RUN_ID.fullmatch(text) is None:
        raise RunUnknown(
            f"{text[:40]!r} is not a run's id, which looks like run_ and 26 letters and digits.",
            fix="Take the id from the answer to POST /runs, or from GET /runs.",
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What the log knows of a run besides its events.

    Times are seconds since 1970. `input`, `progress`, `result` and `error` are JSON as
    stored; the `progress` of a run that waits for its turn is `{"position": 1}`, where it is
    next. `attempt` is the fence: an append of an older attempt is refused. `worker` names the
    process that owns the run; `timeout` and `abandon_after` are seconds. Runs of one principal
    and `thread` follow each other: at most one of them is active.
    """

    id: str
    operation: str
    principal: str
    created_at: float
    state: State = State.QUEUED
    input: bytes = b"{}"
    started_at: float | None = None
    ended_at: float | None = None
    watched_at: float | None = None
    timeout: float | None = None
    abandon_after: float | None = None
    progress: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    attempt: int = 0
    worker: str = ""
    key: str | None = None
    thread: str | None = None
    ordinal: int = 0
    first_seq: int = 1
    last_seq: int = 0
    size: int = 0
    epoch: int = 0
    base: int = 0

    @property
    def ended(self) -> bool:
        """Whether the run has its terminal event."""
        return self.state in TERMINAL

    @property
    def extent(self) -> Extent:
        """What the resume decision needs to know."""
        return Extent(self.first_seq, self.last_seq, self.ended, self.epoch, self.base)

    def with_(self, **changes: Any) -> RunRecord:
        """A copy with other values."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to list, newest first unless said otherwise.

    `before` is the ordinal a page goes on from, `since` the one that newer runs must be
    above; `text` is part of the operation or id.
    """

    principal: str | None = None
    states: frozenset[State] = frozenset()
    operation: str | None = None
    thread: str | None = None
    text: str | None = None
    before: int | None = None
    since: int | None = None
    limit: int = 50
    oldest_first: bool = False

    def matches(self, run: RunRecord) -> bool:
        """Whether `run` is among what is asked for."""
        return (
            (self.principal is None or run.principal == self.principal)
            and (not self.states or run.state in self.states)
            and (self.operation is None or run.operation == self.operation)
            and (self.thread is None or run.thread == self.thread)
            and (self.text is None or self.text in run.operation or self.text in run.id)
            and (self.before is None or run.ordinal < self.before)
            and (self.since is None or run.ordinal > self.since)
        )


def snapshot(run: RunRecord, prefix: str = "") -> dict[str, Any]:
    """The JSON shape of a run; `prefix` is the path the app is mounted under."""
    here = f"{prefix}/runs/{run.id}"
    started, ended = run.started_at, run.ended_at
    progress: Any = None if run.progress is None else orjson.loads(run.progress)
    # Before the start the column holds the place in the queue; it stays where none followed.
    waited = started is None and isinstance(progress, dict) and progress.keys() == {"position"}
    is_queued = run.state is State.QUEUED
    return {
        "id": run.id,
        "operation": run.operation,
        "thread": run.thread,
        "state": run.state.value,
        "input": orjson.loads(run.input),
        "created_at": stamp(run.created_at),
        "started_at": None if started is None else stamp(started),
        "ended_at": None if ended is None else stamp(ended),
        "duration_seconds": None if started is None or ended is None else round(ended - started, 3),
        "timeout": run.timeout,
        "abandon_after": run.abandon_after,
        "attempt": run.attempt,
        "position": progress["position"] if is_queued and waited else None,
        "progress": None if is_queued or waited else progress,
        "result": None if run.result is None else orjson.loads(run.result),
        "error": None if run.error is None else orjson.loads(run.error),
        "last_event_id": str(Cursor(run.epoch, run.last_seq)),
        "links": {
            "self": here,
            "events": f"{here}/events",
            "output": f"{here}/output",
            "cancel": f"{here}/cancel",
        },
    }


__all__ = ["THREAD", "RunQuery", "RunRecord", "check_run_id", "run_id", "seconds", "snapshot"]
