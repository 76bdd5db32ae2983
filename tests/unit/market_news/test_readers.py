"""Feeds that are read in processes of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tailrace.market_news.articles import read
from tailrace.market_news.downloads import Unavailable
from tailrace.market_news.feeds import Feed
from tailrace.market_news.readers import Readers
from tests.newsstand import MALFORMED, Newsstand, atom, rss
from tests.processes import ROOT, START_SECONDS, eventually
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

FEED = Feed("A", "https://example.com/a", "markets")
NEWLINES = b"\n" * 300_000 + rss("x")


@pytest.fixture
async def readers() -> AsyncIterator[Readers]:
    made = Readers(1.0)
    yield made
    await made.close()


@pytest.mark.parametrize(
    "body", [rss("one", "Caf\u00e9 \u2028"), atom("x"), MALFORMED, b"", b"<html>Down</html>"]
)
async def test_it_says_what_is_read_here(readers: Readers, body: bytes) -> None:
    assert await soon(readers.read(body, FEED, "text/xml")) == read(body, FEED, "text/xml")


async def test_a_process_reads_one_feed_after_the_other(readers: Readers) -> None:
    await soon(readers.read(rss("one"), FEED))
    (first,) = readers._idle
    await soon(readers.read(rss("two"), FEED))
    assert readers._idle == [first]


async def test_what_takes_too_long_is_given_up_and_others_are_read(readers: Readers) -> None:
    await soon(readers.read(rss("one"), FEED))
    (worker,) = readers._idle
    hostile = asyncio.create_task(readers.read(NEWLINES, FEED))
    await until(lambda: not readers._idle)
    began = time.monotonic()
    articles, _ = await soon(readers.read(rss("two"), FEED))
    assert [one.title for one in articles] == ["two"]
    assert not hostile.done(), "nobody waits for it"
    with pytest.raises(Unavailable, match="It could not be read in time") as refused:
        await soon(hostile)
    assert refused.value.pause >= 60, "its next try would cost as much"
    assert time.monotonic() - began < 5
    assert worker.returncode == -signal.SIGKILL


async def test_a_process_that_died_is_replaced(readers: Readers) -> None:
    await soon(readers.read(rss("one"), FEED))
    (worker,) = readers._idle
    worker.kill()
    await soon(worker.wait())
    articles, _ = await soon(readers.read(rss("two"), FEED))
    assert [one.title for one in articles] == ["two"]


async def test_a_process_that_dies_while_it_reads(readers: Readers) -> None:
    await soon(readers.read(rss("one"), FEED))
    (worker,) = readers._idle
    reading = asyncio.create_task(readers.read(NEWLINES, FEED))
    await until(lambda: not readers._idle)
    worker.kill()
    with pytest.raises(Unavailable, match=r"It could not be read\."):
        await soon(reading)


async def test_a_cancel_ends_the_process(readers: Readers) -> None:
    await soon(readers.read(rss("one"), FEED))
    (worker,) = readers._idle
    reading = asyncio.create_task(readers.read(NEWLINES, FEED))
    await until(lambda: not readers._idle)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(reading)
    assert worker.returncode is not None
    assert not readers._idle


async def test_the_end_ends_them() -> None:
    readers = Readers()
    await soon(asyncio.gather(*(readers.read(rss("one"), FEED) for _ in range(10))))
    workers = list(readers._idle)
    assert 1 <= len(workers) <= 2
    await readers.close()
    assert all(worker.returncode is not None for worker in workers)


async def _ask(url: str) -> dict[str, object]:
    from mcp import Client

    async with Client(url) as client:
        answer = await client.call_tool("get_market_news", {})
    assert answer.structured_content is not None
    return dict(answer.structured_content)


@pytest.mark.slow
async def test_a_hostile_feed_does_not_stop_the_server(tmp_path: Path) -> None:
    with Newsstand().open() as stand:
        feeds = [stand.put("/bad", NEWLINES), stand.put("/good", rss("one"))]
        words = [word for feed in feeds for word in ("--feed", feed)]
        said = tmp_path / "said"
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", "market-news", "--port", "0", *words],
                cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ},
            )  # fmt: skip
        try:
            await eventually(lambda: "/mcp" in said.read_text(), "it is there", START_SECONDS)
            found = re.search(r"http://\S+", said.read_text())
            assert found is not None
            began = time.monotonic()
            news = await soon(_ask(found[0]))
            async with httpx2.AsyncClient() as client:
                await client.get(found[0], timeout=2)
            assert "one" in str(news["news"]), "the other is told"

            async def is_told() -> bool:
                return "It could not be read in time." in str((await _ask(found[0]))["problems"])

            while not await soon(is_told()):
                assert time.monotonic() - began < 8, "it is a problem by now"
                await asyncio.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 5) == 0
        finally:
            process.kill()
            process.wait()
