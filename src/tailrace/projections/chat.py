"""`chat`: an agent's turn as a chat page wants it: the type inside the JSON, names in camelCase.

    session_start    {model, tools, maxIterations, thread?, note?}
    routed           {route, reason, score, complexity, model}
    iteration_start  {iteration}
    thinking_chunk   {chunk}
    text_chunk       {chunk, position}, and `accumulated` where it was asked for
    tool_detected    {toolName, toolCallId}
    tools_executing  {count, tools: [{id, name, input}]}
    tool_progress    {toolCallId, toolName, status, progress: "1/2"}; while it works perhaps
                     {current, total, percent, message}, in the end {executionTime} and
                     {resultPreview} or {error}. status is executing, completed or failed
    tools_completed  {completedCount, errorCount, totalCount, executionTime}
    complete         {iterations, totalText, textLength, usage, model, thread?}
    error            {error, reason, …}
    cancelled        {reason, …}

Each has a `timestamp`. Positions and lengths are Unicode code points, times are milliseconds. What
is no word of a turn (`progress`, `output`, …) is told as `typed` tells it, so any run can be told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, framed, merged
from tailrace.protocol import agent, events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json

Payload = Mapping[str, Any]

_SILENT: Final = frozenset(
    {
        *(events.START, events.STATUS, agent.ITERATION_END, agent.TEXT_START, agent.TEXT_END),
        *(agent.THINKING_START, agent.THINKING_END, agent.TOOL_ARGS, agent.TOOL_READY),
    }
)
"""Nothing is told of these: a page that shows a turn has no use for them."""


class Chat(ServerSent):
    """`data: {"type": "text_chunk", …}`, with an id."""

    name = "chat"

    def tell(self, block: Block, types: Types) -> bytes:
        """At most one message for each event."""
        return b"".join(framed(block, event, _bodies(event)) for event in chosen(block, types))

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """The same shape, without an id."""
        return sse.encode(to_json({"type": type, **payload}))


_MOST_SECONDS: Final = 1e12

_instances: Final = itertools.count(1)


@dataclass(slots=True)
class _Run:
    """Chunks of text that follow each other, and the last event of them."""

    event: Event
    payload: dict[str, Any]
    chunk: str


class Accumulated(Chat):
    """`chat`, with all the text of the turn so far in every `text_chunk`, as `accumulated`.

    That is a fold, so an instance belongs to one response, and is given the text `before` its
    cursor (see `text_before`; None or nothing where that is not known). It looks at the position
    of each chunk: to be told the same events once more changes nothing, and where text is missing,
    because the log no longer keeps it, `accumulated` is left out from there on.

    Chunks that stand in one block are told as one, with the id of the last of them. Otherwise
    four thousand chunks of a turn that is over would make a hundred times its text. Nobody else
    may do that: how events lie in blocks is chance, and under one id everybody must be told the
    same. But these bytes are shared with nobody, and whoever has the id of the last chunk has had
    the others.
    """

    def __init__(self, before: str | None = None) -> None:
        # Encodings are shared by name, so each has one of its own.
        self.name = f"{Chat.name}:accumulated:{next(_instances)}"
        self._text = before or ""

    def tell(self, block: Block, types: Types) -> bytes:
        """At most one message for each event, or for several chunks of text."""
        return b"".join(self._told(block, types))

    def _told(self, block: Block, types: Types) -> Iterator[bytes]:
        run: _Run | None = None
        for event in chosen(block, types):
            payload = event.payload if event.type == agent.TEXT_CHUNK else None
            if run is not None and payload is not None and _follows(run, payload):
                run.event, run.chunk = event, run.chunk + payload["chunk"]
                run.payload["timestamp"] = payload.get("timestamp")
                continue
            if run is not None:
                yield self._chunk(block, run)
                run = None
            if payload is not None and isinstance(payload.get("chunk"), str):
                run = _Run(event, payload, payload["chunk"])
            else:
                yield framed(block, event, _bodies(event))
        if run is not None:
            yield self._chunk(block, run)

    def _chunk(self, block: Block, run: _Run) -> bytes:
        said = {**run.payload, "chunk": run.chunk}
        told = _body(agent.TEXT_CHUNK, said, {"accumulated": self._known(said)})
        return framed(block, run.event, [told])

    def _known(self, payload: Payload) -> str | None:
        """All the text up to the end of a chunk; None if a part of it is not known."""
        chunk, position = payload["chunk"], payload.get("position")
        if not isinstance(position, int) or not 0 <= position <= len(self._text):
            return None
        end = position + len(chunk)
        if self._text[position:end] != chunk:
            # New; or a log that lost its end has gone on with other words.
            self._text = self._text[:position] + chunk
        return self._text if end == len(self._text) else self._text[:end]


def text_before(blocks: Iterable[Block], seq: int, text: str = "") -> str:
    """The text of a turn up to and with event `seq`, from the blocks of its log; `text` is that of
    blocks before them. What is no longer kept is missing, as `Accumulated` will find.
    """
    for block in blocks:
        for event in block.events:
            if event.seq > seq:
                return text
            if event.type == agent.TEXT_CHUNK:
                payload = event.payload
                chunk, position = payload.get("chunk"), payload.get("position")
                if isinstance(chunk, str) and position == len(text):
                    text += chunk
    return text


def _follows(run: _Run, payload: Payload) -> bool:
    """Whether a chunk goes on where the others end."""
    position = run.payload.get("position")
    return (
        isinstance(payload.get("chunk"), str)
        and isinstance(position, int)
        and payload.get("position") == position + len(run.chunk)
    )


# --- what is said of each ------------------------------------------------------------


def _bodies(event: Event) -> list[bytes]:
    if event.type in _SILENT:
        return []
    if event.type not in _WORDS:
        return [b"data: %b" % merged(event)]
    payload = event.payload
    if event.type == events.COMPLETE and not _is_turn(payload):
        return [b"data: %b" % merged(event)]
    return [_body(event.type, payload)]


def _body(type: str, payload: Payload, more: Payload | None = None) -> bytes:
    said = {**_WORDS[type](payload), **(more or {}), "timestamp": payload.get("timestamp")}
    told = {key: value for key, value in said.items() if value is not None}
    return b"data: %b" % to_json({"type": type, **told})


def _is_turn(payload: Payload) -> bool:
    """Whether a `complete` event is that of a turn: any other run may have any result."""
    result = payload.get("result")
    return isinstance(result, dict) and isinstance(result.get("parts"), list)


def _milliseconds(seconds: object) -> int | None:
    # Anybody may emit an event of this type, and JSON has no word for a number without end.
    if not isinstance(seconds, int | float) or abs(seconds) > _MOST_SECONDS:
        return None
    return round(seconds * 1000)


def _executing(payload: Payload) -> dict[str, Any]:
    return {"count": payload.get("count"), "tools": payload.get("tools")}


def _progress(payload: Payload) -> dict[str, Any]:
    status = payload.get("status")
    is_over = status in (agent.COMPLETED, agent.FAILED)
    place = payload.get("finished" if is_over else "index")
    said: dict[str, Any] = {
        "toolCallId": payload.get("id"),
        "toolName": payload.get("name"),
        "status": agent.EXECUTING if status == agent.PROGRESSING else status,
        "progress": None if place is None else f"{place}/{payload.get('count')}",
        "executionTime": _milliseconds(payload.get("duration_seconds")),
    }
    if status == agent.COMPLETED:
        said["resultPreview"] = agent.preview(payload.get("result"))
    elif status == agent.FAILED:
        said["error"] = payload.get("error")
    elif status == agent.PROGRESSING:
        said |= {key: payload.get(key) for key in ("current", "total", "percent", "message")}
    return said


def _completed(payload: Payload) -> dict[str, Any]:
    return {
        "completedCount": payload.get("completed"),
        "errorCount": payload.get("failed"),
        "totalCount": payload.get("total"),
        "executionTime": _milliseconds(payload.get("duration_seconds")),
    }


def _complete(payload: Payload) -> dict[str, Any]:
    result = payload["result"]
    parts = [part for part in result["parts"] if isinstance(part, dict)]
    texts = [part for part in parts if part.get("type") == "text"]
    text = "".join(str(part.get("text", "")) for part in texts)
    usage = result.get("usage")
    if isinstance(usage, dict):
        usage = {_camel(name): count for name, count in usage.items()}
    told = {
        "iterations": result.get("iterations"),
        "totalText": text,
        "textLength": len(text),
        "usage": usage,
        "model": result.get("model"),
        "thread": result.get("thread"),
    }
    # All of it was in the chunks; one event cannot say it again.
    is_cut = any(part.get("truncated") for part in texts)
    return {**told, "truncated": True} if is_cut else told


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


_WORDS: Final[dict[str, Callable[[Payload], dict[str, Any]]]] = {
    agent.SESSION_START: lambda p: {
        "thread": p.get("thread"),
        "model": p.get("model"),
        "tools": p.get("tools"),
        "maxIterations": p.get("max_iterations"),
        "note": p.get("note"),
    },
    agent.THINKING_CHUNK: lambda p: {"chunk": p.get("chunk")},
    agent.TEXT_CHUNK: lambda p: {"chunk": p.get("chunk"), "position": p.get("position")},
    agent.TOOL_DETECTED: lambda p: {"toolName": p.get("name"), "toolCallId": p.get("id")},
    agent.TOOLS_EXECUTING: _executing,
    agent.TOOL_PROGRESS: _progress,
    agent.TOOLS_COMPLETED: _completed,
    events.COMPLETE: _complete,
}
"""The others are told with their payload as it is."""


__all__ = ["Accumulated", "Chat", "text_before"]
