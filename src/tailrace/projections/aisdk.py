"""`ai-sdk`: the UI message stream of Vercel's AI SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from tailrace.projections.contract import ServerSent, Types, chosen, framed
from tailrace.protocol import agent, events
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json

Payload = Mapping[str, Any]
Json = dict[str, Any]
Told = list[Json]

HEADERS: Final = ((b"x-vercel-ai-ui-message-stream", b"v1"),)
"""What a response in this format has besides: by it a client knows which stream it is."""

_DONE: Final = b"data: [DONE]"


class AiSdk(ServerSent):
    """`data: {"type": "text-delta", …}`, with an id, and `data: [DONE]` at the end.

    A client ends at a type that it does not know, so that all which this protocol has no word
    for is `data-…`. Tools are `dynamic`, since the page knows none of them, and
    `providerExecuted`, because it would otherwise be asked to run them.
    """

    name = "ai-sdk"

    def tell(self, block: Block, types: Types) -> bytes:
        """The frames of each event."""
        return b"".join(
            framed(block, event, _lines(block.run, event)) for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """A `data-…` that no message keeps; an `error` is one."""
        if type == events.ERROR:
            said = payload.get("detail") or payload.get("error") or "The stream broke off."
            return _line({"type": "error", "errorText": str(said)}) + b"\n\n"
        return _line(_data(type, payload, transient=True)) + b"\n\n"


def _line(chunk: Json) -> bytes:
    return b"data: %b" % to_json(chunk)


def _lines(run: str, event: Event) -> list[bytes]:
    told = [_line(chunk) for chunk in _told(run, event)]
    return [*told, _DONE] if event.terminal else told


def _told(run: str, event: Event) -> Told:
    payload = event.payload
    # The run's id, because a replay with another would be a second message.
    told: Told = [{"type": "start", "messageId": run}] if event.seq == 1 else []
    words, tell = _TELLERS.get(event.type, ((), None))
    # An operation that is no agent's may have events of these names, which say something else.
    if tell is not None and all(isinstance(payload.get(word), str) for word in words):
        return [*told, *tell(payload)]
    data = orjson.Fragment(event.data)
    return [*told, _data(event.type, data, **_KEPT.get(event.type, {}))]


def _data(type: str, data: Any, **how: Any) -> Json:
    return {"type": f"data-{type.replace('_', '-')}", "data": data, **how}


# How what this protocol has no word for is told. With an id it replaces what it said before;
# the transient is for those who watch, and part of no message.
_KEPT: Final[Mapping[str, Json]] = {
    agent.SESSION_START: {"id": "session"},
    agent.ROUTED: {"id": "routed"},
    agent.TOOLS_EXECUTING: {"transient": True},
    agent.TOOLS_COMPLETED: {"transient": True},
    events.STATUS: {"transient": True},
    events.PROGRESS: {"id": "progress"},
}


# ---------------------------------------------------------------- the message


def _nothing(payload: Payload) -> Told:
    return []


def _complete(payload: Payload) -> Told:
    result = payload.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("parts"), list):
        # No turn's: what it said is nowhere else.
        told = [] if result is None else [_data(events.RESULT, result)]
        return [*told, {"type": "finish", "finishReason": "stop"}]
    # `parts` is the message itself, and `text` a part of it.
    kept = ("model", "route", "thread", "iterations", "usage")
    metadata = {key: result[key] for key in kept if result.get(key) is not None}
    return [{"type": "finish", "finishReason": "stop", "messageMetadata": metadata}]


def _error(payload: Payload) -> Told:
    return [{"type": "error", "errorText": str(payload.get("error") or "The run failed.")}]


def _cancelled(payload: Payload) -> Told:
    return [{"type": "abort", "reason": str(payload.get("reason", "requested"))}]


# ---------------------------------------------------------------- its parts


def _piece(type: str, chunk: bool = False) -> Callable[[Payload], Told]:  # noqa: FBT001, FBT002
    def tell(payload: Payload) -> Told:
        told: Json = {"type": type, "id": payload["part"]}
        return [{**told, "delta": payload["chunk"]} if chunk else told]

    return tell


def _of(payload: Payload) -> Json:
    return {"toolCallId": payload["id"], "toolName": payload["name"]}


_HERE: Final[Json] = {"dynamic": True, "providerExecuted": True}


def _detected(payload: Payload) -> Told:
    return [{"type": "tool-input-start", **_of(payload), **_HERE}]


def _args(payload: Payload) -> Told:
    delta = payload["chunk"]
    return [{"type": "tool-input-delta", "toolCallId": payload["id"], "inputTextDelta": delta}]


def _ready(payload: Payload) -> Told:
    input = payload.get("input")
    told: Json = {**_of(payload), "input": input, **_HERE}
    if isinstance(input, str) and not payload.get("truncated"):
        return [{"type": "tool-input-error", **told, "errorText": "The input is no JSON."}]
    return [{"type": "tool-input-available", **told}]


_TOLD_ELSEWHERE: Final = frozenset(
    ("part", "item", "id", "name", "status", "input", "input_truncated", "result", "timestamp")
)


def _progress(payload: Payload) -> Told:
    status, id = payload["status"], payload["id"]
    more = {key: value for key, value in payload.items() if key not in _TOLD_ELSEWHERE}
    data = {**_of(payload), "status": status, **more}
    # The same id each time: it is one bar that moves.
    told = [_data(agent.TOOL_PROGRESS, data, id=payload["part"])]
    ending: Json = {"toolCallId": id, **_HERE}
    if status == agent.COMPLETED:
        told.append({"type": "tool-output-available", **ending, "output": payload.get("result")})
    elif status == agent.FAILED:
        said = agent.text_of(payload.get("error", "It failed."))
        told.append({"type": "tool-output-error", **ending, "errorText": said})
    return told


_TELLERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Payload], Told]]]] = {
    events.START: ((), _nothing),
    events.COMPLETE: ((), _complete),
    events.ERROR: ((), _error),
    events.CANCELLED: ((), _cancelled),
    agent.ITERATION_START: ((), lambda _: [{"type": "start-step"}]),
    agent.ITERATION_END: ((), lambda _: [{"type": "finish-step"}]),
    agent.TEXT_START: (("part",), _piece("text-start")),
    agent.TEXT_CHUNK: (("part", "chunk"), _piece("text-delta", chunk=True)),
    agent.TEXT_END: (("part",), _piece("text-end")),
    agent.THINKING_START: (("part",), _piece("reasoning-start")),
    agent.THINKING_CHUNK: (("part", "chunk"), _piece("reasoning-delta", chunk=True)),
    agent.THINKING_END: (("part",), _piece("reasoning-end")),
    agent.TOOL_DETECTED: (("part", "id", "name"), _detected),
    agent.TOOL_ARGS: (("id", "chunk"), _args),
    agent.TOOL_READY: (("part", "id", "name"), _ready),
    agent.TOOL_PROGRESS: (("part", "id", "name", "status"), _progress),
}
"""Each with the words that its payload must have as text."""
