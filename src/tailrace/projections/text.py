"""`text`: plain server-sent events for people and simple pages: just lines to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import to_json

Payload = Mapping[str, Any]


class Text(ServerSent):
    """The text of output as it is, and one bracketed line for everything else."""

    name = "text"

    def tell(self, block: Block, types: Types) -> bytes:
        """One message for each event."""
        return b"".join(
            sse.encode(line(event.type, event.payload), id=cursor(block, event))
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A bracketed line, without an id."""
        return sse.encode(line(type, payload))


def _progress(payload: Payload) -> str:
    current, total, percent = (payload.get(key) for key in ("current", "total", "percent"))
    if current is not None and total is not None:
        amount = f"{current}/{total}"
    elif percent is not None:
        amount = f"{percent}%"
    else:
        amount = "…" if current is None else str(current)
    said = payload.get("message") or payload.get("step") or ""
    return f"[{amount}] {said}".rstrip()


# One line feed goes: the end of the message stands for it.
_LINES: Final[dict[str, Callable[[Payload], str]]] = {
    events.OUTPUT: lambda p: str(p.get("text", "")).removesuffix("\n"),
    events.MESSAGE: lambda p: p["value"] if isinstance(p.get("value"), str) else _json(p),
    events.LOG: lambda p: f"[{p.get('level', 'info')}] {p.get('message', '')}",
    events.PROGRESS: _progress,
    events.START: lambda p: f"[started {p.get('operation', '')}]",
    events.STATUS: lambda p: f"[{p.get('status', '')}]",
    events.COMPLETE: lambda p: f"[completed in {p.get('duration_seconds', 0):g} s]",
    events.ERROR: lambda p: f"[{p.get('reason', 'failed')}: {p.get('error', '')}]",
    events.CANCELLED: lambda p: f"[cancelled: {p.get('reason', 'requested')}]",
    events.GAP: lambda p: f"[events {p.get('from')} to {p.get('to')} are no longer kept]",
    events.RESET: lambda p: f"[events {p.get('from')} to {p.get('to')} were lost]",
    events.TICK: lambda p: f"[{p.get('elapsed_seconds', 0):g} s]",
}


def line(type: str, payload: Payload) -> str:
    """What a person sees of an event."""
    tell = _LINES.get(type)
    return f"[{type}] {_json(payload)}" if tell is None else tell(payload)


def _json(payload: Payload) -> str:
    return to_json({k: v for k, v in payload.items() if k != "timestamp"}).decode()
