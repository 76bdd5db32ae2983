"""What a producer elsewhere sends next, and what an answer means: each event once, in order.

Pure: no I/O, no clock, no dice. The shell brings bytes, time and chance:

    sender.put(draft)                                 numbered from 1, and held
    match sender.step(now):
        case bytes():  send it; then `answered` or `unanswered`
        case float():  look again after so many seconds, or when something was put
        case None:     look again when something was put; or never, if there is an `error`

There is one request under way at a time. One without an answer is sent again as it was, and the
server drops what it has: it knows the producer, its epoch, and the number of each event.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tailrace.client.problems import problem, retry_after, unreachable
from tailrace.errors import ProtocolViolation, RequestError, RunEnded, TailraceError
from tailrace.protocol.events import Draft, loads, to_json
from tailrace.protocol.lifecycle import TERMINAL, State

__all__ = ["FULL_BYTES", "FULL_EVENTS", "LINGER_SECONDS", "MAX_EVENTS", "POLL_SECONDS", "Sender"]

MAX_EVENTS: Final = 1000
"""How many events one request has. It is what a server takes."""

MAX_BYTES: Final = 900_000
"""How large a request is, about: a server takes 1 MiB."""

LINGER_SECONDS: Final = 0.05
"""How long after a request a busy producer waits with the next. An idle one sends at once."""

POLL_SECONDS: Final = 5.0
"""How often a silent producer asks whether its run is to stop."""

FULL_EVENTS: Final = 100_000
FULL_BYTES: Final = 64 * 1024 * 1024
"""With so much held nothing more is taken, until some of it is kept."""

CAP_SECONDS: Final = 5.0
"""The longest back-off: what is held shall go out soon after a server is back."""

BASE_SECONDS: Final = 0.2
FLOOR_SECONDS: Final = 0.1
"""The shortest pause that a server gets by asking: `Retry-After: 0` must make no busy loop."""

# Below 500, these are about the moment, not about the request (RFC 9110, 8470 and 6585).
_PASSING: Final = frozenset({408, 425, 429})
_MAX_ID: Final = 100
_EXACT: Final = 2**53
# What JSON adds around an event's own: {"type":"","data":},
_AROUND: Final = 20
_STOPS: Final = frozenset({State.CANCELLING, *TERMINAL})


@dataclass(frozen=True, slots=True)
class _Flight:
    """A request, until it is answered. One without events only asks how the run stands."""

    content: bytes
    count: int
    size: int


class Sender:
    """The events of one producer of a run, on their way.

    `producer`, a name of 1 to 100 characters, and `epoch`, from 0, say whose they are: of a name,
    a higher epoch takes the place of a lower one. `attempt`, from 1: of which attempt at the run,
    None for whichever. `patience`: for how many seconds it tries to get rid of something, None for
    ever. `now`: seconds of a clock that never jumps. Raises RequestError.
    """

    def __init__(
        self,
        producer: str,
        *,
        epoch: int = 0,
        attempt: int | None = None,
        patience: float | None = None,
        now: float,
    ) -> None:
        if not 1 <= len(producer) <= _MAX_ID or not 0 <= epoch <= _EXACT:
            raise RequestError(
                f"{producer[:40]!r} of epoch {epoch!r} cannot be a producer.",
                fix="Give a name of 1 to 100 characters, and an epoch from 0 on.",
            )
        if attempt is not None and not 1 <= attempt <= _EXACT:
            raise RequestError(
                f"There is no attempt {attempt!r} at a run.",
                fix="Give that of the run as its own work sees it (run.attempt), or none.",
            )
        fence = b"" if attempt is None else b'"attempt":%d,' % attempt
        whose = b'"producer":{"id":%b,"epoch":%d,"seq":' % (to_json(producer), epoch)
        self._tail = b"]," + fence + whose
        self._patience = patience
        self._held: deque[Draft] = deque()
        self._first = 1
        self._size = self._dropped = 0
        self._urgent = 0
        self._most, self._room = MAX_EVENTS, MAX_BYTES
        self._flight: _Flight | None = None
        self._is_away = False
        self._sent_at = self._told_at = -math.inf
        self._poll_at = now + LINGER_SECONDS
        self._rests_until = -math.inf
        self._since: float | None = None
        self.losses = 0
        """How many requests in a row came to nothing."""
        self.trouble: TailraceError | None = None
        """Why the last of them did."""
        self.error: TailraceError | None = None
        """Why nothing more can be sent."""
        self.is_stopped = False
        """Whether the run is asked to stop, or over."""

    # --- what is held ----------------------------------------------------------------

    def put(self, draft: Draft) -> None:
        """Hold an event. Raises `error`, except that the run is over: then it is dropped, because
        whoever cleans up has nobody to tell it to, and nothing to mend.
        """
        if self.error is not None:
            if isinstance(self.error, RunEnded):
                self._dropped += 1
                return
            raise self.error
        self._held.append(draft)
        self._size += len(draft.data) + _AROUND + len(draft.type)

    @property
    def held(self) -> int:
        """How many events are not kept yet, or never will be."""
        return len(self._held) + self._dropped

    @property
    def kept(self) -> int:
        """How many events the server has, for good."""
        return self._first - 1

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be put."""
        return len(self._held) >= FULL_EVENTS or self._size >= FULL_BYTES

    @property
    def is_high(self) -> bool:
        """Whether whoever can wait should."""
        return 2 * len(self._held) >= FULL_EVENTS or 2 * self._size >= FULL_BYTES

    def hurry(self) -> int:
        """Do not linger with what is held. What `kept` is when all of it is."""
        self._urgent = self.kept + self.held
        return self._urgent

    # --- what is sent ----------------------------------------------------------------

    def step(self, now: float) -> bytes | float | None:
        """What to do next; see above."""
        if self._is_away or self.error is not None:
            return None
        due = self._rests_until
        if self._flight is None:
            due = max(due, self._due())
        if due > now:
            return None if due == math.inf else due - now
        if self._flight is None:
            self._flight = self._batch()
        self._is_away = True
        self._sent_at = now
        if self._flight.count:
            self._told_at = now
        return self._flight.content

    def _due(self) -> float:
        if not self._held:
            return self._poll_at
        is_large = len(self._held) >= self._most or self._size >= self._room
        if is_large or self._first <= self._urgent:
            return -math.inf
        return self._told_at + LINGER_SECONDS

    def _batch(self) -> _Flight:
        texts: list[bytes] = []
        size = 0
        for type_, data in islice(self._held, self._most):
            text = b'{"type":"%b","data":%b}' % (type_.encode(), data)
            if texts and size + len(text) >= self._room:
                break
            texts.append(text)
            size += len(text) + 1
        content = b'{"events":[%b%b%d}}' % (b",".join(texts), self._tail, self._first)
        return _Flight(content, len(texts), size)

    # --- what comes back -------------------------------------------------------------

    def answered(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: float,
        wall_clock: float,
        chance: float,
    ) -> None:
        """There is an answer. `headers`: by lower-case name. `wall_clock`: seconds since 1970.
        `chance`: evenly from 0 to 1, anew each time.
        """
        self._is_away = False
        if status == 200:
            self._took(body, now)
        elif status in _PASSING or status >= 500:
            asked = retry_after(headers.get("retry-after", ""), wall_clock)
            self._again(problem(status, headers, body), asked, now, chance)
        elif status != 413 or not self._split():
            self.fail(problem(status, headers, body))

    def unanswered(self, reason: str, now: float, chance: float) -> None:
        """The connection broke; whether the request was heard, nobody knows."""
        self._is_away = False
        self._again(unreachable(reason), None, now, chance)

    def fail(self, error: TailraceError) -> None:
        """Nothing more can be sent."""
        self._is_away = False
        self.error = error
        if isinstance(error, RunEnded):
            self.is_stopped = True
            self._dropped += len(self._held)
            self._held.clear()
            self._size = 0

    def _took(self, body: bytes, now: float) -> None:
        try:
            self.is_stopped = State(loads(body)["state"]) in _STOPS
        except (ValueError, KeyError, TypeError):
            self.fail(
                ProtocolViolation(
                    "What was sent was answered with something that no Tailrace server says.",
                    fix="Check the address; a mounted server needs its prefix, such as /tailrace.",
                )
            )
            return
        assert self._flight is not None, "an answer follows a request"  # noqa: S101
        for _ in range(self._flight.count):
            gone = self._held.popleft()
            self._size -= len(gone.data) + _AROUND + len(gone.type)
        self._first += self._flight.count
        self._flight = None
        self._poll_at = math.inf if self.is_stopped else now + POLL_SECONDS
        self._since, self.trouble, self.losses = None, None, 0

    def _split(self) -> bool:
        """Send less at once; whether there is less."""
        flight = self._flight
        if flight is None or flight.count <= 1:
            return False
        # What it held keeps its numbers: nothing is told twice if an earlier try was heard.
        self._flight = None
        self._most, self._room = flight.count // 2, max(1, flight.size // 2)
        return True

    def _again(self, error: TailraceError, asked: float | None, now: float, chance: float) -> None:
        self.losses += 1
        self.trouble = error
        # Full jitter: a thousand producers of a server that comes back must not come at once.
        pause = chance * min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(self.losses - 1, 32))
        if asked is not None:
            pause = max(asked, FLOOR_SECONDS)
        if self._flight is not None and not self._flight.count:
            # A question that was lost is asked again later, unless there is something to tell.
            self._flight = None
            self._poll_at = now + POLL_SECONDS
        if self._held and self._patience is not None:
            self._since = self._sent_at if self._since is None else self._since
            left = self._since + self._patience - now
            if left <= 0 or (asked is not None and pause > left):
                self.fail(error)
                return
            # The last attempt is made when patience ends, not some time before.
            pause = min(pause, left)
        self._rests_until = now + pause
