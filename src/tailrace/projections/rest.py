"""Any server-sent events, without the frames of one event that their watcher has already.

Where a projection tells an event in several frames, a client may be cut between two of them. It
comes back with an id such as `57.1`: of event 57 it has had one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tailrace.projections.contract import Projection, Types
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import Draft
from tailrace.protocol.wire import EVENT_STREAM

# Each line of the data stands behind its `data: `, so an empty one ends a frame.
_END: Final = b"\n\n"


def resting(inner: Projection, cursor: Cursor | str) -> Projection:
    """`inner` to whoever comes with `cursor`: itself, unless they have a part of an event."""
    if isinstance(cursor, str) or cursor.frame is None:
        return inner
    # Elsewhere there are no frames: whoever asks for lines after `57.1` gets the event whole.
    return Rest(inner, cursor) if inner.media_type.startswith(EVENT_STREAM) else inner


class Rest:
    """`inner`, but of the event of `cursor` only the frames after its `frame`; none, if it has no
    more. An event of another epoch is another one, even under the same number: it is told whole.
    """

    def __init__(self, inner: Projection, cursor: Cursor) -> None:
        self.inner = inner
        self.cursor = cursor
        # Not the name of the other: their bytes are not the same, and shared by it.
        self.name = f"{inner.name}:{cursor}"
        self.media_type = inner.media_type
        self.opening = inner.opening
        self.heartbeat = inner.heartbeat

    def tell(self, block: Block, types: Types) -> bytes:
        """See `Projection`."""
        at = self.cursor
        if not block.first <= at.seq <= block.last or block.epoch != at.epoch:
            return self.inner.tell(block, types)
        told = self.inner.tell(_part(block, at.seq, at.seq), types)
        frames = told.split(_END)[:-1]
        rest = b"".join(frame + _END for frame in frames[at.frame or 0 :])
        if at.seq > block.first:
            rest = self.inner.tell(_part(block, block.first, at.seq - 1), types) + rest
        if at.seq < block.last:
            rest += self.inner.tell(block.after(at.seq), types)
        return rest

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """See `Projection`."""
        return self.inner.control(type, payload)

    def closing(self, retry: int | None) -> bytes:
        """See `Projection`."""
        return self.inner.closing(retry)


def _part(block: Block, first: int, last: int) -> Block:
    """Events `first` to `last` of a block that has them."""
    events = block.events[first - block.first : last + 1 - block.first]
    wire = pack(first, [Draft(event.type, event.data) for event in events], block.epoch)
    return Block(block.run, first, last, wire, block.epoch)


__all__ = ["Rest", "resting"]
