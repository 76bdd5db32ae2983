"""A turn of an agent as a response of OpenAI's Responses API: its ids and objects.

Pure, and without a memory: an id follows from one event alone, so that it is the same in every
telling. What a clause asks for stands in the API reference, "Responses" and "Streaming events".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tailrace.errors import CursorMalformed, RunUnknown
from tailrace.protocol import agent
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, check_run_id

Json = dict[str, Any]

SERVER_LABEL: Final = "tailrace"
"""Whose tools are called: they run here, so a call is an `mcp_call`. A client would take a
`function_call` for one that it has to make itself."""

FRAMES: Final = 10
"""An event has fewer frames than this, so that one number says which of them was the last."""

MODEL: Final = agent.CHAT
"""What is named as the model while none is known: the field may not be missing."""

QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

STATUSES: Final[Mapping[State, str]] = {
    State.QUEUED: QUEUED,
    State.RUNNING: IN_PROGRESS,
    State.CANCELLING: IN_PROGRESS,
    State.COMPLETED: COMPLETED,
    State.FAILED: FAILED,
    State.TIMED_OUT: FAILED,
    State.LOST: FAILED,
    State.CANCELLED: CANCELLED,
}
"""A run's state in the API's words. None is `incomplete`, which is about a model's limits."""

_RESPONSE: Final = "resp_"
_RUN: Final = "run_"


# ---------------------------------------------------------------- ids and numbers


def response_id(run: str) -> str:
    """What a run is called as a response: `resp_` for `run_`."""
    return _RESPONSE + run.removeprefix(_RUN)


def run_of(response: str) -> str:
    """The run that is called so. Raises RunUnknown for what is no response's id."""
    if not response.startswith(_RESPONSE):
        raise RunUnknown(
            f"{response[:40]!r} is not a response's id, which begins with {_RESPONSE}.",
            fix="Take the id from the answer to POST /v1/responses.",
        )
    return check_run_id(_RUN + response.removeprefix(_RESPONSE))


def sequence_number(seq: int, frame: int) -> int:
    """The number of a frame, from 1, of event `seq`: it grows from frame to frame."""
    return seq * FRAMES + frame


def cursor_after(sequence: int) -> Cursor:
    """Where to go on for `starting_after`. Raises CursorMalformed for a number below 0."""
    if sequence < 0:
        raise CursorMalformed(
            f"There is no sequence number {sequence}.",
            fix="Send the sequence_number of the last event you have, or 0 for all.",
        )
    seq, frame = divmod(sequence, FRAMES)
    return Cursor(0, seq, frame)


def item_id(kind: str, run: str, part: str) -> str:
    """The id of a text (`msg`), a thought (`rs`) or a call (`mcp`). A model's own name for a call
    will not do: another turn may use it again.
    """
    return f"{kind}_{run.removeprefix(_RUN)}_{part.replace('.', '_')}"


# ---------------------------------------------------------------- items


def text_content(text: str) -> Json:
    """Text in a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def thought_content(text: str) -> Json:
    """Text in a reasoning item."""
    return {"type": "reasoning_text", "text": text}


def message(run: str, part: str, status: str, *texts: str) -> Json:
    """A text of the model as an item."""
    return {
        "id": item_id("msg", run, part),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_content(text) for text in texts],
    }


def reasoning(run: str, part: str, status: str, *texts: str) -> Json:
    """A thought of the model as an item."""
    return {
        "id": item_id("rs", run, part),
        "type": "reasoning",
        "summary": [],
        "content": [thought_content(text) for text in texts],
        "status": status,
    }


def call(
    run: str, part: str, name: str, *, status: str, arguments: str = "", **ending: Any
) -> Json:
    """A call as an item; `ending` is its `output`, or its `error`."""
    return {
        "id": item_id("mcp", run, part),
        "type": "mcp_call",
        "server_label": SERVER_LABEL,
        "name": name,
        "arguments": arguments,
        "status": status,
        **ending,
    }


def execution_error(said: Any) -> Json:
    """What went wrong in a call. Text alone is refused by clients that check: it is an object."""
    content = [{"type": "text", "text": agent.text_of(said)}]
    return {"type": "mcp_tool_execution_error", "content": content}


def output(run: str, parts: Iterable[Mapping[str, Any]]) -> list[Json]:
    """The items of a turn's parts, in their order. What is no part is left out."""
    items: list[Json] = []
    for piece in parts:
        kind, part = piece.get("type"), str(piece.get("part", ""))
        if kind == "text":
            items.append(message(run, part, COMPLETED, str(piece.get("text", ""))))
        elif kind == "thinking":
            items.append(reasoning(run, part, COMPLETED, str(piece.get("text", ""))))
        elif kind == "tool":
            items.append(called(run, part, piece))
    return items


def called(run: str, part: str, piece: Mapping[str, Any]) -> Json:
    """A call that is over as an item. `piece` has its `name`, `input`, `status`, and `result` or
    `error`: a part of a turn, or the last event of the call.
    """
    ending: Json
    if piece.get("status") == agent.COMPLETED:
        status, ending = COMPLETED, {"output": agent.text_of(piece.get("result"))}
    else:
        status, ending = FAILED, {"error": execution_error(piece.get("error", "It failed."))}
    name, said = str(piece.get("name", "")), agent.text_of(piece.get("input", {}))
    return call(run, part, name, status=status, arguments=said, **ending)


# ---------------------------------------------------------------- the response


def response(record: RunRecord, parts: Sequence[Mapping[str, Any]] | None = None) -> Json:
    """The response that a run is, whatever its state.

    `parts` are those of its turn, for one that did not complete and so has no result; without
    them its output is empty.
    """
    status, result, asked = STATUSES[record.state], loads(record.result), loads(record.input)
    failure = loads(record.error)
    told = envelope(
        record.id,
        status,
        created_at=record.created_at,
        model=model_of(result) or model_of(asked),
        thread=record.thread,
    )
    told["output"] = output(record.id, parts) if parts else outcome(record.id, result)
    if status == COMPLETED:
        told |= ended(result, record.ended_at)
    if status == FAILED:
        told["error"] = failed(failure)
    return told


def envelope(
    run: str, status: str, *, created_at: float, model: str | None, thread: str | None = None
) -> Json:
    """All of a response but its output. Times are whole seconds since 1970."""
    return {
        "id": response_id(run),
        "object": "response",
        "created_at": int(created_at),
        "status": status,
        "background": True,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model or MODEL,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "conversation": None if thread is None else {"id": thread},
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def outcome(run: str, result: Any) -> list[Json]:
    """The items of a run's result; the result of a run that is no turn is a message."""
    parts = result.get("parts") if isinstance(result, dict) else None
    if isinstance(parts, list):
        return output(run, (part for part in parts if isinstance(part, dict)))
    return [] if result is None else [message(run, "1.0", COMPLETED, agent.text_of(result))]


def ended(result: Any, at: float | None) -> Json:
    """What a response that is complete says besides."""
    said = result.get("usage") if isinstance(result, dict) else None
    return {"completed_at": None if at is None else int(at), "usage": usage(said)}


def usage(said: Any) -> Json | None:
    """What a turn cost in tokens; None where it is not known."""
    if not isinstance(said, dict):
        return None
    took, gave = _count(said.get("input_tokens")), _count(said.get("output_tokens"))
    return {
        "input_tokens": took,
        # Required by the reference, and not known.
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": gave,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": took + gave,
    }


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def failed(said: Any) -> Json:
    """Why there is no answer. Of the codes that there are, one fits."""
    text = said.get("error") if isinstance(said, dict) else None
    return {"code": "server_error", "message": str(text or "The run failed.")}


def model_of(said: Any) -> str | None:
    """The model that an input, a result or an event names."""
    model = said.get("model") if isinstance(said, dict) else None
    return model if isinstance(model, str) and model else None
