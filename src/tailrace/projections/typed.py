"""`typed`: server-sent events whose type stands inside the JSON.

For clients that only have `onmessage`: everything arrives as one kind of message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json


class Typed(ServerSent):
    """`data: {"type": "progress", …}`, with an id."""

    name = "typed"

    def tell(self, block: Block, types: Types) -> bytes:
        """One message for each event."""
        return b"".join(
            b"id: %b\ndata: %b\n\n" % (cursor(block, event).encode(), _merged(event))
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """The same shape, without an id."""
        return sse.encode(to_json({"type": type, **payload}))


def _merged(event: Event) -> bytes:
    if b'"type":' in event.data:
        # The payload may have a `type` of its own. The event's wins: it is what a client
        # dispatches on, and JSON with the key twice means something else to each parser.
        return to_json({**event.payload, "type": event.type})
    # A payload always has its timestamp, so the object is never empty.
    return b'{"type":"%b",%b' % (event.type.encode(), event.data[1:])
