"""One streaming answer of an app, read as it comes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Scope

from tailrace.protocol.sse import Decoder
from tailrace.protocol.wire import EVENT_STREAM
from tailrace.testing.bounds import WITHIN_SECONDS, soon
from tailrace.testing.drops import Breaking, Drop
from tailrace.testing.exchange import Exchange
from tailrace.testing.reading import Reading, StreamEvent, clipped, listed

ROOM_BYTES: Final = 64 * 1024
"""How much an app may send ahead of its reader, as sockets have buffers. A generator that never
waits would otherwise never let the test go on."""


class Stream(Exchange, Reading):
    """An answer that may have no end: `status`, `headers`, and its events one by one.

        async with client.stream("GET", "/numbers") as stream:
            first = await stream.next()
            done = await stream.until("complete")

    `drop`: how the connection breaks. `raises`: what the app raises is raised here, too, as soon as
    nothing else is left to read, and at the latest at the end. `last_event_id`: what the request
    was made with.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        body: Iterable[bytes] = (),
        *,
        within: float = WITHIN_SECONDS,
        raises: bool = True,
        drop: Drop | None = None,
        last_event_id: str = "",
    ) -> None:
        Reading.__init__(self, within)
        self._asked = f"{scope['method']} {scope['path']}"
        self._raises = raises
        self._is_told = False
        self._decoder = Decoder(last_event_id=last_event_id, max_event_bytes=2**62)
        self._breaking = None if drop is None else Breaking(drop)
        self._position = 0
        Exchange.__init__(self, app, scope, body, room=ROOM_BYTES)

    @property
    def comments(self) -> list[str]:
        """The comments so far, among them the signs of life: `["tailrace", "keep-alive"]`."""
        lines = re.split(r"\r\n|\r|\n", self.text)
        return [line[1:].removeprefix(" ") for line in lines if line.startswith(":")]

    @property
    def retry(self) -> int | None:
        """The reconnection time that was last asked for, in milliseconds."""
        return self._decoder.retry

    @property
    def last_event_id(self) -> str:
        """What an EventSource would come back with."""
        return self._decoder.last_event_id

    @property
    def is_at_end(self) -> bool:
        """Whether nothing more can come."""
        return self.is_complete or self.is_over or self.has_left

    def take(self, chunk: bytes) -> None:
        """See `Exchange`."""
        if self._breaking is not None:
            chunk = self._breaking.pass_on(chunk)
            if self._breaking.is_broken:
                self.is_complete = False
                self.drop()
        super().take(chunk)
        told = self._decoder.feed(chunk)
        self.events += [StreamEvent(one.event, one.data, one.id) for one in told]

    async def opened(self) -> None:
        """Wait for the head. Raises AssertionError if it does not come, and what the app raises."""
        await self._until(lambda: bool(self.status) or self.is_over, "the answer did not begin")
        if self._breaking is not None and self._breaking.is_broken:
            self.drop()
        if not self.status:
            self._raise_fault(always=True)
            raise AssertionError(f"{self._asked}: the app has returned without an answer.")

    async def read(self, within: float) -> StreamEvent | None:
        """See `Reading`."""
        ends = time.monotonic() + within
        while self._position == len(self.events):
            kind = self.headers.get("content-type", "").partition(";")[0].strip()
            if kind != EVENT_STREAM and self.status not in (0, 204):
                raise AssertionError(f"This is no stream of events.\n{self.story()}")
            if self.is_at_end:
                self._raise_cut()
                return None
            await soon(self.more(), max(0.0, ends - time.monotonic()))
        self._position += 1
        return self.events[self._position - 1]

    async def told(self, text: str, within: float | None = None) -> None:
        """Wait until the body so far has this text: a comment, a line of another format.

        Raises AssertionError if it does not come, or not in time.
        """
        await self._until(
            lambda: text in self.text or self.is_at_end, f"{text!r} did not come", within
        )
        if text not in self.text:
            self._raise_cut()
            raise AssertionError(f"The stream ended, and {text!r} did not come.\n{self.story()}")

    async def lines(self) -> AsyncIterator[str]:
        """The lines of a stream in any other format, such as NDJSON, to its end. Each may take
        `within` seconds.
        """
        said, read = "no line came", 0
        while True:
            *lines, rest = self.body[read:].split(b"\n")
            for line in lines:
                read += len(line) + 1
                yield line.decode("utf-8", "replace").removesuffix("\r")
            if self.is_at_end:
                if rest:
                    yield rest.decode("utf-8", "replace")
                self._raise_cut()
                return
            count = len(self.chunks)
            await self._until(lambda: len(self.chunks) > count or self.is_at_end, said)  # noqa: B023

    async def finished(self, within: float | None = None) -> None:
        """Wait for the end of the answer. Raises AssertionError if it does not come in time."""
        said = "the answer did not end; what has no end is read with client.stream"
        await self._until(lambda: self.is_at_end, said, within)
        self._raise_cut()

    async def end(self, *, is_failing: bool = False) -> None:
        """Leave, and wait for the app to return. Raises what it raised, unless that was told or the
        test `is_failing` already; AssertionError if it does not return.
        """
        if not self.is_complete:
            # After its answer an app may have things to do, which nobody's leaving cuts short.
            self.drop()
        try:
            await soon(asyncio.wait((self.task,)), self.within)
        except TimeoutError:
            self.task.cancel()
            await asyncio.wait((self.task,), timeout=1.0)
            if not is_failing:
                raise AssertionError(
                    f"The client has left, and {self.within:g} s later the app still goes on.\n"
                    f"{self.story()}"
                ) from None
        self._raise_fault(never=is_failing)

    def story(self) -> str:
        """See `Reading`."""
        kind = self.headers.get("content-type", "without a type")
        head = f"{self.status} {kind}" if self.status else "no answer yet"
        if self.has_left:
            head += ", the client has left"
        elif self.is_at_end:
            head += ", ended"
        if self.events or kind.startswith(EVENT_STREAM):
            return f"{self._asked}: {head}; so far came\n{listed(self.events)}"
        return f"{self._asked}: {head}; so far came\n  {clipped(self.text) or 'nothing'}"

    async def _until(
        self, done: Callable[[], bool], what: str, within: float | None = None
    ) -> None:
        bound = self.within if within is None else within
        ends = time.monotonic() + bound
        try:
            while not done():
                await soon(self.more(), max(0.0, ends - time.monotonic()))
        except TimeoutError:
            raise AssertionError(f"In {bound:g} s {what}.\n{self.story()}") from None

    def _raise_cut(self) -> None:
        """Raise the fault that has broken the answer off."""
        if not self.is_complete:
            self._raise_fault()

    def _raise_fault(self, *, always: bool = False, never: bool = False) -> None:
        if not self.task.done() or self.task.cancelled():
            return
        error = self.task.exception()
        if error is not None and not self._is_told and not never and (self._raises or always):
            self._is_told = True
            raise error


__all__ = ["ROOM_BYTES", "Stream"]
