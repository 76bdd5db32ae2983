"""The steps of a long piece of work, told as `progress` and `log` events, from any thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from tailrace.protocol import events
from tailrace.protocol.events import stamp
from tailrace.runners.contract import AMBIENT, Sink

Told = Callable[[dict[str, Any]], object]
"""Called with an event's payload."""

PACE_SECONDS: Final = 0.05
"""How often a share of a step is told at the most. A new step is told at once, and a full share."""


class ProgressLogger:
    """Says which step the work is at, and what there is to read.

        steps = ProgressLogger(total_steps=3)
        steps.next_step("Load")
        steps.log("Read 100 rows", details={"file": "a.csv"})
        steps.next_step("Compute")
        steps.update(0.5)
        steps.complete()

    `progress` events say {current_step, total_steps, step_name, percent}, and the same in the words
    of every other run: {current, total, step}, where `current` counts the steps that are over. A
    step that has begun is not over: 100 percent is told by `complete`. `log` events say {level,
    message, details}.

    `on_progress` and `on_log` are called with the payload instead, `timestamp` included. Without
    them it is the run that is told: `run`, or the one that is going on where this is made; outside
    of any, nobody.

    All of it may be used from any thread. One thread at a time tells progress; what others do in
    the meantime they do not wait for: it is told after that, as one, so no percent is older than
    the one before it.

    Raises ValueError for a number of steps, or a step, that cannot be.
    """

    def __init__(
        self,
        total_steps: int | None = None,
        on_log: Told | None = None,
        on_progress: Told | None = None,
        *,
        run: Sink | None = None,
    ) -> None:
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be 1 or more, or None, not {total_steps!r}.")
        # Held to change what is below, and never to tell it: a thread that tells may have to wait
        # for the event loop, which would wait for the lock.
        self._lock = threading.RLock()
        self._total = total_steps
        self._step = 0
        self._name: str | None = None
        self._share = 0.0
        self._inner: str | None = None
        self._message: str | None = None
        self._is_complete = False
        self._is_untold = False
        self._is_telling = False
        self._told_at = float("-inf")
        sink = AMBIENT.get(None) if run is None else run
        self._on_log = on_log or _teller(sink, events.LOG)
        self._on_progress = on_progress or _teller(sink, events.PROGRESS)

    @property
    def percent(self) -> float | None:
        """How much is done, from 0 to 100; None where the number of steps is unknown."""
        with self._lock:
            return None if self._total is None else round(100 * self._done / self._total, 1)

    @property
    def _done(self) -> float:
        if self._is_complete:
            return self._total or self._step
        return max(self._step - 1, 0) + self._share

    # --- steps -----------------------------------------------------------------------

    def set_step(self, step: int, name: str | None = None) -> None:
        """Step `step` begins, counted from 1. One beyond the last makes it the last."""
        if step < 0:
            raise ValueError(f"Steps are counted from 1; there is no step {step!r}.")
        self._begin(step, name)

    def next_step(self, name: str | None = None) -> None:
        """The next step begins."""
        self._begin(None, name)

    def _begin(self, step: int | None, name: str | None) -> None:
        with self._lock:
            if self._is_complete:
                return
            self._step = self._step + 1 if step is None else step
            self._name, self._share, self._inner = name, 0.0, None
            if self._total is not None:
                # Work that miscounts its steps shall not fail for it at the end of a long day.
                self._total = max(self._total, self._step)
            self._is_untold = True
        self._tell()

    @contextlib.contextmanager
    def step(self, name: str | None = None) -> Iterator[Self]:
        """The next step begins, and is the work of the block."""
        self.next_step(name)
        yield self

    def update(self, share: float) -> None:
        """So much of the step is done, from 0 to 1. Told at most 20 times a second, and when it is
        all of it; what was not told is contained in the next step, or the end.
        """
        if self._move(share):
            self._tell()

    def _move(self, share: float) -> bool:
        """Whether there is something to tell now."""
        with self._lock:
            if self._is_complete:
                return False
            before, self._share = self._share, min(max(share, 0.0), 1.0)
            is_due = time.monotonic() - self._told_at >= PACE_SECONDS
            if is_due or before < 1 == self._share:
                self._is_untold = True
            return self._is_untold

    def steps(self, total_steps: int | None = None) -> ProgressLogger:
        """The steps within this step: they move it from its beginning to its end; where their
        number is unknown, at their end only. They are told as often as `update` is, and with what
        `complete` says.
        """
        inner = ProgressLogger(
            total_steps, self._on_log, lambda told: self._nested(told, is_over=inner._is_complete)
        )
        return inner

    def _nested(self, told: dict[str, Any], *, is_over: bool) -> None:
        with self._lock:
            if self._is_complete:
                return
            self._inner = told.get("step")
            if "message" in told:
                self._message, self._is_untold = told["message"], True
            percent = told.get("percent")
            share = 1.0 if is_over else self._share if percent is None else percent / 100
            if not self._move(share):
                return
        self._tell()

    def complete(self, message: str | None = None) -> None:
        """All of it is done. What is called after that tells nothing more of steps."""
        with self._lock:
            if self._is_complete:
                return
            self._is_complete = self._is_untold = True
            self._inner, self._message = None, message
            if self._total is not None:
                self._step = self._total
        self._tell()

    # --- telling ---------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell how things are, unless a thread does so already: then it goes on with this."""
        with self._lock:
            if self._is_telling:
                return
            self._is_telling = True
        leaves_at: float | None = None
        while True:
            with self._lock:
                # Others may keep it busy for ever: then the next of them takes its place, but for
                # the end, after which nobody comes.
                is_relieved = leaves_at is not None and time.monotonic() > leaves_at
                if not self._is_untold or (is_relieved and not self._is_complete):
                    self._is_telling = False
                    return
                payload = self._payload()
            try:
                self._on_progress(payload)
            except BaseException:
                with self._lock:
                    self._is_telling = False
                raise
            if leaves_at is None:
                leaves_at = time.monotonic() + PACE_SECONDS

    def _payload(self) -> dict[str, Any]:
        self._told_at = time.monotonic()
        done = self._done
        names = [name for name in (self._name, self._inner) if name]
        told = {
            "current": int(done) if done == int(done) else round(done, 3),
            "total": self._total,
            "percent": self.percent,
            "step": " / ".join(names) or None,
            "message": self._message,
            "current_step": self._step,
            "total_steps": self._total,
            "step_name": self._name,
        }
        self._message, self._is_untold = None, False
        payload = {name: value for name, value in told.items() if value is not None}
        return {**payload, "timestamp": stamp(time.time())}

    # --- something to read -----------------------------------------------------------

    def log(self, message: str, level: str = "info", details: dict[str, Any] | None = None) -> None:
        """Tell something to read: `level` is debug, info, warning, error, or a word of yours."""
        payload: dict[str, Any] = {"timestamp": stamp(time.time()), "level": level.lower()}
        payload["message"] = message
        if details is not None:
            payload["details"] = details
        self._on_log(payload)


def _teller(sink: Sink | None, type: str) -> Told:
    if sink is None:
        return lambda _: None
    return lambda payload: sink.emit(type, payload)
