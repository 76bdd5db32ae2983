"""Whose turn it is: to send something now, or to be looked at by the clock.

One event loop serves everybody. What is due is done in slices, so that five thousand watchers
of one run do not keep a request, or another run's watcher, waiting while they are written to.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from tailrace import time

SLICE_SECONDS: Final = 0.005
"""How long the loop is held at the most, before others have a turn."""

BEAT_SECONDS: Final = 0.25
"""How exactly the clock looks, in seconds."""


class Due(Protocol):
    """Who may have something to send."""

    is_due: bool

    def flow(self, until: float) -> bool:
        """Send until `until` (monotonic seconds); whether that was all there is now."""


class Rounds:
    """Those who have something to send, one after the other, slice by slice."""

    def __init__(self) -> None:
        self._due: deque[Due] = deque()
        self._is_going = False

    def schedule(self, due: Due) -> None:
        """Have `due.flow` called soon."""
        if due.is_due:
            return
        due.is_due = True
        self._due.append(due)
        if not self._is_going:
            self._go()

    def _go(self) -> None:
        self._is_going = True
        asyncio.get_running_loop().call_soon(self._slice)

    def _slice(self) -> None:
        self._is_going = False
        until = time.monotonic() + SLICE_SECONDS
        try:
            # Each of them once: what comes in by their sending is for the next round.
            for _ in range(len(self._due)):
                due = self._due.popleft()
                due.is_due = False
                if not due.flow(until):
                    # To the end, so that a crowd, or a long replay, lets others pass.
                    due.is_due = True
                    self._due.append(due)
                if time.monotonic() > until:
                    break
        finally:
            if self._due and not self._is_going:
                self._go()


class Timed(Protocol):
    """A stream that the clock looks after."""

    def beat(self, now: float) -> float | None:
        """Do what is due at `now` (monotonic seconds); when to be looked at again, if ever."""

    def leave(self) -> None:
        """The server goes away: end the stream properly, and soon."""


class Wheel:
    """Who is to be looked at when. To arm, to disarm and to wait cost the same for any number
    of them: a look takes only those whose time has come.
    """

    def __init__(self) -> None:
        self._slots: dict[int, dict[Timed, None]] = {}
        self._places: dict[Timed, int] = {}
        self._looked = _slot(time.monotonic())

    def __len__(self) -> int:
        """How many are armed."""
        return len(self._places)

    def __iter__(self) -> Iterator[Timed]:
        """All that are armed now."""
        return iter(tuple(self._places))

    def arm(self, timed: Timed, at: float) -> None:
        """Have `timed` looked at once `at` is over, or before, if that is what was asked."""
        place = max(_slot(at), self._looked) + 1
        if place < self._places.get(timed, place + 1):
            self.disarm(timed)
            self._places[timed] = place
            self._slots.setdefault(place, {})[timed] = None

    def disarm(self, timed: Timed) -> None:
        """Stop looking."""
        place = self._places.pop(timed, None)
        if place is not None:
            slot = self._slots[place]
            del slot[timed]
            if not slot:
                del self._slots[place]

    def look(self, now: float) -> list[Timed]:
        """Those whose time has come; they must be armed again."""
        reached = _slot(now)
        found: list[Timed] = []
        passed = range(self._looked, reached + 1)
        # After a long sleep there are fewer slots than seconds.
        for place in passed if len(passed) < len(self._slots) else sorted(self._slots):
            if place <= reached:
                found += self._slots.pop(place, {})
        for timed in found:
            del self._places[timed]
        self._looked = max(self._looked, reached)
        return found


def _slot(at: float) -> int:
    return int(at / BEAT_SECONDS)


__all__ = ["BEAT_SECONDS", "SLICE_SECONDS", "Due", "Rounds", "Timed", "Wheel"]
