"""The port of a projection, and what those that speak server-sent events share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

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


class ServerSent:
    """What every server-sent-events projection does alike."""

    name: ClassVar[str]
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
