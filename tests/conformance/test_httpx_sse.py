"""Our streams, read by an SSE client that is not ours."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

from tests.host import hosted
from tests.stage import Stage, staged

pytestmark = pytest.mark.anyio

# Those in which each event is one message.
FORMATS = ["events", "text", "typed", "jsonrpc"]
LINES = ["plain", "two\nlines", "cr\rcrlf\r\n", "  spaces: and colons:", "\u2028\u0085\f", "", "😀"]


@pytest.fixture
async def stage(anyio_backend: str) -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        hosted(stage.runs.asgi) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def watch(
    client: httpx.AsyncClient,
    target: str,
    last_id: str = "",
    seen: Callable[[list[ServerSentEvent]], Any] = lambda events: None,
) -> list[ServerSentEvent]:
    """All events up to the end, or to where `seen` says that it is enough."""
    events: list[ServerSentEvent] = []
    headers = {"last-event-id": last_id} if last_id else {}
    async with (
        asyncio.timeout(10),
        aconnect_sse(client, "GET", target, headers=headers) as source,
    ):
        async for event in source.aiter_sse():
            events.append(event)
            if seen(events):
                break
    return events


def at_least(count: int) -> Callable[[list[ServerSentEvent]], bool]:
    return lambda events: len(events) >= count


@pytest.mark.parametrize("name", FORMATS)
async def test_as_many_events_as_the_log_has_and_no_ghosts(
    stage: Stage, client: httpx.AsyncClient, name: str
) -> None:
    run = await stage.start(name="Ada")
    await stage.head(run, 2)

    def keep_alive_and_go_on(events: list[ServerSentEvent]) -> None:
        # Before each event the stream was silent for so long that a keep-alive was sent.
        n = len(events) - 2
        stage.beat(16.0 * (n + 2))
        if 0 <= n < len(LINES):
            stage.emit(run, "log", message=LINES[n])
        elif n == len(LINES):
            stage.finish(run)

    events = await watch(client, f"/runs/{run}/events?format={name}", seen=keep_alive_and_go_on)
    kept = [e async for e in stage.runs.run(run).events()]
    assert len(events) == len(kept) == len(LINES) + 3
    assert [int(event.id) for event in events] == [event.seq for event in kept]
    assert {event.retry for event in events} <= {None, 1000}
    if name == "events":
        assert [event.event for event in events] == [event.type for event in kept]
        assert [json.loads(event.data) for event in events] == [event.payload for event in kept]
        assert [event.json()["message"] for event in events[2:-1]] == LINES
    if name == "typed":
        assert [event.json()["type"] for event in events] == [event.type for event in kept]


async def test_there_were_keep_alives(stage: Stage, client: httpx.AsyncClient) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    async with asyncio.timeout(10), client.stream("GET", f"/runs/{run}/events") as answer:
        body = b""
        async for chunk in answer.aiter_raw():
            body += chunk
            if b"id: 2\n" in chunk:
                stage.beat(16)
            if b": keep-alive\n" in chunk:
                stage.finish(run)
    assert b"\n\n: keep-alive\nid: 3\n" in body


async def test_cuts_and_last_event_id(stage: Stage, client: httpx.AsyncClient) -> None:
    run = await stage.start("count", rows=500)
    events: list[ServerSentEvent] = []
    for enough in (1, 2, 50, 100, 300, 10_000):
        last_id = events[-1].id if events else ""
        events += await watch(client, f"/runs/{run}/events", last_id, at_least(enough))
    assert [int(event.id) for event in events] == list(range(1, 503))
    assert events[-1].event == "complete"
    over = await client.get(f"/runs/{run}/events", headers={"last-event-id": events[-1].id})
    assert over.status_code == 204


async def test_many_runs(stage: Stage, client: httpx.AsyncClient) -> None:
    runs = [await stage.start("count", rows=rows) for rows in (3, 30, 300)]
    target = f"/events?runs={','.join(runs)}"
    events = await watch(client, target, seen=at_least(20))
    events += await watch(client, target, events[-1].id)
    for run, rows in zip(runs, (3, 30, 300), strict=True):
        own = [event.json() for event in events if event.json()["run"] == run]
        assert [int(told["id"]) for told in own] == list(range(1, rows + 3))
