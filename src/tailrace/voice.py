"""The words in which work tells of itself, wherever it is done and however its events travel."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeVar, cast

from tailrace.protocol import events
from tailrace.runners.contract import AMBIENT, Sink
from tailrace.runners.progress import ProgressLogger

Item = TypeVar("Item")

_PROGRESS_SECONDS = 0.05


class Voice(Sink):
    """A place for events, with a word for each of the common ones."""

    def progress(
        self,
        current: float | None = None,
        total: float | None = None,
        message: str | None = None,
        *,
        step: str | None = None,
        percent: float | None = None,
    ) -> None:
        """Tell how far the work is. `percent` is computed where it can be."""
        if percent is None and current is not None and total:
            percent = round(100 * current / total, 1)
        told = {
            "current": current, "total": total, "percent": percent,
            "step": step, "message": message,
        }  # fmt: skip
        self.emit(events.PROGRESS, {key: value for key, value in told.items() if value is not None})

    def log(self, message: str, level: str = "info", **details: Any) -> None:
        """Tell something to read."""
        payload: dict[str, Any] = {"level": level, "message": message}
        if details:
            payload["details"] = details
        self.emit(events.LOG, payload)

    def output(self, text: str, stream: str = "stdout") -> None:
        """Tell text as a program would write it."""
        self.emit(events.OUTPUT, {"stream": stream, "text": text})

    def result(self, value: Any) -> None:
        """Tell a result before the end, or one of several."""
        self.emit(events.RESULT, {"result": value})

    def track(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        description: str | None = None,
        total: int | None = None,
    ) -> Track[Item]:
        """Iterate (`for` or `async for`) and tell the progress, at most 20 times a second."""
        return Track(self, items, description, total)

    def steps(self, total_steps: int | None = None) -> ProgressLogger:
        """Tell the progress of work that has steps: `steps.next_step("Load")`."""
        return ProgressLogger(total_steps, run=self)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make this what `ProgressLogger`, `tqdm` and `RunLogs` tell."""
        token = AMBIENT.set(self)
        try:
            yield
        finally:
            AMBIENT.reset(token)


class Track(Generic[Item]):
    """An iteration that tells how far it is. `is_checked`: nobody interrupts the coroutine that
    iterates when its run should stop, so the loop has to look.
    """

    def __init__(
        self,
        run: Voice,
        items: Iterable[Item] | AsyncIterable[Item],
        description: str | None,
        total: int | None,
        *,
        is_checked: bool = False,
    ) -> None:
        self._run = run
        self._items = items
        self._description = description
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._last = float("-inf")
        self._is_checked = is_checked

    def __iter__(self) -> Iterator[Item]:
        """For plain functions. Raises RunCancelled when the run should stop."""
        count = 0
        for count, item in enumerate(cast("Iterable[Item]", self._items), 1):
            self._run.check()
            yield item
            self._tell(count)
        self._tell(count, at_end=True)

    async def __aiter__(self) -> AsyncIterator[Item]:
        """For coroutines. A plain iterable is walked without starving the loop."""
        count = 0
        async for item in self._asynchronous():
            if self._is_checked:
                self._run.check()
            yield item
            count += 1
            if self._tell(count):
                await self._run.ebb()
                await asyncio.sleep(0)
        self._tell(count, at_end=True)

    async def _asynchronous(self) -> AsyncIterator[Item]:
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                yield item
        else:
            for item in self._items:
                yield item

    def _tell(self, count: int, *, at_end: bool = False) -> bool:
        now = time.monotonic()
        if not at_end and (count == self._total or now - self._last < _PROGRESS_SECONDS):
            return False
        self._last = now
        self._run.progress(count, self._total, step=self._description)
        return True


def joined(payload: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A payload and the fields that are added to it."""
    told = payload if isinstance(payload, Mapping) else {"value": payload}
    return {**told, **fields}


__all__ = ["Track", "Voice", "joined"]
