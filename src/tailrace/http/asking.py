"""What a watcher asks for, read off the request and checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers

from tailrace.errors import FormatUnknown, InputInvalid, RunUnknown
from tailrace.projections import STREAMS, Projection, stream
from tailrace.projections.contract import Types
from tailrace.protocol.cursor import LATEST, Cursor, parse
from tailrace.protocol.runs import check_run_id
from tailrace.protocol.wire import EVENT_STREAM, JSON, LAST_EVENT_ID, NDJSON

# In our own order of preference, which decides where a client has none.
_MEDIA: Final = {"events": EVENT_STREAM, "json": JSON, "ndjson": NDJSON}

TYPES: Final = r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}(,[A-Za-z][A-Za-z0-9_.:/-]{0,63}){0,31}"
FORMATS: Final = (*STREAMS, "json")
SPEEDS: Final = (0.01, 1000)
TICKS: Final = (0.25, 3600)
MAX_PAGE: Final = 10_000
DEFAULT_PAGE: Final = 1000

_TYPES: Final = re.compile(TYPES, re.ASCII)
# float() and int() would also take ١٢, 1_000, " 7 " and nan.
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,20})?", re.ASCII)
_WHOLE: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
# RFC 9110 §12.4.2.
_WEIGHT: Final = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A watcher's wishes. `projection` is None for a page of JSON."""

    cursor: Cursor | str
    projection: Projection | None
    types: Types
    speed: float | None
    tick: float | None
    limit: int


def asked(
    headers: Headers,
    query: Mapping[str, str],
    *,
    default: str = "events",
    offered: Collection[str] = _MEDIA,
    run: str | None = None,
    changes: bool = False,
) -> Asked:
    """Read the request; `default` is the format for whoever has no preference, `offered` are
    those that an Accept header can choose. `run`, `changes`: see `cursor`.

    Raises CursorMalformed, FormatUnknown, InputInvalid.
    """
    named = query.get("format")
    return Asked(
        cursor=cursor(query, headers.get(LAST_EVENT_ID), run, changes=changes),
        projection=_projection(_preferred(headers, default, offered) if named is None else named),
        types=_types(query.get("types")),
        speed=_number(query, "speed", *SPEEDS),
        tick=_number(query, "tick", *TICKS),
        limit=int(_number(query, "limit", 1, MAX_PAGE, _WHOLE) or DEFAULT_PAGE),
    )


def cursor(
    query: Mapping[str, str],
    last: str | None = None,
    run: str | None = None,
    *,
    changes: bool = False,
) -> Cursor | str:
    """Where to go on. Raises CursorMalformed.

    `last` is the header, which wins: a browser that reconnects sends both, and `after` is
    the older one. Empty is what a client sends that has nothing yet. An id may name the `run`
    that is asked for, as those of `begin` do. `changes`: another run may be at this address than
    was before, and whoever has an id of that one has nothing of this.
    """
    lead = f"{run}:"
    sent = [text.removeprefix(lead) for text in (last, query.get("after")) if text]
    found = [_elsewhere(text) if changes and ":" in text else _position(text) for text in sent]
    return found[0] if found else Cursor(0, 0)


def _elsewhere(text: str) -> Cursor:
    """Where whoever has had another run begins. Raises CursorMalformed, where it is no id."""
    name, _, position = text.partition(":")
    try:
        check_run_id(name)
    except RunUnknown:
        parse(text)
    parse(position)
    return Cursor(0, 0)


def _position(text: str) -> Cursor | str:
    return LATEST if text == LATEST else parse(text)


def _projection(name: str) -> Projection | None:
    if name == "json":
        return None
    if name == "output":
        raise FormatUnknown(
            "The output is not a format of the events.",
            fix="GET …/output streams a script's own bytes.",
        )
    return stream(name)


def _preferred(headers: Headers, default: str, offered: Collection[str]) -> str:
    """The format an Accept header prefers (RFC 9110 §12.5.1): by weight, then as listed."""
    accept = ",".join(headers.getlist("accept"))
    ranges = _ranges(accept)
    if not ranges:
        return default
    best: tuple[float, int] | None = None
    chosen = default
    for name in sorted(offered, key=lambda name: name != default):
        weight, place = _weighed(_MEDIA[name], ranges)
        if weight > 0 and (best is None or (-weight, place) < best):
            best, chosen = (-weight, place), name
    if best is None:
        raise FormatUnknown(
            f"Nothing offered is acceptable to {accept[:120]!r}.",
            fix=f"Accept one of {', '.join(_MEDIA.values())}, or use ?format={'|'.join(FORMATS)}.",
        )
    return chosen


def _ranges(accept: str) -> list[tuple[str, float]]:
    """Media ranges and their weights. A weight outside the grammar accepts nothing."""
    found: list[tuple[str, float]] = []
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media:
            weight = next((p for p in parameters if p.startswith("q=")), "q=1")
            match = _WEIGHT.fullmatch(weight)
            found.append((media, float(match[1]) if match else 0.0))
    return found


def _weighed(media: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of a media type and where it is listed: its most specific range decides."""
    listed = [name for name, _ in ranges]
    for name in (media, f"{media.partition('/')[0]}/*", "*/*"):
        if name in listed:
            place = listed.index(name)
            return ranges[place][1], place
    return 0.0, 0


def _types(text: str | None) -> Types:
    if text is None:
        return None
    if _TYPES.fullmatch(text) is None:
        raise InputInvalid(
            f"types={text[:80]!r} is not a list of event types.",
            fix="Give up to 32 names with commas between them: ?types=progress,log",
        )
    return frozenset(text.split(","))


def _number(
    query: Mapping[str, str],
    name: str,
    low: float,
    high: float,
    grammar: re.Pattern[str] = _DECIMAL,
) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    if grammar.fullmatch(text) is None or not low <= float(text) <= high:
        kind = "a whole number" if grammar is _WHOLE else "a number"
        raise InputInvalid(
            f"{name}={text[:40]!r} is not {kind} from {low:g} to {high:g}.",
            fix=f"Leave {name} out, or give such a number.",
        )
    return float(text)
