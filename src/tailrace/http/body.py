"""A request's body: bounded, and JSON that means the same to every reader of it.

What is refused here would otherwise come back as something else. NaN and 1e999 are stored
as null, a number beyond 64 bits is rounded, a key that stands twice has two meanings
(RFC 8259 §4), a lone surrogate has no UTF-8, and JSON that is nested too deeply can be
read but not written again.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final

import orjson
from starlette.requests import Request

from tailrace.errors import BodyNotJson, BodyTooLarge, InputInvalid
from tailrace.protocol.wire import JSON, MAX_BODY_BYTES

MAX_DEPTH: Final = 64
"""How deeply arrays and objects may be nested."""

_LARGE: Final = 64 * 1024
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1


async def admit(request: Request, *, needs_json: bool) -> None:
    """Read the body, check it, and keep it where the endpoint will look for it.

    Raises BodyNotJson, BodyTooLarge, InputInvalid.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if needs_json and media_type != JSON:
        declared = f"declared as {media_type[:80]!r}" if media_type else "not declared"
        raise BodyNotJson(
            f"The request body is {declared}, and must be JSON.",
            fix=f"Send JSON with Content-Type: {JSON}.",
        )
    body = await _read(request)
    # Where Starlette's Request keeps what it has read, and looks first.
    request._body = body  # noqa: SLF001
    if needs_json:
        # A hostile megabyte takes a third of a second; nobody else shall wait for it.
        value = decode(body) if len(body) < _LARGE else await asyncio.to_thread(decode, body)
        request._json = value  # noqa: SLF001


async def _read(request: Request) -> bytes:
    """All of the body, but no further than the bound, whatever Content-Length claims."""
    declared = request.headers.get("content-length", "")
    # Not waited for: whoever sent `Expect: 100-continue` has not even begun.
    if _DIGITS.fullmatch(declared) and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(chunk)
    return b"".join(parts)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body exceeds {MAX_BODY_BYTES:,} bytes.",
        fix="Send less, or a link to it; events may come in several requests.",
    )


def decode(body: bytes) -> Any:
    """The value of a JSON text. Raises InputInvalid."""
    if not body.strip():
        raise InputInvalid("The request body is empty.", fix="Send a JSON object; see /docs.")
    try:
        # The strict one reads first: what it refuses is no JSON, or cannot be stored.
        orjson.loads(body)
        value = json.loads(body, object_pairs_hook=_unique, parse_int=_whole)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        if "depth" in str(error):
            raise _too_deep() from None
        raise InputInvalid(
            f"The request body is not JSON that can be kept: {error}.",
            fix="Send what a strict JSON encoder writes, in UTF-8: no NaN, no lone surrogates.",
        ) from None
    if _depth_exceeds(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _too_deep() -> InputInvalid:
    return InputInvalid(
        f"The request body is nested more than {MAX_DEPTH} levels deep.",
        fix="Send a flatter structure, or the deep part as a string.",
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InputInvalid(
                f"The key {name[:80]!r} stands more than once in one JSON object.",
                fix="Send each key once.",
            )
        found[name] = value
    return found


def _whole(digits: str) -> int:
    number = int(digits)
    if not _LEAST <= number <= _MOST:
        raise InputInvalid(
            f"The number {digits[:40]}{'…' * (len(digits) > 40)} has more than 64 bits.",
            fix="Send it as a string.",
        )
    return number


def _depth_exceeds(value: Any, bound: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(bound):
        level = [
            inner
            for node in level
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
    return bool(level)
