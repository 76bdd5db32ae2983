"""Reading a stream event by event: with a bound to each wait, and an error that shows what came."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from tailrace.protocol.events import loads
from tailrace.protocol.sse import ServerSentEvent
from tailrace.testing.bounds import WITHIN_SECONDS

_SHOWN_EVENTS: Final = 10
_SHOWN_CHARACTERS: Final = 100


class StreamEvent(ServerSentEvent):
    """One server-sent event: `event` is its type (`message` where none was given), `data` its
    text, `id` the id in force.
    """

    __slots__ = ()

    @property
    def json(self) -> Any:
        """The data, decoded. Raises AssertionError for data that is no JSON."""
        try:
            return loads(self.data.encode())
        except ValueError as error:
            said = f"The data of a {self.event!r} event is no JSON: {clipped(self.data)} ({error})"
            raise AssertionError(said) from None

    def __str__(self) -> str:
        """As it is shown in errors."""
        id = f"{self.id}: " if self.id else ""
        return f"{id}{self.event} {clipped(self.data)}"


Wanted = str | Callable[[StreamEvent], Any]
"""An event's type, or what is true of it."""


class Reading(ABC):
    """Something that brings events. Each is read once; `events` are those that have come, whether
    they were read or not. `within`: how many real seconds a wait may take.
    """

    def __init__(self, within: float = WITHIN_SECONDS) -> None:
        self.within = within
        self.events: list[StreamEvent] = []

    @abstractmethod
    async def read(self, within: float) -> StreamEvent | None:
        """The next event, or None where nothing follows. Raises TimeoutError."""

    @abstractmethod
    def story(self) -> str:
        """What has happened so far, for an error."""

    async def next(self, within: float | None = None) -> StreamEvent:
        """The next event. Raises AssertionError if there is none, or none in time."""
        event = await self._within(self._bound(within), "no event came")
        if event is None:
            raise AssertionError(
                f"The stream is over, and there is no other event.\n{self.story()}"
            )
        return event

    async def until(self, wanted: Wanted, within: float | None = None) -> StreamEvent:
        """Read on until an event of this type comes, or one of which `wanted` is true; that event.
        All of it may take `within` seconds.

        Raises AssertionError if it does not come, or not in time.
        """
        said = repr(wanted) if isinstance(wanted, str) else "event as it was wanted"
        bound = self._bound(within)
        ends = time.monotonic() + bound
        while True:
            left = max(0.0, ends - time.monotonic())
            event = await self._within(left, f"no {said} came", bound)
            if event is None:
                raise AssertionError(f"The stream ended, and no {said} came.\n{self.story()}")
            if event.event == wanted if isinstance(wanted, str) else wanted(event):
                return event

    def __aiter__(self) -> Self:
        """Every event, to the end of the stream. Each may take `within` seconds."""
        return self

    async def __anext__(self) -> StreamEvent:
        """Raises AssertionError if nothing comes in time, not even the end."""
        event = await self._within(self.within, "neither an event nor the end came")
        if event is None:
            raise StopAsyncIteration
        return event

    def _bound(self, within: float | None) -> float:
        return self.within if within is None else within

    async def _within(
        self, left: float, what: str, bound: float | None = None
    ) -> StreamEvent | None:
        try:
            return await self.read(left)
        except TimeoutError:
            seconds = left if bound is None else bound
            raise AssertionError(f"In {seconds:g} s {what}.\n{self.story()}") from None


def clipped(text: str) -> str:
    """The beginning of a text, on one line."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def listed(events: Sequence[object]) -> str:
    """The last of these events, one on a line."""
    if not events:
        return "  no event"
    left_out = len(events) - _SHOWN_EVENTS
    lines = [f"  {event}" for event in events[-_SHOWN_EVENTS:]]
    return "\n".join([f"  … {left_out} more", *lines] if left_out > 0 else lines)


__all__ = ["Reading", "StreamEvent", "Wanted", "clipped", "listed"]
