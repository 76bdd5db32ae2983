"""A run's pending buffer: emitted events on their way into the log.

`put` is cheap and never awaits. Whatever gathers while one append is under way goes with
the next, so a busy run needs few commits and an idle one loses no time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from tailrace.errors import BufferFull, LogClosed, LogError, RunEnded, TailraceError
from tailrace.eventlog.contract import Append, Commit, EventLog, progressed
from tailrace.protocol.events import Draft

HIGH_WATER_BYTES: Final = 1024 * 1024
"""Above this, threads block in `put` and generators wait before their next item."""

LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Above this, `put` on the event loop, which cannot block, raises BufferFull."""

_BATCH_BYTES: Final = 4 * 1024 * 1024
_RETRY_SECONDS: Final = 0.5
_REPORT_EVERY: Final = 20

logger = logging.getLogger("tailrace.outbox")


class Outbox:
    """The buffer of one attempt at one run, made on the event loop.

    When the log refuses the attempt for good (fenced, ended, forgotten, closed), `refused` is
    called once and every later `put` raises that error. When the log cannot write for now
    (disk full), the events are kept here and offered again.
    """

    def __init__(
        self, log: EventLog, run: str, attempt: int, refused: Callable[[TailraceError], None]
    ) -> None:
        self._log = log
        self._run = run
        self._attempt = attempt
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._home = threading.get_ident()
        self._pending: deque[Draft] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._is_scheduled = False
        self._is_writing = False
        self._error: TailraceError | None = None
        self._is_sealed = False
        # Of all that was ever put, how much is put and how much is committed.
        self._put = self._kept = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._failures = 0

    @property
    def is_high(self) -> bool:
        """Whether producers should wait."""
        return self._size > HIGH_WATER_BYTES

    @property
    def is_foreign_thread(self) -> bool:
        """Whether the caller is not on the event loop's thread."""
        return threading.get_ident() != self._home

    def put(self, draft: Draft) -> None:
        """Take an event. From another thread it blocks while the buffer is high.

        Raises BufferFull, or the error with which the log refused this attempt.
        """
        is_home = not self.is_foreign_thread
        with self._changed:
            if is_home and self._size > LIMIT_BYTES:
                raise BufferFull(
                    f"{self._size:,} bytes of events are waiting to be kept.",
                    fix="Await run.drain() now and then, so that the log can catch up.",
                )
            while not is_home and self.is_high and self._error is None and not self._is_sealed:
                self._changed.wait()
            if self._error is not None or self._is_sealed:
                raise self._error or self._over()
            self._pending.append(draft)
            self._put += 1
            self._size += len(draft.data)
            if self._is_scheduled or self._is_writing:
                return
            self._is_scheduled = True
        if is_home:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_soon_threadsafe(self._flush)

    async def drain(self) -> None:
        """Wait until everything put so far is committed. Raises what `put` would raise."""
        mark = self._put
        await self._until(lambda: self._kept >= mark)

    async def ebb(self) -> None:
        """Wait only while the buffer is high."""
        if self.is_high:
            await self._until(lambda: not self.is_high)

    async def _until(self, reached: Callable[[], bool]) -> None:
        if self.is_foreign_thread:
            # A loop of the work's own, in its own thread: `asyncio.run` in a plain function.
            there = asyncio.run_coroutine_threadsafe(self._until(reached), self._loop)
            await asyncio.wrap_future(there)
            return
        while self._error is None and not reached():
            change = self._loop.create_future()
            self._waiting.append(change)
            await change
        if self._error is not None:
            raise self._error

    def seal(self) -> None:
        """Take nothing more; what is pending is still committed. Work that was given up
        may go on emitting for ever, and the run's end cannot wait for that.
        """
        with self._changed:
            self._is_sealed = True
            self._changed.notify_all()

    def _over(self) -> RunEnded:
        return RunEnded(
            f"{self._run} has ended; nothing more can be emitted.",
            fix="Stop the work when run.cancelled is true.",
        )

    def close(self, error: TailraceError | None = None) -> None:
        """Take nothing more, and forget what is pending; whoever waits is let go."""
        with self._changed:
            self._error = self._error or error or self._over()
            self._pending.clear()
            self._size = 0
            self._changed.notify_all()
        self._let_go()

    def _flush(self) -> None:
        with self._changed:
            self._is_scheduled = False
            if self._is_writing or not self._pending:
                return
            batch: list[Draft] = []
            size = 0
            while self._pending and size < _BATCH_BYTES:
                batch.append(self._pending.popleft())
                size += len(batch[-1].data)
            self._is_writing = True
        append = Append(self._run, batch, patch=progressed(batch), fence=self._attempt)
        future = self._log.append(append)
        future.add_done_callback(lambda done: self._written(done, batch, size))

    def _written(self, done: asyncio.Future[Commit], batch: list[Draft], size: int) -> None:
        error = None if done.cancelled() else done.exception()
        is_for_good = isinstance(error, LogClosed) or self._error is not None
        if isinstance(error, LogError) and not is_for_good:
            self._hold(error, batch)
            return
        self._failures = 0
        with self._changed:
            self._is_writing = False
            self._kept += len(batch)
            self._size = max(0, self._size - size)
            self._changed.notify_all()
        if error is not None and self._error is None:
            refusal = error if isinstance(error, TailraceError) else LogError(str(error))
            self.close(refusal)
            self._refused(refusal)
        self._flush()
        self._let_go()

    def _hold(self, error: LogError, batch: list[Draft]) -> None:
        """Keep a batch the log could not write, and offer it again: better a run that
        stands still until there is space than one with a hole.
        """
        if self._failures % _REPORT_EVERY == 0:
            logger.error("%s waits for its log: %s %s", self._run, error, error.fix)
        self._failures += 1
        with self._changed:
            self._pending.extendleft(reversed(batch))
            self._is_writing = False
            self._is_scheduled = True
        self._loop.call_later(_RETRY_SECONDS, self._flush)

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
