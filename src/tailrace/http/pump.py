"""From a generator to a response: takes what it yields, gathers it, and sends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tailrace import time
from tailrace.clock import Clock
from tailrace.errors import TailraceError
from tailrace.farewell import chained, signs
from tailrace.http.outlets import Rest
from tailrace.outlet import End, Frame, Outlet, is_gone
from tailrace.perloop import PerLoop
from tailrace.protocol import events, sse
from tailrace.protocol.events import to_json
from tailrace.protocol.items import framed
from tailrace.protocol.problems import document
from tailrace.protocol.wire import HEARTBEAT_SECONDS, RETRY_AFTER_SHUTDOWN_MS, RETRY_MS
from tailrace.pulse import Act, Pulse

LINGER_SECONDS: Final = 0.005
"""How long a busy stream gathers before it sends; also how long it holds the loop."""

BATCH_BYTES: Final = 64 * 1024
"""How much it gathers at the most."""

OPENING: Final = sse.comment("tailrace") + sse.retry(RETRY_MS)

_CLOSING: Final = sse.comment("end")
_KEEP_ALIVE: Final = sse.comment("keep-alive")

# Between two looks at the clock, so many items of a generator that never waits.
_ITEMS: Final = 64

# A clock that is never asked to look is simplest asked to look in a year.
_NEVER: Final = 366 * 86_400.0

_CANCELLED: Final = "The generator awaited what was cancelled."

logger = logging.getLogger("tailrace.http")


class Settable(Protocol):
    """An event of asyncio, anyio or threading."""

    def set(self) -> Any:
        """Have it happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """How a stream is kept, and let go. All times are seconds.

    `ping`: the silence after which a sign of life is sent; 0: never. `sign`: what it is, as bytes;
    None, or where it fails: a comment. `deadline`: how long a send may be held up by a client that
    does not read. `farewell`: set when the server goes away; the generator then has `grace` to end
    by itself. `cleanup`: what closing the generator may take; None: as long as it likes. `frame`:
    an item as the bytes that are sent.
    """

    ping: float = HEARTBEAT_SECONDS
    sign: Callable[[], bytes] | None = None
    deadline: float | None = None
    farewell: Settable | None = None
    grace: float = 0.0
    cleanup: float | None = 30.0
    frame: Callable[[Any], bytes] = framed


class Pump:
    """One generator, and the outlet it is sent to."""

    def __init__(
        self,
        outlet: Outlet,
        items: AsyncIterable[Any],
        clock: Clock,
        care: Care | None = None,
    ) -> None:
        self._outlet = outlet
        self._items = aiter(items)
        self._clock = clock
        self._care = care or Care()
        task: Any = asyncio.current_task()
        self._task = task
        # How often it was cancelled before, and has been by us.
        self._before: int = task.cancelling()
        self._cancels = 0
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(
            time.monotonic(), heartbeat=self._care.ping or _NEVER, deadline=self._care.deadline
        )
        self._pending: list[bytes] = []
        self._size = 0
        self._flushed_at = 0.0
        self._sign = self._care.sign
        self._timer: asyncio.TimerHandle | None = None
        self._blocked: asyncio.Future[None] | None = None
        self._is_waiting = False
        self._is_sending = False
        self.is_over = False
        self._late: asyncio.TimerHandle | None = None
        self._end: End | None = None
        self._error: BaseException | None = None
        self._leave_at: float | None = None

    async def run(self) -> None:
        """Send everything. What the generator raises is told as an `error` event, after all that it
        has yielded, and raised.
        """
        try:
            try:
                await self._run()
            finally:
                self.is_over = True
                await self._close()
        except BaseException as error:
            if self._error is not None and self._error is not error:
                # What is raised is not that one.
                lost(self._error)
            raise
        if isinstance(self._error, asyncio.CancelledError):
            # For a server it would mean that it has cancelled us itself.
            raise RuntimeError(_CANCELLED) from self._error  # noqa: TRY004 - it is no mistype
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            await Rest(self._gather(), run=self._stepped)
        except asyncio.CancelledError as error:
            if self._task.cancelling() > self._before + self._cancels:
                raise
            if self._end is None:
                # Nobody has cancelled us: it comes from what the generator waited for.
                self._error = error
        except Exception as error:  # noqa: BLE001 - raised above, once it is told
            self._error = self._error or error
        finally:
            if self._late is not None:
                self._late.cancel()
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        if self._end is not End.LEFT:
            await self._conclude()

    async def _conclude(self) -> None:
        """End the stream properly."""
        if self._error is not None:
            self._pending.append(_told(self._error))
        await self._send()
        is_shutdown = self._end is End.SHUTDOWN or self._leave_at is not None
        hint = sse.retry(RETRY_AFTER_SHUTDOWN_MS) if is_shutdown else b""
        self._push(Frame(hint + _CLOSING, is_last=True))
        if self._blocked is not None:
            await self._blocked
        self._outlet.close(End.SHUTDOWN if is_shutdown else self._end or End.FINISHED)

    def _stepped(self, go_on: Callable[[Any], Any], given: Any) -> Any:
        """Take a step of `_gather`, which is over only when the generator, or a send, waits. So it
        is known when that is, and `async for` runs through everything that is there.
        """
        self._is_waiting = False
        awaited = go_on(given)
        self._pause()
        self._is_waiting = not self._is_sending
        return awaited

    async def _gather(self) -> None:
        append, now, framed = self._pending.append, time.monotonic, self._care.frame
        count, until = 0, now() + LINGER_SECONDS
        async for item in self._items:
            frame = framed(item)
            append(frame)
            self._size += len(frame)
            count += 1
            if self._size >= BATCH_BYTES or (not count % _ITEMS and now() > until):
                self._is_sending = True
                await self._send()
                # A send into an empty buffer does not suspend; others have their turn now.
                await asyncio.sleep(0)
                self._is_sending = False
                until = now() + LINGER_SECONDS
            if self._end is not None:
                return

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        close = getattr(self._items, "aclose", None)
        if close is None:
            return
        bound = asyncio.timeout(self._care.cleanup)
        try:
            async with bound:
                await close()
        except Exception as error:  # noqa: BLE001 - raised above
            if bound.expired() and isinstance(error, TimeoutError):
                self._warn()
            elif self._error is None:
                self._error = error
            else:
                lost(error)

    # --- sending ---------------------------------------------------------------------

    def _pause(self) -> None:
        """The generator is about to wait: what is pending goes now, or soon."""
        if not self._pending or self._timer is not None:
            return
        left = self._flushed_at + LINGER_SECONDS - time.monotonic()
        if left <= 0:
            self._flush()
        else:
            self._timer = self._loop.call_later(left, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._pending and self._blocked is None:
            frame = Frame(b"".join(self._pending))
            self._pending.clear()
            self._size = 0
            self._push(frame)

    async def _send(self) -> None:
        """Send all that is pending, and wait until it has gone."""
        while self._pending or self._blocked is not None:
            self._flush()
            if self._blocked is not None:
                await self._blocked

    def _push(self, frame: Frame) -> None:
        self._flushed_at = time.monotonic()
        self._pulse.sent(self._flushed_at)
        rest = self._outlet.push(frame)
        if rest is not None:
            self._blocked = asyncio.ensure_future(self._drained(rest))

    async def _drained(self, rest: Awaitable[None]) -> None:
        self._pulse.block(time.monotonic())
        self._clock.arm(self, self._pulse.deadline)
        try:
            await rest
        except Exception as error:
            if not is_gone(error):
                raise
            self.drop()
        finally:
            self._pulse.unblock()
            self._blocked = None
            # The next sign of life may be due before what was the deadline.
            self._clock.arm(self, time.monotonic())
        self._flush()

    # --- what may happen meanwhile ---------------------------------------------------

    def drop(self, outlet: Outlet | None = None) -> None:
        """The client has left (see `outlet.Holder`)."""
        del outlet
        self._stop(End.LEFT)

    def leave(self) -> None:
        """See `rounds.Timed`."""
        now = time.monotonic()
        if not self._pulse.leave(now):
            return
        if self._care.farewell is not None:
            self._care.farewell.set()
        self._leave_at = now + self._care.grace
        if self._care.grace:
            self._clock.arm(self, self._leave_at)
        else:
            self._stop(End.SHUTDOWN)
        self._clock.arm(self, self._pulse.deadline)

    def fail(self, error: BaseException) -> None:
        """Somebody who feeds the generator has failed: end as if it had."""
        if self._error is None and not self.is_over:
            self._error = error
            self._stop(End.FINISHED)
        else:
            lost(error)

    def _stop(self, end: End) -> None:
        if self._end is None:
            self._end = end
            if self._is_waiting:
                self._cancel()
                if self._care.cleanup is not None:
                    self._late = self._loop.call_later(self._care.cleanup, self._insist)
        elif end is End.LEFT:
            self._end = end

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()

    def _insist(self) -> None:
        self._warn()
        self._cancel()

    def _warn(self) -> None:
        logger.warning("A generator took over %g s to close", self._care.cleanup)

    def _alive(self) -> bytes:
        try:
            return _KEEP_ALIVE if self._sign is None else self._sign()
        except Exception:
            # Once is enough, and silence would have proxies cut the stream.
            self._sign = None
            logger.exception("ping_message_factory failed: comments are sent from now on")
            return _KEEP_ALIVE

    def beat(self, now: float) -> float | None:
        """See `rounds.Timed`."""
        if self.is_over:
            return None
        if self._leave_at is not None and now >= self._leave_at:
            self._stop(End.SHUTDOWN)
        act, again = self._pulse.beat(now)
        match act:
            case Act.HEARTBEAT:
                self._pending.append(self._alive())
                self._flush()
            case Act.CUT:
                self._outlet.cut()
            case Act.CANCEL if self._blocked is not None:
                self._blocked.cancel()
                self.drop()
            case _:
                pass
        if self._leave_at is not None and self._end is None:
            return min(again, self._leave_at)
        return again


def lost(error: BaseException) -> None:
    """Write down what went wrong where nobody can be told any more."""
    logger.error("A generator, or who feeds it, failed while it was closed", exc_info=error)


def _told(error: BaseException) -> bytes:
    """What the client is told. Of a stranger's error its type alone: the words may have a query in
    them, or a path.
    """
    if isinstance(error, TailraceError):
        said = document(error)
    else:
        said = {"error": "The stream failed.", "type": type(error).__name__}
    return sse.encode(to_json(said), event=events.ERROR)


class Pumps(PerLoop):
    """The pumps of one event loop. They belong to no engine, so this is who learns for them
    that the server goes away.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self._pumps: set[Pump] = set()
        self._signals = contextlib.ExitStack()

    def join(self, pump: Pump) -> None:
        """Look after a pump."""
        if not self._pumps:
            self.clock.begin(signs())
            self._signals.enter_context(chained(self.clock.drain))
        self._pumps.add(pump)
        self.clock.connect(pump)

    def part(self, pump: Pump) -> None:
        """It is over."""
        self._pumps.discard(pump)
        self.clock.disconnect(pump)
        if not self._pumps:
            self._signals.close()
