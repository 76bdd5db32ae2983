"""How events are told: pure folds from events to frames, one file each."""

from __future__ import annotations

from typing import Final

from tailrace.errors import FormatUnknown
from tailrace.projections.agui import AgUi
from tailrace.projections.aisdk import AiSdk
from tailrace.projections.chat import Chat
from tailrace.projections.contract import Projection
from tailrace.projections.events import Events
from tailrace.projections.jsonrpc import JsonRpc
from tailrace.projections.ndjson import Ndjson
from tailrace.projections.plain import Plain
from tailrace.projections.responses import Responses
from tailrace.projections.text import Text
from tailrace.projections.typed import Typed

STREAMS: Final[dict[str, Projection]] = {
    projection.name: projection
    for projection in (
        Events(),
        Text(),
        Typed(),
        Ndjson(),
        JsonRpc(),
        Plain(),
        Chat(),
        AgUi(),
        AiSdk(),
        Responses(),
    )
}


def stream(name: str) -> Projection:
    """The streaming projection of that name. Raises FormatUnknown, naming the others."""
    try:
        return STREAMS[name]
    except KeyError:
        raise FormatUnknown(
            f"There is no format {name[:40]!r}.",
            fix=f"Choose one of {', '.join(STREAMS)}, or json for a page.",
        ) from None


__all__ = ["STREAMS", "Projection", "stream"]
