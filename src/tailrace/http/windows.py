"""Sliding windows in memory: when each bucket was hit, to the request.

The memory storage of `limits` starts a thread every few milliseconds of traffic, which looks
through all buckets, and keeps a list for each bucket it has ever seen. Whoever comes from many
addresses would have us spend both.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from limits.aio.storage import MovingWindowSupport, Storage

MOST_BYTES: Final = 32 * 1024 * 1024
"""What all windows of an engine may take: of 100,000 addresses, or 4 million hits."""

_HIT_BYTES: Final = 8
# Its key, its place in the dict, and two objects.
_WINDOW_BYTES: Final = 320


class _Window:
    __slots__ = ("expiry", "hits")

    def __init__(self, expiry: float) -> None:
        self.expiry = expiry
        self.hits = array("d")

    @property
    def bytes(self) -> int:
        return _WINDOW_BYTES + _HIT_BYTES * len(self.hits)


class Windows(Storage, MovingWindowSupport):
    """A storage of `limits` for the moving window, and for one event loop. Beyond `most` bytes
    it forgets those windows that were looked at the longest ago.
    """

    STORAGE_SCHEME = None

    def __init__(self, most: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._clock = clock
        self._bytes = 0
        # The one that was hit last is the last one.
        self._windows: dict[str, _Window] = {}

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._windows)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` hits, if the window has room for them; whether it had."""
        now = self._clock()
        window = self._windows.pop(key, None)
        if window is None:
            self._tidy(now)
            window = _Window(expiry)
            self._bytes += window.bytes
        self._windows[key] = window
        hits = self._left(window, now - expiry)
        if len(hits) + amount > limit:
            return False
        for _ in range(amount):
            hits.append(now)
        self._bytes += _HIT_BYTES * amount
        while self._bytes > self._most and len(self._windows) > 1:
            self._drop(next(iter(self._windows)))
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest hit of the window was, in seconds since 1970, and how many there are."""
        now = self._clock()
        window = self._windows.get(key)
        hits = None if window is None else self._left(window, now - expiry)
        return time.time() - (now - hits[0] if hits else 0.0), len(hits or ())

    def _left(self, window: _Window, since: float) -> array[float]:
        """The window's hits, after the older ones were forgotten."""
        hits = window.hits
        if hits and hits[0] < since:
            old = bisect_left(hits, since)
            del hits[:old]
            self._bytes -= _HIT_BYTES * old
        return hits

    def _tidy(self, now: float) -> None:
        """Forget two that are over, for each new one: so they are soon gone, and no timer is
        needed.
        """
        for key in [key for key, _ in zip(self._windows, range(2), strict=False)]:
            window = self._windows[key]
            if not window.hits or window.hits[-1] < now - window.expiry:
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._bytes -= self._windows.pop(key).bytes

    # --- what a storage has besides ----------------------------------------------------

    @property
    def base_exceptions(self) -> type[Exception]:
        """There is nothing in it that fails."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Fixed windows are not kept."""
        raise NotImplementedError

    async def get(self, key: str) -> int:
        """Hits that are remembered."""
        window = self._windows.get(key)
        return 0 if window is None else len(window.hits)

    async def get_expiry(self, key: str) -> float:
        """When the window is empty, if nothing else comes, in seconds since 1970."""
        window = self._windows.get(key)
        if window is None or not window.hits:
            return time.time()
        return time.time() + window.hits[-1] + window.expiry - self._clock()

    async def check(self) -> bool:
        """It is always there."""
        return True

    async def reset(self) -> int:
        """Forget all."""
        count = len(self._windows)
        self._windows.clear()
        self._bytes = 0
        return count

    async def clear(self, key: str) -> None:
        """Forget one."""
        if key in self._windows:
            self._drop(key)


__all__ = ["MOST_BYTES", "Windows"]
