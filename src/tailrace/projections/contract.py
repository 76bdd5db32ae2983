"""The port of a projection, and what those that speak server-sent events share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tailrace.protocol import sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import Event, to_json
from tailrace.protocol.wire import EVENT_STREAM, RETRY_MS

Types = frozenset[str] | None
"""The event types a watcher asked for; None for all."""


class Projection(Protocol):
    """Tells events in one format. Pure, and the same bytes for the same event for ever."""

    @property
    def name(self) -> str:
        """What it is asked for by, and what its encodings are shared under."""

    @property
    def media_type(self) -> str:
        """The Content-Type."""

    @property
    def opening(self) -> bytes:
        """Sent with the headers, before the work does anything."""

    @property
    def heartbeat(self) -> bytes:
        """Sent into silence."""

    def tell(self, block: Block, types: Types) -> bytes:
        """The frames of a block's events. An empty result is nothing to send."""

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A frame that is not an event of the run: no id, never stored."""

    def closing(self, retry: int | None) -> bytes:
        """The last bytes; `retry` asks to come back after so many milliseconds."""


def chosen(block: Block, types: Types) -> Iterator[Event]:
    """The events that pass a filter. A terminal one always does: a watcher who never saw
    it could not know the end from a cut, and would come back for ever.
    """
    for event in block.events:
        if types is None or event.type in types or event.terminal:
            yield event


def cursor(block: Block, event: Event) -> str:
    """The id an event carries over the wire."""
    return str(Cursor(block.epoch, event.seq)) if block.epoch else str(event.seq)


def framed(block: Block, event: Event, bodies: Sequence[bytes]) -> bytes:
    """An event in as many frames as there are `bodies`: whole lines that follow the id, such as
    `data: {…}`. The last frame has the event's own id; those before it say which they are (`57.1`),
    so that a client that is cut between two gets those it has not had (see `rest`).
    """
    if not bodies:
        return b""
    id_, last = cursor(block, event).encode(), len(bodies)
    return b"".join(
        (b"id: %b.%d\n%b\n\n" % (id_, frame, body))
        if frame < last
        else (b"id: %b\n%b\n\n" % (id_, body))
        for frame, body in enumerate(bodies, 1)
    )


def merged(event: Event) -> bytes:
    """An event as one JSON object: its payload, and its `type` before all else."""
    if b'"type":' in event.data:
        # The payload may have a `type` of its own. The event's wins: it is what a client
        # dispatches on, and JSON with the key twice means something else to each parser.
        return to_json({**event.payload, "type": event.type})
    # A payload always has its timestamp, so the object is never empty.
    return b'{"type":"%b",%b' % (event.type.encode(), event.data[1:])


class ServerSent:
    """What every server-sent-events projection does alike."""

    name: str
    media_type = f"{EVENT_STREAM}; charset=utf-8"
    # Neither of them ends in a blank line: httpx-sse dispatches an empty event there.
    opening = sse.comment("tailrace") + sse.retry(RETRY_MS)
    heartbeat = sse.comment("keep-alive")

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """An event without an id."""
        return sse.encode(to_json(payload), event=type)

    def closing(self, retry: int | None) -> bytes:
        """One comment, after the hint."""
        hint = b"" if retry is None else sse.retry(retry)
        return hint + sse.comment("end")
