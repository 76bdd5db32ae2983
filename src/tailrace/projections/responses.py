"""`responses`: the streaming events of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, framed
from tailrace.protocol import agent, events, responses, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, seconds, to_json

Payload = Mapping[str, Any]
Json = dict[str, Any]
Told = list[Json]


class Responses(ServerSent):
    """`event:` and `data:` of each, with a `sequence_number`, and with an id.

    What this API has no word for is not told: its clients end at a type they do not know. Nor
    is it told that a text is done which is too long to be repeated: its item goes on until
    `response.completed`, where every client has all of them.
    """

    name = "responses"

    def tell(self, block: Block, types: Types) -> bytes:
        """The frames of each event."""
        return b"".join(
            framed(
                block,
                event,
                [
                    _line({**said, "sequence_number": responses.sequence_number(event.seq, frame)})
                    for frame, said in enumerate(_told(block.run, event), 1)
                ],
            )
            for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """An `error` for what is missing, or went wrong; nothing for all else.

        To go on in silence over a gap would be to say that there was none.
        """
        if type in (events.GAP, events.RESET):
            said = f"Events {payload.get('from')} to {payload.get('to')} are no longer kept."
        elif type == events.ERROR:
            said = str(payload.get("detail") or payload.get("error") or "The stream broke off.")
        else:
            return b""
        told = {"type": "error", "code": type, "message": said, "param": None}
        return sse.encode(to_json({**told, "sequence_number": 0}), event="error")


def _line(said: Json) -> bytes:
    return b"event: %b\ndata: %b" % (said["type"].encode(), to_json(said))


def _told(run: str, event: Event) -> Told:
    payload = event.payload
    told = _opening(run, event.type, payload) if event.seq == 1 else []
    teller = _TELLERS.get(event.type)
    if teller is None:
        return told
    words, tell = teller
    # An operation that is no agent's may have events of these names, which say something else.
    is_said = all(isinstance(payload.get(word), str) for word in words)
    is_said &= "part" not in words or _is_index(payload.get("item"))
    return [*told, *tell(run, payload)] if is_said else told


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# ---------------------------------------------------------------- the response


def _at(payload: Payload) -> float:
    return seconds(str(payload.get("timestamp"))) or 0.0


def _whole(run: str, status: str, payload: Payload, model: str | None = None) -> Json:
    took = payload.get("duration_seconds")
    # A late event does not know when the run was created. When it began is the nearest to it.
    began = _at(payload) - took if isinstance(took, int | float) else _at(payload)
    thread = payload.get("thread")
    thread = thread if isinstance(thread, str) else None
    return responses.envelope(run, status, created_at=began, model=model, thread=thread)


def _opening(run: str, type: str, payload: Payload) -> Told:
    waits = type == events.STATUS and payload.get("status") == responses.QUEUED
    status = responses.QUEUED if waits else responses.IN_PROGRESS
    model = responses.model_of(payload.get("input"))
    made = {**_whole(run, status, payload, model), "output": []}
    told: Told = [{"type": "response.created", "response": made}]
    return [*told, {"type": "response.queued", "response": made}] if waits else told


def _start(run: str, payload: Payload) -> Told:
    return _goes_on(run, payload, responses.model_of(payload.get("input")))


def _session(run: str, payload: Payload) -> Told:
    return _goes_on(run, payload, responses.model_of(payload))


def _goes_on(run: str, payload: Payload, model: str | None) -> Told:
    whole = _whole(run, responses.IN_PROGRESS, payload, model)
    return [{"type": "response.in_progress", "response": {**whole, "output": []}}]


def _complete(run: str, payload: Payload) -> Told:
    result = payload.get("result")
    turn = result if isinstance(result, dict) else {}
    said = {**payload, "thread": turn.get("thread")}
    whole = _whole(run, responses.COMPLETED, said, responses.model_of(result))
    whole |= responses.ended(result, _at(payload))
    whole["output"] = responses.outcome(run, result)
    return [{"type": "response.completed", "response": whole}]


# The two that follow leave `output` out: what was said is in the events before, and the official
# clients put it there. An empty list would have them forget it.


def _error(run: str, payload: Payload) -> Told:
    whole = _whole(run, responses.FAILED, payload)
    whole["error"] = responses.failed(payload)
    return [{"type": "response.failed", "response": whole}]


def _cancelled(run: str, payload: Payload) -> Told:
    # There is no event of a cancel. This is the one for an answer that was not finished.
    whole = _whole(run, responses.CANCELLED, payload)
    return [{"type": "response.incomplete", "response": whole}]


# ---------------------------------------------------------------- items


# The `output_index` is the event's `item`: the older clients take it for a place in the list of
# the items that were added.


def _place(run: str, payload: Payload, kind: str) -> Json:
    item_id = responses.item_id(kind, run, payload["part"])
    return {"item_id": item_id, "output_index": payload["item"]}


def _content(run: str, payload: Payload, kind: str) -> Json:
    # A text or a thought is all that its item has.
    return {**_place(run, payload, kind), "content_index": 0}


def _item(change: str, payload: Payload, item: Json) -> Json:
    return {"type": f"response.output_item.{change}", "output_index": payload["item"], "item": item}


def _text_start(run: str, payload: Payload) -> Told:
    item = responses.message(run, payload["part"], responses.IN_PROGRESS)
    return [_item("added", payload, item), _part("added", run, payload, "msg", "")]


def _text_chunk(run: str, payload: Payload) -> Told:
    place, delta = _content(run, payload, "msg"), payload["chunk"]
    return [{"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}]


def _text_end(run: str, payload: Payload) -> Told:
    text, place = payload["text"], _content(run, payload, "msg")
    item = responses.message(run, payload["part"], responses.COMPLETED, text)
    return [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        _part("done", run, payload, "msg", text),
        _item("done", payload, item),
    ]


def _thinking_start(run: str, payload: Payload) -> Told:
    item = responses.reasoning(run, payload["part"], responses.IN_PROGRESS)
    return [_item("added", payload, item), _part("added", run, payload, "rs", "")]


def _thinking_chunk(run: str, payload: Payload) -> Told:
    place, delta = _content(run, payload, "rs"), payload["chunk"]
    return [{"type": "response.reasoning_text.delta", **place, "delta": delta}]


def _thinking_end(run: str, payload: Payload) -> Told:
    text, place = payload["text"], _content(run, payload, "rs")
    item = responses.reasoning(run, payload["part"], responses.COMPLETED, text)
    return [
        {"type": "response.reasoning_text.done", **place, "text": text},
        _part("done", run, payload, "rs", text),
        _item("done", payload, item),
    ]


def _part(change: str, run: str, payload: Payload, kind: str, text: str) -> Json:
    make = responses.text_content if kind == "msg" else responses.thought_content
    place = _content(run, payload, kind)
    return {"type": f"response.content_part.{change}", **place, "part": make(text)}


def _detected(run: str, payload: Payload) -> Told:
    part, name = payload["part"], payload["name"]
    call = responses.call(run, part, name, status=responses.IN_PROGRESS)
    return [_item("added", payload, call)]


def _args(run: str, payload: Payload) -> Told:
    place, delta = _place(run, payload, "mcp"), payload["chunk"]
    return [{"type": "response.mcp_call_arguments.delta", **place, "delta": delta}]


def _ready(run: str, payload: Payload) -> Told:
    place, arguments = _place(run, payload, "mcp"), agent.text_of(payload.get("input", {}))
    return [{"type": "response.mcp_call_arguments.done", **place, "arguments": arguments}]


_CALLS: Final[Mapping[str, str]] = {
    agent.EXECUTING: "response.mcp_call.in_progress",
    agent.COMPLETED: "response.mcp_call.completed",
    agent.FAILED: "response.mcp_call.failed",
}


def _progress(run: str, payload: Payload) -> Told:
    status = payload["status"]
    if status not in _CALLS:
        return []
    told: Told = [{"type": _CALLS[status], **_place(run, payload, "mcp")}]
    if status != agent.EXECUTING:
        call = responses.called(run, payload["part"], payload)
        told.append(_item("done", payload, call))
    return told


_TELLERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[str, Payload], Told]]]] = {
    events.START: ((), _start),
    events.COMPLETE: ((), _complete),
    events.ERROR: ((), _error),
    events.CANCELLED: ((), _cancelled),
    agent.SESSION_START: (("model",), _session),
    agent.TEXT_START: (("part",), _text_start),
    agent.TEXT_CHUNK: (("part", "chunk"), _text_chunk),
    agent.TEXT_END: (("part", "text"), _text_end),
    agent.THINKING_START: (("part",), _thinking_start),
    agent.THINKING_CHUNK: (("part", "chunk"), _thinking_chunk),
    agent.THINKING_END: (("part", "text"), _thinking_end),
    agent.TOOL_DETECTED: (("part", "name"), _detected),
    agent.TOOL_ARGS: (("part", "chunk"), _args),
    agent.TOOL_READY: (("part",), _ready),
    agent.TOOL_PROGRESS: (("part", "name", "status"), _progress),
}
"""Each with the words that its payload must have as text; with a `part`, it has an `item`."""
