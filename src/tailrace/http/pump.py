"""From a generator to a response: takes what it yields, gathers it, and sends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Final

from tailrace.clock import Clock
from tailrace.farewell import chained, signs
from tailrace.http.items import framed
from tailrace.http.outlets import Rest
from tailrace.outlet import End, Frame, Outlet, is_gone
from tailrace.perloop import PerLoop
from tailrace.protocol import sse
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


class Pump:
    """One generator, and the outlet it is sent to."""

    def __init__(
        self,
        outlet: Outlet,
        items: AsyncIterable[Any],
        clock: Clock,
        ping: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._outlet = outlet
        self._items = aiter(items)
        self._clock = clock
        self._task: Any = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(time.monotonic(), heartbeat=ping)
        self._pending: list[bytes] = []
        self._size = 0
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked: asyncio.Future[None] | None = None
        self._is_waiting = False
        self._is_sending = False
        self._is_over = False
        self._end: End | None = None

    async def run(self) -> None:
        """Send everything; what the generator raises is raised."""
        try:
            await self._run()
        finally:
            self._is_over = True

    async def _run(self) -> None:
        try:
            await Rest(self._gather(), run=self._stepped)
        except asyncio.CancelledError:
            if self._end is None or self._task.uncancel():
                raise
        finally:
            await self._close()
        if self._end is not End.LEFT:
            await self._send()
            hint = sse.retry(RETRY_AFTER_SHUTDOWN_MS) if self._end is End.SHUTDOWN else b""
            self._push(Frame(hint + _CLOSING, is_last=True))
            if self._blocked is not None:
                await self._blocked
            self._outlet.close(self._end or End.FINISHED)

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
        append, now = self._pending.append, time.monotonic
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
        if close is not None:
            await close()

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
        if self._pulse.leave(time.monotonic()):
            self._stop(End.SHUTDOWN)
            self._clock.arm(self, self._pulse.deadline)

    def _stop(self, end: End) -> None:
        if self._end is None:
            self._end = end
            if self._is_waiting:
                self._task.cancel()
        elif end is End.LEFT:
            self._end = end

    def beat(self, now: float) -> float | None:
        """See `rounds.Timed`."""
        if self._is_over:
            return None
        act, again = self._pulse.beat(now)
        match act:
            case Act.HEARTBEAT:
                self._pending.append(_KEEP_ALIVE)
                self._flush()
            case Act.CUT:
                self._outlet.cut()
            case Act.CANCEL if self._blocked is not None:
                self._blocked.cancel()
                self.drop()
            case _:
                pass
        return again


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
