"""`output`: what a program wrote, byte for byte, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrace.projections.contract import Types
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import OUTPUT
from tailrace.protocol.output import raw
from tailrace.protocol.wire import TEXT


class Output:
    """The bytes of `output` events, of one `stream` (stdout, stderr) or of all.

    There is no framing to put anything else into, so a heartbeat is nothing. Only where
    bytes are missing a line says so, because silence would be a lie.
    """

    media_type = f"{TEXT}; charset=utf-8"
    opening = b""
    heartbeat = b""

    def __init__(self, stream: str | None = None) -> None:
        self._stream = stream
        self.name = f"output:{stream or ''}"

    def tell(self, block: Block, types: Types) -> bytes:
        """The bytes; a filter by type has no meaning here."""
        del types
        written = (event.payload for event in block.events if event.type == OUTPUT)
        return b"".join(
            raw(payload)
            for payload in written
            if self._stream is None or payload.get("stream") == self._stream
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A line for what is missing."""
        if type not in ("gap", "reset"):
            return b""
        lost = f"events {payload.get('from')} to {payload.get('to')}"
        return f"\n[tailrace: {lost} are no longer kept]\n".encode()

    def closing(self, retry: int | None) -> bytes:
        """Nothing."""
        del retry
        return b""
