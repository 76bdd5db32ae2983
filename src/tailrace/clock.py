"""The one clock of many streams: heartbeats, ticks, deadlines, and the end of the server.

It looks four times a second, at those whose time has come and at no others, and not at all
while there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tailrace import time
from tailrace.rounds import BEAT_SECONDS, Timed, Wheel


class Clock:
    """Looks after streams, on one event loop."""

    def __init__(self) -> None:
        self._wheel = Wheel()
        self._timer: asyncio.TimerHandle | None = None
        self._signs: Sequence[Callable[[], bool]] = ()
        self.is_draining = False

    def begin(self, signs: Sequence[Callable[[], bool]] = ()) -> None:
        """Be open, again if need be. `signs` are looked at: one that is true says that the
        server is about to go.
        """
        self.is_draining = False
        self._signs = signs
        self.stop()

    def stop(self) -> None:
        """Look no more, until somebody new comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon(self) -> None:
        """Forget everybody: their event loop has ended, and they with it."""
        self._timer = None
        self._wheel = Wheel()

    def connect(self, timed: Timed) -> None:
        """Look after a stream from now on."""
        if not self._wheel:
            # One that was turned by a test that had set the time forward would stand still now.
            self._wheel = Wheel()
        self._look(timed, time.monotonic())
        if self.is_draining:
            timed.leave()

    def disconnect(self, timed: Timed) -> None:
        """Stop looking after it."""
        self._wheel.disarm(timed)

    def arm(self, timed: Timed, at: float | None) -> None:
        """Look at a stream once `at` (monotonic seconds) is over, or before; not for None."""
        if at is None:
            return
        self._wheel.arm(timed, at)
        if self._timer is None:
            self._schedule()

    def drain(self) -> None:
        """The server goes away: have every stream end properly. Their watchers will come back."""
        self.is_draining = True
        for timed in self._wheel:
            timed.leave()

    def beat(self, now: float) -> None:
        """Look at those whose time has come."""
        for timed in self._wheel.look(now):
            self._look(timed, now)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._wheel:
            return
        self._schedule()
        if not self.is_draining and any(sign() for sign in self._signs):
            self.drain()
        self.beat(time.monotonic())

    def _look(self, timed: Timed, now: float) -> None:
        again: float | None = now
        try:
            again = timed.beat(now)
        except Exception as error:  # noqa: BLE001 - its own fault, and the care for all goes on
            told = {"message": "A stream could not be looked after", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
        self.arm(timed, again)
