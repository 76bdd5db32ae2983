"""How many runs of one operation execute here at once, and who waits for the next slot."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import Iterator


class Place:
    """Where one run stands: it has a slot, or waits for one."""

    def __init__(self, slots: Slots, order: int) -> None:
        self.order = order
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots = slots
        self._moved: asyncio.Future[None] | None = None

    @property
    def has_slot(self) -> bool:
        """Whether it is its turn. `turn` is done from then on."""
        return self.turn.done()

    @property
    def position(self) -> int:
        """How many must go before it, itself included: 1 is next, 0 has its slot."""
        return self._slots.position(self)

    def moved(self) -> asyncio.Future[None]:
        """Done when the position may have changed."""
        if self._moved is None or self._moved.done():
            self._moved = asyncio.get_running_loop().create_future()
        return self._moved

    def take(self) -> None:
        """Have a slot from now on."""
        if not self.turn.done():
            self.turn.set_result(None)
        self.stir()

    def stir(self) -> None:
        """Tell whoever listens that the position may have changed."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)


class Slots:
    """At most `limit` at once, or as many as come; the others wait, the lowest order first.

    Used from one event loop.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: list[Place] = []

    @contextlib.contextmanager
    def place(self, order: int = 0, *, at_once: bool = False) -> Iterator[Place]:
        """A place while the block lasts: first come first served among those of equal order.

        `at_once` takes a slot though there is none, for what goes on already; the others wait
        until there are fewer than the limit again.
        """
        place = Place(self, order)
        if at_once or self._limit is None or self._taken < self._limit:
            self._taken += 1
            place.take()
        else:
            at = bisect.bisect_right(self._waiting, order, key=_order)
            self._waiting.insert(at, place)
            self._stir(at + 1)
        try:
            yield place
        finally:
            self._leave(place)

    def position(self, place: Place) -> int:
        """See `Place`."""
        if place.has_slot:
            return 0
        at = bisect.bisect_left(self._waiting, place.order, key=_order)
        return self._waiting.index(place, at) + 1

    def _leave(self, place: Place) -> None:
        if not place.has_slot:
            at = self._waiting.index(place)
            del self._waiting[at]
            self._stir(at)
            return
        self._taken -= 1
        while self._waiting and (self._limit is None or self._taken < self._limit):
            self._taken += 1
            self._waiting.pop(0).take()
        self._stir(0)

    def _stir(self, since: int) -> None:
        for place in self._waiting[since:]:
            place.stir()


def _order(place: Place) -> int:
    return place.order
