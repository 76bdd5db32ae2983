"""A request's body: bounded, and JSON that means the same to every reader of it.

What is refused here would otherwise come back as something else. NaN and 1e999 are stored
as null, a number beyond 64 bits is rounded, a key that stands twice has two meanings
(RFC 8259 §4), a lone surrogate has no UTF-8, and JSON that is nested too deeply can be
read but not written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tailrace.errors import BodyNotJson, BodyTooLarge, InputInvalid, TooManyRequests
from tailrace.perloop import PerLoop
from tailrace.protocol.wire import JSON, MAX_BODY_BYTES

SMALL_BYTES: Final = 4 * 1024
"""The bound of a body in which nothing is expected, or nothing long."""

MAX_BYTES_AT_ONCE: Final = 64 * 1024 * 1024
"""How much of bodies may be kept at one time. Small ones have their place beyond it, so that who
fills it does not keep others from cancelling."""

BODY_SECONDS: Final = 30.0
"""How long a body may take, and one second more for each 64 KiB that it may have."""

MAX_DEPTH: Final = 64
"""How deeply arrays and objects may be nested."""

# Of routes, which may have a prefix, with a bound of their own.
_BOUNDS: Final = {"/run_file": 256 * 1024, "/tickets": SMALL_BYTES}

_LARGE: Final = 64 * 1024
_BYTES_PER_SECOND: Final = 64 * 1024
_FULL_SECONDS: Final = 5
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1


class _Bodies(PerLoop):
    """Those that are being read, or worked on."""

    def __init__(self) -> None:
        self.held = 0
        # A hostile megabyte keeps the interpreter for a tenth of a second, in a thread as well:
        # between two of them others have a turn.
        self.decoding = asyncio.Semaphore()


def bound(path: str, *, needs_json: bool) -> int:
    """How many bytes a body of the route `path` may have."""
    for known, most in _BOUNDS.items():
        if path.endswith(known):
            return most
    return MAX_BODY_BYTES if needs_json else SMALL_BYTES


@contextlib.asynccontextmanager
async def admitted(request: Request, most: int, *, needs_json: bool) -> AsyncIterator[None]:
    """Read a body of at most `most` bytes, check it, and keep it where the endpoint will look for
    it, as long as that is at work.

    Raises BodyNotJson, BodyTooLarge, InputInvalid, TooManyRequests; HTTPException (408) for one
    that takes too long.
    """
    if needs_json:
        _declared(request)
    bodies = _Bodies.here()
    body = await _read(request, most, bodies)
    # Where Starlette's Request keeps what it has read, and looks first.
    kept = vars(request)
    kept["_body"] = body
    try:
        if needs_json:
            await _decoded(request, body)
        yield
    finally:
        bodies.held -= len(body)
        # A stream that answers it would keep it to its end.
        kept["_body"] = b""
        kept.pop("_json", None)


async def need_json(request: Request) -> None:
    """Check an admitted body as one of JSON. Raises BodyNotJson, InputInvalid."""
    _declared(request)
    await _decoded(request, await request.body())


def _declared(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        declared = f"declared as {media_type[:80]!r}" if media_type else "not declared"
        raise BodyNotJson(
            f"The request body is {declared}, and must be JSON.",
            fix=f"Send JSON with Content-Type: {JSON}.",
        )


async def _decoded(request: Request, body: bytes) -> None:
    if len(body) < _LARGE:
        value = decode(body)
    else:
        async with _Bodies.here().decoding:
            value = await asyncio.to_thread(decode, body)
    vars(request)["_json"] = value


async def _read(request: Request, most: int, bodies: _Bodies) -> bytes:
    """All of the body, but no further than the bound, whatever Content-Length claims. It counts
    among those that are held.
    """
    length = request.headers.get("content-length", "")
    declared = int(length) if _DIGITS.fullmatch(length) else most
    # Not waited for: whoever sent `Expect: 100-continue` has not even begun.
    if declared > most:
        raise _too_large(most)
    # One for all: of pieces of a byte each, a list would be thirty times as large.
    content = bytearray()
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS + declared / _BYTES_PER_SECOND):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    break
                if size > most:
                    # Read, and thrown away: whoever is cut off while sending may not see why.
                    bodies.held -= len(content)
                    content.clear()
                    continue
                content += chunk
                bodies.held += len(chunk)
                if size > SMALL_BYTES and bodies.held > MAX_BYTES_AT_ONCE:
                    raise _too_many()
        if size > most:
            raise _too_large(most)
    except BaseException as error:
        bodies.held -= len(content)
        if isinstance(error, TimeoutError):
            raise HTTPException(408, "The request body did not come to its end in time.") from None
        raise
    return bytes(content)


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body exceeds {most:,} bytes.",
        fix="Send less, or a link to it; events may come in several requests.",
    )


def _too_many() -> TooManyRequests:
    return TooManyRequests(
        "The server is reading as much of requests as it takes.",
        fix=f"Try again in {_FULL_SECONDS} s.",
        retry_after=_FULL_SECONDS,
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
