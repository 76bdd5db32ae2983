"""What work is given, and how its stopping is asked for."""

from __future__ import annotations

import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import Any, Final

from tailrace.errors import RunCancelled

logger = logging.getLogger("tailrace.run")


class Sink(ABC):
    """Where work puts its events. `tailrace.RunContext` is the one that users see.

    Cancelling is cooperative first. A coroutine gets `asyncio.CancelledError` at its next
    await. A function in a thread has no await, so its emits are where it is told: the first
    one after the request raises `RunCancelled`; those after it, made while the function
    cleans up, go through.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._is_told = False
        self._is_released = False

    @property
    def cancelled(self) -> bool:
        """Whether the work is asked to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise RunCancelled if the work is asked to stop; for loops that emit nothing."""
        if self._stop.is_set():
            self._is_told = True
            raise RunCancelled("The run is asked to stop.")

    def request_stop(self) -> None:
        """Ask the work to stop."""
        self._stop.set()

    @property
    def released(self) -> bool:
        """Whether the run goes on without this process: let go of it, and stop nothing.

        It is so before the work is cancelled for it; except where an event loop ends under
        an engine that nobody closed, which cancels everything in one turn: after the next
        turn it is known.
        """
        return self._is_released

    def release(self) -> None:
        """Have the work let go of what it runs."""
        self._is_released = True

    def wait_cancelled(self, seconds: float) -> bool:
        """Sleep in a thread, but not longer than until the request; whether it came."""
        return self._stop.wait(seconds)

    def _tell_once(self) -> None:
        if self._stop.is_set() and not self._is_told:
            self.check()

    @abstractmethod
    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        """Record an event."""

    @abstractmethod
    async def ebb(self) -> None:
        """Wait while too many events are waiting to be kept."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait until every event emitted so far is durable."""


AMBIENT: Final[ContextVar[Sink | None]] = ContextVar("tailrace_run")
"""Where the work that is going on puts its events; unset or None outside of a run."""


def _leave() -> None:
    """Leave the run in a forked process: its events would go the way of the other process, whose
    threads have stayed there, and whose sockets both would write to.
    """
    if AMBIENT.get(None) is not None:
        AMBIENT.set(None)
        logger.warning(
            "Process %d was forked from the work of a run, and is outside of it: what it tells"
            " by tqdm, RunLogs or ProgressLogger is told to nobody.",
            os.getpid(),
        )


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave)
