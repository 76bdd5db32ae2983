"""Fetching a feed: what others send is bounded in size and time, and leads nowhere private."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import httpx2

from tailrace.market_news.feeds import Feed, is_public

MAX_BYTES: Final = 2 * 1024 * 1024
"""Of a feed, unpacked."""

TIMEOUT_SECONDS: Final = 10.0
"""For all of it: the name, the connections, the redirects and the body."""

MAX_REDIRECTS: Final = 5

MAX_PAUSE: Final = 3600.0
"""Of what a feed may ask for."""

_MAX_ADDRESSES: Final = 3

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_WANTED: Final = (
    "application/rss+xml, application/atom+xml, application/rdf+xml;q=0.9, "
    "application/xml;q=0.8, text/xml;q=0.8, */*;q=0.1"
)


class Unavailable(Exception):
    """A feed that could not be had; `str(error)` says why, without addresses of networks.

    pause: for how many seconds it asks not to be asked again.
    """

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class Download:
    """A body, with what lets the server say next time that it is the same still."""

    body: bytes
    content_type: str = ""
    etag: str | None = None
    modified: str | None = None


class Downloads:
    """Fetches feeds; an async context manager.

    Never through a proxy: it would look up the names, and nobody could see where they lead.
    """

    def __init__(self, user_agent: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._client = httpx2.AsyncClient(
            headers={"user-agent": user_agent, "accept": _WANTED, "accept-encoding": "gzip"},
            timeout=httpx2.Timeout(timeout, pool=None),
            # No connection is used twice: it is to an address, and was made for one name that
            # is there. Another name at the same address has another certificate.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            verify=httpx2.create_ssl_context(),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def get(self, feed: Feed, known: Download | None = None) -> Download | None:
        """The feed as it is now; None if it is as `known` has it. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(feed, known)
        except TimeoutError:
            raise Unavailable(f"It did not answer within {self._timeout:g} s.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise Unavailable(f"It could not be fetched ({type(error).__name__}).") from None

    async def _follow(self, feed: Feed, known: Download | None) -> Download | None:
        url = feed.url
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(url, feed, known)
            try:
                if answer.status_code not in _REDIRECTS:
                    return await _taken(answer, known)
                url = urljoin(url, answer.headers.get("location", ""))
            except ValueError:
                raise Unavailable("It redirects to what is no URL.") from None
            finally:
                await answer.aclose()
        raise Unavailable(f"It redirects more than {MAX_REDIRECTS} times.")

    async def _ask(self, url: str, feed: Feed, known: Download | None) -> httpx2.Response:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise Unavailable("It redirects to what is no URL.") from None
        if parts.scheme not in ("http", "https") or not host or not url.isascii():
            raise Unavailable("It redirects to what is no http or https URL.")
        headers = {"host": parts.netloc.rpartition("@")[2]}
        if known is not None and known.etag is not None:
            headers["if-none-match"] = known.etag
        if known is not None and known.modified is not None:
            headers["if-modified-since"] = known.modified
        refused: httpx2.TransportError | None = None
        port = port or (443 if parts.scheme == "https" else 80)
        for address in await _addresses(host, port, feed):
            request = self._client.build_request(
                "GET",
                # To the address that was looked at: asked again, the name may lead elsewhere.
                httpx2.URL(url).copy_with(host=address, username="", password=""),
                headers=headers,
                extensions={"sni_hostname": host},
            )
            try:
                return await self._client.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                refused = error
        assert refused is not None  # noqa: S101 - there was an address
        raise refused


async def _addresses(host: str, port: int, feed: Feed) -> list[str]:
    """Where `host` is, IPv4 first. Raises Unavailable if that is private, and not meant to be."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unavailable(f"The name {host} is not known here.") from None
    found.sort(key=lambda entry: entry[0] is not socket.AF_INET)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not feed.may_be_private and not all(map(is_public, addresses)):
        # A redirect, or a name that its owner points at 127.0.0.1, could otherwise read what
        # only this machine can.
        raise Unavailable(
            f"It leads to a private address, by the name {host}. If that is meant, have it in "
            "the settings with private = true."
        )
    return addresses[:_MAX_ADDRESSES]


async def _taken(answer: httpx2.Response, known: Download | None) -> Download | None:
    if answer.status_code == 304 and known is not None:
        return None
    if answer.status_code != 200:
        raise Unavailable(f"It answered {answer.status_code}.", _pause(answer))
    body = bytearray()
    async with contextlib.aclosing(_unpacked(answer)) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_BYTES:
                raise Unavailable(f"It is larger than {MAX_BYTES // 1024 // 1024} MiB.")
    return Download(
        bytes(body),
        answer.headers.get("content-type", ""),
        answer.headers.get("etag"),
        answer.headers.get("last-modified"),
    )


def _pause(answer: httpx2.Response) -> float:
    """What Retry-After says in seconds (RFC 9110 §10.2.3); as a date, nobody does."""
    said = answer.headers.get("retry-after", "").strip()
    return min(float(said[:9]), MAX_PAUSE) if said.isascii() and said.isdigit() else 0.0


async def _unpacked(answer: httpx2.Response) -> AsyncGenerator[bytes]:
    """The body's bytes, never many more than asked for: a KiB of gzip may hold a MiB."""
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise Unavailable("It is packed in a way that was not asked for.")
    if coding == "identity":
        async for piece in answer.aiter_raw():
            yield piece
        return
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        async for packed in answer.aiter_raw():
            yield unpacker.decompress(packed, MAX_BYTES + 1)
        # Whatever is left was beyond the bound of a piece, and so is the whole.
        if not unpacker.eof:
            raise Unavailable("It broke off.")
    except zlib.error:
        raise Unavailable("It is packed, and damaged.") from None
