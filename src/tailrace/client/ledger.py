"""Which events a watcher has, and so which one may come next. Pure.

Exactly once, in order, without a hole: the numbers of the events decide it, not the trust in
whatever stands between the server and us.
"""

from __future__ import annotations

import contextlib
from enum import Enum, auto
from typing import Any

from tailrace.errors import CursorMalformed
from tailrace.protocol.cursor import LATEST, parse
from tailrace.protocol.events import RESET

__all__ = ["Ledger", "Place"]


class Place(Enum):
    """Where something that arrives belongs."""

    NEW = auto()
    KNOWN = auto()
    AMISS = auto()


class Ledger:
    """What was received of one run, after the cursor `after` ("latest" is one, too).

    Only events move the `cursor`. What a control frame says holds for the response it came
    in: after a cut the server is asked from the last event on, and says it again.

    Raises CursorMalformed.
    """

    def __init__(self, after: str, *, is_filtered: bool) -> None:
        # With a filter, holes in the numbers are the rule.
        self._is_filtered = is_filtered
        self._have: tuple[int, int] | None = None
        self._next: int | None = None
        self._has_begun = False
        self._told: dict[str, tuple[int, int]] = {}
        self.cursor = LATEST
        if after != LATEST:
            self._begin(after)

    def _begin(self, after: str) -> None:
        cursor = parse(after)
        self._have = (cursor.epoch, cursor.complete)
        self.cursor = after

    def opened(self, position: str | None = None) -> None:
        """A response begins; `position` is the cursor it starts at by its own account."""
        if self.cursor == LATEST and position is not None:
            # Without it, what happens during a cut before the first event is lost.
            with contextlib.suppress(CursorMalformed):
                self._begin(position)
        self._next = None if self._have is None else self._have[1] + 1
        self._has_begun = False

    def event(self, id: str) -> Place:
        """Where the event `id` belongs. A new one counts as received."""
        try:
            got = parse(id)
        except CursorMalformed:
            return Place.AMISS
        self._has_begun = True
        at = (got.epoch, got.seq)
        if self._have is not None and at <= self._have:
            return Place.KNOWN
        is_next = self._next in (None, got.seq) or (
            self._is_filtered and self._next is not None and got.seq > self._next
        )
        if got.frame is not None or not is_next:
            return Place.AMISS
        self.cursor, self._have, self._next = id, at, got.seq + 1
        self._told = {}
        return Place.NEW

    def lost(self, kind: str, first: Any, last: Any) -> Place:
        """Where a `gap` or `reset` belongs: events `first`..`last` are not to be had.

        After a gap the next event is the one behind it. After a reset the numbers go on at
        `first`, in a newer epoch.
        """
        if kind == RESET and self._has_begun:
            # A repeat: it answers our cursor, so it comes first. Taken at its word it would
            # take back what has come since.
            return Place.KNOWN
        # Exactly int: True is one to isinstance().
        if type(first) is not int or type(last) is not int or not 0 < first <= last:
            return Place.AMISS
        if self._next is not None and first > self._next and not self._is_filtered:
            return Place.AMISS
        if kind != RESET and self._next is not None and last < self._next:
            return Place.KNOWN
        self._next = first if kind == RESET else last + 1
        # Told before, and nothing but cuts since.
        is_repeated = self._told.get(kind) == (first, last)
        self._told[kind] = (first, last)
        return Place.KNOWN if is_repeated else Place.NEW
