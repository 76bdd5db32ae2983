"""`ag-ui`: the events of the AG-UI protocol, 1.0, for its official clients.

Those are strict: the first event is RUN_STARTED, nothing may be open at RUN_FINISHED, an optional
field is never null, a time is an integer of milliseconds, and lines end with LF. What an event
cannot say stays out: nothing is remembered, so ids are made of the run's, the iteration and the
part. All text of an iteration is one message, with its calls; it may be opened more than once, and
goes on then. What AG-UI has no word for is CUSTOM, by its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, framed
from tailrace.protocol import agent, events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json

Payload = Mapping[str, Any]
Said = list[dict[str, Any]]

_FIRST: Final = 1


class AgUi(ServerSent):
    """`data: {"type": "TEXT_MESSAGE_CONTENT", …}`, with an id."""

    name = "ag-ui"

    def tell(self, block: Block, types: Types) -> bytes:
        """No message for an event, or one, or several."""
        return b"".join(
            framed(block, event, _bodies(block.run, event)) for event in chosen(block, types)
        )

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        """CUSTOM; RUN_ERROR, where the stream breaks off. A tick is a comment: it may come before
        the run's first event, which has to be RUN_STARTED.
        """
        if type == events.TICK:
            return sse.comment(f"{type} {to_json(payload).decode()}")
        said: Said = [_custom(type, payload)]
        if type == events.ERROR:
            said = [{"type": "RUN_ERROR", "message": str(payload.get("detail", "")),
                     "code": "stream"}]  # fmt: skip
        elif type == events.GAP and payload.get("from") == _FIRST:
            # The event that would have begun the run is gone.
            said.insert(0, _started(str(payload.get("run", "")), payload))
        return b"".join(sse.encode(to_json(one)) for one in said)


def _bodies(run: str, event: Event) -> list[bytes]:
    payload = event.payload
    said: Said = []
    if event.seq == _FIRST:
        # Whatever it is: a run that waits for its turn says so before its start.
        said.append(_started(run, payload))
    if event.type != events.START:
        try:
            said += _WORDS[event.type](run, payload)
        except (KeyError, _Other):
            said.append(_custom(event.type, payload))
    at = _milliseconds(payload.get("timestamp"))
    if at is not None:
        said = [{**one, "timestamp": at} for one in said]
    return [b"data: %b" % to_json(one) for one in said]


class _Other(Exception):
    """An event of this type, but not one of an agent's: anybody may emit any type."""


def _text(payload: Payload, key: str) -> str:
    value = payload.get(key)
    if not isinstance(value, str):
        raise _Other
    return value


def _milliseconds(stamped: object) -> int | None:
    if not isinstance(stamped, str):
        return None
    try:
        at = datetime.fromisoformat(stamped)
    except ValueError:
        return None
    # A producer may stamp its events itself. Without a zone it would be another time elsewhere.
    return None if at.tzinfo is None else round(at.timestamp() * 1000)


# --- ids -----------------------------------------------------------------------------


def _message(run: str, payload: Payload) -> str:
    return agent.message_id(run, agent.iteration(_text(payload, "part")))


def _thought(run: str, payload: Payload) -> str:
    return f"{run}.{_text(payload, 'part')}"


def _call(run: str, payload: Payload) -> str:
    """A call's id in AG-UI. Its own may be that of a call in another turn of the thread, and its
    arguments would be added to those of the other.
    """
    return f"{_message(run, payload)}.{_text(payload, 'id')}"


# --- what is said of each ------------------------------------------------------------


def _custom(name: str, payload: Payload) -> dict[str, Any]:
    value = {key: value for key, value in payload.items() if key != "timestamp"}
    return {"type": "CUSTOM", "name": name, "value": value}


def _identity(run: str, payload: Payload) -> dict[str, str]:
    thread = payload.get("thread")
    return {"threadId": thread if isinstance(thread, str) else run, "runId": run}


def _started(run: str, payload: Payload) -> dict[str, Any]:
    return {"type": "RUN_STARTED", **_identity(run, payload)}


def _progress(run: str, payload: Payload) -> Said:
    status, call = payload.get("status"), _call(run, payload)
    if status == agent.COMPLETED:
        content = agent.text_of(payload.get("result"))
    elif status == agent.FAILED:
        content = agent.text_of(payload.get("error") or "It failed.")
    else:
        return [_custom(agent.TOOL_PROGRESS, {**payload, "toolCallId": call})]
    more: dict[str, Any] = {"status": status}
    if "duration_seconds" in payload:
        more["durationSeconds"] = payload["duration_seconds"]
    return [
        {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{call}.result",
            "toolCallId": call,
            "content": content,
            "role": "tool",
            "metadata": more,
        }
    ]


def _complete(run: str, payload: Payload) -> Said:
    result = payload.get("result")
    about = result if isinstance(result, dict) else {}
    said: dict[str, Any] = {"type": "RUN_FINISHED", **_identity(run, {**about, **payload})}
    said["outcome"] = {"type": "success"}
    if isinstance(about.get("parts"), list):
        # All of them were told.
        result = {key: value for key, value in about.items() if key != "parts"}
    if result is not None:
        said["result"] = result
    usage = _usage(about)
    if usage:
        said["usage"] = [usage]
    return [said]


def _usage(result: Payload) -> dict[str, Any]:
    counts = result.get("usage")
    if not isinstance(counts, dict):
        return {}
    said: dict[str, Any] = {
        name: counts.get(key)
        for name, key in (("inputTokens", "input_tokens"), ("outputTokens", "output_tokens"))
        if isinstance(counts.get(key), int) and counts[key] >= 0
    }
    model = result.get("model")
    if said and isinstance(model, str):
        said["model"] = model
    return said


def _cancelled(run: str, payload: Payload) -> Said:
    if payload.get("forced"):
        # The work did not stop in time, or was gone, so nobody has closed what it had opened, and
        # RUN_FINISHED would be refused.
        return [{"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "cancelled"}]
    outcome = {"type": "cancelled"}
    return [{"type": "RUN_FINISHED", **_identity(run, payload), "outcome": outcome}]


def _error(run: str, payload: Payload) -> Said:
    del run
    message = str(payload.get("error") or "The run failed.")
    return [{"type": "RUN_ERROR", "message": message, "code": str(payload.get("reason", "failed"))}]


def _step(type: str) -> Callable[[str, Payload], Said]:
    return lambda run, p: [{"type": type, "stepName": f"iteration-{p.get('iteration')}"}]


_WORDS: Final[dict[str, Callable[[str, Payload], Said]]] = {
    agent.ITERATION_START: _step("STEP_STARTED"),
    agent.ITERATION_END: _step("STEP_FINISHED"),
    agent.THINKING_START: lambda run, p: [
        {"type": "REASONING_START", "messageId": _thought(run, p)},
        {
            "type": "REASONING_MESSAGE_START",
            "messageId": _thought(run, p),
            "role": "reasoning",
        },
    ],
    agent.THINKING_CHUNK: lambda run, p: [
        {
            "type": "REASONING_MESSAGE_CONTENT",
            "messageId": _thought(run, p),
            "delta": _text(p, "chunk"),
        }
    ],
    agent.THINKING_END: lambda run, p: [
        {"type": "REASONING_MESSAGE_END", "messageId": _thought(run, p)},
        {"type": "REASONING_END", "messageId": _thought(run, p)},
    ],
    agent.TEXT_START: lambda run, p: [
        {"type": "TEXT_MESSAGE_START", "messageId": _message(run, p), "role": "assistant"}
    ],
    agent.TEXT_CHUNK: lambda run, p: [
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": _message(run, p), "delta": _text(p, "chunk")}
    ],
    agent.TEXT_END: lambda run, p: [{"type": "TEXT_MESSAGE_END", "messageId": _message(run, p)}],
    agent.TOOL_DETECTED: lambda run, p: [
        {
            "type": "TOOL_CALL_START",
            "toolCallId": _call(run, p),
            "toolCallName": _text(p, "name"),
            "parentMessageId": _message(run, p),
        }
    ],
    agent.TOOL_ARGS: lambda run, p: [
        {"type": "TOOL_CALL_ARGS", "toolCallId": _call(run, p), "delta": _text(p, "chunk")}
    ],
    agent.TOOL_READY: lambda run, p: [{"type": "TOOL_CALL_END", "toolCallId": _call(run, p)}],
    agent.TOOL_PROGRESS: _progress,
    events.COMPLETE: _complete,
    events.CANCELLED: _cancelled,
    events.ERROR: _error,
}
