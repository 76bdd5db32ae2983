"""Problem documents (RFC 9457): what went wrong, why, and what to do, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tailrace.errors import InputInvalid, TailraceError

# What is echoed is the caller's: a document must not become as large as what it refuses.
MAX_DETAIL: Final = 1000
MAX_ERRORS: Final = 20
MAX_WHERE: Final = 40
_MAX_WHAT: Final = 200
_MAX_SAID: Final = 10_000


def document(error: TailraceError) -> dict[str, Any]:
    """The members of a problem document."""
    details = dict(error.details)
    if isinstance(error, InputInvalid) and "errors" in details:
        details["errors"] = [_bounded(e) for e in details["errors"][:MAX_ERRORS]]
    return {
        **details,
        "type": f"urn:tailrace:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": shortened(str(error), MAX_DETAIL),
        "fix": error.fix,
    }


def said(error: BaseException) -> str:
    """What an exception says, in at most 10,000 characters that JSON can carry."""
    try:
        return carried(str(error)[:_MAX_SAID])
    except Exception:  # noqa: BLE001 - somebody else's __str__
        return ""


def carried(text: str) -> str:
    """A text without what JSON cannot carry: names of files may hold bytes that are no UTF-8,
    and lone surrogates stand for them.
    """
    return text.encode(errors="replace").decode()


def shortened(text: str, bound: int) -> str:
    """At most `bound` characters of a text, with a mark where some are missing."""
    return text if len(text) <= bound else f"{text[: bound - 1]}…"


def _bounded(error: Mapping[str, Any]) -> dict[str, str]:
    return {
        "where": shortened(str(error.get("where", "")), MAX_WHERE),
        "what": shortened(str(error.get("what", "")), _MAX_WHAT),
    }
