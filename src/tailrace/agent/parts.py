"""What a turn came to, folded from its events: the same live, and when it is read again. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tailrace.protocol import agent
from tailrace.protocol.events import to_json
from tailrace.protocol.problems import carried

MAX_BYTES: Final = 192 * 1024
"""Bound of a result's parts, as JSON: with the last text again, they are one event."""

MAX_TEXT_BYTES: Final = 40 * 1024
"""What a result has of its text, where all of it would be too much."""

MAX_SAID_BYTES: Final = 64 * 1024
"""Bound of what is told of one tool's input or result."""

MAX_WHOLE_BYTES: Final = 128 * 1024
"""Bound of a text that is told again, as a whole, where it ends."""

TEXT: Final = "text"
THINKING: Final = "thinking"
TOOL: Final = "tool"

# As of a request's body.
_MAX_DEPTH: Final = 64

_INTEGERS: Final = range(-(2**63), 2**64)


class Parts:
    """The parts of a turn, in the order they began: what a result has, and the next turn's
    history. Events of other types are passed over.
    """

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Any]] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._chunks: dict[str, list[str]] = {}

    def add(self, type: str, told: Mapping[str, Any]) -> None:
        """Take the next event. What is no event of ours changes nothing."""
        step = _STEPS.get(type)
        if step is not None:
            step(self, told)

    def chunks(self, part: str) -> list[str]:
        """Where the chunks of a text are gathered, for whoever has no time to `add` each."""
        return self._chunks.setdefault(part, [])

    def all(self) -> list[dict[str, Any]]:
        """As a run's result has them. A call that nothing ended has no `status`."""
        return [self._whole(part) for part in self._parts.values()]

    def text(self, iteration: int) -> str:
        """All text of an iteration."""
        return "".join(
            "".join(self._chunks.get(part["part"], ()))
            for part in self._parts.values()
            if part["type"] == TEXT and agent.iteration(part["part"]) == iteration
        )

    def _whole(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == TOOL:
            return dict(part)
        return {**part, "text": "".join(self._chunks.get(part["part"], ()))}

    def _begin_text(self, told: Mapping[str, Any]) -> None:
        self._begin(TEXT, told)

    def _begin_thinking(self, told: Mapping[str, Any]) -> None:
        self._begin(THINKING, told)

    def _begin(self, type: str, told: Mapping[str, Any]) -> None:
        part = str(told.get("part"))
        self._parts.setdefault(part, {"type": type, "part": part})

    def _chunk(self, told: Mapping[str, Any]) -> None:
        self.chunks(str(told.get("part"))).append(str(told.get("chunk", "")))

    def _call(self, told: Mapping[str, Any]) -> None:
        part, id_ = str(told.get("part")), str(told.get("id"))
        made = {"type": TOOL, "part": part, "id": id_, "name": str(told.get("name"))}
        self._calls[id_] = self._parts.setdefault(part, made)

    def _ready(self, told: Mapping[str, Any]) -> None:
        call = self._calls.get(str(told.get("id")))
        if call is not None:
            call["input"] = told.get("input")

    def _progress(self, told: Mapping[str, Any]) -> None:
        call, status = self._calls.get(str(told.get("id"))), told.get("status")
        if call is not None and status in _SAYS:
            call["status"] = status
            call[_SAYS[status]] = told.get(_SAYS[status])
            if told.get("truncated"):
                call["truncated"] = True


_SAYS: Final = {agent.COMPLETED: "result", agent.FAILED: "error"}

_STEPS: Final = {
    agent.TEXT_START: Parts._begin_text,  # noqa: SLF001 - the table of the class above
    agent.THINKING_START: Parts._begin_thinking,  # noqa: SLF001
    agent.TEXT_CHUNK: Parts._chunk,  # noqa: SLF001
    agent.THINKING_CHUNK: Parts._chunk,  # noqa: SLF001
    agent.TOOL_DETECTED: Parts._call,  # noqa: SLF001
    agent.TOOL_READY: Parts._ready,  # noqa: SLF001
    agent.TOOL_PROGRESS: Parts._progress,  # noqa: SLF001
}


def folded(events: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The parts that (type, payload) events make."""
    parts = Parts()
    for type_, told in events:
        parts.add(type_, told)
    return parts.all()


# --- bounds --------------------------------------------------------------------------------


def size(value: Any) -> int:
    """How many bytes of JSON a value has."""
    return len(to_json(value))


def bounded(parts: list[dict[str, Any]], most: int = MAX_BYTES) -> list[dict[str, Any]]:
    """Parts of at most `most` bytes: first the largest results and inputs of tools are left out
    (`omitted`: true), then thoughts, then texts are cut (`truncated`: true). All of it stays in
    the log.
    """
    over = size(parts) - most
    if over <= 0:
        return parts
    kept = [dict(part) for part in parts]
    for keys in (("result", "error"), ("input",)):
        for part, key in _largest(kept, keys):
            if over <= 0:
                return kept
            over -= size(part[key])
            # An input is always there.
            part[key] = {} if key == "input" else None
            part["omitted"] = True
    for type_ in (THINKING, TEXT):
        texts = [part for part in kept if part["type"] == type_]
        for part in texts:
            if size(kept) <= most:
                return kept
            share = 0 if type_ == THINKING else MAX_TEXT_BYTES // len(texts)
            part["text"], part["truncated"] = cut(part["text"], share), True
    # Names alone: a turn of thousands of calls.
    while size(kept) > most:
        del kept[: len(kept) // 2 + 1]
    return kept


def _largest(
    parts: list[dict[str, Any]], keys: tuple[str, ...]
) -> list[tuple[dict[str, Any], str]]:
    found = [(part, key) for part in parts for key in keys if part.get(key)]
    return sorted(found, key=lambda one: -size(one[0][one[1]]))


def repeated(text: str) -> dict[str, str]:
    """What the end of a text says of all of it: nothing, where it is too much to be said again."""
    # The first look spares the second: no character has less than a byte.
    is_short = len(text) <= MAX_WHOLE_BYTES and size(text) <= MAX_WHOLE_BYTES
    return {"text": text} if is_short else {}


def cut(text: str, most: int) -> str:
    """As much of a text's beginning as has at most `most` bytes in UTF-8."""
    encoded = carried(text).encode()
    return text if len(encoded) <= most else encoded[:most].decode(errors="ignore")


def cut_short(value: Any, most: int = MAX_SAID_BYTES) -> tuple[Any, bool]:
    """A value to be told, and whether it was cut: then it is the beginning of its text."""
    if size(value) <= most:
        return value, False
    text, share = agent.text_of(value), most - 2
    # Beside its quotes. What JSON escapes has up to six times as many bytes there.
    while size(shortened := cut(text, share)) > most:
        share //= 2
    return shortened, True


def sayable(value: Any, depth: int = 0) -> Any:
    """A value made of JSON's own types as an event can carry it: without lone surrogates, without
    numbers that few readers take, and without what is nested too deeply to be written.
    """
    if depth > _MAX_DEPTH:
        return "…"
    match value:
        case str():
            return carried(value)
        case bool() | None:
            return value
        case int():
            return value if value in _INTEGERS else float(value) if abs(value) < 2**1000 else None
        case float():
            return value
        case Mapping():
            return {carried(str(key)): sayable(one, depth + 1) for key, one in value.items()}
        case list() | tuple():
            return [sayable(one, depth + 1) for one in value]
        case _:
            return carried(str(value))


def parsed(written: str | Mapping[str, Any] | None) -> Any:
    """A call's input as a model wrote it: an object; the text, where it is none."""
    if not written:
        return {}
    if not isinstance(written, str):
        return sayable(written)
    try:
        value = json.loads(written)
        return sayable(value) if isinstance(value, dict) else carried(written)
    except (ValueError, RecursionError):
        return carried(written)
