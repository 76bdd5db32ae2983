"""Turns of an agent, as a run's log has them: what each dialect is tried with.

Every turn is a list of (type, payload), in the words of `tailrace.protocol.agent`, from the run's
first event to its last. A time stamp is added where blocks are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tailrace.protocol import agent
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.runs import run_id

Told = tuple[str, dict[str, Any]]
Turn = Sequence[Told]

RUN: Final = run_id(bytes(range(16)))
THREAD: Final = "thread-1"
MODEL: Final = "openai:gpt-x"
BEGAN: Final = 1_700_000_000.0

_USAGE: Final = {"input_tokens": 12, "output_tokens": 5}


def blocks(turn: Turn, size: int | None = None, *, epoch: int = 0, run: str = RUN) -> list[Block]:
    """The turn as a log has it, in blocks of `size` events; None: all of it is one. Its events are
    numbered from 1, and are a tenth of a second apart.
    """
    drafts = [draft(type_, said, BEGAN + at / 10) for at, (type_, said) in enumerate(turn)]
    step = size or max(1, len(drafts))
    return [
        Block(run, at + 1, at + len(some), pack(at + 1, some, epoch), epoch)
        for at in range(0, len(drafts), step)
        for some in [drafts[at : at + step]]
    ]


def block(turn: Turn, *, epoch: int = 0, run: str = RUN) -> Block:
    """The whole turn as one block."""
    (whole,) = blocks(turn, epoch=epoch, run=run)
    return whole


def start(text: str = "Hello", thread: str | None = THREAD) -> Told:
    """The run begins."""
    said: dict[str, Any] = {"run": RUN, "operation": agent.CHAT}
    if thread is not None:
        said["thread"] = thread
    return "start", {**said, "input": {"message": text}, "attempt": 1}


def session(tools: Sequence[str] = (), thread: str | None = THREAD) -> Told:
    """The turn begins."""
    return agent.SESSION_START, {
        "thread": thread, "model": MODEL, "tools": list(tools), "max_iterations": 10,
    }  # fmt: skip


def text(part: str, *chunks: str, position: int = 0, ends: bool = True) -> list[Told]:
    """A piece of text, whole unless it does not end."""
    told: list[Told] = [(agent.TEXT_START, {"part": part})]
    at = position
    for chunk in chunks:
        told.append((agent.TEXT_CHUNK, {"part": part, "chunk": chunk, "position": at}))
        at += len(chunk)
    if ends:
        told.append((agent.TEXT_END, {"part": part, "length": at - position}))
    return told


def thinking(part: str, *chunks: str) -> list[Told]:
    """What a model thinks before it answers."""
    return [
        (agent.THINKING_START, {"part": part}),
        *((agent.THINKING_CHUNK, {"part": part, "chunk": chunk}) for chunk in chunks),
        (agent.THINKING_END, {"part": part}),
    ]


def call(part: str, id: str, name: str, *chunks: str, input: Any) -> list[Told]:
    """A call as the model writes it."""
    named = {"part": part, "id": id, "name": name}
    return [
        (agent.TOOL_DETECTED, named),
        *((agent.TOOL_ARGS, {**named, "chunk": chunk}) for chunk in chunks),
        (agent.TOOL_READY, {**named, "input": input}),
    ]


def tool(
    id: str, name: str, status: str, *, iteration: int = 1, index: int = 1, count: int = 1,
    **more: Any,
) -> Told:  # fmt: skip
    """How far a call is."""
    said = {"id": id, "name": name, "status": status}
    place = {"iteration": iteration, "index": index, "count": count}
    return agent.TOOL_PROGRESS, {**said, **place, **more}


def begins(iteration: int) -> Told:
    """An iteration begins."""
    return agent.ITERATION_START, {"iteration": iteration}


def ends(iteration: int, reason: str) -> Told:
    """An iteration is over."""
    return agent.ITERATION_END, {"iteration": iteration, "reason": reason, "usage": _USAGE}


def executing(iteration: int, *calls: tuple[str, str, Any]) -> Told:
    """The calls of an iteration, each its id, name and input, are about to be made."""
    tools = [{"id": id, "name": name, "input": input} for id, name, input in calls]
    said = {"iteration": iteration, "count": len(tools), "tools": tools}
    return agent.TOOLS_EXECUTING, said


def executed(iteration: int, completed: int, failed: int) -> Told:
    """All of them are over."""
    return agent.TOOLS_COMPLETED, {
        "iteration": iteration, "completed": completed, "failed": failed,
        "total": completed + failed, "duration_seconds": 0.5,
    }  # fmt: skip


def complete(
    said: str, parts: Sequence[dict[str, Any]], iterations: int, thread: str | None = THREAD
) -> Told:
    """The turn's end, and its result."""
    usage = {name: count * iterations for name, count in _USAGE.items()}
    result = {"text": said, "parts": list(parts), "iterations": iterations, "usage": usage,
              "model": MODEL, "route": "default", "thread": thread}  # fmt: skip
    return "complete", {"status": "completed", "result": result, "duration_seconds": 2.5}


def full(turn: Turn) -> Turn:
    """The turn with all that its events repeat: of each part the number, the text where it ends,
    and of each call the part and the input.
    """
    items: dict[str, int] = {}
    texts: dict[str, str] = {}
    calls: dict[str, dict[str, Any]] = {}
    told: list[Told] = []
    for type_, said in turn:
        if type_ == agent.TOOL_PROGRESS:
            known = calls[said["id"]]
            is_over = said["status"] in (agent.COMPLETED, agent.FAILED)
            repeated = known if is_over else {"part": known["part"]}
        elif type_ == agent.TOOL_READY:
            calls[said["id"]] = {"part": said["part"], "input": said["input"]}
            repeated = {}
        elif type_ in (agent.TEXT_END, agent.THINKING_END):
            repeated = {"text": texts[said["part"]]}
        else:
            repeated = {}
        part = {**said, **repeated}.get("part")
        if part is not None:
            items.setdefault(part, len(items))
            texts[part] = texts.get(part, "") + said.get("chunk", "")
            repeated = {**repeated, "item": items[part]}
        told.append((type_, {**said, **repeated}))
    return told


STOPPING: Final[Told] = ("status", {"status": "cancelling", "reason": "requested"})
CANCELLED: Final[Told] = (
    "cancelled",
    {"status": "cancelled", "reason": "requested", "duration_seconds": 1.5},
)
ROUTED: Final[Told] = (
    agent.ROUTED,
    {"route": "default", "reason": "It is short.", "score": 2, "complexity": "low", "model": MODEL},
)

PLAIN: Final[Turn] = full([
    start(), session(), ROUTED,
    begins(1), *text("1.0", "Hel", "lo, ", "wörld 👋\n", "data: x"), ends(1, "answer"),
    complete("Hello, wörld 👋\ndata: x",
             [{"type": "text", "part": "1.0", "text": "Hello, wörld 👋\ndata: x"}], 1),
])  # fmt: skip
"""An answer, and nothing else."""

_COUNT = ("call_1", "count_employees", {"department": "Sales"})
_SALARY = ("call_2", "average_salary", {"department": "Moon"})

TOOLS: Final[Turn] = full([
    start("How many work in sales, and what do they earn on the moon?"),
    session(["count_employees", "average_salary"]), ROUTED,
    begins(1), *text("1.0", "Let me ", "look."),
    *call("1.1", "call_1", "count_employees", '{"depart', 'ment":"Sales"}', input=_COUNT[2]),
    *call("1.2", "call_2", "average_salary", '{"department":"Moon"}', input=_SALARY[2]),
    executing(1, _COUNT, _SALARY),
    tool("call_1", "count_employees", agent.EXECUTING, index=1, count=2),
    tool("call_2", "average_salary", agent.EXECUTING, index=2, count=2),
    tool("call_1", "count_employees", agent.PROGRESSING, index=1, count=2,
         current=1, total=2, percent=50.0, message="Half of it"),
    tool("call_2", "average_salary", agent.FAILED, index=2, count=2,
         error="There is no department Moon.", finished=1, duration_seconds=0.1234),
    tool("call_1", "count_employees", agent.COMPLETED, index=1, count=2,
         result={"department": "Sales", "count": 12}, finished=2, duration_seconds=0.25),
    executed(1, completed=1, failed=1), ends(1, "tools"),
    begins(2), *text("2.0", "Twelve ", "people.", position=12), ends(2, "answer"),
    complete("Twelve people.", [
        {"type": "text", "part": "1.0", "text": "Let me look."},
        {"type": "tool", "part": "1.1", "id": "call_1", "name": "count_employees",
         "input": _COUNT[2], "status": "completed", "result": {"department": "Sales", "count": 12}},
        {"type": "tool", "part": "1.2", "id": "call_2", "name": "average_salary",
         "input": _SALARY[2], "status": "failed", "error": "There is no department Moon."},
        {"type": "text", "part": "2.0", "text": "Twelve people."},
    ], 2),
])  # fmt: skip
"""Two calls at once, of which the second fails first; then an answer."""

CANCELLED_IN_TEXT: Final[Turn] = full([
    start(), session(), begins(1), *text("1.0", "Hel", "lo", ends=False),
    STOPPING, (agent.TEXT_END, {"part": "1.0", "length": 5}), ends(1, "stopped"), CANCELLED,
])  # fmt: skip
"""Stopped while the model speaks."""

CANCELLED_IN_ARGS: Final[Turn] = full([
    start(), session(["count_employees"]), begins(1),
    *call("1.0", "call_1", "count_employees", '{"depart', input={})[:-1], STOPPING,
    (agent.TOOL_READY,
     {"part": "1.0", "id": "call_1", "name": "count_employees", "input": '{"depart'}),
    tool("call_1", "count_employees", agent.FAILED, error="It was stopped.", finished=1,
         duration_seconds=0.0),
    ends(1, "stopped"), CANCELLED,
])  # fmt: skip
"""Stopped while the model writes a call, which is never made."""

CANCELLED_IN_TOOLS: Final[Turn] = full([
    start(), session(["count_employees", "average_salary"]), begins(1),
    *call("1.0", "call_1", "count_employees", '{"department":"Sales"}', input=_COUNT[2]),
    *call("1.1", "call_2", "average_salary", '{"department":"Moon"}', input=_SALARY[2]),
    executing(1, _COUNT, _SALARY),
    tool("call_1", "count_employees", agent.EXECUTING, index=1, count=2),
    tool("call_2", "average_salary", agent.EXECUTING, index=2, count=2),
    tool("call_1", "count_employees", agent.COMPLETED, index=1, count=2, result="12", finished=1,
         duration_seconds=0.25),
    STOPPING,
    tool("call_2", "average_salary", agent.FAILED, index=2, count=2, error="It was stopped.",
         finished=2, duration_seconds=0.5),
    executed(1, completed=1, failed=1), ends(1, "stopped"), CANCELLED,
])  # fmt: skip
"""Stopped while one of two calls is still made."""

LOST: Final[Turn] = [
    *TOOLS[: TOOLS.index(executed(1, completed=1, failed=1)) - 1],
    ("error", {"status": "lost", "error": "The run was lost: the process that ran it is gone.",
               "type": "lost", "reason": "lost", "duration_seconds": 1.5}),
]  # fmt: skip
"""Its process is gone in the midst of a call: nothing is closed."""

LOST_IN_TEXT: Final[Turn] = [*TOOLS[:6], LOST[-1]]
"""Its process is gone in the midst of the text."""

LOST_STOPPING: Final[Turn] = [
    *LOST_IN_TEXT[:-1], STOPPING, (CANCELLED[0], {**CANCELLED[1], "forced": True}),
]  # fmt: skip
"""The same, while it was to stop: nothing is closed, and its end says so."""

THINKING: Final[Turn] = full([
    start(), session(), begins(1), *thinking("1.0", "They greet ", "me."),
    *text("1.1", "Hello."), *thinking("1.2", "More?"), *text("1.3", " How are you?", position=6),
    ends(1, "answer"),
    complete("Hello. How are you?", [
        {"type": "thinking", "part": "1.0", "text": "They greet me."},
        {"type": "text", "part": "1.1", "text": "Hello."},
        {"type": "thinking", "part": "1.2", "text": "More?"},
        {"type": "text", "part": "1.3", "text": " How are you?"},
    ], 1),
])  # fmt: skip
"""Thoughts, and two texts in one iteration."""

FAILED: Final[Turn] = [
    *CANCELLED_IN_TEXT[:-4], CANCELLED_IN_TEXT[-3], ends(1, "stopped"),
    ("error", {"status": "failed", "error": "The model said 500.", "type": "ModelHTTPError",
               "reason": "failed", "duration_seconds": 1.5}),
]  # fmt: skip
"""The model fails in its text, and what was open is closed."""

WAITED: Final[Turn] = [("status", {"status": "queued", "position": 2}), *PLAIN]
"""A turn that waited for its start, so that `start` is not its first event."""

SCRIPT: Final[Turn] = [
    ("start", {"run": RUN, "operation": "script", "input": {"file": "a.py"}, "attempt": 1}),
    ("output", {"stream": "stdout", "text": "one\ntwo\r\n", "offset": 10}),
    ("log", {"level": "info", "message": "said"}),
    ("progress", {"current": 1, "total": 3, "type": "own"}),
    ("result", {"value": 7}),
    ("complete", {"status": "completed", "result": None, "duration_seconds": 0.5}),
]  # fmt: skip
"""No turn at all: any other run, which every dialect can be asked to tell as well."""

TURNS: Final[dict[str, Turn]] = {
    "plain": PLAIN,
    "tools": TOOLS,
    "cancelled_in_text": CANCELLED_IN_TEXT,
    "cancelled_in_args": CANCELLED_IN_ARGS,
    "cancelled_in_tools": CANCELLED_IN_TOOLS,
    "lost": LOST,
    "lost_in_text": LOST_IN_TEXT,
    "lost_stopping": LOST_STOPPING,
    "thinking": THINKING,
    "failed": FAILED,
    "waited": WAITED,
}
"""All turns by their name."""
