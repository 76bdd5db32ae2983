import asyncio
import gzip
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.market_news.downloads import (
    MAX_BYTES,
    MAX_REDIRECTS,
    Download,
    Downloads,
    Unavailable,
)
from tailrace.market_news.feeds import Feed
from tests.issuing import certificate, publisher
from tests.newsstand import Newsstand, rss

pytestmark = pytest.mark.anyio


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    async with Downloads("news me@example.com") as made:
        yield made


async def get(downloads: Downloads, url: str, known: Download | None = None) -> Download | None:
    return await downloads.get(Feed("x", url), known)


async def refused(downloads: Downloads, url: str, **feed: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        await downloads.get(Feed("x", url, **feed))
    return str(caught.value)


async def test_a_feed(downloads: Downloads, stand: Newsstand) -> None:
    url = stand.put("/a?b=c", rss("x"))
    found = await get(downloads, url)
    assert found == Download(rss("x"), "application/rss+xml; charset=utf-8")
    path, head = stand.asked[0]
    assert path == "/a?b=c"
    assert head["user-agent"] == "news me@example.com"
    assert head["host"] == url.split("/")[2]
    assert head["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("etag", '"v1"', "if-none-match"),
        ("last-modified", "Fri, 20 Nov 2026 12:00:00 GMT", "if-modified-since"),
    ],
)
async def test_what_is_the_same_is_not_sent_again(
    downloads: Downloads, stand: Newsstand, name: str, value: str, asks: str
) -> None:
    url = stand.put("/a", rss("x"), headers={name: value})
    first = await get(downloads, url)
    assert first is not None
    assert asks not in stand.asked[0][1]
    assert await get(downloads, url, first) is None
    assert stand.asked[1][1][asks] == value
    stand.put("/a", rss("y"), headers={name: value + "x"})
    assert (await get(downloads, url, first) or first).body == rss("y")


async def test_what_is_packed(downloads: Downloads, stand: Newsstand) -> None:
    found = await get(downloads, stand.put("/a", rss("x"), packed=True))
    assert found is not None
    assert found.body == rss("x")


async def test_what_is_too_large(downloads: Downloads, stand: Newsstand) -> None:
    said = await refused(downloads, stand.put("/a", b"x" * (MAX_BYTES + 1)))
    assert said == "It is larger than 2 MiB."
    found = await get(downloads, stand.put("/b", b"x" * MAX_BYTES))
    assert found is not None
    assert len(found.body) == MAX_BYTES


async def test_a_packed_bomb_is_not_unpacked(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    real = zlib.decompressobj

    class Watched:
        def __init__(self, *args: Any) -> None:
            self._real = real(*args)
            self.eof = False

        def decompress(self, packed: bytes, length: int) -> bytes:
            nonlocal most
            piece = self._real.decompress(packed, length)
            most = max(most, len(piece))
            self.eof = self._real.eof
            return piece

    monkeypatch.setattr("tailrace.market_news.downloads.zlib.decompressobj", Watched)
    url = stand.put("/a", b"\0" * 100 * MAX_BYTES, packed=True)
    assert await refused(downloads, url) == "It is larger than 2 MiB."
    assert 0 < most <= MAX_BYTES + 1


@pytest.mark.parametrize(
    ("body", "coding", "said"),
    [
        (b"nonsense", "gzip", "It is packed, and damaged."),
        (gzip.compress(rss("x"))[:-9], "gzip", "It broke off."),
        (rss("x"), "br", "It is packed in a way that was not asked for."),
    ],
)
async def test_what_cannot_be_unpacked(
    downloads: Downloads, stand: Newsstand, body: bytes, coding: str, said: str
) -> None:
    url = stand.put("/a", body, headers={"content-encoding": coding})
    assert await refused(downloads, url) == said


@pytest.mark.parametrize("status", [204, 304, 401, 404, 429, 500, 503])
async def test_what_is_no_answer(downloads: Downloads, stand: Newsstand, status: int) -> None:
    assert await refused(downloads, stand.put("/a", status=status)) == f"It answered {status}."


async def test_redirects(downloads: Downloads, stand: Newsstand) -> None:
    stand.put("/end", rss("x"))
    stand.put("/b", status=307, headers={"location": stand.url("/end")})
    url = stand.put("/a", status=301, headers={"location": "b"})
    found = await get(downloads, url)
    assert found is not None
    assert found.body == rss("x")


async def test_redirects_without_end(downloads: Downloads, stand: Newsstand) -> None:
    url = stand.put("/a", status=302, headers={"location": "/a"})
    assert await refused(downloads, url) == "It redirects more than 5 times."
    assert stand.count("/a") == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "to",
    ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[", "http://\u00e4/", "//:x"],
)
async def test_redirects_to_nowhere(downloads: Downloads, stand: Newsstand, to: str) -> None:
    location = to.encode().decode("latin-1")
    url = stand.put("/a", status=302, headers={"location": location})
    assert "redirects to what is no" in await refused(downloads, url)


async def lead(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> list[str]:
    """Have names lead to addresses; which were looked up."""
    looked_up: list[str] = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        looked_up.append(host)
        return await real(names.get(host, host), port, **more)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    return looked_up


async def test_a_public_name_that_leads_to_a_private_address(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lead(monkeypatch, {"news.example.com": "127.0.0.1"})
    url = stand.put("/a", rss("x")).replace("127.0.0.1", "news.example.com")
    said = await refused(downloads, url)
    assert "private address" in said
    assert "127.0.0.1" not in said
    assert stand.asked == []
    found = await downloads.get(Feed("x", url, private=True))
    assert found is not None
    assert stand.asked[0][1]["host"] == url.split("/")[2]


async def test_a_public_feed_does_not_redirect_to_a_private_address(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To the fetcher the stand is at a public address; what it redirects to is not.
    monkeypatch.setattr(
        "tailrace.market_news.downloads.is_public", lambda address: address == "127.0.0.1"
    )
    monkeypatch.setattr(Feed, "may_be_private", False)
    await lead(monkeypatch, {"news.example.com": "127.0.0.1"})
    stand.put("/secret", rss("secret"))
    for to in ("http://127.0.0.2", "http://localhost.example", "http://[::1]"):
        await lead(monkeypatch, {"localhost.example": "127.0.0.3"})
        port = stand.url("").rpartition(":")[2]
        url = stand.put("/a", status=302, headers={"location": f"{to}:{port}/secret"})
        assert "private address" in await refused(downloads, url)
    assert stand.count("/secret") == 0


async def test_the_name_is_looked_up_once(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = await lead(monkeypatch, {"news.example.com": "127.0.0.1"})
    url = stand.put("/a", rss("x")).replace("127.0.0.1", "news.example.com")
    await downloads.get(Feed("x", url, private=True))
    assert looked_up == ["news.example.com"]


async def test_no_connection_serves_two_names(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lead(monkeypatch, {"one.example": "127.0.0.1", "two.example": "127.0.0.1"})
    url = stand.put("/a", rss("x"))
    for name in ("one.example", "two.example", "one.example"):
        found = await downloads.get(Feed("x", url.replace("127.0.0.1", name), private=True))
        assert found is not None
    assert len(set(stand.peers)) == 3


async def test_the_certificate_is_that_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified = certificate(tmp_path)
    with publisher(certified) as known:
        known.content = rss("x")
        url = known.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://localhost:")
        async with Downloads("x") as downloads:
            assert "could not be fetched" in await refused(downloads, url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certified))
        async with Downloads("x") as downloads:
            found = await get(downloads, url)
            assert found is not None
            assert found.body == rss("x")
            wrong = url.replace("localhost", "127.0.0.1")
            assert "could not be fetched" in await refused(downloads, wrong)


async def test_a_name_that_nobody_knows(downloads: Downloads) -> None:
    said = await refused(downloads, "http://does-not-exist.invalid/a")
    assert said == "The name does-not-exist.invalid is not known here."


async def test_nobody_listens(downloads: Downloads) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert "could not be fetched (ConnectError)" in await refused(downloads, url)


async def test_the_next_address_is_tried(
    downloads: Downloads, stand: Newsstand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def addresses(host: str, port: int, feed: Feed) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    monkeypatch.setattr("tailrace.market_news.downloads._addresses", addresses)
    assert await get(downloads, stand.put("/a", rss("x"))) is not None


async def test_who_does_not_answer_is_given_up(stand: Newsstand) -> None:
    url = stand.put("/a", rss("x"), gate=threading.Event())
    async with Downloads("x", timeout=0.1) as downloads:
        began = time.monotonic()
        assert await refused(downloads, url) == "It did not answer within 0.1 s."
        assert time.monotonic() - began < 5


async def test_who_answers_a_byte_at_a_time_is_given_up() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with server, Downloads("x", timeout=0.3) as downloads:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert "did not answer within" in await refused(downloads, url)


@pytest.mark.parametrize(
    ("said", "pause"),
    [("7", 7), (" 120 ", 120), ("9" * 400, 3600), ("-1", 0), ("soon", 0), ("\u00b2", 0), ("", 0)],
)
async def test_how_long_it_asks_to_be_left_alone(
    downloads: Downloads, stand: Newsstand, said: str, pause: float
) -> None:
    url = stand.put("/a", status=429, headers={"retry-after": said})
    with pytest.raises(Unavailable) as caught:
        await get(downloads, url)
    assert caught.value.pause == pause
