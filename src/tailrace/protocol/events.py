"""The event vocabulary: what an event is, which types have meaning, what may be emitted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

from tailrace.errors import EventInvalid, EventTooLarge

START: Final = "start"
STATUS: Final = "status"
PROGRESS: Final = "progress"
LOG: Final = "log"
OUTPUT: Final = "output"
RESULT: Final = "result"
MESSAGE: Final = "message"
COMPLETE: Final = "complete"
ERROR: Final = "error"
CANCELLED: Final = "cancelled"

GAP: Final = "gap"
RESET: Final = "reset"
TICK: Final = "tick"

TERMINAL_TYPES: Final = frozenset({COMPLETE, ERROR, CANCELLED})
# Never stored, never numbered: an id on one of them would let a client resume from it.
CONTROL_TYPES: Final = frozenset({GAP, RESET, TICK})

MAX_EVENT_BYTES: Final = 256 * 1024
"""Bound of one event's JSON, in bytes."""

_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that has no number yet: a type, and its payload as one line of JSON."""

    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One immutable record of a run. `data` is a JSON object on one line."""

    seq: int
    type: str
    data: bytes

    @property
    def payload(self) -> dict[str, Any]:
        """The decoded object."""
        return cast("dict[str, Any]", orjson.loads(self.data))

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self.type in TERMINAL_TYPES


def stamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds: 2026-11-20T09:30:00.000Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(stamped: str) -> float | None:
    """The reverse of `stamp`; None for text that is no time."""
    try:
        return datetime.fromisoformat(stamped).timestamp()
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    """What orjson does not know: models become their fields, sets become lists."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def loads(stored: bytes | None) -> Any:
    """Stored JSON as a value; None where nothing was stored."""
    return None if stored is None else orjson.loads(stored)


def to_json(value: Any) -> bytes:
    """Any value as one line of JSON. Raises EventInvalid for what JSON cannot say."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:
        pass
    try:
        # Slower for the usual keys, so only where a key is no string.
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError) as error:
        raise EventInvalid(
            f"The payload cannot be written as JSON: {error}.",
            fix="Emit numbers, strings, lists, dicts, dataclasses, datetimes or pydantic models.",
        ) from None


def _check(type: object) -> None:
    """Raises EventInvalid for what is not an event type."""
    if not isinstance(type, str) or _TYPE.fullmatch(type) is None:
        raise EventInvalid(
            f"{str(type)[:80]!r} is not an event type.",
            fix="Use a letter, then at most 63 letters, digits, or any of _ . : / -",
        )


def draft(type: str, payload: Any, at: float, *, limit: int = MAX_EVENT_BYTES) -> Draft:
    """Make an event of anything a producer may emit.

    A mapping is the payload as it is; any other value becomes `{"value": …}`. A
    `timestamp` (when it was emitted) is added unless the payload brings its own.
    Raises EventInvalid for a type outside the grammar or a payload JSON cannot say, and
    EventTooLarge beyond `limit` bytes.
    """
    _check(type)
    body = payload if isinstance(payload, Mapping) else {"value": payload}
    if "timestamp" not in body:
        body = {**body, "timestamp": stamp(at)}
    data = to_json(body)
    if b"\n" in data or b"\r" in data:
        # Only an orjson.Fragment can bring one in; it would end the frame it is sent in.
        raise EventInvalid(
            f"The {type!r} event's JSON has a raw line break.",
            fix="Write fragments of JSON on one line.",
        )
    if len(data) > limit:
        raise EventTooLarge(
            f"The {type!r} event has {len(data):,} bytes of JSON; the limit is {limit:,}.",
            fix="Split it into several events, or store it elsewhere and emit a link.",
        )
    return Draft(type, data)


def emitted(type: str, payload: Any, at: float, *, limit: int = MAX_EVENT_BYTES) -> Draft:
    """`draft`, for producers: they may not end a run, nor forge a control frame."""
    _check(type)
    if type in TERMINAL_TYPES:
        raise EventInvalid(
            f"A run's {type!r} event is written by Tailrace itself, exactly once.",
            fix="Return a value to complete, raise to fail, or emit a 'result' event.",
        )
    if type in CONTROL_TYPES:
        raise EventInvalid(
            f"{type!r} is a control frame of the stream and is never stored.",
            fix="Choose another event type.",
        )
    return draft(type, payload, at, limit=limit)
