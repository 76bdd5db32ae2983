"""A program's bytes as event payloads, and back again. Pure.

JSON carries text, a program writes bytes. Valid UTF-8 becomes `text`, a character that is
split between two chunks waiting for its rest; whatever is no UTF-8 keeps its `bytes` in
base64 beside a readable `text`. So the bytes that went in can be had back exactly.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

CHUNK_BYTES: Final = 32 * 1024
"""How much one event carries at the most: JSON escapes can make it six times as long."""

_LONGEST_CHARACTER: Final = 4


class Decoder:
    """The chunks of one stream, in order, as payloads of `output` events."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._held = b""

    def feed(self, chunk: bytes) -> dict[str, Any] | None:
        """A payload, or None while there is only part of a character."""
        chunk = self._held + chunk
        cut = _incomplete(chunk)
        chunk, self._held = chunk[: len(chunk) - cut], chunk[len(chunk) - cut :]
        return self._payload(chunk) if chunk else None

    def end(self) -> dict[str, Any] | None:
        """What was held back when the stream ended."""
        held, self._held = self._held, b""
        return self._payload(held) if held else None

    def _payload(self, chunk: bytes) -> dict[str, Any]:
        try:
            return {"stream": self._stream, "text": chunk.decode()}
        except UnicodeDecodeError:
            return {
                "stream": self._stream,
                "text": chunk.decode(errors="replace"),
                "bytes": base64.b64encode(chunk).decode("ascii"),
            }


def _incomplete(chunk: bytes) -> int:
    """How many bytes at the end begin a character that is not complete."""
    for back in range(1, min(_LONGEST_CHARACTER, len(chunk) + 1)):
        lead = chunk[-back]
        if lead < 0x80:
            return 0
        if lead >= 0xC0:
            needs = 2 + (lead >= 0xE0) + (lead >= 0xF0)
            return back if back < needs and lead < 0xF8 else 0
    return 0


def raw(payload: Mapping[str, Any]) -> bytes:
    """The bytes a program wrote, from an `output` event's payload."""
    if "bytes" in payload:
        return base64.b64decode(payload["bytes"])
    return str(payload.get("text", "")).encode()
