from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace import RunContext, Tailrace
from tailrace.client import WatchedEvent
from tailrace.protocol.events import Event
from tailrace.testing import StreamClient, StreamEvent, assert_events
from tests.waiting import soon

pytestmark = pytest.mark.anyio


def event(type: str, data: str = "{}") -> StreamEvent:
    return StreamEvent(type, data, "")


def told(types: str) -> list[StreamEvent]:
    return [event(one) for one in types.split()]


async def refusal(source: Any, expected: list[Any], **options: Any) -> str:
    with pytest.raises(AssertionError) as refused:
        await soon(assert_events(source, expected, **options))
    return str(refused.value)


# --- types, and anything in between --------------------------------------------------------


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ("", []),
        ("", [...]),
        ("a b", ["a", "b"]),
        ("a b c d", ["a", ..., "d"]),
        ("a d", ["a", ..., "d"]),
        ("a b a c", [..., "a", "c"]),
        ("a b a b a", [..., "b", "a"]),
        ("a b c", ["a", ...]),
        ("a", [..., ..., "a", ...]),
        ("a b c b d", ["a", ..., "b", "d"]),
    ],
)
async def test_what_is_as_expected(came: str, expected: list[Any]) -> None:
    await assert_events(told(came), expected)


@pytest.mark.parametrize(
    ("came", "expected", "why"),
    [
        ("a", [], "nothing more was expected"),
        ("", ["a"], "there was not more"),
        ("a c", ["a", "b"], "it was 'c', not 'b'"),
        ("a b", ["a"], "nothing more was expected"),
        ("a b", ["a", ..., "c"], "there was not more"),
        ("a b c", ["a", ..., "b"], "there was not more"),
        ("b", ["a", ...], "it was 'b', not 'a'"),
    ],
)
async def test_what_is_not(came: str, expected: list[Any], why: str) -> None:
    assert f"expected: {why}." in await refusal(told(came), expected)


# --- payloads ------------------------------------------------------------------------------

ROW = event("row", '{"n":3,"who":{"name":"ada","age":36},"tags":["x",{"y":1}],"timestamp":"t"}')


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"n": 3},
        {"n": ..., "who": {"name": "ada"}},
        {"tags": ["x", {}]},
        {"tags": [..., {"y": 1}]},
        {"tags": ("x", ...)},
        ...,
    ],
)
async def test_a_payload_holds_at_least_that(payload: Any) -> None:
    await assert_events([ROW], [("row", payload)])


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"n": 4}, "row.n is 3, not 4"),
        ({"m": 4}, "row has no 'm'"),
        ({"who": {"name": "bob"}}, 'row.who.name is "ada", not "bob"'),
        ({"who": "ada"}, 'row.who is {"name": "ada", "age": 36}, not "ada"'),
        ({"tags": ["x"]}, "row.tags has 2 elements, not 1"),
        ({"tags": ["x", {"y": 2}]}, "row.tags[1].y is 1, not 2"),
        ({"n": object}, "row.n is 3, not <class 'object'>"),
    ],
)
async def test_a_payload_that_does_not(payload: Any, why: str) -> None:
    assert why in await refusal([ROW], [("row", payload)])


async def test_data_may_be_text() -> None:
    await assert_events([event("message", "hello")], [("message", "hello")])
    await assert_events([event("message", "5")], [("message", "5")])
    await assert_events([event("message", "5")], [("message", 5)])
    assert 'message is "hello", not "bye"' in await refusal(
        [event("message", "hello")], [("message", "bye")]
    )


@pytest.mark.parametrize(
    "one",
    [
        Event(1, "log", b'{"message":"hi"}'),
        WatchedEvent("1", "log", {"message": "hi"}, '{"message":"hi"}'),
        event("log", '{"message":"hi"}'),
        {"id": "1", "type": "log", "data": {"message": "hi"}},
        {"event": "log", "data": '{"message":"hi"}'},
    ],
)
async def test_events_of_any_kind(one: Any) -> None:
    await assert_events([one], [("log", {"message": "hi"})])


@pytest.mark.parametrize("one", [3, "log", {"data": "x"}])
async def test_what_is_no_event_is_refused(one: Any) -> None:
    with pytest.raises(TypeError, match="is no event"):
        await assert_events([one], ["log"])


@pytest.mark.parametrize("expectation", [3, ("a", "b", "c")])
async def test_what_is_no_expectation_is_refused(expectation: Any) -> None:
    with pytest.raises(TypeError, match="is no expectation"):
        await assert_events(told("a"), [expectation])


# --- how a failure reads ---------------------------------------------------------------------


async def test_a_failure_shows_both() -> None:
    came = [event("start"), event("row", '{"n":1,"timestamp":"now"}'), event("done")]
    said = await refusal(came, ["start", ("row", {"n": 2}), ..., "done"])
    assert said == (
        "These are not the events that were expected: row.n is 1, not 2.\n"
        "expected:\n"
        "  start\n"
        '> row {"n": 2}\n'
        "  ...\n"
        "  done\n"
        "  (the end)\n"
        "came:\n"
        "  start {}\n"
        '> row {"n": 1}'
    )


async def test_a_failure_shows_how_far_it_came() -> None:
    said = await refusal(told("a b c"), ["a", ..., "b", ..., "x", "y"])
    assert said.splitlines()[1:] == [
        "expected:", "  a", "  ...", "  b", "  ...", "> x", "  y", "  (the end)",
        "came:", "  a {}", "  b {}", "  c {}", "> (nothing more)",
    ]  # fmt: skip


# --- what is not over yet ----------------------------------------------------------------------


async def forever() -> AsyncIterator[StreamEvent]:
    number = 0
    while True:
        number += 1
        yield event("row", str(number))
        await asyncio.sleep(0)


async def test_of_what_goes_on_no_more_is_read_than_it_takes() -> None:
    rows = forever()
    await assert_events(rows, ["row", ("row", 2)])
    await assert_events(rows, [..., ("row", 7)])
    await assert_events(rows, [...])
    assert (await anext(rows)).data == "8"


async def test_silence_has_a_bound() -> None:
    async def once() -> AsyncIterator[StreamEvent]:
        yield event("row")
        await asyncio.Event().wait()

    said = await refusal(once(), ["row", "done"], within=0.3)
    assert "in 0.3 s there was not more" in said
    assert "> done" in said
    assert "  row {}" in said
    said = await refusal(forever(), [..., "done"], within=0.05)
    assert "in 0.05 s there was not more" in said


@pytest.fixture
async def runs() -> AsyncIterator[Tailrace]:
    async with Tailrace("memory:", grace=0.1) as runs:
        yield runs


async def test_a_run_is_compared_to_its_end(runs: Tailrace) -> None:
    @runs.operation
    async def work(run: RunContext, rows: int = 2) -> int:
        for row in range(rows):
            run.progress(row + 1, rows)
        return rows

    run = await work.start()
    await assert_events(run, ["start", ("progress", {"percent": 50.0}), ..., "complete"])
    assert "nothing more was expected" in await refusal(run, ["start", "progress", "progress"])


async def test_a_run_that_goes_on_is_compared_as_far_as_it_is_expected(runs: Tailrace) -> None:
    @runs.operation
    async def work(run: RunContext) -> None:
        run.log("one")
        await asyncio.Event().wait()

    run = await work.start()
    await assert_events(run, ["start", ("log", {"message": "one"}), ...])
    assert "in 0.05 s there was not more" in await refusal(run, ["start", "log"], within=0.05)
    assert runs.hub.watchers(run.id) == 0, "what was read is let go"


async def test_a_stream_and_a_watch(runs: Tailrace) -> None:
    @runs.operation
    async def work(run: RunContext) -> int:
        run.log("one")
        return 3

    run = await work.start()
    async with StreamClient(runs.asgi, within=0.2) as client:
        async with client.stream("GET", f"/runs/{run.id}/events") as stream:
            await assert_events(stream, ["start", "log"])
            await assert_events(stream, [("complete", {"result": 3})])
            assert "there was not more" in await refusal(stream, ["log"])
        async with client.watch(f"/runs/{run.id}/events") as watch:
            await assert_events(watch, ["start", ..., "complete"])
            assert [event async for event in watch] == []
