"""How many streams may be open: in all, of one caller, and of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NoReturn

from tailrace.errors import TooManyRequests

_FULL_SECONDS: Final = 5


class Seat:
    """What one caller's streams take up. One object for all of them: an idle stream has no room
    for more than a reference.
    """

    __slots__ = ("_seats", "taken", "who")

    def __init__(self, seats: Seats, who: str) -> None:
        self._seats = seats
        self.who = who
        self.taken = 0

    def free(self) -> None:
        """One stream of its caller has ended."""
        self._seats.free(self)


class Seats:
    """How many streams may be open: `most` in total, `each` of one caller, `watchers` of one run;
    None: any number.
    """

    def __init__(
        self, most: int | None = None, each: int | None = None, watchers: int | None = None
    ) -> None:
        self.taken = 0
        self._most = most
        self._each = each
        self._watchers = watchers
        self._callers: dict[str, Seat] = {}

    def __len__(self) -> int:
        """How many callers there are."""
        return len(self._callers)

    def anew(self) -> Seats:
        """The same bounds, and nobody there."""
        return Seats(self._most, self._each, self._watchers)

    def check(self, who: str, watchers: int = 0) -> None:
        """Raises TooManyRequests if there is no seat for `who`, or if `watchers`, with this one,
        are too many for the run.
        """
        seat = self._callers.get(who)
        if self._most is not None and self.taken >= self._most:
            _refuse(f"The server has {self._most:,} streams open, as many as it takes.")
        if self._each is not None and seat is not None and seat.taken >= self._each:
            _refuse(f"You have {self._each:,} streams open, as many as one may have.")
        if self._watchers is not None and watchers > self._watchers:
            _refuse(f"The run has {self._watchers:,} watchers, as many as one may have.")

    def take(self, who: str) -> Seat:
        """A seat, to be freed once; whether there is one, `check` says."""
        if self._each is None:
            # They need not be told apart.
            who = ""
        seat = self._callers.get(who)
        if seat is None:
            seat = self._callers[who] = Seat(self, who)
        seat.taken += 1
        self.taken += 1
        return seat

    @contextlib.contextmanager
    def sitting(self, who: str) -> Iterator[None]:
        """A seat while the block lasts. Raises TooManyRequests."""
        self.check(who)
        seat = self.take(who)
        try:
            yield
        finally:
            self.free(seat)

    def free(self, seat: Seat) -> None:
        """Undo one `take`."""
        seat.taken -= 1
        self.taken -= 1
        if not seat.taken:
            del self._callers[seat.who]


def _refuse(said: str) -> NoReturn:
    raise TooManyRequests(
        said,
        fix="Close some, or try again later. GET /events has many runs in one stream.",
        retry_after=_FULL_SECONDS,
    )
