"""Streams that have a pace of their own, as they go over the wire."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tailrace.cohort import Manner
from tailrace.errors import LogFull
from tailrace.eventlog.memory import MemoryLog
from tailrace.http import cut
from tailrace.http.feeds import Connection, Streaming
from tailrace.hub import Hub
from tailrace.outlet import End
from tailrace.projections import stream
from tailrace.protocol.wire import HEARTBEAT_SECONDS, WRITE_DEADLINE_SECONDS
from tailrace.pulse import LEAVE_SECONDS
from tailrace.rounds import BEAT_SECONDS
from tests.visitor import Visit, Visitor
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

EVENTS: Final = Manner(stream("events"))
OPENING: Final = EVENTS.projection.opening
KEEP_ALIVE: Final = b": keep-alive\n"
END: Final = b": end\n"
GOODBYE: Final = b"retry: 500\n: end\n"


class Told:
    """A feed of what a test puts into it."""

    def __init__(self) -> None:
        self.end: End | None = None
        self.fault: Exception | None = None
        self.ends: list[End] = []
        self._chunks: deque[bytes] = deque()
        self._news = asyncio.Event()

    def put(self, *chunks: bytes) -> None:
        self._chunks += chunks
        self._news.set()

    def finish(self, end: End = End.FINISHED) -> None:
        self.end = self.end or end
        self._news.set()

    @property
    def is_behind(self) -> bool:
        return bool(self._chunks)

    def close(self, end: End) -> None:
        self.ends.append(end)
        self.finish(end)

    def interject(self, frame: bytes) -> None:
        self.put(frame)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._chunks or self.end is None:
            if self.fault is not None:
                raise self.fault
            if self._chunks:
                yield self._chunks.popleft()
            else:
                self._news.clear()
                await self._news.wait()


class Response(Streaming):
    def __init__(self, hub: Hub, manner: Manner, feed: Told) -> None:
        super().__init__(hub, manner, status_code=202, headers={"x-mine": "1"})
        self.feed = feed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.stream(self.feed, scope, receive, send)


@pytest.fixture
async def hub(anyio_backend: str) -> AsyncIterator[Hub]:
    hub = Hub(MemoryLog())
    hub.begin()
    yield hub
    assert hub.is_idle
    assert not list(hub.clock._wheel)
    hub.end()


@pytest.fixture
async def feed(anyio_backend: str) -> Told:
    return Told()


async def opened(hub: Hub, feed: Told, manner: Manner = EVENTS) -> Visit:
    visit = Visitor(Response(hub, manner, feed)).open("GET", "/")
    return await visit.told(manner.projection.opening)


async def test_the_whole_of_it(hub: Hub, feed: Told) -> None:
    visit = await opened(hub, feed)
    assert (visit.status, hub.connections) == (202, 1)
    assert sorted(visit.raw_headers) == [
        (b"cache-control", b"no-cache, no-transform"),
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"x-accel-buffering", b"no"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-mine", b"1"),
    ]
    feed.put(b"one\n\n", b"two\n\n")
    await visit.told(b"two")
    feed.put(b"three\n\n")
    feed.finish()
    await visit.over()
    assert visit.chunks == [OPENING, b"one\n\n", b"two\n\n", b"three\n\n", END]
    assert visit.is_complete


async def test_the_client_leaves(hub: Hub, feed: Told) -> None:
    visit = await opened(hub, feed)
    visit.leave()
    await visit.over()
    assert feed.ends == [End.LEFT]
    assert visit.body == OPENING


async def test_the_server_goes_away(hub: Hub, feed: Told) -> None:
    visit = await opened(hub, feed)
    hub.drain()
    hub.drain()
    await visit.over()
    assert feed.ends[0] is End.SHUTDOWN
    assert visit.body == OPENING + GOODBYE
    late = await opened(hub, Told())
    await late.over()
    assert late.body == OPENING + GOODBYE


async def test_a_fault_of_ours_is_told(hub: Hub, feed: Told) -> None:
    feed.fault = LogFull("No space.", fix="Make some.")
    visit = await opened(hub, feed)
    await visit.over()
    [event] = visit.events
    assert (event.event, event.id) == ("error", "")
    assert json.loads(event.data)["code"] == "log-full"
    assert visit.body.endswith(b"\n\n" + END)


async def test_any_other_is_the_servers_to_log(hub: Hub, feed: Told) -> None:
    feed.fault = ZeroDivisionError()
    visit = await opened(hub, feed)
    with pytest.raises(ZeroDivisionError):
        await visit.over()
    assert not visit.is_complete


@pytest.mark.parametrize("where", ["http.response.start", "http.response.body"])
async def test_a_send_that_fails_is_a_client_that_is_gone(hub: Hub, feed: Told, where: str) -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == where:
            raise BrokenPipeError

    await soon(Response(hub, EVENTS, feed)({"type": "http"}, receive, send))


async def test_a_receive_that_fails_as_well(hub: Hub, feed: Told) -> None:
    async def receive() -> Any:
        raise ConnectionResetError

    async def send(message: Any) -> None:
        assert not message["body"].endswith(END) if "body" in message else True

    await soon(Response(hub, EVENTS, feed)({"type": "http"}, receive, send))
    assert feed.ends == [End.LEFT]


async def test_a_long_feed_lets_others_pass(hub: Hub, feed: Told) -> None:
    feed.put(*[b"x\n\n"] * 1000)
    feed.finish()
    visit = await opened(hub, feed)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(visit.chunks) < 100
    await visit.over()
    assert len(visit.chunks) == 1002


# --- the clock -------------------------------------------------------------------------


async def test_silence_is_broken(hub: Hub, feed: Told) -> None:
    visit = await opened(hub, feed)
    now = time.monotonic()
    hub.clock.beat(now + HEARTBEAT_SECONDS - 1)
    await turns()
    assert visit.body == OPENING
    hub.clock.beat(now + HEARTBEAT_SECONDS + 1)
    await visit.told(KEEP_ALIVE)
    feed.finish()
    await visit.over()
    assert visit.body == OPENING + KEEP_ALIVE + END


async def test_ticks(hub: Hub, feed: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.cohort.time.time", lambda: 109.0)
    visit = await opened(hub, feed, Manner(stream("events"), None, 2.0, 100.0))
    now = time.monotonic()
    hub.clock.beat(now + 1)
    await turns()
    assert visit.body == OPENING
    for after in (2.5, 5):
        hub.clock.beat(now + after)
        await turns()
    await visit.until(lambda v: v.body.count(b'event: tick\ndata: {"elapsed_seconds":9.0}') == 2)
    feed.finish()
    await visit.over()


async def test_a_moment_of_back_pressure_does_not_put_off_the_next_sign(
    hub: Hub, feed: Told
) -> None:
    visit = await opened(hub, feed)
    visit.stall()
    feed.put(b"x\n\n")
    await turns()
    now = time.monotonic() + HEARTBEAT_SECONDS
    hub.clock.beat(now + 2 * BEAT_SECONDS)
    visit.go_on()
    await visit.told(b"x\n\n")
    await turns()
    hub.clock.beat(now + 4 * BEAT_SECONDS)
    await visit.told(KEEP_ALIVE)
    feed.finish()
    await visit.over()


@pytest.mark.parametrize("is_leaving", [False, True])
async def test_who_does_not_read_is_cut(
    hub: Hub, feed: Told, is_leaving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[Any] = []
    monkeypatch.setattr(cut, "cut", lambda scope, receive: cuts.append(scope["client"]))
    visit = await opened(hub, feed)
    visit.stall()
    feed.put(b"x\n\n")
    await turns()
    bound = WRITE_DEADLINE_SECONDS
    if is_leaving:
        hub.drain()
        bound = LEAVE_SECONDS
    now = time.monotonic()
    hub.clock.beat(now + bound / 2)
    assert not cuts
    hub.clock.beat(now + bound + 2 * BEAT_SECONDS)
    assert cuts == [("127.0.0.1", 50000)]
    # The connection was not found: the task is cancelled, and nobody hears of it.
    hub.clock.beat(now + bound + LEAVE_SECONDS + 4 * BEAT_SECONDS)
    hub.clock.beat(now + bound + LEAVE_SECONDS + 8 * BEAT_SECONDS)
    await until(lambda: visit.is_over)
    await visit.task
    assert (cuts, visit.body) == ([("127.0.0.1", 50000)], OPENING)


async def test_somebody_elses_cancellation_is_passed_on(hub: Hub, feed: Told) -> None:
    visit = await opened(hub, feed)
    visit.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visit.task


async def test_a_goodbye_that_is_not_read_is_cut(
    hub: Hub, feed: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[Any] = []
    monkeypatch.setattr("tailrace.http.feeds.LEAVE_SECONDS", 0.001)
    monkeypatch.setattr(cut, "cut_unless_read", lambda scope: cuts.append(scope["client"]))
    visit = await opened(hub, feed)
    hub.drain()
    await visit.over()
    await until(lambda: cuts)
    assert cuts == [("127.0.0.1", 50000)]


async def test_a_connection_is_what_the_clock_looks_after(hub: Hub, feed: Told) -> None:
    async def nothing(*_: Any) -> Any:
        """Neither receive nor send."""

    connection = Connection(hub, feed, EVENTS, {}, nothing, nothing)
    hub.connect(connection)
    assert list(hub.clock._wheel) == [connection]
    await connection.start(200, [])
    await connection.body(b"")
    hub.disconnect(connection)
