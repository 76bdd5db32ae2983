"""A run's pending buffer: emitted events on their way into the log.

`put` is cheap and never awaits. Whatever gathers while one append is under way goes with
the next, so a busy run needs few commits and an idle one loses no time. A busy one also
lingers: a commit, a wake-up and a send for each token of a stream cost four times as much
as one of them every few milliseconds, which nobody can see. Where many runs are busy at the same
time it lingers longer, with the root of their number: a hundred of them each go on every 50 ms,
which nobody can see either, and have the processor to themselves for the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Final

from tailrace.errors import BufferFull, LogClosed, LogError, RunEnded, TailraceError
from tailrace.eventlog.contract import Append, Commit, EventLog, progressed
from tailrace.perloop import PerLoop
from tailrace.protocol.events import Draft

HIGH_WATER_BYTES: Final = 1024 * 1024
"""Above this, threads block in `put` and generators wait before their next item."""

LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Above this, `put` on the event loop, which cannot block, raises BufferFull."""

LINGER_SECONDS: Final = 0.005
"""How long after its last append a busy run waits with the next, where it is the only one."""

LONGEST_LINGER_SECONDS: Final = 0.05
"""The same, where a hundred are busy, or more."""

_BATCH_BYTES: Final = 4 * 1024 * 1024
# What `put` compares with: a flush is wanted by any event, or by none.
_ANY: Final = -1
_NONE: Final = sys.maxsize
_RETRY_SECONDS: Final = 0.5
_REPORT_EVERY: Final = 20

# So many appends a second make it linger for so many seconds. Runs that linger that long make as
# many appends: of n of them, that is LINGER_SECONDS times the root of n.
_PER_APPEND: Final = LINGER_SECONDS**2
_COUNTED_SECONDS: Final = 0.1

logger = logging.getLogger("tailrace.outbox")


class Traffic(PerLoop):
    """How often the runs of one event loop go on, and so how long a busy one of them lingers."""

    def __init__(self) -> None:
        self.linger = LINGER_SECONDS
        self._count = 0
        self._since = monotonic()

    def passed(self, now: float) -> None:
        """An append begins, at `now` in monotonic seconds."""
        self._count += 1
        elapsed = now - self._since
        if elapsed < _COUNTED_SECONDS:
            return
        wanted = self._count / elapsed * _PER_APPEND
        # Half-way, or it would swing: who lingers longer makes fewer appends.
        linger = (self.linger + wanted) / 2
        self.linger = min(max(linger, LINGER_SECONDS), LONGEST_LINGER_SECONDS)
        self._count, self._since = 0, now


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
        # Appending to a list is atomic. The loop's own events need no lock: whatever else
        # touches `_own` happens on the loop as well. Threads change `_theirs` under the lock.
        self._pending: list[Draft] = []
        self._own = self._theirs = self._flying = 0
        self._changed = threading.Condition(threading.Lock())
        self._blocked = 0
        # More pending bytes than this, and whoever puts them sees to a flush.
        self._enough = _ANY
        self._linger: asyncio.TimerHandle | None = None
        self._traffic = Traffic.here()
        self._began = -LONGEST_LINGER_SECONDS
        self._batch: list[Draft] = []
        self._error: TailraceError | None = None
        self._is_shut = False
        self._kept = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._failures = 0
        _ALL.add(self)

    @property
    def is_high(self) -> bool:
        """Whether producers should wait."""
        return self._own + self._theirs + self._flying > HIGH_WATER_BYTES

    @property
    def is_foreign_thread(self) -> bool:
        """Whether the caller is not on the event loop's thread."""
        return threading.get_ident() != self._home

    def put(self, draft: Draft) -> None:
        """Take an event. From another thread it blocks while the buffer is high.

        Raises BufferFull, or the error with which the log refused this attempt.
        """
        if threading.get_ident() != self._home:
            self._put_from_afar(draft)
            return
        if self._is_shut:
            raise self._error or self._over()
        if self._own > LIMIT_BYTES:
            raise BufferFull(
                f"{self._own:,} bytes of events are waiting to be kept.",
                fix="Await run.drain() now and then, so that the log can catch up.",
            )
        self._pending.append(draft)
        self._own = size = self._own + len(draft[1])
        if size > self._enough:
            self._enough = _NONE
            self._loop.call_soon(self._go_on)

    def _put_from_afar(self, draft: Draft) -> None:
        with self._changed:
            self._blocked += 1
            while self.is_high and not self._is_shut:
                self._changed.wait()
            self._blocked -= 1
            if self._is_shut:
                raise self._error or self._over()
            self._pending.append(draft)
            self._theirs += len(draft.data)
            if self._own + self._theirs <= self._enough:
                return
            self._enough = _NONE
        self._loop.call_soon_threadsafe(self._go_on)

    async def drain(self) -> None:
        """Wait until everything put so far is committed. Raises what `put` would raise."""
        with self._changed:
            mark = self._kept + len(self._batch) + len(self._pending)
        await self._until(lambda: self._kept >= mark)

    async def ebb(self) -> None:
        """Wait only while the buffer is high."""
        if self.is_high:
            await self._until(lambda: not self.is_high)

    async def _until(self, reached: Callable[[], bool]) -> None:
        if self.is_foreign_thread and self._error is None:
            # A loop of the work's own, in its own thread: `asyncio.run` in a plain function.
            there = asyncio.run_coroutine_threadsafe(self._until(reached), self._loop)
            await asyncio.wrap_future(there)
            return
        while self._error is None and not reached():
            change = self._loop.create_future()
            self._waiting.append(change)
            self._hurry()
            await change
        if self._error is not None:
            raise self._error

    def seal(self) -> None:
        """Take nothing more; what is pending is still committed. Work that was given up
        may go on emitting for ever, and the run's end cannot wait for that.
        """
        with self._changed:
            self._is_shut = True
            self._changed.notify_all()
        self._hurry()

    def _over(self) -> RunEnded:
        return RunEnded(
            f"{self._run} has ended; nothing more can be emitted.",
            fix="Stop the work when run.cancelled is true.",
        )

    def close(self, error: TailraceError | None = None) -> None:
        """Take nothing more, and forget what is pending; whoever waits is let go."""
        with self._changed:
            self._is_shut = True
            self._error = self._error or error or self._over()
            self._pending.clear()
            self._own = self._theirs = self._flying = 0
            self._changed.notify_all()
        self._hurry()
        self._let_go()

    def forked(self) -> None:
        """Take nothing in the process that was forked from the one that made it."""
        # The loop has stayed there, and to wake it would be to write to the other process's
        # socket. So have the threads, maybe with the lock.
        self._changed = threading.Condition(threading.Lock())
        self._is_shut = True
        self._error = TailraceError(
            f"This process was forked from the one that does the work of {self._run}.",
            fix="Tell it in the process that does it: return what there is to tell.",
        )
        self._pending, self._waiting = [], []

    # --- towards the log, on the loop ------------------------------------------------

    def _go_on(self) -> None:
        """Offer what is pending: now, or after a busy run's rest."""
        rest = self._began + self._traffic.linger - monotonic()
        is_urgent = self._waiting or self._is_shut or self.is_high
        if rest <= 0 or is_urgent or not self._pending:
            self._flush()
        elif not self._batch and self._linger is None:
            self._linger = self._loop.call_later(rest, self._flush)
            self._enough = HIGH_WATER_BYTES

    def _hurry(self) -> None:
        if self._linger is not None:
            self._flush()

    def _flush(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._batch:
            # Whatever gathers goes on when it is written.
            return
        with self._changed:
            self._take()
            if not self._batch:
                self._enough = _ANY
                return
            self._enough = _NONE
        self._began = now = monotonic()
        self._traffic.passed(now)
        batch = self._batch
        append = Append(self._run, batch, patch=progressed(batch), fence=self._attempt)
        writing = self._log.append(append)
        if writing.done() and not self._waiting and not self._is_shut:
            # In memory: a turn of the loop, to be told so, would cost as much as the append. But
            # whoever waits has this one go on until there is nothing left, which may be for ever.
            self._written(writing)
        else:
            writing.add_done_callback(self._written)

    def _take(self) -> None:
        """Make what is pending the batch, as far as it goes into one."""
        size = self._own + self._theirs
        batch, rest = self._pending, []
        if size > _BATCH_BYTES:
            sizes = itertools.accumulate(len(draft.data) for draft in batch)
            count = next(n for n, sum_ in enumerate(sizes, 1) if sum_ >= _BATCH_BYTES)
            batch, rest = batch[:count], batch[count:]
        self._flying = size - sum(len(draft.data) for draft in rest)
        self._own, self._theirs = size - self._flying, 0
        self._batch, self._pending = batch, rest

    def _written(self, done: asyncio.Future[Commit]) -> None:
        error = None if done.cancelled() else done.exception()
        is_for_good = isinstance(error, LogClosed) or self._error is not None
        if isinstance(error, LogError) and not is_for_good:
            self._hold(error)
            return
        self._failures = 0
        with self._changed:
            self._kept += len(self._batch)
            self._batch, self._flying = [], 0
            if self._blocked:
                self._changed.notify_all()
        if error is not None and self._error is None:
            refusal = error if isinstance(error, TailraceError) else LogError(str(error))
            self.close(refusal)
            self._refused(refusal)
        self._go_on()
        self._let_go()

    def _hold(self, error: LogError) -> None:
        """Keep a batch the log could not write, and offer it again: better a run that
        stands still until there is space than one with a hole.
        """
        if self._failures % _REPORT_EVERY == 0:
            logger.error("%s waits for its log: %s %s", self._run, error, error.fix)
        self._failures += 1
        with self._changed:
            self._pending = self._batch + self._pending
            self._own, self._flying = self._own + self._flying, 0
            self._batch = []
        self._loop.call_later(_RETRY_SECONDS, self._flush)

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)


_ALL: Final[weakref.WeakSet[Outbox]] = weakref.WeakSet()


def _forked() -> None:
    for outbox in tuple(_ALL):
        outbox.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)
