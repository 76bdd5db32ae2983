"""Any server-sent events, with ids that name their run: `run_…:57`.

Where the request that started a run is the one that a browser repeats when it is cut, nothing else
could tell a return from a new start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tailrace.projections.contract import Projection, Types
from tailrace.protocol.blocks import Block

# Whatever an event says stands behind `data: `, so no line of it begins like this.
_ID: Final = re.compile(rb"^id: ", re.MULTILINE)


class Named:
    """`inner`, with such ids."""

    def __init__(self, inner: Projection) -> None:
        self.inner = inner
        # Not the name of the other: their bytes are not the same, and shared by it.
        self.name = f"{inner.name}:named"
        self.media_type = inner.media_type
        self.opening = inner.opening
        self.heartbeat = inner.heartbeat

    def tell(self, block: Block, types: Types) -> bytes:
        """See `Projection`."""
        return _ID.sub(b"id: %b:" % block.run.encode(), self.inner.tell(block, types))

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """See `Projection`."""
        return self.inner.control(type, payload)

    def closing(self, retry: int | None) -> bytes:
        """See `Projection`."""
        return self.inner.closing(retry)
