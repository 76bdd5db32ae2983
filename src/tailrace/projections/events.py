"""`events`: typed server-sent events, which is how blocks are stored."""

from __future__ import annotations

from tailrace.projections.contract import ServerSent, Types, chosen
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import Draft


class Events(ServerSent):
    """`id`, `event` and `data` of each event, the payload as JSON."""

    name = "events"

    def tell(self, block: Block, types: Types) -> bytes:
        """The stored bytes themselves, unless a filter cuts some out."""
        if types is None:
            return block.wire
        return b"".join(
            pack(event.seq, (Draft(event.type, event.data),), block.epoch)
            for event in chosen(block, types)
        )
