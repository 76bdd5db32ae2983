"""What was said before in a conversation, as a model is to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace.agent.parts import TEXT, TOOL, Parts, cut, size
from tailrace.engine import Engine
from tailrace.protocol import agent
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

MAX_TURNS: Final = 50
MAX_BYTES: Final = 200 * 1024
"""How much of a conversation is read again, as JSON: its latest turns."""

LEFT_OUT: Final = "[left out: it is too large to be repeated]"
NOT_OVER: Final = "[the turn ended before this call had answered]"
NO_ANSWER: Final = "[the turn ended before there was an answer]"

# Of a turn that did not complete, whose events are read.
_MOST_EVENTS: Final = 20_000
_FEW_BYTES: Final = MAX_BYTES // 4


class Said(NamedTuple):
    """A turn: what was asked, and the parts that answered it."""

    message: str
    parts: Sequence[Mapping[str, Any]]


async def led(
    engine: Engine, principal: str, thread: str, before: str, regenerates: str | None = None
) -> list[RunRecord]:
    """The turns of a thread that led to the run `before`, newest first, at most 50. `regenerates`:
    the run that this one replaces: it is left out, with all that came after it. Raises LogError.
    """
    found = await engine.find(
        RunQuery(principal=principal, thread=thread, operation=agent.CHAT, limit=2 * MAX_TURNS)
    )
    return line([one for one in found if one.id != before], regenerates)[:MAX_TURNS]


async def read(engine: Engine, records: Iterable[RunRecord]) -> list[Said]:
    """What was said in these turns, which come newest first; the oldest of it first, and not more
    than a model can be expected to read. Raises LogError.
    """
    turns: list[Said] = []
    left = MAX_BYTES
    for record in records:
        turn = Said(_message(record), await _parts(engine, record))
        cost = len(turn.message) + size(turn.parts)
        if cost > left and turns:
            break
        if cost > left:
            turn = _shortened(turn)
        left -= cost
        turns.append(turn)
    return turns[::-1]


def line(newest_first: Sequence[RunRecord], regenerates: str | None) -> list[RunRecord]:
    """The runs that led here, newest first. One that was replaced is not among them, nor what
    followed on it before it was replaced.
    """
    led: list[RunRecord] = []
    skips = regenerates
    ids = {record.id for record in newest_first}
    for record in newest_first:
        # One that is forgotten by now cannot be come to.
        if skips in ids and skips is not None:
            if record.id != skips:
                continue
            skips = _replaced(record)
            continue
        led.append(record)
        skips = _replaced(record)
    return led


def _replaced(record: RunRecord) -> str | None:
    replaced = _input(record).get("regenerates")
    return replaced if isinstance(replaced, str) else None


def _input(record: RunRecord) -> dict[str, Any]:
    given = loads(record.input)
    return given if isinstance(given, dict) else {}


def _message(record: RunRecord) -> str:
    return str(_input(record).get("message", ""))


async def _parts(engine: Engine, record: RunRecord) -> list[dict[str, Any]]:
    """Of a turn without a result, what its events tell."""
    result = loads(record.result) if record.state is State.COMPLETED else None
    if isinstance(result, dict) and isinstance(result.get("parts"), list):
        return list(result["parts"])
    parts = Parts()
    count = 0
    async for event in engine.run(record.id).events():
        parts.add(event.type, event.payload)
        if (count := count + 1) >= _MOST_EVENTS:
            break
    return parts.all()


def _shortened(turn: Said) -> Said:
    """A turn that is too large by itself: what was said in it."""
    texts = [part for part in turn.parts if part.get("type") == TEXT]
    share = _FEW_BYTES // (len(texts) or 1)
    parts = [{**part, "text": cut(str(part.get("text", "")), share)} for part in texts]
    return Said(cut(turn.message, _FEW_BYTES), parts)


# --- as messages -----------------------------------------------------------------------------


def messages(turns: Iterable[Said]) -> list[ModelMessage]:
    """Turns as a model reads them. What it thought is not repeated: providers take it back only
    with their own seal on it, which is not kept.
    """
    from pydantic_ai import messages as words  # noqa: PLC0415 - only a turn has it

    told: list[ModelMessage] = []
    for turn in turns:
        told.append(words.ModelRequest(parts=[words.UserPromptPart(content=turn.message)]))
        parts = [part for part in turn.parts if part.get("type") in (TEXT, TOOL)]
        is_answered = False
        for _, group in groupby(parts, key=lambda part: agent.iteration(str(part.get("part")))):
            said, results = _iteration(list(group))
            if not said:
                continue
            told.append(words.ModelResponse(parts=said))
            is_answered = not results
            if results:
                told.append(words.ModelRequest(parts=results))
        if not is_answered:
            # Two questions in a row are more than some providers take.
            told.append(words.ModelResponse(parts=[words.TextPart(content=NO_ANSWER)]))
    return told


def _iteration(parts: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    from pydantic_ai import messages as words  # noqa: PLC0415

    said: list[Any] = []
    results: list[Any] = []
    for part in parts:
        if part["type"] == TEXT:
            if part.get("text"):
                said.append(words.TextPart(content=str(part["text"])))
            continue
        name, id_, given = str(part.get("name")), str(part.get("id")), part.get("input")
        args = given if isinstance(given, dict) else {}
        said.append(words.ToolCallPart(tool_name=name, args=args, tool_call_id=id_))
        failed = part.get("status") != agent.COMPLETED
        results.append(
            words.ToolReturnPart(
                tool_name=name,
                content=_result(part),
                tool_call_id=id_,
                outcome="failed" if failed else "success",
            )
        )
    return said, results


def _result(part: Mapping[str, Any]) -> Any:
    if part.get("omitted"):
        return LEFT_OUT
    match part.get("status"):
        case agent.COMPLETED:
            return part.get("result")
        case agent.FAILED:
            return part.get("error")
        case _:
            return NOT_OVER


def given(history: Iterable[tuple[str, str]]) -> list[ModelMessage]:
    """A conversation as a client tells it: (role, text), of the roles user and assistant."""
    from pydantic_ai import messages as words  # noqa: PLC0415

    return [
        words.ModelRequest(parts=[words.UserPromptPart(content=text)])
        if role == "user"
        else words.ModelResponse(parts=[words.TextPart(content=text)])
        for role, text in history
        if text
    ]
