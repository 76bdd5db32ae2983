"""A generator that was made a run tells what it would have told without one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.sse import ServerSentEvent as FastApiEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from tailrace import EventSourceResponse, JSONServerSentEvent, ServerSentEvent, Tailrace
from tests.visitor import Visitor

LINE_ENDS = st.sampled_from(["", "\n", "\r", "\r\n", "\u2028", "\x85", "\0", " ", ":"])
TEXT = st.lists(st.text(max_size=5) | LINE_ENDS, max_size=5).map("".join)

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
KEYS = st.sampled_from(["value", "timestamp", "event", "data", "type", "a"]) | TEXT
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)

RESERVED = ["complete", "error", "cancelled", "gap", "reset", "tick", "start", "status", "message"]
OWN = ["progress", "log", "output", "result", "my event", " x", "\u00e9", "x" * 65, "", "a.b:c/d-e"]
NAMES = st.sampled_from(RESERVED + OWN) | st.text(
    st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=5
)
FIELDS: dict[str, Any] = {
    "event": NAMES,
    "id": st.sampled_from(["1", "x"]),
    "retry": st.integers(0, 10),
    "comment": TEXT.filter(lambda text: "\0" not in text),
}


def events(make: Callable[..., Any], told: Any) -> Any:
    return st.fixed_dictionaries({}, optional={"data": told, **FIELDS}).map(lambda f: make(**f))


def framed(name: str, text: str, end: str) -> bytes:
    return f"event: {name}{end}data: {text}{end}{end}".encode()


LINES = TEXT.map(lambda text: text.replace("\r", "").replace("\n", ""))
BYTES = st.builds(framed, NAMES, LINES, st.sampled_from(["\n", "\r\n", "\r"]))
# And what nobody frames well.
PIECES = st.sampled_from(
    [b"data: a", b"data: a\n", b"\n", b"\r", b"event: x\n", b"\xff", b": c\n", b""]
)


def is_no_event(item: Any) -> bool:
    """What has an event's fields is made below, of values that they may have."""
    return not isinstance(item, dict) or not item or not item.keys() <= {"data", "event"}


ITEMS = st.one_of(
    TEXT,
    JSON.filter(is_no_event),
    events(dict, JSON | st.binary(max_size=5)),
    events(ServerSentEvent, JSON),
    events(JSONServerSentEvent, JSON),
    st.builds(FastApiEvent, data=JSON, event=NAMES),
    BYTES,
    PIECES,
)


async def both(items: list[Any], *, is_plain: bool) -> tuple[list[Any], list[Any]]:
    runs = Tailrace("memory:")
    app = FastAPI()

    async def asynchronous() -> AsyncIterator[Any]:
        for item in items:
            yield item

    def plain() -> Iterator[Any]:
        yield from items

    made = plain if is_plain else asynchronous

    @app.get("/response")
    async def response() -> Response:
        return EventSourceResponse(made())

    @app.get("/run")
    async def run(request: Request) -> Response:
        return await runs.stream(made(), request)

    async with runs:
        told = [await Visitor(app).get(path) for path in ("/response", "/run")]
    assert [answer.status for answer in told] == [200, 200]
    first, second = ([(event.event, event.data) for event in answer.events] for answer in told)
    return first, second


@settings(max_examples=150, deadline=None)
@given(items=st.lists(ITEMS, max_size=5), is_plain=st.booleans())
def test_the_same_events(items: list[Any], is_plain: bool) -> None:
    response, run = asyncio.run(both(items, is_plain=is_plain))
    assert run == response
