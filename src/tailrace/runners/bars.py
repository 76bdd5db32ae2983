"""A progress bar in tqdm's words, which a run's watchers see."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from tailrace.errors import RunCancelled, TailraceError
from tailrace.protocol import events
from tailrace.runners.contract import AMBIENT, Sink
from tailrace.runners.progress import PACE_SECONDS

Item = TypeVar("Item")


class tqdm(Generic[Item]):  # noqa: N801 - its name is the point
    """`from tailrace import tqdm`: a loop that reports by tqdm reports to its run.

        for row in tqdm(rows, desc="Reading"):
            ...

    `progress` events say {current, total, percent, step: desc, message: postfix}, at most 20 times
    a second, and once more at the end. Outside of a run nobody is told. What tqdm takes to draw
    (`leave`, `ncols`, `unit`, `file`, …) is taken, and means nothing here; nor do the methods that
    draw (`clear`, `display`, `moveto`, `unpause`), and the lock that writers to one terminal share
    (`get_lock`, `set_lock`). `async for` works, too, also where what is iterated is plain.
    """

    _lock: ClassVar[Any] = threading.RLock()

    def __init__(
        self,
        iterable: Iterable[Item] | AsyncIterable[Item] | None = None,
        desc: str | None = None,
        total: float | None = None,
        *drawing: Any,
        initial: float = 0,
        disable: bool | None = False,
        postfix: Any = None,
        **options: Any,
    ) -> None:
        del drawing, options
        self.iterable = iterable
        self.desc = desc or ""
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.n = self.initial = initial
        self.disable = bool(disable)
        self._sink: Sink | None = None if disable else AMBIENT.get(None)
        self._began_at = time.monotonic()
        self._postfix = ""
        self._told: tuple[float, float | None, str, str] | None = None
        self._told_at = float("-inf")
        if isinstance(postfix, dict):
            self.set_postfix(postfix, refresh=False)
        elif postfix is not None:
            self._postfix = str(postfix)

    # --- iteration -------------------------------------------------------------------

    def __iter__(self) -> Iterator[Item]:
        """Raises RunCancelled, in a thread, when the run should stop."""
        try:
            for item in cast("Iterable[Item]", self.iterable):
                if self._sink is not None and self._sink.cancelled:
                    self._sink.check()
                yield item
                self.update()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """For coroutines. A plain iterable is walked without starving the loop. Raises
        RunCancelled when the run should stop and nobody interrupts the coroutine for it.
        """
        items = self.iterable
        try:
            async for item in items if isinstance(items, AsyncIterable) else _walked(items):
                if self._sink is not None and self._sink.cancelled and not _is_interrupted():
                    self._sink.check()
                yield item
                if self.update() and self._sink is not None:
                    await self._sink.ebb()
                    await asyncio.sleep(0)
        finally:
            self.close()

    def __len__(self) -> int:
        """The total."""
        return int(self.total or 0)

    def __bool__(self) -> bool:
        """Whether there is anything to do, as far as that is known."""
        if self.total is not None:
            return self.total > 0
        return self.iterable is None or bool(self.iterable)

    def __enter__(self) -> Self:
        """`with tqdm(total=10) as bar: bar.update()`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    # --- what it shows ---------------------------------------------------------------

    def update(self, n: float | None = 1) -> bool:
        """So many more are done; whether it was told. Raises RunCancelled once, in a thread, when
        the run should stop, as whatever tells does.
        """
        self.n += 1 if n is None else n
        if time.monotonic() - self._told_at < PACE_SECONDS:
            return False
        return self.refresh()

    def refresh(self, *_: Any, **__: Any) -> bool:
        """Tell it now; whether there was something new to tell."""
        shown = (self.n, self.total, self.desc, self._postfix)
        if self._sink is None or shown == self._told:
            return False
        self._told_at = time.monotonic()
        told = {
            "current": self.n,
            "total": self.total,
            "percent": round(100 * self.n / self.total, 1) if self.total else None,
            "step": self.desc or None,
            "message": self._postfix or None,
        }
        payload = {name: value for name, value in told.items() if value is not None}
        self._sink.emit(events.PROGRESS, payload)
        self._told = shown
        return True

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:  # noqa: FBT001, FBT002 - tqdm's signature
        """What is being done."""
        self.desc = (desc or "").removesuffix(": ")
        if refresh:
            self.refresh()

    set_description_str = set_description

    def set_postfix(
        self,
        ordered_dict: dict[str, Any] | None = None,
        refresh: bool = True,  # noqa: FBT001, FBT002 - tqdm's signature
        **values: Any,
    ) -> None:
        """Figures to show beside it, `loss=0.25`."""
        figures = {**(ordered_dict or {}), **dict(sorted(values.items()))}
        said = ", ".join(f"{name}={_short(value)}" for name, value in figures.items())
        self.set_postfix_str(said, refresh)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: FBT001, FBT002 - tqdm's signature
        """Text to show beside it."""
        self._postfix = s
        if refresh:
            self.refresh()

    def reset(self, total: float | None = None) -> None:
        """Begin again."""
        self.n = 0
        if total is not None:
            self.total = total
        self.refresh()

    def close(self) -> None:
        """Tell how far it came. Idempotent. Raises nothing that a run is told by: it comes after
        an error of the loop, which it must not replace, or in a finaliser, where an error is lost.
        """
        with contextlib.suppress(TailraceError):
            try:
                self.refresh()
            except RunCancelled:
                self._put_off()

    def _put_off(self) -> None:
        """Tell it regardless, and leave the wish to stop to whatever tells next."""
        sink = cast("Sink", self._sink)
        try:
            # Twice only where two threads do this at the same moment.
            with contextlib.suppress(RunCancelled):
                self.refresh()
        finally:
            sink._is_told = False  # noqa: SLF001 - it was told to nobody

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a bar of one's own would be drawn from: `elapsed` is in seconds, `rate` of a second,
        None before there is one.
        """
        elapsed = time.monotonic() - self._began_at
        return {
            "n": self.n,
            "total": self.total,
            "initial": self.initial,
            "elapsed": elapsed,
            "rate": (self.n - self.initial) / elapsed
            if elapsed and self.n > self.initial
            else None,
            "prefix": self.desc,
            "postfix": self._postfix or None,
            "unit": "it",
        }

    # --- what means nothing here -----------------------------------------------------

    def clear(self, *_: Any, **__: Any) -> None:
        """Nothing is drawn, so nothing is cleared."""

    def display(self, *_: Any, **__: Any) -> None:
        """Nothing is drawn."""

    def moveto(self, *_: Any) -> None:
        """Nothing is drawn, so it has no place."""

    def unpause(self) -> None:
        """No rate is shown, so a pause spoils none."""

    @classmethod
    def get_lock(cls) -> Any:
        """A lock, for whoever asks for it: none is taken here."""
        return cls._lock

    @classmethod
    def set_lock(cls, lock: Any) -> None:
        """Another one for `get_lock`."""
        cls._lock = lock

    # --- something to read -----------------------------------------------------------

    @classmethod
    def write(cls, s: str, *_: Any, **__: Any) -> None:
        """Something to read, beside the bars: a `log` event."""
        sink = AMBIENT.get(None)
        if sink is not None:
            sink.emit(events.LOG, {"level": "info", "message": s})


async def _walked(items: Any) -> AsyncIterator[Any]:
    turn = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - turn >= PACE_SECONDS:
            await asyncio.sleep(0)
            turn = time.monotonic()


def _is_interrupted() -> bool:
    """Whether the task is cancelled already: one that cleans up is not told again."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).strip()


__all__ = ["tqdm"]
