import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from tailrace.market_news import server
from tailrace.market_news.feeds import Feed
from tailrace.market_news.server import Keyed, News, asgi
from tailrace.market_news.settings import Settings
from tailrace.market_news.stream import Clock
from tests.newsstand import BOMB, MALFORMED, XXE, Newsstand, atom, rdf, rss
from tests.waiting import soon, until, until_here

pytestmark = pytest.mark.anyio

ERAS = ["legacy", "2026-07-28"]


class Served:
    """A server in a thread."""

    def __init__(self) -> None:
        self.url = ""
        self.news: News
        self.uvicorn: Any = None
        self.thread: threading.Thread

    def stop(self) -> None:
        if self.uvicorn is not None:
            self.uvicorn.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(settings: Settings, **how: Any) -> Served:
        served = Served()

        class Known(server._Server):
            def __init__(self, config: Any, news: News, ready: Any) -> None:
                super().__init__(config, news, ready)
                served.uvicorn, served.news = self, news

        monkeypatch.setattr(server, "_Server", Known)
        listener = socket.create_server(("127.0.0.1", 0))
        is_ready = threading.Event()

        def say(line: str) -> None:
            served.url = line.rpartition(" ")[2]
            is_ready.set()

        served.thread = threading.Thread(
            target=server.serve, args=(listener, settings), kwargs={"say": say, **how}
        )
        served.thread.start()
        made.append(served)
        until_here(lambda: is_ready.is_set() or not served.thread.is_alive(), "ready")
        assert is_ready.is_set()
        return served

    yield start
    for served in made:
        served.stop()


@pytest.fixture
def settings(stand: Newsstand) -> Settings:
    return Settings(
        (
            Feed("Wire", stand.put("/a", rss("one", "Apple rises", "three")), "markets"),
            Feed("SEC", stand.put("/b", atom("8-K - APPLE INC")), "filings"),
        )
    )


class Seen:
    """What a client was told."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.updates: list[dict[str, Any]] = []
        self.at: list[float] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total == 1
        assert message is not None
        self.progress.append(progress)
        self.updates.append(json.loads(message))
        self.at.append(time.monotonic())

    @property
    def titles(self) -> list[str]:
        return [one["title"] for update in self.updates for one in update["news"]["articles"]]


def text(result: Any) -> str:
    assert [type(block) for block in result.content] == [TextContent]
    return str(result.content[0].text)


async def stream(client: Client, seen: Seen, **arguments: Any) -> Any:
    return await client.call_tool("stream_market_news", arguments, progress_callback=seen)


@pytest.mark.parametrize("mode", [*ERAS, "auto"])
async def test_a_stream(serve: Callable[..., Served], settings: Settings, mode: str) -> None:
    served, seen = serve(settings), Seen()
    began = time.monotonic()
    async with Client(served.url, mode=mode) as client:
        result = await soon(stream(client, seen, interval=1, duration=1.5, limit=2))
    assert not result.is_error
    assert text(result) == "Stream complete: 2 updates with 4 articles in 1.5 s."
    assert [update["status"] for update in seen.updates] == [
        "connected", "news", "news", "complete",
    ]  # fmt: skip
    assert sorted(seen.titles) == ["8-K - APPLE INC", "Apple rises", "one", "three"]
    assert (seen.progress[0], seen.progress[-1]) == (0, 1)
    assert all(one < two for one, two in itertools.pairwise(seen.progress))
    assert seen.at[0] - began < 1
    assert served.news.streams == 0


@pytest.mark.parametrize("mode", ERAS)
async def test_the_times_of_a_stream(
    serve: Callable[..., Served], settings: Settings, stand: Newsstand, mode: str
) -> None:
    served, seen = serve(settings), Seen()
    async with Client(served.url, mode=mode) as client:
        calling = asyncio.create_task(stream(client, seen, interval=1, duration=3))
        await until(lambda: len(seen.updates) == 2)
        # It comes while the stream is on, and a feed breaks and another goes.
        stand.put("/a", MALFORMED.replace(b">1<", b">91<"))
        stand.put("/b", status=503)
        await soon(calling)
    assert len(seen.updates) == 5
    for at, expected in zip(seen.at[1:], (0, 1, 2, 3), strict=True):
        assert at - seen.at[0] == pytest.approx(expected, abs=0.9)
    assert len(seen.titles) == len(set(seen.titles))
    troubles = {one["source"]: one["what"] for one in seen.updates[2]["problems"]}
    assert troubles["SEC"] == "It answered 503."
    assert troubles["Wire"].startswith("It is malformed")
    assert seen.titles[4] == "Profits & losses"


@pytest.mark.parametrize("mode", ERAS)
async def test_who_cancels_is_obeyed_at_once(
    serve: Callable[..., Served], settings: Settings, stand: Newsstand, mode: str
) -> None:
    served, seen = serve(settings), Seen()
    async with Client(served.url, mode=mode) as client:
        calling = asyncio.create_task(stream(client, seen, interval=1, duration=600))
        await until(lambda: len(seen.updates) == 2)
        assert served.news.streams == 1
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
        await until(lambda: served.news.streams == 0, "stopped", within=1)
        count = len(stand.asked)
        await asyncio.sleep(1.2)
        assert len(stand.asked) == count


async def test_who_goes_is_noticed(serve: Callable[..., Served], settings: Settings) -> None:
    served, seen = serve(settings), Seen()

    async def call() -> None:
        async with Client(served.url, mode="2026-07-28") as client:
            await stream(client, seen, interval=1, duration=600)

    calling = asyncio.create_task(call())
    await until(lambda: len(seen.updates) == 2)
    calling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await calling
    await until(lambda: served.news.streams == 0, "stopped", within=1)


async def test_a_hundred_streams_ask_each_feed_once(
    serve: Callable[..., Served], settings: Settings, stand: Newsstand
) -> None:
    served = serve(settings)
    many = [Seen() for _ in range(100)]
    limits = httpx2.Limits(max_connections=None)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(30, pool=None))
        )
        transport = streamable_http_client(served.url, http_client=http)
        client = await stack.enter_async_context(Client(transport, mode="2026-07-28"))
        await soon(
            asyncio.gather(*(stream(client, seen, interval=60, duration=1) for seen in many)), 30
        )
    assert {tuple(sorted(seen.titles)) for seen in many} == {tuple(sorted(many[0].titles))}
    assert len(many[0].titles) == 4
    assert (stand.count("/a"), stand.count("/b")) == (1, 1)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_shutdown_ends_streams(
    serve: Callable[..., Served], settings: Settings, mode: str
) -> None:
    served, seen = serve(settings), Seen()
    async with Client(served.url, mode=mode) as client:
        calling = asyncio.create_task(stream(client, seen, interval=300, duration=600))
        await until(lambda: len(seen.updates) == 2)
        began = time.monotonic()
        served.uvicorn.should_exit = True
        result = await soon(calling)
        assert result.is_error
        assert "shutting down, after 1 updates with 4 articles" in text(result)
    await asyncio.to_thread(served.stop)
    assert time.monotonic() - began < 5


@pytest.fixture
async def news(settings: Settings) -> AsyncIterator[Client]:
    """A client that needs no network to reach the server."""
    async with Client(News(settings).mcp) as client:
        yield client


async def test_the_tools_say_what_they_take(news: Client) -> None:
    tools = {tool.name: tool for tool in (await news.list_tools()).tools}
    assert set(tools) == {"stream_market_news", "get_market_news"}
    taken = tools["stream_market_news"].input_schema["properties"]
    assert set(taken) == {"symbol", "interval", "duration", "limit", "category"}
    assert taken["interval"]["minimum"] == 1
    assert "Seconds" in taken["interval"]["description"]
    assert "Seconds" in taken["duration"]["description"]
    assert tools["stream_market_news"].output_schema is None
    answered = tools["get_market_news"].output_schema
    assert answered is not None
    assert "news" in answered["properties"]
    assert "\n    " not in (tools["stream_market_news"].description or "")


async def test_a_snapshot(news: Client) -> None:
    result = await news.call_tool("get_market_news", {"limit": 2})
    assert result.structured_content is not None
    assert result.structured_content["news"]["count"] == 2
    assert result.structured_content["more"] == 2
    assert json.loads(text(result)) == result.structured_content


@pytest.mark.parametrize(
    ("asked", "titles"),
    [
        ({"symbol": "AAPL"}, ["Apple rises", "8-K - APPLE INC"]),
        ({"symbol": "aapl", "category": "Filings"}, ["8-K - APPLE INC"]),
        ({"symbol": "", "category": ""}, ["one", "Apple rises", "three", "8-K - APPLE INC"]),
        ({"symbol": "MSFT"}, []),
    ],
)
async def test_what_is_asked_for(news: Client, asked: dict[str, Any], titles: list[str]) -> None:
    result = await news.call_tool("get_market_news", asked)
    assert result.structured_content is not None
    found = [one["title"] for one in result.structured_content["news"]["articles"]]
    assert sorted(found) == sorted(titles)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"symbol": "a b"}, "'a b' is no ticker symbol"),
        ({"category": "sports"}, "no category 'sports'. There are filings, markets."),
        ({"interval": 0.5}, "interval"),
        ({"interval": 3601}, "interval"),
        ({"interval": "soon"}, "interval"),
        ({"duration": 0}, "duration"),
        ({"duration": 1e9}, "duration"),
        ({"duration": "NaN"}, "duration"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
    ],
)
async def test_what_cannot_be_asked_for(news: Client, arguments: dict[str, Any], said: str) -> None:
    result = await soon(news.call_tool("stream_market_news", arguments))
    assert result.is_error
    assert said in text(result)


async def test_every_dialect_at_once(stand: Newsstand) -> None:
    pages = {
        "cnbc": rss("CNBC"), "sec": atom("SEC"), "ecb": rdf("ECB"), "xxe": XXE, "bomb": BOMB,
        "latin": rss("Caf\u00e9", first=50, encoding="cp1252"),
        "bad": MALFORMED, "html": b"<html></html>",
    }  # fmt: skip
    feeds = [Feed(name, stand.put(f"/{name}", body)) for name, body in pages.items()]
    feeds += [Feed("gone", stand.url("/gone")), Feed("down", "http://127.0.0.1:1/x")]
    seen = Seen()
    async with Client(News(Settings(tuple(feeds))).mcp) as client:
        result = await soon(stream(client, seen, interval=1, duration=1, limit=100))
    assert not result.is_error
    assert {"CNBC", "SEC", "ECB", "Caf\u00e9", "Profits & losses"} <= set(seen.titles)
    troubled = {one["source"] for one in seen.updates[1]["problems"]}
    assert {"bad", "html", "gone", "down"} <= troubled
    assert not troubled & {"cnbc", "sec", "ecb", "latin"}
    assert not seen.updates[1]["sample"]


async def test_without_a_network_it_tells_samples_and_says_so() -> None:
    seen = Seen()
    settings = Settings((Feed("A", "http://a.invalid/x"), Feed("B", "http://b.invalid/x")))
    async with Client(News(settings).mcp) as client:
        await soon(stream(client, seen, interval=1, duration=1.5, limit=5, symbol="AAPL"))
        seen_all = Seen()
        await soon(stream(client, seen_all, interval=1, duration=1.5, limit=5))
    assert len(seen.titles) == 2
    assert all("Apple" in title for title in seen.titles)
    assert len(set(seen_all.titles)) == 10
    for update in seen_all.updates[1:-1]:
        assert update["sample"] is True
        assert "samples" in update["notice"]
        assert {one["source"] for one in update["problems"]} == {"A", "B"}


async def test_too_many_streams(news: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_STREAMS", 1)
    seen = Seen()
    first = asyncio.create_task(stream(news, seen, interval=1, duration=600))
    await until(lambda: len(seen.updates) == 2)
    result = await news.call_tool("stream_market_news", {})
    assert result.is_error
    assert "There are 1 streams already" in text(result)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first


async def test_after_its_end_there_are_no_streams(settings: Settings) -> None:
    made = News(settings, Clock())
    async with Client(made.mcp) as client:
        made.close()
        result = await soon(client.call_tool("stream_market_news", {}))
        assert result.is_error
        assert made.streams == 0


# ------------------------------------------------------------------ who is let in

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ([b"Bearer sesame"], True),
        ([b"bearer  sesame "], True),
        ([b"Bearer sesam"], False),
        ([b"Bearer sesame2"], False),
        ([b"Basic sesame"], False),
        ([b"Bearer \xff"], False),
        ([b"Bearer"], False),
        ([b"Bearer sesame", b"Bearer sesame"], False),
        ([], False),
    ],
)
def test_who_has_the_key(given: list[bytes], known: bool) -> None:
    async def app(*_: Any) -> None: ...

    scope = {"headers": [(b"authorization", value) for value in given]}
    assert Keyed(app, "sesame")._knows(scope) is known


async def test_a_key(serve: Callable[..., Served], settings: Settings) -> None:
    served = serve(settings, key="sesame")
    async with httpx2.AsyncClient() as http:
        answer = await http.post(served.url, json=PING)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    for mode in ERAS:
        headers = {"authorization": "Bearer sesame"}
        async with httpx2.AsyncClient(headers=headers) as http:
            transport = streamable_http_client(served.url, http_client=http)
            async with Client(transport, mode=mode) as client:
                assert len((await client.list_tools()).tools) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)],
)
async def test_pages_of_other_sites_are_refused(
    serve: Callable[..., Served], settings: Settings, headers: dict[str, str], status: int
) -> None:
    served = serve(settings)
    more = {"accept": "application/json, text/event-stream", **headers}
    async with httpx2.AsyncClient() as http:
        assert (await http.post(served.url, json=PING, headers=more)).status_code == status


async def test_elsewhere_any_name_will_do(settings: Settings) -> None:
    app = asgi(News(settings), key="sesame", is_local=False)
    assert isinstance(app, Keyed)


def test_what_it_says_once_it_answers(serve: Callable[..., Served], settings: Settings) -> None:
    served = serve(settings)
    assert served.url.startswith("http://127.0.0.1:")
    assert served.url.endswith("/mcp")
    served.stop()
    until_here(lambda: not served.thread.is_alive())
