from __future__ import annotations

import asyncio

import pytest

from tailrace.protocol.sse import ServerSentEvent
from tailrace.testing.reading import Reading, StreamEvent, clipped, listed

pytestmark = pytest.mark.anyio


class Told(Reading):
    """Tells what it has, and then nothing more, or never anything."""

    def __init__(self, *events: StreamEvent, ends: bool = True, within: float = 5.0) -> None:
        super().__init__(within)
        self.events = [*events]
        self.bounds: list[float] = []
        self._left = [*events]
        self._ends = ends

    async def read(self, within: float) -> StreamEvent | None:
        self.bounds.append(within)
        await asyncio.sleep(0)
        if self._left:
            return self._left.pop(0)
        if not self._ends:
            raise TimeoutError
        return None

    def story(self) -> str:
        return listed(self.events)


def event(type: str, data: str = "{}", id: str = "") -> StreamEvent:
    return StreamEvent(type, data, id)


ONE, TWO, DONE = event("row", '{"n":1}', "1"), event("row", '{"n":2}', "2"), event("done", "", "3")


# --- an event --------------------------------------------------------------------------


def test_an_event_has_its_json() -> None:
    assert ONE.json == {"n": 1}
    assert isinstance(ONE, ServerSentEvent)
    assert event("row", '{"n":1}', "1") == ONE != TWO
    assert str(ONE) == '1: row {"n":1}'
    assert str(event("row", "a\nb")) == "row a\\nb"


def test_data_that_is_no_json_says_so() -> None:
    with pytest.raises(AssertionError, match="'done' event is no JSON: hello"):
        assert event("done", "hello").json


# --- reading ---------------------------------------------------------------------------


async def test_events_are_read_one_by_one() -> None:
    told = Told(ONE, TWO, DONE)
    assert await told.next() == ONE
    assert [one async for one in told] == [TWO, DONE]


async def test_until_a_type_or_whatever_is_true() -> None:
    told = Told(ONE, TWO, DONE)
    assert await told.until(lambda one: one.json["n"] == 2) == TWO
    assert await told.until("done") == DONE


async def test_a_stream_that_is_over_shows_what_came() -> None:
    told = Told(ONE)
    await told.next()
    with pytest.raises(AssertionError, match=r"(?s)is over.*1: row \{\"n\":1\}"):
        await told.next()
    with pytest.raises(AssertionError, match=r"(?s)ended, and no 'done' came.*1: row"):
        await Told(ONE).until("done")
    with pytest.raises(AssertionError, match="no event as it was wanted came"):
        await Told(ONE).until(lambda _: False)


async def test_what_does_not_come_in_time_shows_what_came() -> None:
    told = Told(ONE, ends=False, within=0.5)
    await told.next()
    with pytest.raises(AssertionError, match=r"(?s)In 0.5 s no event came.*1: row"):
        await told.next()
    with pytest.raises(AssertionError, match="In 3 s no 'done' came"):
        await told.until("done", 3)
    with pytest.raises(AssertionError, match="neither an event nor the end"):
        await anext(told)


async def test_a_bound_is_for_all_of_a_wait() -> None:
    told = Told(*[ONE] * 5, DONE, within=2.0)
    await told.until("done")
    assert told.bounds == sorted(told.bounds, reverse=True)
    assert 0 < told.bounds[-1] < told.bounds[0] <= 2.0
    told = Told(ONE, within=2.0)
    await told.next(7)
    assert told.bounds == [7]


# --- showing ---------------------------------------------------------------------------


def test_much_is_shown_in_part() -> None:
    assert clipped("x" * 101) == "x" * 100 + "…"
    assert clipped("x" * 100) == "x" * 100
    assert listed([]) == "  no event"
    assert listed([1, 2]) == "  1\n  2"
    assert listed(range(12)).startswith("  … 2 more\n  2\n")
