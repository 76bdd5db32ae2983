"""Market news from feeds to a browser: a feed, an MCP server, a run of ours, a page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tailrace.protocol.sse import Decoder
from tests.browser import chromium
from tests.needs import needs
from tests.newsstand import Newsstand, atom, rss
from tests.processes import ROOT, START_SECONDS, free_port, until

pytestmark = pytest.mark.slow

Frames = list[tuple[str, dict[str, Any], float]]


class Wire:
    """Between a browser and the server; it can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                self._open += (here, there)
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                sink.sendall(part)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> int:
        """All of them; how many there were."""
        cut, self._open = self._open, []
        for end in cut:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(cut) // 2

    def close(self) -> None:
        self._listener.close()
        self.cut()


class House:
    """The feeds, the news server, and the app of the example."""

    def __init__(self, stand: Newsstand, folder: Path, **env: str) -> None:
        self.stand = stand
        self.titles = ["Apple rises", "The Fed waits"]
        self.feed = stand.put("/cnbc.xml", rss(*self.titles, first=98))
        self.filings = stand.put("/sec.xml", atom("8-K - Example Mills"))
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        feeds = ["--feed", self.feed, "--feed", self.filings]
        news = self._start("news", "market-news", "--port", "0", *feeds)
        until(lambda: "/mcp" in self.said("news"), "the news server is there", START_SECONDS)
        found = re.search(r"http://\S+", self.said("news"))
        assert found is not None
        self.news = news
        self.port = free_port()
        env |= {"MARKET_NEWS_URL": found[0]}
        self._key = {"x-api-key": env.get("MARKET_NEWS_KEY", "")}
        words = ("serve", "examples.market_news.app:app", "--port", str(self.port))
        self.server = self._start("app", *words, **env)
        until(lambda: self.is_ready, "its tools are operations here", START_SECONDS)

    def _start(self, name: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
        with (self._folder / name).open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", *words], cwd=ROOT, stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **env},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def said(self, name: str) -> str:
        return (self._folder / name).read_text()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_ready(self) -> bool:
        assert self.server.poll() is None, self.said("app")
        with contextlib.suppress(httpx2.HTTPError):
            url = f"{self.base}/operations"
            told = httpx2.get(url, headers=self._key, trust_env=False).json()["operations"]
            return "market.stream_market_news" in {operation["name"] for operation in told}
        return False

    def publish(self, title: str) -> None:
        self.titles.insert(0, title)
        first = 100 - len(self.titles)
        # Each keeps its guid: the newest has the lowest.
        self.stand.put("/cnbc.xml", rss(*self.titles, first=first))

    def run(self, run: str) -> dict[str, Any]:
        told: dict[str, Any] = httpx2.get(f"{self.base}/runs/{run}", trust_env=False).json()
        return told

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(20)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Newsstand().open() as stand:
        house = House(stand, tmp_path)
        try:
            yield house
        finally:
            house.stop()


def frames(house: House, query: str, last: str | None = None) -> tuple[Frames, float]:
    """What the stream tells to its end: id, message, and when; and when it was asked for."""
    told: Frames = []
    decoder = Decoder()
    headers = {} if last is None else {"last-event-id": last}
    began = time.monotonic()
    url = f"{house.base}/api/mcp/stream-news?{query}"
    with httpx2.stream("GET", url, headers=headers, trust_env=False, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        for chunk in answer.iter_bytes():
            at = time.monotonic() - began
            told += [(e.id, json.loads(e.data), at) for e in decoder.feed(chunk) if e.data]
    return told, began


def articles(told: Frames) -> list[str]:
    found: list[str] = []
    for _, message, _ in told:
        params = message.get("params", {})
        with contextlib.suppress(json.JSONDecodeError):
            update = json.loads(params.get("message", ""))
            found += [article["title"] for article in update["news"]["articles"]]
    return found


def test_ten_seconds_of_news_every_three(house: House) -> None:
    told, _ = frames(house, "interval=3000&duration=10000")
    first = told[0][1]
    run = told[0][0].partition(":")[0]
    assert first == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": run, "progress": 0, "message": "connected"},
    }
    assert told[0][2] < 1.0
    progress = [
        (message["params"]["progress"], at)
        for _, message, at in told
        if message.get("method") == "notifications/progress"
    ]
    values = [value for value, _ in progress[1:]]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, 1)
    # The grid: at once, after 3, 6 and 9 seconds, and the end at 10.
    for due in (3, 6, 9, 10):
        assert any(abs(at - due) < 1.0 for _, at in progress), (due, progress)
    assert sorted(articles(told)) == ["8-K - Example Mills", "Apple rises", "The Fed waits"]
    update = json.loads(told[2][1]["params"]["message"])
    datetime.fromisoformat(update["timestamp"])
    [one] = [a for a in update["news"]["articles"] if a["title"] == "Apple rises"]
    assert one.keys() == {"source", "title", "url", "time", "category"}
    assert update["news"]["count"] == len(update["news"]["articles"])
    last = told[-1][1]
    assert last["id"] == run
    assert last["result"]["isError"] is False
    assert last["result"]["content"][0]["text"].startswith("Stream complete")
    # Whoever comes back, from wherever, gets exactly the rest.
    for at in (0, 2, len(told) - 2):
        rest, _ = frames(house, "interval=3000&duration=10000", told[at][0])
        assert [frame[:2] for frame in rest] == [frame[:2] for frame in told[at + 1 :]]


def test_who_asks_too_often_and_wrongly(house: House) -> None:
    def ask(query: str, **headers: str) -> int:
        url = f"{house.base}/api/mcp/stream-news?{query}"
        with httpx2.stream("GET", url, headers=headers, trust_env=False) as answer:
            return answer.status_code

    assert ask("interval=10&duration=1000") == 422
    assert ask("duration=1000", **{"sec-fetch-site": "cross-site"}) == 403
    assert ask("duration=1000", **{"last-event-id": "5"}) == 400
    statuses = [ask("duration=1") for _ in range(11)]
    assert statuses.count(429) >= 1
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_with_a_key(tmp_path: Path) -> None:
    with Newsstand().open() as stand:
        house = House(stand, tmp_path, MARKET_NEWS_KEY="the key of the news")
        try:
            url = f"{house.base}/api/mcp/stream-news?duration=1"
            for headers in ({}, {"x-api-key": "another"}, {"cookie": "market-news=x"}):
                answer = httpx2.get(url, headers=headers, trust_env=False)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            with httpx2.Client(trust_env=False) as browser:
                page = browser.get(f"{house.base}/?key=the%20key%20of%20the%20news")
                assert "httponly; path=/; samesite=strict" in page.headers["set-cookie"].lower()
                assert "Stream complete" in browser.get(url).text
        finally:
            house.stop()


def test_an_upstream_that_dies_is_an_error_frame(house: House) -> None:
    threading.Timer(1.0, house.news.kill).start()
    told, _ = frames(house, "interval=1000&duration=60000")
    error = told[-1][1]["error"]
    assert error["code"] == -32002
    assert "market" in error["message"]
    run = told[-1][0].partition(":")[0]
    assert house.run(run)["state"] == "lost"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    yield page
    context.close()
    faults = [line for line in said if line.startswith("error") and "ERR_" not in line]
    assert faults == []


@needs("chromium")
def test_a_page_that_is_cut_and_stopped(house: House, page: Page) -> None:
    wire = Wire(house.port)
    try:
        page.goto(f"http://127.0.0.1:{wire.port}/")
        page.fill("[name=interval]", "1")
        page.fill("[name=duration]", "300")
        page.click("#start")
        news = page.locator("#news li")
        expect(news).to_have_count(3, timeout=10_000)
        expect(page.locator("#state")).to_have_text("live")
        assert wire.cut() >= 1
        house.publish("<b>Cut & healed</b>")
        expect(news).to_have_count(4, timeout=20_000)
        expect(page.locator("#state")).to_have_text("live")
        # Text, whatever is in it; and nothing twice.
        expect(news.first.locator("a")).to_have_text("Cut & healed")
        titles = news.locator("a").all_inner_texts()
        assert len(set(titles)) == len(titles) == 4
        began = time.monotonic()
        page.click("#stop")
        expect(page.locator("#state")).to_have_text("stopped", timeout=5000)
        [run] = httpx2.get(f"{house.base}/runs", trust_env=False).json()["runs"]
        until(lambda: house.run(run["id"])["state"] == "cancelled", "it is cancelled", 5)
        assert time.monotonic() - began < 3.0
        # The tool has stopped: nobody asks for the feed any more.
        asked = house.stand.count("/cnbc.xml")
        still = time.monotonic() + 2.5
        until(lambda: time.monotonic() > still, "two intervals later", 5)
        assert house.stand.count("/cnbc.xml") - asked <= 1
        # Start begins another.
        page.click("#start")
        expect(news).to_have_count(4, timeout=10_000)
    finally:
        wire.close()


@needs("chromium")
def test_stop_at_once_and_a_stop_that_fails(house: House, page: Page) -> None:
    page.goto(house.base)
    page.fill("[name=duration]", "300")
    # Before anything has come: the run is known a moment later, and stopped then.
    page.evaluate("() => { document.getElementById('start').click();"
                  " document.getElementById('stop').click(); }")  # fmt: skip
    expect(page.locator("#state")).to_have_text("stopped", timeout=10_000)
    [run] = httpx2.get(f"{house.base}/runs", trust_env=False).json()["runs"]
    assert run["state"] == "cancelled"
    page.click("#start")
    expect(page.locator("#news li")).to_have_count(3, timeout=10_000)
    page.route("**/cancel", lambda route: route.abort())
    page.click("#stop")
    expect(page.locator("#notice")).to_contain_text("could not be stopped")
    expect(page.locator("#stop")).to_be_enabled()
    page.unroute("**/cancel")
    page.click("#stop")
    expect(page.locator("#state")).to_have_text("stopped", timeout=10_000)


@needs("chromium")
def test_a_page_to_its_end(house: House, page: Page) -> None:
    page.goto(house.base)
    page.fill("[name=interval]", "1")
    page.fill("[name=duration]", "5")
    page.click("#start")
    expect(page.locator("#news li")).to_have_count(3, timeout=10_000)
    expect(page.locator("#state")).to_have_text("ended", timeout=20_000)
    assert "Stream complete" in page.inner_text("#notice")
    assert page.locator("#progress").evaluate("it => it.value") == 1
