"""Articles, out of the bytes of a feed: RSS, Atom or RDF, in any encoding, well-formed or not."""

from __future__ import annotations

import calendar
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from tailrace.market_news.feeds import Feed

MAX_ARTICLES: Final = 200
"""Of one feed; those it names first."""

_MAX_TITLE: Final = 300
_MAX_TEXT: Final = 2000
_MAX_URL: Final = 2000

# What is without end, like "<!--" again and again, is looked at once for each beginning.
_MAX_LOOKED_AT: Final = 4096

# With attributes or without; "a < b" is no tag.
_TAG: Final = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--|![^<>]*|\?[^<>]*)>", re.DOTALL)
_CODE: Final = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)

# Controls, and what turns the direction of the text after it.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Article:
    """One article, as it is told.

    keys: two articles that have one in common are the same. A guid is unique in its feed only
    (RSS 2.0), and what is in several feeds has the same guid and URL in each.
    url: http or https, or None.
    time: RFC 3339 in UTC, with whole seconds, or None where the feed says none.
    text: where a symbol is looked for.
    """

    keys: frozenset[tuple[str, str]]
    source: str
    title: str
    url: str | None
    time: str | None
    category: str
    text: str


def read(body: bytes, feed: Feed, content_type: str = "") -> tuple[list[Article], str | None]:
    """The articles in `body`, in its order, and what is wrong with it, if anything.

    Never raises for what the bytes are. It computes: 45 ms for 200 articles, and hours for what is
    hostile. `Readers` has it in a process that can be killed.
    """
    import feedparser  # type: ignore[import-untyped]  # noqa: PLC0415 - 60 ms, for the first feed

    try:
        # A stream: bytes are taken for the name of a file, and text for a URL, and opened.
        parsed = feedparser.parse(
            io.BytesIO(body),
            response_headers={"content-type": content_type, "content-location": feed.url},
        )
    except Exception as error:  # noqa: BLE001 - hostile bytes must not end somebody's stream
        return [], f"It cannot be read: {type(error).__name__}."
    articles: list[Article] = []
    for entry in parsed.entries[:MAX_ARTICLES]:
        article = _article(entry, feed)
        if article is not None:
            articles.append(article)
    return articles, _problem(parsed, articles)


def _problem(parsed: Mapping[str, Any], articles: list[Article]) -> str | None:
    if not parsed.get("version") and not articles:
        return "It is no RSS or Atom feed."
    error = parsed.get("bozo_exception")
    # Of these the encoding was guessed, and the text is right.
    if not parsed.get("bozo") or type(error).__name__ in _HARMLESS:
        return None
    reason = getattr(error, "getMessage", lambda: type(error).__name__)()
    return f"It is malformed ({plain(str(reason), 100)}); {len(articles)} articles could be read."


_HARMLESS: Final = ("CharacterEncodingOverride", "NonXMLContentType")


def _article(entry: dict[str, Any], feed: Feed) -> Article | None:
    title = plain(str(entry.get("title") or ""), _MAX_TITLE)
    url = _url(entry.get("link"))
    if not title:
        return None
    guid = str(entry.get("id") or url or title)[:_MAX_URL]
    return Article(
        keys=frozenset({(feed.url, guid), (guid, url or feed.url)}),
        source=feed.name,
        title=title,
        url=url,
        time=_time(entry),
        category=feed.category,
        text=f"{title}\n{plain(str(entry.get('summary') or ''), _MAX_TEXT)}",
    )


def plain(text: str, most: int) -> str:
    """A line of text, without markup, of at most `most` characters."""
    # A prefix suffices, and hostile text may be of any length.
    text = text[: min(most * 20, _MAX_LOOKED_AT)]
    # Feeds hide tags behind entities, and entities behind entities.
    for _ in range(3):
        before = text
        text = html.unescape(_TAG.sub(" ", _CODE.sub(" ", text)))
        if text == before:
            break
    text = _TAG.sub(" ", _CODE.sub(" ", text))
    text = " ".join(_UNSEEN.sub("", text).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _url(link: Any) -> str | None:
    if not isinstance(link, str) or len(link) > _MAX_URL or not link.isprintable():
        return None
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        return None
    # javascript:, data: and file: are nothing to show as a link.
    return link.strip() if parts.scheme in ("http", "https") and parts.netloc else None


_TIMES: Final = ("published_parsed", "updated_parsed")


def _time(entry: dict[str, Any]) -> str | None:
    # Of the plain dict: its own `get` warns that one stands in for the other.
    found = next((at for name in _TIMES if (at := dict.get(entry, name)) is not None), None)
    if found is None:
        return None
    try:
        return rfc3339(calendar.timegm(found))
    except (ValueError, OverflowError, TypeError):
        return None


def rfc3339(seconds: float) -> str:
    """A point in time, in UTC with whole seconds: `2026-11-20T16:38:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
