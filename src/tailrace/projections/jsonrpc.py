"""`jsonrpc`: server-sent events whose data are the messages of an MCP tool call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import jsonrpc, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import to_json


class JsonRpc(ServerSent):
    """`data: {"jsonrpc": "2.0", "method": "notifications/progress", …}`, with an id.

    It is what a Streamable HTTP server of the Model Context Protocol answers a `tools/call`
    with, whose id and progress token are the run's id; and, unlike that, it can be resumed.
    """

    name = "jsonrpc"

    def tell(self, block: Block, types: Types) -> bytes:
        """One message for each event."""
        return b"".join(
            b"id: %b\ndata: %b\n\n"
            % (
                cursor(block, event).encode(),
                to_json(jsonrpc.message(block.run, event.seq, event.type, event.payload)),
            )
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A `notifications/message`, without an id."""
        return sse.encode(to_json(jsonrpc.control(type, payload)))
