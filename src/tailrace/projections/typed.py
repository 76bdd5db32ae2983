"""`typed`: server-sent events whose type stands inside the JSON.

For clients that only have `onmessage`: everything arrives as one kind of message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.projections.contract import ServerSent, Types, chosen, cursor, merged
from tailrace.protocol import sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import to_json


class Typed(ServerSent):
    """`data: {"type": "progress", …}`, with an id."""

    name = "typed"

    def tell(self, block: Block, types: Types) -> bytes:
        """One message for each event."""
        return b"".join(
            b"id: %b\ndata: %b\n\n" % (cursor(block, event).encode(), merged(event))
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """The same shape, without an id."""
        return sse.encode(to_json({"type": type, **payload}))
