"""The event vocabulary: what an event is, which types have meaning, what may be emitted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast

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

# Types that were found good, so that the grammar is not asked for each event. Bounded,
# because a remote producer may think of a new one every time.
_KNOWN_TYPES: Final = 1024
_good: Final[set[str]] = set()
_emittable: Final[set[str]] = set()


class Draft(NamedTuple):
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


_new: Final = tuple.__new__


class _Millisecond(NamedTuple):
    """A stretch of time in which all stamps are the same."""

    start: float
    end: float
    text: str
    tail: bytes


# Replaced as a whole, never changed: whichever thread's is left over, it is right.
_latest = _Millisecond(0.0, 0.0, "", b"")


def _millisecond(seconds: float) -> _Millisecond:
    global _latest  # noqa: PLW0603
    latest = _latest
    if not latest.start <= seconds < latest.end:
        # Half a microsecond for what binary fractions lack: a stamp that was read is
        # written again as it was.
        number = math.floor(seconds * 1000 + 0.0005)
        whole, part = divmod(number, 1000)
        text = f"{datetime.fromtimestamp(whole, UTC).isoformat()[:-6]}.{part:03}Z"
        tail = b',"timestamp":"%b"}' % text.encode()
        latest = _Millisecond((number - 0.0005) / 1000, (number + 0.9995) / 1000, text, tail)
        _latest = latest
    return latest


def stamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds: 2026-11-20T09:30:00.000Z."""
    return _millisecond(seconds).text


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
        return orjson.dumps(value, _plain)
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
    _remember(type, _good)


def _remember(type: str, kind: set[str]) -> None:
    if len(kind) >= _KNOWN_TYPES:
        kind.clear()
    # A plain string: one of another class may not always be equal to itself.
    kind.add(str.__str__(type))


def draft(type: str, payload: Any, at: float, *, limit: int = MAX_EVENT_BYTES) -> Draft:
    """Make an event of anything a producer may emit.

    A mapping is the payload as it is; any other value becomes `{"value": …}`. A
    `timestamp` (when it was emitted) is added unless the payload brings its own.
    Raises EventInvalid for a type outside the grammar or a payload JSON cannot say, and
    EventTooLarge beyond `limit` bytes.
    """
    if type.__class__ is not str or type not in _good:
        _check(type)
    return _drafted(type, payload, at, limit)


def _drafted(type: str, payload: Any, at: float, limit: int) -> Draft:
    if payload.__class__ is dict:
        body = payload
    else:
        body = dict(payload) if isinstance(payload, Mapping) else {"value": payload}
    try:
        data = orjson.dumps(body, _plain)
    except TypeError:
        data = to_json(body)
    if "timestamp" not in body:
        # Cheaper than a copy of the payload with one key more.
        start, end, _, tail = _latest
        if not start <= at < end:
            tail = _millisecond(at).tail
        data = data[:-1] + tail if body else b"{" + tail[1:]
    if 10 in data or 13 in data:
        # LF or CR: only an orjson.Fragment can bring one in; it would end the frame it is
        # sent in. As numbers, because Python looks six times longer for b"\n".
        raise EventInvalid(
            f"The {type!r} event's JSON has a raw line break.",
            fix="Write fragments of JSON on one line.",
        )
    if len(data) > limit:
        raise EventTooLarge(
            f"The {type!r} event has {len(data):,} bytes of JSON; the limit is {limit:,}.",
            fix="Split it into several events, or store it elsewhere and emit a link.",
        )
    # Two thirds of what Draft(type, data) costs.
    return _new(Draft, (type, data))


def emitted(type: str, payload: Any, at: float, *, limit: int = MAX_EVENT_BYTES) -> Draft:
    """`draft`, for producers: they may not end a run, nor forge a control frame."""
    if type.__class__ is not str or type not in _emittable:
        _check_emitted(type)
    return _drafted(type, payload, at, limit)


def _check_emitted(type: str) -> None:
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
    _remember(type, _emittable)
