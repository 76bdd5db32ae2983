import importlib.resources
from urllib.parse import urlsplit

import pytest

from tailrace.market_news.feeds import (
    COMPANIES,
    DEFAULTS,
    MAX_FEEDS,
    SAMPLES,
    Feed,
    host_of,
    is_public,
)
from tailrace.market_news.selection import symbol_of


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("example.com", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8000/x", True),
        ("http://[::1]/x", True),
        ("http://localhost/x", True),
        ("http://LOCALHOST/x", True),
        ("http://192.168.1.7/x", True),
        ("https://www.cnbc.com/x", False),
        ("https://8.8.8.8/x", False),
        ("http://intranet/x", False),
    ],
)
def test_which_feeds_may_be_private(url: str, private: bool) -> None:
    assert Feed("x", url).may_be_private is private
    assert Feed("x", url, private=True).may_be_private


def test_the_host_of_what_is_no_url() -> None:
    assert [host_of(url) for url in ("x", "", "http://[", "http:///x")] == ["", "", "", ""]


def test_the_feeds_there_are_by_default() -> None:
    assert 0 < len(DEFAULTS) <= MAX_FEEDS
    assert len({feed.name for feed in DEFAULTS}) == len({feed.url for feed in DEFAULTS})
    assert {urlsplit(feed.url).scheme for feed in DEFAULTS} == {"https"}
    assert not any(feed.may_be_private for feed in DEFAULTS)
    assert all(feed.category == feed.category.lower() for feed in DEFAULTS)


def test_each_sample_is_shipped() -> None:
    folder = importlib.resources.files("tailrace.market_news") / "samples"
    assert {place.name for place in folder.iterdir()} == set(SAMPLES)


def test_symbols_are_as_they_are_looked_up() -> None:
    assert [symbol for symbol in COMPANIES if symbol_of(symbol) != symbol] == []
