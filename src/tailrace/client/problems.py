"""The refusals of a server as errors: problem documents (RFC 9457) read back. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from tailrace.errors import ServerUnreachable, StreamRefused, TailraceError
from tailrace.protocol.events import loads

__all__ = [
    "LONGEST_PAUSE",
    "MAX_PROBLEM_BYTES",
    "media_type",
    "problem",
    "refusal",
    "retry_after",
    "unreachable",
]

MAX_PROBLEM_BYTES: Final = 64 * 1024
"""How much of a refusal is read. What answers may be no server of ours, and endless."""

LONGEST_PAUSE: Final = 3600.0
"""The longest pause a server gets by asking, in seconds: it can send any number."""

_MEMBERS: Final = {"type", "title", "status", "detail", "instance", "code", "fix"}
# What an error's constructor takes already; a document must not collide with it.
_TAKEN: Final = _MEMBERS | {"self", "message"}

_FIXES: Final = {
    401: "Give the client a token that this server knows.",
    403: "Use a token that is allowed to do this.",
    404: "Check the address; a mounted server needs its prefix, such as /tailrace.",
    429: "Ask less often.",
}


def _by_code() -> dict[str, type[TailraceError]]:
    table: dict[str, type[TailraceError]] = {}
    todo: list[type[TailraceError]] = [TailraceError]
    while todo:
        kind = todo.pop()
        # Parents come first, so a kind without a code of its own never hides its parent.
        table.setdefault(kind.code, kind)
        todo += kind.__subclasses__()
    return table


_KINDS: Final = _by_code()


def unreachable(reason: str) -> ServerUnreachable:
    """The error for a server that gives no answer at all."""
    return ServerUnreachable(reason, fix="Start one with `tailrace serve`, or give --url.")


def problem(status: int, headers: Mapping[str, str], body: bytes) -> TailraceError:
    """The error that an answer other than 2xx tells of.

    A problem document (RFC 9457) whose `code` is known becomes the error class of that code
    with the server's text and fix. Anything else becomes a plain TailraceError, whose
    `details` have `status` and, where there is one, `code`.
    """
    document = _document(body)
    code = document.get("code")
    fix = str(document.get("fix") or "") or _fix(status, headers)
    message = str(document.get("detail") or document.get("title") or "")
    details = {name: value for name, value in document.items() if name not in _TAKEN}
    if isinstance(code, str) and code in _KINDS and message:
        # The second try is for kinds that bring their fix themselves, such as StateMoved.
        for arguments in ({"fix": fix, **details}, details):
            with contextlib.suppress(TypeError):
                return _KINDS[code](message, **arguments)
    details["status"] = status
    if code is not None:
        details["code"] = code
    return TailraceError(message or _said(status, headers, body), fix=fix, **details)


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> StreamRefused:
    """The same for a request for a stream: a StreamRefused with the problem's text and fix.

    `details` have the problem's own members, `status` among them; the error of the problem's
    `code` (RunUnknown, CursorFromFuture, …) is the `__cause__`.
    """
    cause = problem(status, headers, body)
    details = {**cause.details, "status": status}
    if (code := _document(body).get("code")) is not None:
        details["code"] = code
    error = StreamRefused(str(cause), fix=cause.fix, **details)
    error.__cause__ = cause
    return error


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _fix(status: int, headers: Mapping[str, str]) -> str:
    if 300 <= status < 400:
        return f"Use the address it points to: {headers.get('location', 'none given')}"
    return _FIXES.get(status, "Try again later." if status >= 500 else "")


def _said(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """What can be told of an answer that is no problem document."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    text = f"The server answered {status} {phrase}".rstrip()
    if media_type(headers) == "text/plain":
        # A proxy's own words. They end up in somebody's terminal: no escapes.
        words = body[:200].decode("utf-8", "replace").split()
        said = "".join(c for c in " ".join(words) if c.isprintable())
        text += f": {said}" if said else ""
    return text.rstrip(".") + "."


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of an answer, without parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def retry_after(text: str, wall_clock: float) -> float | None:
    """The seconds a `Retry-After` asks for (RFC 9110 §10.2.3); None for what is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max(date.timestamp() - wall_clock, 0.0), LONGEST_PAUSE)
