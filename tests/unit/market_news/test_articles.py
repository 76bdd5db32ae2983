import math
import time
from pathlib import Path

import pytest

from tailrace.market_news.articles import MAX_ARTICLES, Article, plain, read, rfc3339
from tailrace.market_news.feeds import Feed
from tests import newsstand

FEED = Feed("CNBC", "https://search.cnbc.com/rss", "markets")


def only(body: bytes, content_type: str = "text/xml") -> Article:
    articles, problem = read(body, FEED, content_type)
    assert problem is None
    assert len(articles) == 1
    return articles[0]


def test_rss_as_cnbc_has_it() -> None:
    assert only(newsstand.rss("S&P 500 climbs")) == Article(
        keys=frozenset({(FEED.url, "1"), ("1", "https://www.cnbc.com/1.html")}),
        source="CNBC",
        title="S&P 500 climbs",
        url="https://www.cnbc.com/1.html",
        time="2026-11-20T12:00:00Z",
        category="markets",
        text="S&P 500 climbs\nAbout 1.",
    )


def test_atom_as_the_sec_has_it() -> None:
    found = only(newsstand.atom("8-K - APPLE INC"), "application/atom+xml")
    assert (FEED.url, "urn:tag:sec.gov,2008:accession-number=1") in found.keys
    assert (found.title, found.url) == ("8-K - APPLE INC", "https://www.sec.gov/1.htm")
    assert found.time == "2026-11-20T12:01:00Z"
    assert found.text.endswith("\nFiled: 2026-11-20")


def test_rdf_as_central_banks_have_it() -> None:
    found = only(newsstand.rdf("A decision"))
    assert (found.title, found.url) == ("A decision", "https://www.ecb.europa.eu/1")
    assert found.time == "2026-11-20T00:00:00Z"


@pytest.mark.parametrize("content_type", ["text/xml", "application/rss+xml", ""])
def test_other_encodings(content_type: str) -> None:
    title = "Caf\u00e9 \u201cquoted\u201d \u20ac 5"
    assert only(newsstand.rss(title, encoding="cp1252"), content_type).title == title


def test_the_encoding_that_http_says_wrongly() -> None:
    # It is said to be UTF-8, and the text says what it is.
    body = newsstand.rss("Caf\u00e9", encoding="cp1252")
    articles, problem = read(body, FEED, "application/rss+xml; charset=utf-8")
    assert [one.title for one in articles] == ["Caf\u00e9"]
    assert problem is None


def test_what_is_malformed_is_read_as_far_as_it_goes_and_named() -> None:
    articles, problem = read(newsstand.MALFORMED, FEED)
    assert articles[0].title == "Profits & losses"
    assert problem is not None
    assert problem.startswith("It is malformed (")


@pytest.mark.parametrize(
    "body", [b"", b"<html><body>Down</body></html>", b"\0\xff" * 500, b"{}", b"<", b"/etc/passwd"]
)
def test_what_is_no_feed(body: bytes) -> None:
    assert read(body, FEED) == ([], "It is no RSS or Atom feed.")


def test_a_feed_without_articles_is_one() -> None:
    assert read(newsstand.rss(), FEED) == ([], None)


def test_an_entity_reads_no_file() -> None:
    articles, _ = read(newsstand.XXE, FEED)
    secret = Path("/etc/hostname").read_text().strip() if Path("/etc/hostname").exists() else ""
    assert len(articles) == 1
    assert not secret or secret not in articles[0].text
    assert articles[0].title.startswith("Before ")


def test_entities_do_not_multiply() -> None:
    began = time.process_time()
    articles, _ = read(newsstand.BOMB, FEED)
    assert time.process_time() - began < 2
    assert sum(len(one.text) for one in articles) < 5000


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("A &amp; B", "A & B"),
        ("<b>Bold</b> move", "Bold move"),
        ("&lt;b&gt;Bold&lt;/b&gt; move", "Bold move"),
        ("&amp;lt;script&amp;gt;x&amp;lt;/script&amp;gt;y", "y"),
        ("<img src=x onerror=alert(1)>Up", "Up"),
        ("<script>steal()</script>Up", "Up"),
        ("<style>p{}</style>Up", "Up"),
        ("<!-- x -->Up", "Up"),
        ("a < b and c > d", "a < b and c > d"),
        ("3<5", "3<5"),
        ("  many\n\t spaces ", "many spaces"),
        ("a\x00b\x1b[31mc\u202ed", "ab[31mcd"),
        ("<", "<"),
        ("\ud800x", "x"),
        ("", ""),
    ],
)
def test_text_without_markup(said: str, shown: str) -> None:
    assert plain(said, 100) == shown


def test_long_text_is_cut() -> None:
    assert plain("word " * 100, 20) == "word word word word…"
    assert len(plain("x" * 10_000_000, 300)) == 300


@pytest.mark.parametrize("begins", ["<!--", "<script>", "<style ", "&lt;!--", "<"])
def test_markup_without_an_end_takes_no_time(begins: str) -> None:
    began = time.process_time()
    assert len(plain(begins * 100_000, 2000)) <= 2000
    assert time.process_time() - began < 0.1, "each beginning looks for its end"


def test_markup_in_a_title() -> None:
    assert only(newsstand.rss("<b>Up</b> & <script>x</script>down")).title == "Up & down"


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "https://", "http://[", ""],
)
def test_a_link_that_is_none(link: str) -> None:
    body = newsstand.rss("x").replace(b"https://www.cnbc.com/1.html", link.encode())
    found = read(body, FEED)[0][0]
    assert found.url is None or found.url.startswith(("http://", "https://"))
    assert found.url != link


def test_without_a_guid_the_url_is_the_key() -> None:
    body = newsstand.rss("x").replace(b'<guid isPermaLink="false">1</guid>', b"")
    assert (FEED.url, "https://www.cnbc.com/1.html") in only(body).keys


@pytest.mark.parametrize("said", [b"", b"yesterday", b"Fri, 32 Nov 2026 99:00:00 GMT"])
def test_without_a_time_it_has_none(said: bytes) -> None:
    body = newsstand.rss("x").replace(b"Fri, 20 Nov 2026 12:00:00 GMT", said)
    assert only(body).time is None


def test_times_of_other_zones() -> None:
    body = newsstand.rss("x").replace(b"12:00:00 GMT", b"12:00:00 -0500")
    assert only(body).time == "2026-11-20T17:00:00Z"


def test_only_the_first_articles() -> None:
    articles, _ = read(newsstand.rss(*map(str, range(MAX_ARTICLES + 50))), FEED)
    assert [one.title for one in articles] == [str(at) for at in range(MAX_ARTICLES)]


def test_an_article_without_a_title_is_none() -> None:
    assert read(newsstand.rss("", "x"), FEED)[0][0].title == "x"


def test_a_point_in_time() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    with pytest.raises(ValueError, match="NaN"):
        rfc3339(math.nan)
