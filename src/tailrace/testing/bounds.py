"""Bounds of what a test waits for: a hang is a failure that says what was waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final, TypeVar

Made = TypeVar("Made")

WITHIN_SECONDS: Final = 5.0
"""How long a test waits unless it says otherwise: far longer than anything in one process takes."""

_LAST_SECONDS: Final = 1.0


async def soon(awaited: Awaitable[Made], within: float = WITHIN_SECONDS) -> Made:
    """What `awaited` answers. Raises TimeoutError when `within` seconds are over; then it is
    cancelled.

    They are real seconds: a `ManualClock` that is set forward meanwhile does not end them.
    """
    ends = time.monotonic() + within
    task = asyncio.ensure_future(awaited)
    try:
        while not task.done():
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait((task,), timeout=left)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=_LAST_SECONDS)
    return task.result()


__all__ = ["WITHIN_SECONDS", "soon"]
