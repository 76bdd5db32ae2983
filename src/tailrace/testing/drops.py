"""Faults: a connection that breaks after so many events, or in the middle of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tailrace.protocol.sse import Decoder

# A line with its end. The decoder is asked after each, because a chunk may hold several events.
_LINES: Final = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")


@dataclass(frozen=True, slots=True)
class Drop:
    """How a connection breaks: after `events` events, or after `bytes` of its body, whichever
    comes first. `times`: how many connections do; None: each.
    """

    events: int | None = None
    bytes: int | None = None
    times: int | None = None

    def applies(self, connection: int) -> bool:
        """Whether it breaks the connection with this number; the first is 1."""
        return self.times is None or connection <= self.times


def drop_after(
    events: int | None = None,
    *,
    bytes: int | None = None,  # noqa: A002 - what it counts
    times: int | None = None,
) -> Drop:
    """A connection that breaks right after its `events`-th event, or after `bytes` of its body,
    which may be in the middle of an event, or of a character. For `StreamClient.stream` and
    `StreamClient.watch`; there each connection breaks, or the first `times` ones.

    Raises ValueError if neither is given, or for a number below 0 (`times`: below 1).
    """
    if events is None and bytes is None:
        raise ValueError("Say when the connection breaks: drop_after(3) or drop_after(bytes=100).")
    if (events or 0) < 0 or (bytes or 0) < 0 or (1 if times is None else times) < 1:
        raise ValueError("A connection breaks after 0 or more events or bytes, once or more often.")
    return Drop(events, bytes, times)


class Breaking:
    """One connection on its way to its break."""

    def __init__(self, drop: Drop) -> None:
        self._events = drop.events
        self._bytes = drop.bytes
        self._decoder = Decoder(max_event_bytes=2**62)
        self.is_broken = 0 in (drop.events, drop.bytes)

    def pass_on(self, chunk: bytes) -> bytes:
        """What of a chunk still arrives."""
        if self.is_broken:
            return b""
        if self._events is not None:
            chunk = self._up_to_event(chunk, self._events)
        if self._bytes is not None:
            chunk = chunk[: self._bytes]
            self._bytes -= len(chunk)
            self.is_broken = self.is_broken or not self._bytes
        return chunk

    def _up_to_event(self, chunk: bytes, events: int) -> bytes:
        size = 0
        for line in _LINES.findall(chunk):
            size += len(line)
            events -= len(self._decoder.feed(line))
            if events <= 0:
                self.is_broken = True
                break
        self._events = events
        return chunk[:size]


__all__ = ["Breaking", "Drop", "drop_after"]
