"""A block: events of one run that were committed together, in the bytes that are sent.

    id: 57
    event: progress
    data: {"current":3,"total":10,"timestamp":"…"}
    (blank line)

The stored form *is* the wire form of the `events` projection, so a replay is a read and a
send. It stays cheap to take apart, because a payload is one line of JSON: a line feed can
only be the framing's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tailrace.errors import LogCorrupt
from tailrace.protocol.events import TERMINAL_TYPES, Draft, Event

_END: Final = b"\n\n"
_TERMINAL: Final = frozenset(type_.encode() for type_ in TERMINAL_TYPES)


def pack(first: int, drafts: Sequence[Draft], epoch: int = 0) -> bytes:
    """Number `drafts` from `first` on and frame them."""
    frame = b"id: %d-%%d%%b%%b\n\n" % epoch if epoch else b"id: %d%b%b\n\n"
    told: list[int | bytes] = []
    known, head = None, b""
    for seq, (type_, data) in enumerate(drafts, first):
        if type_ is not known:
            known, head = type_, b"\nevent: %b\ndata: " % type_.encode()
        told += (seq, head, data)
    # All of them in one formatting: nothing is made for each event, and nothing joined.
    return frame * len(drafts) % tuple(told)


def _event(framed: bytes) -> Event:
    try:
        id_, type_, data = framed.split(b"\n")
        return Event(int(id_[4:].rpartition(b"-")[2]), type_[7:].decode("ascii"), data[6:])
    except ValueError:
        raise LogCorrupt(
            f"A stored event cannot be read: {framed[:60]!r}.",
            fix="Restore the log file from a copy, or forget the run.",
        ) from None


@dataclass(frozen=True, init=False)
class Block:
    """Events `first`..`last` of a run, framed. `epoch` is the log's when they were kept."""

    run: str
    first: int
    last: int
    wire: bytes
    epoch: int = 0

    def __init__(self, run: str, first: int, last: int, wire: bytes, epoch: int = 0) -> None:
        """Keep the parts."""
        # A third of what a frozen dataclass takes to set them one by one.
        self.__dict__.update(run=run, first=first, last=last, wire=wire, epoch=epoch)

    @property
    def events(self) -> Sequence[Event]:
        """The events, taken apart at the first need. Raises LogCorrupt."""
        # By hand: functools' cached_property takes a lock, which costs more than an event.
        known: Sequence[Event] | None = self.__dict__.get("_events")
        if known is None:
            known = tuple(map(_event, self.wire.split(_END)[:-1]))
            self.__dict__["_events"] = known
        return known

    @property
    def ends(self) -> bool:
        """Whether the block's last event is the run's terminal one."""
        start = self.wire.rfind(b"\nevent: ") + 8
        return self.wire[start : self.wire.find(b"\n", start)] in _TERMINAL

    def after(self, seq: int) -> Block:
        """The part of the block that follows event `seq`; itself where nothing is cut."""
        if seq < self.first:
            return self
        lead = b"%d-" % self.epoch if self.epoch else b""
        mark = b"id: %b%d\nevent: " % (lead, seq + 1)
        # A payload holds no raw line feed, so a framed mark after a blank line is the event.
        at = self.wire.find(_END + mark) + len(_END)
        if at < len(_END):
            raise LogCorrupt(f"Event {seq + 1} is missing from its block of {self.run}.")
        return Block(self.run, seq + 1, self.last, self.wire[at:], self.epoch)
