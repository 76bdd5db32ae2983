"""The lines by which a program, in any language, says what it wants to be sure of. Pure.

::progress 3/10 message        or 45% message, or 3 message
::log LEVEL message            debug, info, warning, error, critical
::result {"any": "JSON"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from tailrace.errors import EventInvalid
from tailrace.protocol.events import LOG, PROGRESS, RESULT, loads, to_json
from tailrace.runners.forms import DIGITS, number, shaped

Said = tuple[str, dict[str, Any]]
"""An event's type and its payload."""

LINE: Final = 16 * 1024
"""How much of a line is looked at, in characters."""

_MESSAGE: Final = 4 * 1024

MARKER: Final = re.compile(r"::(progress|log|result)(?:\s+(.*))?\Z", re.ASCII)
_AMOUNT: Final = re.compile(rf"({DIGITS})(?: ?/ ?({DIGITS})| ?(%))?(?:\s+(.*))?\Z", re.ASCII)
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def _amount(text: str) -> Said:
    found = _AMOUNT.match(text)
    if found is None:
        raise ValueError("that is no amount")
    told: dict[str, Any] = {"percent" if found[3] else "current": number(found[1])}
    if found[2]:
        told["total"] = number(found[2])
    if told.get("percent", 0) > 100:
        raise ValueError("that is more than all")
    return PROGRESS, shaped(told, None, found[4])


def _log(text: str) -> Said:
    level, _, message = text.partition(" ")
    level = {"warn": "warning"}.get(level.lower(), level.lower())
    if level not in _LEVELS:
        raise ValueError("that is no level")
    return LOG, {"level": level, "message": message.strip()[:_MESSAGE]}


def _result(text: str) -> Said:
    # orjson refuses NaN and 1e999, json keeps all digits of an integer; and then it must be
    # possible to write it again.
    loads(text.encode())
    payload = {"result": json.loads(text)}
    to_json(payload)
    return RESULT, payload


# How each is read, and how it should look for those who got it wrong.
_MARKERS: Final[dict[str, tuple[Callable[[str], Said], str]]] = {
    "progress": (_amount, "3/10 message, 45% message, or 3 message"),
    "log": (_log, f"LEVEL message, LEVEL being one of {', '.join(_LEVELS)}"),
    "result": (_result, f"JSON, on a line of at most {LINE:,} characters"),
}


def marked(word: str, text: str, fault: str = "") -> Said:
    """The event a marker stands for; a warning if it is not as it should be, or has a `fault`."""
    read, form = _MARKERS[word]
    try:
        if not fault:
            return read(text)
    except (ValueError, RecursionError, EventInvalid) as error:
        fault = str(error)[:200]
    why = f"::{word} {text[:80]} could not be read: {fault}"
    return LOG, {"level": "warning", "message": f"{why}. Write ::{word} {form}."}
