"""The events of an agent's turn: what a model says and which tools it calls, as they come.

Every event says by itself what it belongs to, so that whoever tells it in another protocol
needs to remember nothing, and tells the same bytes each time. `part` names a piece of a model's
answer, as "2.0": its iteration, from 1, and its place there, from 0. `item` is the number of that
piece among all text, thoughts and calls of the turn, from 0, in the order in which they begin.
`id` names a call.

session_start    {thread, model, tools: [name], max_iterations}, and for the built-in model `note`
routed           {route, reason, score, complexity, model}
iteration_start  {iteration}
thinking_start   {part, item}, thinking_chunk {part, item, chunk}, thinking_end {part, item, text}
text_start       {part, item}
text_chunk       {part, item, chunk, position}: where the chunk begins in all the text of the turn,
                 in Unicode code points
text_end         {part, item, length, text}: here, as in thinking_end, `text` is all of the part;
                 it is left out where its JSON would have more than 128 KiB
tool_detected    {part, item, id, name}: the model begins to write a call
tool_args        {part, item, id, name, chunk}: of the call's JSON
tool_ready       {part, item, id, name, input}: an object; text, where the model wrote no JSON, and
                 where it was cut (`truncated`: true)
tools_executing  {iteration, count, tools: [{id, name, input}]}; an input that was left out, for
                 all of them are one event, is {} (`omitted`: true)
tool_progress    {part, item, id, name, status, iteration, index, count} of one call, where index
                 counts from 1. status is
                   executing    it begins; `run` is the id of the run that makes it, where an
                                operation of the server is called
                   progressing  it says how far it is: {current, total, percent, message}, each
                                of them only if known
                   completed    {input, result, finished, duration_seconds}; `truncated`: true, if
                                the result is text that was cut
                   failed       {input, error, finished, duration_seconds}
                 `finished` counts the calls of the iteration that are over, with this one; `input`
                 is that of tool_ready, and if it was cut there, `input_truncated` is true
tools_completed  {iteration, completed, failed, total, duration_seconds}
iteration_end    {iteration, reason, usage: {input_tokens, output_tokens}}; reason is `tools`,
                 `answer`, or `stopped`

The turn's end is the run's. Its result is {text, parts, iterations, usage, model, route, thread},
where text is the last iteration's, and parts is the whole turn in its order: {type: text |
thinking, part, text}, {type: tool, part, id, name, input, status, result | error}. All of it is
one event: what is too large is left out (`omitted`: true), or text that was cut (`truncated`:
true). Whatever is open is closed before any end but that of a process that dies, whose run is
`lost`, or was asked to stop and is `forced`. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from tailrace.protocol.events import to_json

SESSION_START: Final = "session_start"
ROUTED: Final = "routed"
ITERATION_START: Final = "iteration_start"
ITERATION_END: Final = "iteration_end"
THINKING_START: Final = "thinking_start"
THINKING_CHUNK: Final = "thinking_chunk"
THINKING_END: Final = "thinking_end"
TEXT_START: Final = "text_start"
TEXT_CHUNK: Final = "text_chunk"
TEXT_END: Final = "text_end"
TOOL_DETECTED: Final = "tool_detected"
TOOL_ARGS: Final = "tool_args"
TOOL_READY: Final = "tool_ready"
TOOLS_EXECUTING: Final = "tools_executing"
TOOL_PROGRESS: Final = "tool_progress"
TOOLS_COMPLETED: Final = "tools_completed"

EXECUTING: Final = "executing"
PROGRESSING: Final = "progressing"
COMPLETED: Final = "completed"
FAILED: Final = "failed"

CHAT: Final = "chat"
"""The operation whose runs are turns."""

PREVIEW_CHARACTERS: Final = 200
"""How much of a tool's result is shown where only an impression is wanted."""


_MAX_DIGITS: Final = 9


def iteration(part: str) -> int:
    """The iteration that a part belongs to; 0 for what is no part's name."""
    before, _, _ = part.partition(".")
    # Whoever may emit may write anything: int() refuses thousands of digits.
    is_number = len(before) <= _MAX_DIGITS and before.isascii() and before.isdecimal()
    return int(before) if is_number else 0


def message_id(run: str, iteration: int) -> str:
    """What one answer of the model is called: text and calls of an iteration are one message."""
    return f"{run}.{iteration}"


def text_of(result: Any) -> str:
    """A tool's result as text: itself, or its JSON."""
    return result if isinstance(result, str) else to_json(result).decode()


def preview(result: Any) -> str:
    """The beginning of a tool's result."""
    text = text_of(result)
    if len(text) <= PREVIEW_CHARACTERS:
        return text
    return f"{text[: PREVIEW_CHARACTERS - 1]}…"
