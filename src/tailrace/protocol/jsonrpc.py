"""A run told as the messages of one MCP tool call (JSON-RPC 2.0): its progress, then its result.

Pure. The clauses cited are those of the Model Context Protocol, revision 2025-11-25. What a
message says depends on its event alone, so that it is the same for everybody and for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.protocol import events
from tailrace.protocol.events import to_json

Payload = Mapping[str, Any]
Json = dict[str, Any]

CONNECTED: Final = "connected"
"""What the first message of a run says."""

CODES: Final[Mapping[str, int]] = {
    "failed": -32000,
    "timed_out": -32001,
    "lost": -32002,
    "cancelled": -32800,
}
"""The code of an error message, by how the run ended. The first three are in the range that
JSON-RPC leaves to servers; the last is what the Language Server Protocol made known."""

# Those of RFC 5424, which is what a message's level must be (MCP, "Logging").
_LEVELS: Final = frozenset(
    ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
)
_LEVEL_NAMES: Final = {"warn": "warning", "fatal": "critical", "trace": "debug"}

# What a content block of a tool's result may be (MCP, "Tools", "Tool Result").
_BLOCKS: Final = frozenset(("text", "image", "audio", "resource", "resource_link"))

# What an error message says elsewhere, or not at all.
_TOLD: Final = ("error", "timestamp", "status")


def message(run: str, seq: int, type: str, payload: Payload) -> Json:
    """The message of a run's event.

    A `progress` is a `notifications/progress` whose token is the run's id; the end is the
    result, or the error, of a request with that id; all else is a `notifications/message`
    whose logger is the event's type. That a run was started, or has to wait for it, says
    `connected` first, so that there is something to read at once.
    """
    if type == events.COMPLETE:
        return {"jsonrpc": "2.0", "id": run, "result": result(payload.get("result"))}
    if type in (events.ERROR, events.CANCELLED):
        return {"jsonrpc": "2.0", "id": run, "error": _error(type, payload)}
    if seq == 1 and type in (events.START, events.STATUS):
        return _notice("progress", {"progressToken": run, "progress": 0, "message": CONNECTED})
    if type == events.PROGRESS:
        return _notice("progress", {"progressToken": run, **_progress(payload)})
    told = _MESSAGES.get(type)
    level, logger, body = _other(type, payload) if told is None else told(payload)
    return _notice("message", {"level": level, "logger": logger, "data": body})


def control(type: str, payload: Payload) -> Json:
    """The message of what is no event of the run: a gap, a tick, a fault of the stream."""
    level = "debug" if type == events.TICK else "warning"
    return _notice("message", {"level": level, "logger": type, "data": dict(payload)})


def result(value: Any) -> Json:
    """What a run answers, as a tool's result.

    Content blocks are the content; an object is structured content, and its JSON is the text
    as well ("a tool that returns structured content SHOULD also return the serialized JSON").
    """
    if value is None:
        return {"content": [], "isError": False}
    if isinstance(value, list) and all(map(_is_block, value)):
        return {"content": value, "isError": False}
    if isinstance(value, str):
        return {"content": [_text(value)], "isError": False}
    structured = value if isinstance(value, Mapping) else {"result": value}
    only = value.get("result") if isinstance(value, Mapping) and len(value) == 1 else None
    # A tool that answers text has it wrapped by the SDKs; whoever reads only text wants that.
    text = only if isinstance(only, str) else to_json(value).decode()
    return {"content": [_text(text)], "structuredContent": structured, "isError": False}


def _notice(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _is_block(value: Any) -> bool:
    kind = value.get("type") if isinstance(value, dict) else None
    return isinstance(kind, str) and kind in _BLOCKS


def number(value: Any) -> float | None:
    """A number that JSON has; None for what else whoever wrote the event may have had."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_one and math.isfinite(value) else None


def level(payload: Payload) -> str:
    """The level of a `log` event, in MCP's words."""
    said = str(payload.get("level", "info")).lower()
    said = _LEVEL_NAMES.get(said, said)
    return said if said in _LEVELS else "info"


def _progress(payload: Payload) -> Json:
    done, total = number(payload.get("current")), number(payload.get("total"))
    if done is None:
        done, total = number(payload.get("percent")), 100
        if done is None:
            done, total = 0, None
    told: Json = {"progress": done}
    if total is not None:
        told["total"] = total
    said = payload.get("message", payload.get("step"))
    if said is not None:
        told["message"] = str(said)
    return told


def _error(type: str, payload: Payload) -> Json:
    if type == events.CANCELLED:
        reason = payload.get("reason", "requested")
        said, how = f"The run was cancelled: {reason}.", "cancelled"
    else:
        said, how = str(payload.get("error", "The run failed.")), str(payload.get("reason"))
    data = {key: value for key, value in payload.items() if key not in _TOLD}
    return {"code": CODES.get(how, CODES["failed"]), "message": said, "data": data}


def _log(payload: Payload) -> tuple[str, str, Any]:
    said, details = payload.get("message", ""), payload.get("details")
    logger = events.LOG
    if isinstance(details, dict) and isinstance(details.get("logger"), str):
        logger = details["logger"]
        details = {key: value for key, value in details.items() if key != "logger"} or None
    body = said if details is None else {"message": said, "details": details}
    return level(payload), logger, body


def _output(payload: Payload) -> tuple[str, str, Any]:
    return "info", str(payload.get("stream", "stdout")), payload.get("text", "")


def _other(type: str, payload: Payload) -> tuple[str, str, Any]:
    return "info", type, {key: value for key, value in payload.items() if key != "timestamp"}


_MESSAGES: Final[Mapping[str, Callable[[Payload], tuple[str, str, Any]]]] = {
    events.LOG: _log,
    events.OUTPUT: _output,
}
