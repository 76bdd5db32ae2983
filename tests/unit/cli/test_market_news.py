import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tailrace.market_news import server
from tailrace.market_news.settings import Settings, load
from tests.processes import ROOT, until
from tests.waiting import soon
from tests.waiting import until as until_so

NAME = "TAILRACE_TEST_NEWS_KEY"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What it would have served, and where."""
    made: list[Any] = []

    def serve(listener: Any, settings: Settings, *, key: str | None) -> None:
        made.append((listener.getsockname()[:2], settings, key))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(server, "talk", made.append)
    return made


def test_by_default(tailrace: Callable[..., Any], served: list[Any]) -> None:
    told = tailrace("market-news", "--port", "0")
    assert (told.code, told.out, told.err) == (0, "", "")
    ((host, port), settings, key) = served[0]
    assert (host, settings, key) == ("127.0.0.1", Settings(), None)
    assert port > 0


def test_feeds_and_a_file(tailrace: Callable[..., Any], served: list[Any], tmp_path: Path) -> None:
    place = tmp_path / "news.toml"
    place.write_text('user_agent = "me"\n')
    feeds = ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"]
    words = [word for feed in feeds for word in ("--feed", feed)]
    assert tailrace("market-news", "--port", "0", "--config", str(place), *words).code == 0
    assert served[0][1] == load(place, feeds)


def test_standard_input_and_output(tailrace: Callable[..., Any], served: list[Any]) -> None:
    assert tailrace("market-news", "--stdio").code == 0
    assert served == [Settings()]


def test_the_examples_are_read(tailrace: Callable[..., Any], served: list[Any]) -> None:
    place = ROOT / "examples" / "market_news" / "feeds.toml"
    assert tailrace("market-news", "--stdio", "--config", str(place)).code == 0
    assert len(served[0].feeds) == 2


def test_a_key(
    tailrace: Callable[..., Any], served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "0123456789abcdef\n")
    assert tailrace("market-news", "--port", "0", "--key-env", NAME).code == 0
    assert served[0][2] == "0123456789abcdef"
    assert tailrace("market-news", "--port", "0", "--key-env", NAME, "--host", "0.0.0.0").code == 0
    assert served[1][0][0] == "0.0.0.0"


@pytest.mark.parametrize("value", [None, "", "short", "with a space in it", "\u00e4" * 20])
def test_what_is_no_key(
    tailrace: Callable[..., Any],
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    if value is not None:
        monkeypatch.setenv(NAME, value)
    told = tailrace("market-news", "--port", "0", "--key-env", NAME)
    assert (told.code, served) == (125, [])
    assert f"{NAME} must hold a key" in told.err
    assert not value or value not in told.err


def test_an_address_that_others_can_reach(tailrace: Callable[..., Any], served: list[Any]) -> None:
    told = tailrace("market-news", "--port", "0", "--host", "0.0.0.0")
    assert (told.code, served) == (125, [])
    assert "--key-env NAME" in told.err


def test_what_is_wrong(tailrace: Callable[..., Any], served: list[Any]) -> None:
    told = tailrace("market-news", "--feed", "file:///etc/passwd")
    assert (told.code, served) == (125, [])
    assert "http or https URL" in told.err
    assert tailrace("market-news", "--port", "70000").code == 2


@pytest.mark.parametrize("missing", ["mcp", "feedparser"])
def test_without_its_packages(
    tailrace: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tailrace.market_news.server")
    monkeypatch.delattr("tailrace.market_news.server")
    monkeypatch.setitem(sys.modules, missing, None)
    told = tailrace("market-news", "--port", "0")
    assert told.code == 125
    assert f"needs the package {missing}" in told.err
    assert "pip install 'tailrace[news]'" in told.err


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command as a process, and its URL."""
    said = tmp_path / "said.txt"
    words = [
        sys.executable,
        "-m",
        "tailrace.cli.main",
        "market-news",
        "--port",
        "0",
        "--feed",
        "http://127.0.0.1:1/x",
    ]
    with said.open("wb") as out:
        started = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: "/mcp" in said.read_text() or started.poll() is not None, "ready", 30)
        found = re.search(r"http://\S+", said.read_text())
        assert found is not None, said.read_text()
        yield started, found[0]
        started.wait(10)
        assert "Traceback" not in said.read_text()
    finally:
        started.kill()
        started.wait()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_its_streams(
    process: tuple[subprocess.Popen[bytes], str], mode: str, number: signal.Signals
) -> None:
    started, url = process
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with Client(url, mode=mode) as client:
        calling = asyncio.create_task(
            client.call_tool("stream_market_news", {"duration": 600}, progress_callback=hear)
        )
        await until_so(lambda: len(told) == 2)
        assert '"sample":true' in str(told[1])
        os.kill(started.pid, number)
        result = await soon(calling)
        assert result.is_error
    began = time.monotonic()
    assert await asyncio.to_thread(started.wait, 10) == 0
    assert time.monotonic() - began < 5


@pytest.mark.anyio
async def test_over_standard_input_and_output() -> None:
    words = ["-m", "tailrace.cli.main", "market-news", "--stdio", "--feed", "http://127.0.0.1:1/x"]
    async with Client(StdioServerParameters(command=sys.executable, args=words)) as client:
        result = await soon(client.call_tool("get_market_news", {"limit": 3}), 30)
    assert result.structured_content is not None
    assert result.structured_content["sample"] is True
    assert result.structured_content["news"]["count"] == 3
