"""A stream watched as a browser's EventSource watches it: cut, it comes back with its last id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from tailrace.testing.bounds import WITHIN_SECONDS
from tailrace.testing.reading import Reading, StreamEvent, listed
from tailrace.testing.stream import Stream

RETRY_MS: Final = 3000
"""What browsers wait for, in milliseconds, where a stream does not say it."""

_ENDINGS: Final = 100

Connect = Callable[[str, int], Stream]
"""Makes a request with this `Last-Event-ID`; the second argument counts them, from 1."""


class Watch(Reading):
    """One address, through any number of connections (WHATWG HTML, 9.2 "Server-sent events").

        async with client.watch("/numbers", drop=drop_after(3)) as watch:
            numbers = [event.json async for event in watch]

    A connection that breaks, or ends, is made again, with `Last-Event-ID` once there is one. A 204
    ends the watch. Any other answer but a stream of events would make a browser give up, and
    raises AssertionError. `connections` counts them, `retry` is the reconnection time in force, in
    milliseconds. It is waited for `pace` times as long: 0, the default, is not at all, 1 as long as
    a browser would.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        within: float = WITHIN_SECONDS,
        pace: float = 0.0,
        last_event_id: str = "",
    ) -> None:
        super().__init__(within)
        self.connections = 0
        self.last_event_id = last_event_id
        self.retry = RETRY_MS
        self._connect = connect
        self._pace = pace
        self._stream: Stream | None = None
        self._is_over = False
        self._endings = 0

    async def read(self, within: float) -> StreamEvent | None:
        """See `Reading`."""
        ends = time.monotonic() + within
        while not self._is_over:
            stream = self._stream or await self._open()
            event = await stream.read(max(0.0, ends - time.monotonic()))
            if event is not None:
                self.events.append(event)
                return event
            ends += await self._come_back(stream)
            if time.monotonic() > ends:
                # Each connection may break before its first event.
                raise TimeoutError
        return None

    def drop(self) -> None:
        """Break the present connection; what is read next is read from another one."""
        if self._stream is not None:
            self._stream.drop()

    async def leave(self, *, is_failing: bool = False) -> None:
        """Close the connection. Raises as `Stream.end` does."""
        self._is_over = True
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.end(is_failing=is_failing)

    def story(self) -> str:
        """See `Reading`."""
        last = f", last id {self.last_event_id!r}" if self.last_event_id else ", no id"
        head = f"connections: {self.connections}{last}, events: {len(self.events)}"
        now = "" if self._stream is None else f"\n{self._stream.story()}"
        return f"{head}; they were\n{listed(self.events)}{now}"

    async def _open(self) -> Stream:
        self.connections += 1
        stream = self._stream = self._connect(self.last_event_id, self.connections)
        await stream.opened()
        self._is_over = stream.status == 204
        if stream.status not in (200, 204):
            await stream.finished()
            await stream.end()
            raise AssertionError(f"An EventSource gives up.\n{stream.story()}")
        return stream

    async def _come_back(self, stream: Stream) -> float:
        """Let go of a connection that is at its end, and wait; for how many seconds."""
        self.last_event_id = stream.last_event_id
        self.retry = self.retry if stream.retry is None else stream.retry
        self._endings += stream.is_complete
        self._stream = None
        await stream.end()
        if self._is_over:
            return 0.0
        if self._endings >= _ENDINGS:
            raise AssertionError(
                f"The app has ended the stream {_ENDINGS} times, and an EventSource comes back "
                f"each time: answer 204 where nothing more will come.\n{self.story()}"
            )
        pause = self.retry / 1000 * self._pace
        await asyncio.sleep(pause)
        return pause


__all__ = ["RETRY_MS", "Watch"]
