"""A clock that a test sets forward: fifteen seconds of silence, or an hour, in a moment."""

from __future__ import annotations

import asyncio
import time as real
from types import TracebackType
from typing import Any, Final, Self

from tailrace import time
from tailrace.errors import TailraceError

# A loop in which somebody is always ready is left after so many turns.
_TURNS: Final = 1000

# Whoever sleeps for next to nothing, again and again, would keep the clock for ever.
_STEP_SECONDS: Final = 0.0001

# To a hundredth, so that what took 89.9998 s took 90.
_DIGITS: Final = 2

# What is due so little later than the end is due at the end.
_LATE_SECONDS: Final = 0.001


class ManualClock:
    """Time goes on as it does, and `advance` adds to it.

        with ManualClock() as clock:
            async with client.stream("GET", "/numbers") as stream:
                await clock.advance(15)
                assert "keep-alive" in stream.comments

    It sets forward whatever waits on this event loop (`asyncio.sleep`, timeouts; those of your own
    code, too) and Tailrace's own times: heartbeats, ticks, write deadlines, `timeout`,
    `abandon_after`, retention. It does so step by step: what happens every second happens sixty
    times in a minute, and during `advance` no time passes but what it adds.

    What Tailrace writes down (events, runs, the time in a tick) is stamped with the clock's own
    `time()`, which stands still between two `advance`. What takes 90 s is due in a bit less once it
    has begun, so compare with a tolerance. `at`: what the clock begins with, in seconds since 1970;
    None: now.

    It does not set forward threads and other processes, `time.time()` in your own code, rate
    limits, and how long keys and tickets are good for. One is in use at a time. When it is left,
    this loop's clock goes on from where it is and Tailrace's goes back to the real one, so leave it
    after what was started in it.

    Raises TailraceError, when it is entered, where no event loop runs, or one that cannot be set
    forward (uvloop), or where another one is in use.
    """

    def __init__(self, at: float | None = None) -> None:
        self._at = real.time() if at is None else at
        self._ahead = self._added = 0.0
        self._entered = 0.0
        self._held: float | None = None
        self._loop: Any = None
        self._loop_base = self._base = 0.0
        self._is_in_use = False

    def __enter__(self) -> Self:
        """Take the clocks over."""
        self._loop = _settable()
        self._entered = real.monotonic()
        self._loop_base, self._base = self._loop.time(), time.monotonic()
        time.monotonic, time.time = self.monotonic, self.time
        self._loop.time = self._loop_time
        self._is_in_use = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Give Tailrace's back."""
        self._is_in_use = False
        time.monotonic, time.time = real.monotonic, real.time

    def time(self) -> float:
        """Seconds since 1970."""
        return self._at + round(self._added, _DIGITS)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._base + self._passed()

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass, and everything happen that is due in them, in its order.

        It does not wait for what happens in threads, such as commits to a file: wait for what
        comes of them. Raises ValueError for less than nothing, TailraceError outside of `with`.
        """
        if not seconds >= 0:
            raise ValueError(f"A clock is set forward, not by {seconds!r} seconds.")
        if not self._is_in_use:
            raise TailraceError(
                "This clock is not in use.", fix="Set it forward within `with ManualClock()`."
            )
        self._held, left = real.monotonic(), seconds
        try:
            await self._settled()
            while (step := self._next()) <= left + _LATE_SECONDS:
                step = max(step, _STEP_SECONDS)
                self._move(step)
                left -= step
                await self._settled()
            self._move(max(0.0, left))
            await self._settled()
        finally:
            self._ahead -= real.monotonic() - self._held
            self._held = None

    def _passed(self) -> float:
        now = real.monotonic() if self._held is None else self._held
        return now - self._entered + self._ahead

    def _loop_time(self) -> float:
        return self._loop_base + self._passed()

    def _move(self, seconds: float) -> None:
        self._ahead += seconds
        self._added += seconds

    def _next(self) -> float:
        """In how many seconds the first timer of the loop is due."""
        timers = (one.when() for one in self._loop._scheduled if not one.cancelled())  # noqa: SLF001 - a loop tells nobody
        return min(timers, default=float("inf")) - self._loop_time()

    async def _settled(self) -> None:
        """Wait until nobody is ready to go on."""
        quiet = 0
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            quiet = 0 if self._loop._ready else quiet + 1  # noqa: SLF001 - as above
            # Twice: in between the loop has looked at its sockets, and at threads.
            if quiet > 1:
                return


def _settable() -> asyncio.BaseEventLoop:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise TailraceError(
            "A ManualClock belongs to an event loop, and none is running.",
            fix="Enter it in an async test or fixture.",
        ) from None
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise TailraceError(
            f"The clock of {type(loop).__module__}.{type(loop).__name__} cannot be set.",
            fix="Run this test on asyncio's own event loop.",
        )
    if time.monotonic is not real.monotonic:
        raise TailraceError(
            "Another ManualClock is in use.", fix="Leave it first, or set that one forward."
        )
    return loop


__all__ = ["ManualClock"]
