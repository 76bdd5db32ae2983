"""`ndjson`: one JSON object on a line, for programs without an SSE parser and for `jq`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.projections.contract import Types, chosen, cursor
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import to_json
from tailrace.protocol.wire import NDJSON


class Ndjson:
    """`{"id": "57", "type": "progress", "data": {…}}`."""

    name = "ndjson"
    media_type = NDJSON
    # White space around values is no part of the data (RFC 8259 §2), and readers of lines
    # skip empty ones.
    opening = b"\n"
    heartbeat = b"\n"

    def tell(self, block: Block, types: Types) -> bytes:
        """One line for each event."""
        return b"".join(
            b'{"id":"%b","type":"%b","data":%b}\n'
            % (cursor(block, event).encode(), event.type.encode(), event.data)
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A line without an id."""
        return to_json({"type": type, "data": payload}) + b"\n"

    def closing(self, retry: int | None) -> bytes:
        """Nothing to say: the lines speak for themselves."""
        del retry
        return b""
