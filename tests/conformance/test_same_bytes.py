"""Whichever server, and whichever way to send: the same bytes, and the same framing of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tailrace.eventlog.contract import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.projections import STREAMS
from tests.processes import DIRECT, ONE_OF_EACH, SERVERS, Served, eventually, serving
from tests.stage import Tale, staged
from tests.watching import Watcher, request, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

# `responses` has no words for a run that is no turn.
FORMATS: Final = (*(name for name in STREAMS if name != "responses"), "output")
WAIT_SECONDS: Final = 20.0

TALES: Final[list[Tale]] = [
    ("start", {"operation": "written"}, 0),
    ("log", {"message": "two\nlines, and ünïcode: 😀"}, 1),
    ("output", {"stream": "stdout", "text": "work"}, 2),
    ("output", {"stream": "stderr", "text": "oops\r\n"}, 2.5),
    ("output", {"stream": "stdout", "text": "\ufffd\n", "bytes": "/wo="}, 3),
    ("progress", {"current": 1, "total": 3}, 4),
    ("x:own", {"deep": {"list": [1, None, "x" * 5000]}}, 5),
]


@dataclass
class Stream:
    """One response, its framing taken apart to the letter of RFC 9112 §7.1."""

    status: int
    headers: Mapping[str, str]
    body: bytearray = field(default_factory=bytearray)
    chunks: int = 0
    reading: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def open(cls, port: int, target: str, headers: Mapping[str, str] | None = None) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(target, "GET", headers or {}, b""))
        async with asyncio.timeout(WAIT_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        assert re.fullmatch(r"HTTP/1\.1 [0-9]{3} [A-Za-z ]*", first), first
        pairs = [line.partition(": ") for line in lines]
        stream = cls(int(first.split()[1]), {name.lower(): value for name, _, value in pairs})
        stream.reading = asyncio.create_task(stream._read(reader, writer))
        return stream

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.headers.get("transfer-encoding") != "chunked":
                assert self.status == 204, self
                return
            assert "content-length" not in self.headers, "not both (RFC 9112 §6.2)"
            while True:
                line = await reader.readuntil(b"\r\n")
                assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", line), line
                size = int(line, 16)
                self.body += await reader.readexactly(size)
                assert await reader.readexactly(2) == b"\r\n"
                self.news.set()
                if not size:
                    break
                self.chunks += 1
            if self.headers.get("connection", "").lower() == "close":
                assert await reader.read() == b"", "something after the end"
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.news.set()

    async def until_told(self, text: bytes) -> None:
        assert self.reading is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while text not in self.body:
                assert not self.reading.done(), f"over before {text!r}: {bytes(self.body)!r}"
                self.news.clear()
                await self.news.wait()

    async def whole(self) -> bytes:
        assert self.reading is not None
        async with asyncio.timeout(WAIT_SECONDS):
            await self.reading
        return bytes(self.body)


Party = list[Served]


def target(served: Served, run: str, name: str, query: str = "") -> str:
    if name == "output":
        return f"{served.prefix}/runs/{run}/output?{query}"
    return f"{served.events_of(run)}?format={name}&{query}"


@contextlib.asynccontextmanager
async def opened(
    party: Party, run: str, name: str, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[list[Stream]]:
    """The same request of every server."""
    streams: list[Stream] = []
    try:
        for served in party:
            place = target(served, run, name, query)
            streams.append(await Stream.open(served.port, place, headers))
        yield streams
    finally:
        for stream in streams:
            if stream.reading is not None and not stream.reading.done():
                stream.reading.cancel()


def resumed(
    party: Party, run: str, name: str, after: str
) -> contextlib.AbstractAsyncContextManager[list[Stream]]:
    """Plain text has no events, and so no ids that a client would send by itself."""
    if name == "output":
        return opened(party, run, name, f"after={after}")
    return opened(party, run, name, "", {"last-event-id": after})


async def same(streams: list[Stream], party: Party) -> bytes:
    """What all of them say; names who does not."""
    bodies = [await stream.whole() for stream in streams]
    told = {served.kind: body for served, body in zip(party, bodies, strict=True)}
    assert set(told.values()) == {bodies[0]}, told
    heads = [
        {name: stream.headers.get(name) for name in ("content-type", "cache-control",
         "x-accel-buffering", "x-content-type-options", "last-event-id")}
        for stream in streams
    ]  # fmt: skip
    assert all(head == heads[0] for head in heads), heads
    return bodies[0]


def append(served: Served, run: str, *events: tuple[str, Any]) -> None:
    told = [{"type": type_, "data": data} for type_, data in events]
    status, said = served.ask("POST", f"/runs/{run}/events", {"events": told})
    assert status == 200, said


@dataclass(frozen=True)
class Written:
    """Runs that are over: one that is whole, and one whose beginning is no longer kept."""

    log: Path
    done: str
    trimmed: str
    first: int


async def write(log: Path) -> Written:
    async with staged(SqliteLog(log, Retention(run_events=4)), idle=True) as stage:
        many: list[Tale] = [("log", {"n": n}, n) for n in range(9)]
        output: Tale = ("output", {"stream": "stdout", "text": "the last\n"}, 9)
        trimmed = await stage.written([*many, output], ends=10)
        first = (await stage.runs.record(trimmed)).first_seq
        assert first > 1
    async with staged(SqliteLog(log), idle=True) as stage:
        done = await stage.written(TALES, ends=6)
    return Written(log, done, trimmed, first)


@contextlib.contextmanager
def all_serving(log: Path) -> Iterator[Party]:
    """One server of each kind, over one file."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(kind, log)) for kind in ONE_OF_EACH]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return asyncio.run(write(tmp_path_factory.mktemp("same") / "log.db"))


@pytest.fixture(scope="module")
def party(written: Written) -> Iterator[Party]:
    with all_serving(written.log) as party:
        yield party


# --- what is stored --------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
async def test_a_replay(party: Party, written: Written, name: str) -> None:
    async with opened(party, written.done, name) as streams:
        body = await same(streams, party)
    if name == "output":
        assert body == b"workoops\r\n\xff\n"
    else:
        assert body.startswith(STREAMS[name].opening)
        assert body.endswith(STREAMS[name].closing(None))
        assert b"x" * 5000 in body


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("after", ["2", "4", "7"])
async def test_a_resume(party: Party, written: Written, name: str, after: str) -> None:
    async with resumed(party, written.done, name, after) as streams:
        body = await same(streams, party)
        assert streams[0].headers["last-event-id"] == after
    async with opened(party, written.done, name) as streams:
        whole = await same(streams, party)
    opening = b"" if name == "output" else STREAMS[name].opening
    assert whole.endswith(body.removeprefix(opening))


@pytest.mark.parametrize("name", FORMATS)
async def test_nothing_is_left(party: Party, written: Written, name: str) -> None:
    async with resumed(party, written.done, name, "8") as streams:
        assert await same(streams, party) == b""
        assert {stream.status for stream in streams} == {204}


@pytest.mark.parametrize("name", FORMATS)
async def test_what_is_no_longer_kept(party: Party, written: Written, name: str) -> None:
    async with opened(party, written.trimmed, name) as streams:
        body = await same(streams, party)
    assert b"%d" % (written.first - 1) in body
    assert b"gap" in body or b"no longer kept" in body


@pytest.mark.parametrize("types", ["log", "output,progress", "none"])
async def test_a_choice_of_types(party: Party, written: Written, types: str) -> None:
    async with opened(party, written.done, "ndjson", f"types={types}") as streams:
        body = await same(streams, party)
    assert (b'"type":"log"' in body) is (types == "log")
    assert b'"type":"complete"' in body


# --- what happens meanwhile ------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
async def test_a_live_run(party: Party, name: str) -> None:
    owner = party[0]
    run = await asyncio.to_thread(owner.start, "burst", events=3, hold=True)
    async with opened(party, run, name) as streams:
        for number in range(5):
            mark = f"mark {number};"
            await asyncio.to_thread(
                append, owner, run, ("log", {"message": mark}),
                ("output", {"stream": "stdout", "text": mark}),
            )  # fmt: skip
            # One after the other, so that each leaves in a send of its own.
            for stream in streams:
                await stream.until_told(mark.encode())
        large = [("log", {"message": "y" * 50_000})] * 6
        await asyncio.to_thread(append, owner, run, *large)
        await asyncio.to_thread(owner.ask, "POST", f"/runs/{run}/cancel")
        body = await same(streams, party)
        assert all(stream.chunks >= 5 for stream in streams)
    async with opened(party, run, name) as streams:
        assert await same(streams, party) == body, "and the same later on"


TICKS: Final = {
    "events": rb'event: tick\ndata: \{"elapsed_seconds":[0-9.]+\}\n\n',
    "ag-ui": rb': tick \{"elapsed_seconds":[0-9.]+\}\n',
    "typed": rb'data: \{"type":"tick","elapsed_seconds":[0-9.]+\}\n\n',
    "text": rb"data: \[[0-9.]+ s\]\n\n",
    "ndjson": rb'\{"type":"tick","data":\{"elapsed_seconds":[0-9.]+\}\}\n',
    "jsonrpc": (
        rb'data: \{"jsonrpc":"2.0","method":"notifications/message","params":\{"level":"debug",'
        rb'"logger":"tick","data":\{"elapsed_seconds":[0-9.]+\}\}\}\n\n'
    ),
}


@pytest.mark.parametrize("name", TICKS)
async def test_ticks(party: Party, name: str) -> None:
    owner = party[0]
    run = await asyncio.to_thread(owner.start, "burst", events=1, hold=True)
    tick = re.compile(TICKS[name])
    async with opened(party, run, name, "tick=1") as streams:
        for stream in streams:
            async with asyncio.timeout(WAIT_SECONDS):
                while tick.search(bytes(stream.body)) is None:
                    stream.news.clear()
                    await stream.news.wait()
        await asyncio.to_thread(owner.ask, "POST", f"/runs/{run}/cancel")
        bodies = [await stream.whole() for stream in streams]
    # How many there are, and when, is the clock's business.
    assert len({tick.sub(b"", body) for body in bodies}) == 1, bodies


@pytest.mark.parametrize("name", FORMATS)
async def test_a_server_that_goes_away(tmp_path: Path, name: str) -> None:
    with all_serving(tmp_path / "log.db") as party:
        owner, *others = party
        run = await asyncio.to_thread(owner.start, "burst", events=3, hold=True)
        output = ("output", {"stream": "stdout", "text": "the last;"})
        await eventually(lambda: owner.show(run)["last_event_id"] == "5", "it is held")
        async with opened(party, run, name) as streams:
            await asyncio.to_thread(append, owner, run, output)
            for stream in streams:
                await stream.until_told(b"the last;")
            # The others first: what the owner's end adds to the run is not for them.
            for served, stream in zip([*others, owner], [*streams[1:], streams[0]], strict=True):
                served.terminate()
                await stream.whole()
            body = await same(streams, party)
    if name == "output":
        assert body == b"the last;"
    else:
        assert body.endswith(STREAMS[name].closing(500))
        assert name == "ndjson" or body.endswith(b"retry: 500\n: end\n")


# --- that there were two ways ----------------------------------------------------------


@pytest.mark.parametrize("kind", [*DIRECT, *(kind for kind in ONE_OF_EACH if kind not in DIRECT)])
async def test_which_way_was_taken(kind: str, tmp_path: Path) -> None:
    """A watcher has a task where ASGI is in between, and none where the socket was handed over."""
    assert kind in SERVERS
    with serving(kind, tmp_path / "log.db") as served:
        run = await asyncio.to_thread(served.start, "burst", events=3, hold=True)

        def tasks() -> int:
            return int(served.probe()["tasks"])

        await asyncio.to_thread(tasks)
        before = await asyncio.to_thread(tasks)
        async with watchers() as party:
            for _ in range(20):
                party.append(await Watcher.open(served.port, served.events_of(run)))
                await party[-1].told(b"event: held")
            if kind in DIRECT:
                await eventually(lambda: tasks() <= before + 2, "no task for any of them")
                assert all(watcher.headers["connection"] == "close" for watcher in party)
            else:
                assert await asyncio.to_thread(tasks) >= before + 18
            assert (await asyncio.to_thread(served.probe))["connections"] == 20
