"""The one reconnect decision: what to ask for, what is new, whether to come back, and when.

Pure: no I/O, no clock, no dice. The shells bring bytes, time and chance:

    watch = Watch(after=0)
    until Stop or Fail:
        request = watch.request(now)                      send it
        if watch.opened(status, headers, wall_clock):     read the body
            events = watch.feed(chunk)                    until watch.is_over
        watch.ended(now, chance, broken)                  Stop | Again | Fail
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from tailrace.client.ledger import Ledger, Place
from tailrace.client.problems import (
    LONGEST_PAUSE,
    MAX_PROBLEM_BYTES,
    media_type,
    refusal,
    retry_after,
    unreachable,
)
from tailrace.errors import ProtocolViolation, StreamRefused, StreamTooLarge, TailraceError
from tailrace.protocol.cursor import LATEST
from tailrace.protocol.events import COMPLETE, ERROR, GAP, RESET, TERMINAL_TYPES, TICK, loads
from tailrace.protocol.sse import Decoder, ServerSentEvent
from tailrace.protocol.wire import EVENT_STREAM, HEARTBEAT_SECONDS, LAST_EVENT_ID, RETRY_MS

__all__ = ["SILENCE_SECONDS", "Again", "Fail", "Request", "Stop", "Watch", "WatchedEvent"]

SILENCE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""Without a byte for so long, not even a keep-alive, a stream counts as cut."""

CAP_SECONDS: Final = 30.0
"""The longest back-off. A stream that stood for so long ends a losing streak, too."""

FLOOR_SECONDS: Final = 0.1
"""The shortest pause after an attempt that brought nothing: a server may ask for `retry: 0`
or `Retry-After: 0`, and must not get a busy loop for it."""

DISORDERS: Final = 3
"""After so many attempts in a row that went amiss at the same place, the next would, too."""


@dataclass(frozen=True, slots=True)
class WatchedEvent:
    """One event of a run, or a control frame of its stream.

    `id`: the cursor to come back with; `""` for the control frames gap, reset and tick.
    `type`: start, status, progress, log, output, result, complete, error, cancelled, or
    whatever the run's own work emits. `data`: the decoded JSON object; `raw`: its text.
    """

    id: str
    type: str
    data: dict[str, Any] = field(hash=False)
    raw: str

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self.type in TERMINAL_TYPES


@dataclass(frozen=True, slots=True)
class Request:
    """What to GET the events with; `params` go into the query."""

    headers: Mapping[str, str]
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stop:
    """All there is was delivered. `reason` is the terminal event's type, or `"204"`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Again:
    """Come back after so many `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """It is no use; `error` is to be raised."""

    error: TailraceError


Decision = Stop | Again | Fail


class _End(Enum):
    """How an attempt ended, or what its status said of it. OPEN: not yet, or by itself."""

    OPEN = auto()
    DONE = auto()
    BROKEN = auto()
    AMISS = auto()
    REFUSED = auto()


# Below 500, these are about the moment, not about the request (RFC 9110, 8470 and 6585).
_BY_STATUS: Final = {
    200: _End.OPEN,
    204: _End.DONE,
    408: _End.BROKEN,
    425: _End.BROKEN,
    429: _End.BROKEN,
}


def _by_status(status: int) -> _End:
    return _BY_STATUS.get(status, _End.BROKEN if status >= 500 else _End.REFUSED)


@dataclass(slots=True)
class _Attempt:
    """What one request came to so far."""

    asked_at: float
    end: _End = _End.OPEN
    decoder: Decoder | None = None
    refused: tuple[int, Mapping[str, str]] | None = None
    body: bytes = b""
    reason: str = ""
    error: TailraceError | None = None
    asked_pause: float | None = None
    last_id: str = ""
    is_alive: bool = False
    is_fruitful: bool = False


class Watch:
    """One run, watched through any number of connections.

    `after`: 0 for all, the id of the last event one has, or "latest" for what comes now.
    `types`: the event types wanted, None for all; the terminal event always comes.
    `patience`: after how many seconds without a sign of life it fails; 0 for at the first
    trouble, None (the default) for never.

    Raises CursorMalformed for an `after` outside the grammar.
    """

    def __init__(
        self,
        *,
        after: str | int = 0,
        types: str | Iterable[str] | None = None,
        patience: float | None = None,
    ) -> None:
        if types is not None and not isinstance(types, str):
            # No types at all is a wish, too: for the end, which comes anyway.
            types = ",".join(sorted(types)) or COMPLETE
        self._types = types
        self._ledger = Ledger(str(after), is_filtered=types is not None)
        self._patience = patience
        self._retry = RETRY_MS / 1000
        self._losses = 0
        self._disorders = 0
        self._alive_at: float | None = None
        self._attempt = _Attempt(0.0)

    @property
    def cursor(self) -> str:
        """The id of the last event delivered, to go on from another time; else `after`."""
        return self._ledger.cursor

    @property
    def is_over(self) -> bool:
        """Whether there is no point in reading on in this response."""
        attempt = self._attempt
        return attempt.end is not _End.OPEN or len(attempt.body) > MAX_PROBLEM_BYTES

    def request(self, now: float) -> Request:
        """What to send for the next attempt. `now`: seconds of a clock that never jumps."""
        self._attempt = _Attempt(now)
        if self._alive_at is None:
            self._alive_at = now
        headers = {
            "accept": EVENT_STREAM,
            # A compressing proxy holds events back until its window is full.
            "accept-encoding": "identity",
            "cache-control": "no-store",
        }
        params = {} if self._types is None else {"types": self._types}
        if self.cursor in ("0", LATEST):
            params["after"] = self.cursor
        else:
            headers[LAST_EVENT_ID] = self.cursor
        return Request(headers, params)

    def opened(self, status: int, headers: Mapping[str, str], wall_clock: float) -> bool:
        """The head of the answer is there. Returns whether its body is to be read and fed.

        `headers`: by lower-case name. `wall_clock`: seconds since 1970.
        """
        attempt, end = self._attempt, _by_status(status)
        if end is _End.DONE:
            attempt.end, attempt.reason = end, str(status)
        elif end is not _End.OPEN:
            # The body says why, so it is read; `ended` judges.
            attempt.refused = (status, headers)
            attempt.asked_pause = retry_after(headers.get("retry-after", ""), wall_clock)
        elif (found := media_type(headers)) != EVENT_STREAM:
            attempt.end = _End.REFUSED
            attempt.error = StreamRefused(
                f"The server answered with {found or 'no type'}, not with {EVENT_STREAM}.",
                fix="Give a run's id, or the address of its events (…/runs/ID/events).",
                status=status,
            )
        else:
            attempt.decoder = Decoder()
            self._ledger.opened(headers.get(LAST_EVENT_ID))
        return not self.is_over

    def feed(self, chunk: bytes) -> list[WatchedEvent]:
        """The events that a chunk of the body brings, each once, however often it comes."""
        attempt = self._attempt
        if self.is_over:
            return []
        if attempt.decoder is None:
            attempt.body += chunk
            return []
        attempt.is_alive = attempt.is_alive or bool(chunk)
        try:
            told = attempt.decoder.feed(chunk)
        except StreamTooLarge as error:
            # It would be as large the next time.
            attempt.end, attempt.error = _End.REFUSED, error
            return []
        if attempt.decoder.retry is not None:
            self._retry = min(attempt.decoder.retry / 1000, LONGEST_PAUSE)
        events: list[WatchedEvent] = []
        for event in told:
            watched = self._judge(event)
            if watched is not None:
                events.append(watched)
            if attempt.end is not _End.OPEN:
                break
        return events

    def _judge(self, event: ServerSentEvent) -> WatchedEvent | None:
        """The event if it is new; notes what ends the attempt."""
        attempt, kind = self._attempt, event.event
        # The id in force stays that of the event before when a frame has none of its own.
        id, attempt.last_id = event.id if event.id != attempt.last_id else "", event.id
        data = _object(event.data)
        if data is None:
            place = Place.AMISS
        elif kind in (GAP, RESET):
            id, place = "", self._ledger.lost(kind, data.get("from"), data.get("to"))
        elif kind == TICK:
            id, place = "", Place.NEW
        elif id:
            place = self._ledger.event(id)
        else:
            # A frame of a later version, or a repeat: neither is an event of the run.
            place = Place.KNOWN
            if kind == ERROR and type(data.get("status")) is int and "code" in data:
                # Once its status is sent, a server that fails can only say so in the stream.
                attempt.end, attempt.body = _End.BROKEN, event.data.encode()
                attempt.refused = (max(400, data["status"]), {})
        if place is Place.AMISS:
            attempt.end = _End.AMISS
            attempt.error = ProtocolViolation(
                f"After {self.cursor} came {kind[:40]!r} with id {event.id[:40]!r}, "
                "which does not follow.",
                fix="Look for a proxy that alters the stream, and report it if there is none.",
            )
        if data is None or place is not Place.NEW:
            return None
        if id:
            self._losses = self._disorders = 0
            attempt.is_fruitful = True
            if kind in TERMINAL_TYPES:
                attempt.end, attempt.reason = _End.DONE, kind
        return WatchedEvent(id, kind, data, event.data)

    def ended(self, now: float, chance: float, broken: str = "") -> Decision:
        """The attempt is over. `broken` says what cut it; empty for a proper end.

        `now`: the clock of `request`. `chance`: evenly from 0 to 1, anew each time.
        """
        attempt = self._attempt
        if not self.is_over:
            # An event beyond the bound at the very end is only told when asked for.
            self.feed(b"")
        if attempt.refused is not None:
            status, headers = attempt.refused
            attempt.end = _by_status(status)
            attempt.error = refusal(status, headers, attempt.body)
        elif attempt.is_alive:
            self._alive_at = now
            if now - attempt.asked_at >= CAP_SECONDS:
                self._losses = 0
        if attempt.end is _End.OPEN and broken:
            attempt.end, attempt.error = _End.BROKEN, unreachable(broken)
        if attempt.end is _End.AMISS:
            self._disorders += 1
        if attempt.end is _End.DONE:
            return Stop(attempt.reason)
        error = attempt.error or StreamRefused(
            "The stream ended before the run did.",
            fix=f"Watch it again after {self.cursor}; nothing is missed.",
        )
        if attempt.end is _End.REFUSED or self._disorders >= DISORDERS:
            return Fail(error)
        return self._again(now, self._pause(chance), error)

    def _pause(self, chance: float) -> float:
        """Seconds until the next attempt."""
        attempt = self._attempt
        if attempt.end is _End.OPEN:
            # The server ended the stream itself, and said when to come back.
            return self._retry if attempt.is_fruitful else max(self._retry, FLOOR_SECONDS)
        base = max(self._retry, FLOOR_SECONDS)
        self._losses += 1
        if attempt.asked_pause is not None:
            return max(attempt.asked_pause, FLOOR_SECONDS)
        # Full jitter: a thousand watchers of a server that comes back must not come at once.
        return chance * min(CAP_SECONDS, base * 2.0 ** min(self._losses - 1, 32))

    def _again(self, now: float, pause: float, error: TailraceError) -> Decision:
        if self._patience is None or self._alive_at is None:
            return Again(pause)
        left = self._alive_at + self._patience - now
        if left <= 0 or (self._attempt.asked_pause is not None and pause > left):
            return Fail(error)
        # The last attempt is made when patience ends, not some time before.
        return Again(min(pause, left))


def _object(raw: str) -> dict[str, Any] | None:
    try:
        data = loads(raw.encode())
    except ValueError:
        return None
    return data if isinstance(data, dict) else None
