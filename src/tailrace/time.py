"""Where Tailrace looks at the clock: the two functions of the standard library's module that it
uses for whatever a watcher or a run has to wait for, and for what it stamps.

`tailrace.testing.ManualClock` puts its own here for a while. Call them through this module: who
keeps one, keeps that of the moment. So nothing stands between, and a call costs what it does there.
"""

from __future__ import annotations

import time as _time
from collections.abc import Callable

monotonic: Callable[[], float] = _time.monotonic
"""Seconds that never go back."""

time: Callable[[], float] = _time.time
"""Seconds since 1970."""

__all__ = ["monotonic", "time"]
