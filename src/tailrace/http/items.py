"""Events for a generator to yield, and generators that block. What else may be yielded, and how it
is told: `protocol/items.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from tailrace.protocol.events import to_json

# How much a thread is ahead of a client that does not read, at the most, in items.
_AHEAD: Final = 1000

logger = logging.getLogger("tailrace.http")


@dataclass(slots=True)
class ServerSentEvent:
    """One event, to be yielded by a generator: `data` is text, or what is told as JSON. `retry` is
    in milliseconds. `sep`, which others take, means nothing here.
    """

    data: Any = None
    _: KW_ONLY
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None
    sep: str | None = None


class JSONServerSentEvent(ServerSentEvent):
    """A `ServerSentEvent` whose data is told as JSON, also where it is text."""

    def __init__(self, data: Any = None, **fields: Any) -> None:
        # What is no text is told as JSON anyway, and a run keeps it as what it is.
        super().__init__(to_json(data) if isinstance(data, str | bytes) else data, **fields)


def threaded(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Walk a plain iterable in a thread of its own, with the present context variables. `aclose()`
    has the thread end after its next item, and waits until it has; it raises what the iterable
    raises at its closing. Whoever stops waiting gets that logged.
    """
    return _Walk(items)


class _Walk(AsyncIterator[Any]):
    """A thread that goes ahead of its reader, but not too far. It begins with the first item that
    is asked for.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._found: deque[Any] = deque()
        self._ready: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_begun = self._is_ended = self._is_stopped = self._is_alone = False
        self._news = asyncio.Event()
        self._error: BaseException | None = None

    async def __anext__(self) -> Any:
        if not self._is_begun:
            self._begin()
        while not self._ready and not self._take():
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                self._stop()
                raise
            self._news.clear()
        if self._ready:
            return self._ready.popleft()
        self._raise()
        raise StopAsyncIteration

    def _begin(self) -> None:
        self._is_begun = True
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._go,),
            name="tailrace-items",
            daemon=True,
        ).start()

    def _take(self) -> bool:
        """Take all that is there; whether there is something, or nothing will come."""
        with self._changed:
            self._ready.extend(self._found)
            self._found.clear()
            self._changed.notify_all()
            return bool(self._ready) or self._is_ended

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, Exception) and not isinstance(error, StopAsyncIteration):
            raise error
        # In a task it would end the event loop, or the iteration.
        raise RuntimeError(f"The generator raised {error!r}") from error

    async def aclose(self) -> None:
        """See `threaded`."""
        self._stop()
        try:
            while self._is_begun and not self._is_ended:
                await self._news.wait()
                self._news.clear()
        except asyncio.CancelledError:
            with self._changed:
                self._is_alone = True
                is_late = self._is_ended
            if is_late:
                self._log()
            raise
        self._raise()

    def _stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    # --- in the thread ---------------------------------------------------------------------

    def _go(self) -> None:
        try:
            iterator = iter(self._items)
            try:
                for item in iterator:
                    if not self._put(item):
                        break
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever reads
            self._error = error
        with self._changed:
            self._is_ended = True
            is_alone = self._is_alone
        if is_alone:
            self._log()
        self._tell()

    def _log(self) -> None:
        if self._error is not None:
            logger.error("A generator failed while it was closed", exc_info=self._error)

    def _put(self, item: Any) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._found) < _AHEAD or self._is_stopped)
            self._found.append(item)
            is_first = len(self._found) == 1
        if is_first:
            self._tell()
        return not self._is_stopped

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever waited
            self._loop.call_soon_threadsafe(self._news.set)
