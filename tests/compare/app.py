"""The app that is compared: the same generators, told by the library that COMPARE_LIBRARY names.

What a generator goes through it writes into the file COMPARE_DIARY, which outlives the server.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import anyio
from fastapi import Body, Depends, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.compare.table import ORIGIN
from tests.compare.telling import (
    LIBRARY,
    answered,
    app,
    denial,
    event,
    foreign,
    made,
    parameters,
    resumable,
)

DIARY = os.environ["COMPARE_DIARY"]
MIDDLEWARE = os.environ.get("COMPARE_MIDDLEWARE", "")


def note(words: str) -> None:
    """Write a line that whoever measures reads."""
    with open(DIARY, "a", encoding="utf-8") as diary:  # noqa: PTH123 - of a loop that is ending
        diary.write(f"{words}\n")


class Point(BaseModel):
    """Something that is told as JSON."""

    x: int


# --- what may be yielded -------------------------------------------------------------------------

FORGED = "one\ndata: forged\n\n"

ITEMS: dict[str, Callable[[], Any]] = {
    "text": lambda: "hi",
    "bytes": lambda: b"data: hi\n\n",
    "fields": lambda: {"data": "hi", "event": "x"},
    "mapping": lambda: {"a": 1},
    "event": lambda: event("hi", event="x", id="7", retry=100, comment="c"),
    "foreign": lambda: foreign("hi", event="x"),
    "model": lambda: Point(x=1),
    "number": lambda: 7,
    "none": lambda: None,
    "nan": lambda: {"data": {"a": float("nan")}},
    "lines": lambda: event("a\nb\r\nc\rd"),
    "separators": lambda: event("a\u2028b\u0085c\x0bd\x0ce"),
    "trailing": lambda: event("a\n"),
    "type": lambda: event(None, event="x"),
    "forged-type": lambda: event("hi", event=FORGED),
    "forged-id": lambda: event("hi", id=FORGED),
    "forged-comment": lambda: event("hi", comment=FORGED),
    "nul": lambda: event("hi", id="a\0b"),
}


@answered("/item")
async def item(kind: str) -> AsyncIterator[Any]:
    yield ITEMS[kind]()


@answered("/typed", as_class=True)
async def typed() -> AsyncIterable[Point]:
    yield event("hi")
    yield Point(x=1)


@answered("/checked", as_class=True)
async def checked() -> AsyncIterable[Point]:
    wrong: Any = "no point"
    yield wrong


# --- heads ---------------------------------------------------------------------------------------


async def waits(mark: str) -> AsyncIterator[Any]:
    note(f"{mark} begun")
    try:
        await asyncio.Event().wait()
        yield "never"
    except BaseException as error:
        note(f"{mark} {type(error).__name__}")
        raise
    finally:
        note(f"{mark} finally")


answered("/waiting", methods=("GET", "HEAD"))(waits)
answered("/dressed", status=203, headers={"x-own": "1", "cache-control": "max-age=5"})(waits)
answered("/ping-often", ping=1)(waits)
answered("/ping-never", ping=0)(waits)
answered("/ping-own", ping=1, ping_message_factory=lambda: event("own", event="ping"))(waits)


@answered("/post", methods=("POST",))
async def posted(body: Annotated[dict[str, Any], Body()]) -> AsyncIterator[Any]:
    for number in body["numbers"]:
        yield event(str(number))


@answered("/one")
async def one(mark: str = "one") -> AsyncIterator[Any]:
    """An event with an id, and then nothing more."""
    try:
        yield event("hi", id="1")
        await asyncio.Event().wait()
    except BaseException as error:
        note(f"{mark} {type(error).__name__}")
        raise
    finally:
        note(f"{mark} finally")


answered("/one-often", ping=1)(one)


@answered("/steady", ping=1)
async def steady() -> AsyncIterator[Any]:
    for _ in range(25):
        yield event("tick")
        await asyncio.sleep(0.1)


# --- lives ---------------------------------------------------------------------------------------


@answered("/closing")
async def closing(mark: str) -> AsyncIterator[Any]:
    """With something to put away, which takes a moment."""
    try:
        yield event("hi")
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)
        note(f"{mark} put away")


def seconds(mark: str, count: int, pause: float = 0.5) -> Iterator[Any]:
    """As somebody writes it who has only blocking calls."""
    try:
        for number in range(count):
            yield event(str(number))
            time.sleep(pause)
    finally:
        note(f"{mark} finally")


answered("/blocking")(seconds)


@app.get("/unrelated")
def unrelated() -> dict[str, bool]:
    return {"answered": True}


@answered("/failing")
async def failing(count: int) -> AsyncIterator[Any]:
    for number in range(count):
        yield event(str(number))
    raise ZeroDivisionError


def opened(mark: str) -> Iterator[str]:
    note(f"{mark} opened")
    yield "session"
    note(f"{mark} closed")


@answered("/depending")
async def depending(mark: str, session: Annotated[str, Depends(opened)]) -> AsyncIterator[Any]:
    yield event(session)
    await asyncio.sleep(0.05)
    note(f"{mark} used")


answered("/after", after=lambda: note("after: it ran"))(seconds)
answered("/after-leaving", after=lambda: note("after-leaving: it ran"))(one)


async def forever(mark: str, size: int = 100, pause: float = 0.0) -> AsyncIterator[Any]:
    """Never waits for anything, unless it is told to."""
    text = "x" * size
    try:
        while True:
            yield event(text)
            if pause:
                await asyncio.sleep(pause)
    finally:
        note(f"{mark} finally")


answered("/forever")(forever)
answered("/forever-bounded", send_timeout=1)(forever)


@answered("/rush")
async def rush(count: int) -> AsyncIterator[Any]:
    text = "x" * 100
    for _ in range(count):
        yield text


@answered("/tokens")
async def tokens(count: int) -> AsyncIterator[Any]:
    text = "x" * 100
    for number in range(count):
        yield text
        if number % 10 == 9:
            await asyncio.sleep(0.01)


def goodbye() -> tuple[Any, dict[str, Any]]:
    """A generator that is told, and the options that tell it."""
    going = anyio.Event()

    async def parting() -> AsyncIterator[Any]:
        yield event("hi")
        await going.wait()
        yield event("goodbye")

    return parting(), {"shutdown_event": going, "shutdown_grace_period": 2}


made("/goodbye", goodbye)


# --- coming back ---------------------------------------------------------------------------------


async def ten(mark: str) -> AsyncIterator[Any]:
    """Ten numbers, a moment between each two."""
    note(f"{mark} begun")
    for number in range(1, 11):
        yield event(str(number), id=str(number))
        note(f"{mark} {number}")
        await asyncio.sleep(0.05)


resumable("/ten", ten)
app.add_api_websocket_route("/socket", denial("refused"))


# --- about itself --------------------------------------------------------------------------------


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"library": LIBRARY}


@app.get("/parameters")
async def offered() -> list[str]:
    return sorted(parameters(LIBRARY))


@app.get("/tasks")
async def tasks() -> dict[str, int]:
    return {"tasks": len(asyncio.all_tasks())}


class Passed:
    """Middleware of Starlette's other kind, which has a task of its own for what is within."""

    async def __call__(self, request: Request, go_on: Callable[[Request], Awaitable[Any]]) -> Any:
        return await go_on(request)


def _within(inner: ASGIApp) -> ASGIApp:
    match MIDDLEWARE:
        case "base":
            return BaseHTTPMiddleware(inner, dispatch=Passed())
        case "gzip":
            return GZipMiddleware(inner, minimum_size=1)
        case "cors":
            return CORSMiddleware(inner, allow_origins=[ORIGIN])
        case _:
            return inner


_served = _within(app)


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    """What the server runs."""
    await _served(scope, receive, send)
