"""How a run is told as the result of a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mcp_types as types
import orjson
from pydantic import ValidationError

from tailrace.errors import InputInvalid, TailraceError
from tailrace.eventlog.contract import EventLog
from tailrace.protocol import jsonrpc
from tailrace.protocol.events import OUTPUT, loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.output import raw
from tailrace.protocol.runs import RunRecord, snapshot

OUTPUT_BYTES: Final = 16 * 1024
"""How much of a program's output a result has at the most."""

_LAST_EVENTS: Final = 500

Link = Callable[[str], str]
"""Where a person watches a run, from its id."""


def meta(run: str, link: Link | None) -> dict[str, Any]:
    """What a result says of the run it came from."""
    told = {"tailrace/run": run}
    if link is not None:
        told["tailrace/link"] = link(run)
    return told


def ended(record: RunRecord, link: Link | None, output: str = "") -> types.CallToolResult:
    """The result of a run that has ended; `output` is what its program wrote."""
    told = meta(record.id, link)
    if record.state is State.COMPLETED:
        result = returned(loads(record.result), told)
    else:
        result = failed(f"{said(record)} ({watched(record.id, link)})", told)
    if output:
        result.content.insert(0, types.TextContent(type="text", text=output))
    return result


async def written(log: EventLog, record: RunRecord) -> str:
    """The last that a run's program wrote: to a model it is what the call was for."""
    after = max(record.last_seq - _LAST_EVENTS, 0)
    tail, length = b"", 0
    while blocks := await log.read(record.id, after):
        for block in blocks:
            after = block.last
            if b"\nevent: output\n" not in block.wire:
                continue
            chunk = b"".join(raw(event.payload) for event in block.events if event.type == OUTPUT)
            tail, length = (tail + chunk)[-OUTPUT_BYTES:], length + len(chunk)
    text = tail.decode("utf-8", "replace")
    if length <= OUTPUT_BYTES and record.last_seq <= _LAST_EVENTS:
        return text
    return f"[the last of its output; run_events has all of it]\n{text}" if text else ""


def said(record: RunRecord) -> str:
    """Why a run that has ended did not complete."""
    if record.state is State.CANCELLED:
        return "The run was cancelled."
    return str((loads(record.error) or {}).get("error", f"The run is {record.state}."))


def watched(run: str, link: Link | None) -> str:
    """Which run, and where to watch it, for people."""
    return run if link is None else f"{run}, {link(run)}"


def returned(answer: Any, meta: dict[str, Any]) -> types.CallToolResult:
    """What a run has returned: content blocks are the content, as a tool elsewhere has sent it."""
    try:
        return types.CallToolResult.model_validate({**jsonrpc.result(answer), "_meta": meta})
    except ValidationError:
        # It looks like content, and is none.
        return value(answer, meta)


def value(value: Any, meta: dict[str, Any]) -> types.CallToolResult:
    """Any value: text as it is, everything else as JSON; an object also for programs."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    content: list[types.ContentBlock] = (
        [] if value is None else [types.TextContent(type="text", text=text)]
    )
    return types.CallToolResult(
        content=content,
        structured_content=value if isinstance(value, dict) else None,
        _meta=meta,
    )


def failed(text: str, meta: dict[str, Any] | None = None) -> types.CallToolResult:
    """A tool that did not do what it was asked for, told to the model: it may do better."""
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], is_error=True, _meta=meta
    )


def refused(error: TailraceError) -> types.CallToolResult:
    """What is wrong with a call's arguments."""
    # What to do is told for HTTP, and the schema is what tools/list has shown.
    return failed(str(error) if isinstance(error, InputInvalid) else f"{error} {error.fix}")


def shown(record: RunRecord, link: Link | None) -> dict[str, Any]:
    """A run's snapshot, as JSON. The links of the HTTP face lead nowhere from here."""
    told = snapshot(record)
    del told["links"]
    if link is not None:
        told["link"] = link(record.id)
    return told
