"""What a watcher asks for, read off the request and checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tailrace.errors import FormatUnknown, InputInvalid
from tailrace.projections import STREAMS, Projection, stream
from tailrace.projections.contract import Types
from tailrace.protocol.cursor import LATEST, Cursor, parse
from tailrace.protocol.wire import EVENT_STREAM, JSON, LAST_EVENT_ID, NDJSON

_MEDIA: Final = {EVENT_STREAM: "events", NDJSON: "ndjson", JSON: "json"}
_TYPES: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}(,[A-Za-z][A-Za-z0-9_.:/-]{0,63}){0,31}")

MAX_PAGE: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A watcher's wishes. `projection` is None for a page of JSON."""

    cursor: Cursor | str
    projection: Projection | None
    types: Types
    speed: float | None
    tick: float | None
    limit: int


def asked(headers: Mapping[str, str], query: Mapping[str, str]) -> Asked:
    """Read the request. Raises CursorMalformed, FormatUnknown, InputInvalid."""
    return Asked(
        cursor=_cursor(headers, query),
        projection=_projection(query.get("format") or _preferred(headers.get("accept", ""))),
        types=_types(query.get("types")),
        speed=_number(query, "speed", 0.01, 1000),
        tick=_number(query, "tick", 0.25, 3600),
        limit=int(_number(query, "limit", 1, MAX_PAGE) or 1000),
    )


def _cursor(headers: Mapping[str, str], query: Mapping[str, str]) -> Cursor | str:
    # The header wins: a browser that reconnects sends both, and `after` is the older one.
    text = headers.get(LAST_EVENT_ID) or query.get("after") or "0"
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


def _preferred(accept: str) -> str:
    """The format an Accept header prefers (RFC 9110 §12.5.1): by q, then as listed."""
    ranked: list[tuple[float, str]] = []
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if weight > 0:
            ranked.append((-weight, media))
    for _, media in sorted(ranked, key=lambda rank: rank[0]):
        if media in ("", "*/*", "text/*"):
            return "events"
        if media == "application/*":
            return "json"
        if media in _MEDIA:
            return _MEDIA[media]
    raise FormatUnknown(
        f"Nothing offered is acceptable to {accept[:120]!r}.",
        fix=f"Accept one of {', '.join(_MEDIA)}, or use ?format={'|'.join(STREAMS)}|json.",
    )


def _types(text: str | None) -> Types:
    if text is None:
        return None
    if _TYPES.fullmatch(text) is None:
        raise InputInvalid(
            f"types={text[:80]!r} is not a list of event types.",
            fix="Give up to 32 names with commas between them: ?types=progress,log",
        )
    return frozenset(text.split(","))


def _number(query: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise InputInvalid(
            f"{name}={text[:40]!r} is not a number from {low:g} to {high:g}.",
            fix=f"Leave {name} out, or give such a number.",
        )
    return number
