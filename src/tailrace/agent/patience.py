"""Work in a task of its own, which is seen to its end by whoever must not leave it behind."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Final, TypeVar

Made = TypeVar("Made")

FORCED_SECONDS: Final = 0.8
"""How long work that is over its time may take to stop, before it is cancelled once more; then it
is left behind.
"""


async def within(work: Coroutine[Any, Any, Made], seconds: float | None) -> Made:
    """What `work` answers, unless it takes longer. Raises TimeoutError, and what `work` does.

    Work in a thread that ignores its cancelling is left behind.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await ended(task)
        raise
    if done:
        return task.result()
    for _ in range(2):
        task.cancel()
        await asyncio.wait({task}, timeout=FORCED_SECONDS)
        if task.done():
            break
    task.add_done_callback(_looked_at)
    raise TimeoutError(f"It took longer than {seconds:g} s.")


async def ended(task: asyncio.Task[Any], also: Collection[asyncio.Task[Any]] = ()) -> None:
    """Cancel a task and wait for its end. Whoever is cancelled meanwhile waits no longer: it and
    `also` are cancelled once more, at which a thread is given up, and left to themselves.
    """
    task.cancel()
    task.add_done_callback(_looked_at)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        for one in (task, *also):
            one.cancel()


def _looked_at(task: asyncio.Task[Any]) -> None:
    """An ending that nobody waits for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
