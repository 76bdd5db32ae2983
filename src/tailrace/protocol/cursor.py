"""What a client sends back, and what that entitles it to.

The grammar is `[epoch-]seq[.frame]`. `57` is the normal form: "I have everything up to
event 57". An epoch appears only after a log lost acknowledged events; `.frame` appears
where a projection makes several frames of one event. Clients treat all of it as opaque.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tailrace.errors import CursorFromFuture, CursorMalformed

# Nine digits of epoch and frame, eighteen of seq: far beyond use, and far below the length
# at which int() starts to cost an attacker's request real time.
_GRAMMAR: Final = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,18})(?:\.([0-9]{1,9}))?", re.ASCII)

LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a run: everything up to and including `seq` (of `epoch`) was received.

    With a `frame`, only that many frames of event `seq` were: the event is not complete.
    """

    epoch: int
    seq: int
    frame: int | None = None

    def __str__(self) -> str:
        """The form that goes over the wire."""
        text = f"{self.epoch}-{self.seq}" if self.epoch else str(self.seq)
        return text if self.frame is None else f"{text}.{self.frame}"

    @property
    def complete(self) -> int:
        """The last sequence number that was received whole."""
        return self.seq if self.frame is None else max(0, self.seq - 1)


def parse(text: str) -> Cursor:
    """Read a cursor. Raises CursorMalformed, quoting at most 40 characters of the text."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise CursorMalformed(
            f"{text[:40]!r} is not a cursor: it must look like 57 (or 1-57, or 57.2).",
            fix="Send back the id of the last event exactly as it was received, or 0 for all.",
        )
    epoch, seq, frame = match.groups()
    return Cursor(int(epoch or 0), int(seq), None if frame is None else int(frame))


class Kind(StrEnum):
    """What a watcher gets for its cursor."""

    REPLAY = "replay"
    LIVE = "live"
    FINISHED = "finished"
    GONE = "gone"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Extent:
    """What a log has of a run: events `first`..`last` (last = 0: none yet).

    `base` is the last sequence number that survived every loss so far; events above it
    may have been shown to somebody under the same number with other bytes. A log that
    fails twice keeps the lower one: a cursor does not tell which of the losses it missed.
    """

    first: int = 1
    last: int = 0
    ended: bool = False
    epoch: int = 0
    base: int = 0


@dataclass(frozen=True, slots=True)
class Resume:
    """The decision: go on after event `after`.

    For GONE and RESET, `lost` says what is not to be had: from..to, inclusive.
    """

    kind: Kind
    after: int
    lost: tuple[int, int] | None = None


def resume(cursor: Cursor, extent: Extent) -> Resume:
    """Decide what a watcher that comes back with `cursor` gets.

    Raises CursorFromFuture for a position that no server of this log can have given out.
    """
    if cursor.epoch < extent.epoch and cursor.seq > extent.base:
        return Resume(Kind.RESET, extent.base, (extent.base + 1, cursor.seq))
    if cursor.epoch > extent.epoch or cursor.seq > extent.last:
        raise CursorFromFuture(
            f"The cursor {cursor} is ahead of the run, whose last event is "
            f"{Cursor(extent.epoch, extent.last)}.",
            fix="Send the id of an event of this very run, or 0 for all.",
        )
    after = cursor.complete
    if after + 1 < extent.first:
        return Resume(Kind.GONE, extent.first - 1, (after + 1, extent.first - 1))
    if after < extent.last:
        return Resume(Kind.REPLAY, after)
    return Resume(Kind.FINISHED if extent.ended else Kind.LIVE, after)
