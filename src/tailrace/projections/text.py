"""`text`: plain server-sent events for people and simple pages: just lines to show."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import to_json

Payload = Mapping[str, Any]

_LINE_END: Final = re.compile(r"(?:\r\n|\n|\r)\Z")


class Text(ServerSent):
    """The text of output as it is, a sentence for the run's start and end, and one bracketed
    line for everything else.
    """

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


def _output(payload: Payload) -> str:
    # One line end goes, whichever it is: the end of the message stands for it.
    return _LINE_END.sub("", str(payload.get("text", "")))


def _status(payload: Payload) -> str:
    status, position = str(payload.get("status", "")), payload.get("position")
    if isinstance(position, int):
        status += f", {position - 1} before it" if position > 1 else ", next"
    return f"[{status}]"


def _error(payload: Payload) -> str:
    if "detail" in payload and "reason" not in payload:
        # No end of the run: a fault of the stream's own, told as a problem document.
        return f"[the stream broke off: {payload['detail']}]"
    said = str(payload.get("error", ""))
    more, code = payload.get("failure"), payload.get("exit_code")
    if more is not None:
        is_told = str(more) in said
    else:
        more = f"exit code {code}"
        is_told = code is None or re.search(rf"\bcode {code}(?![0-9])", said) is not None
    reason = str(payload.get("reason", "failed")).replace("_", " ")
    return f"*** Execution {reason}: {said if is_told else f'{said} ({more})'.lstrip()} ***"


_LINES: Final[dict[str, Callable[[Payload], str]]] = {
    events.OUTPUT: _output,
    events.MESSAGE: lambda p: p["value"] if isinstance(p.get("value"), str) else _json(p),
    events.LOG: lambda p: f"[{p.get('level', 'info')}] {p.get('message', '')}",
    events.PROGRESS: _progress,
    events.START: lambda p: f"Starting execution of {p.get('title') or p.get('operation', '')}…",
    events.STATUS: _status,
    events.COMPLETE: lambda _: "*** Execution completed ***",
    events.ERROR: _error,
    events.CANCELLED: lambda p: f"*** Execution cancelled: {p.get('reason', 'requested')} ***",
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
