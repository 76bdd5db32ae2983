"""The feeds that are read: where they are, and what they are about."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

MAX_FEEDS: Final = 50


@dataclass(frozen=True, slots=True)
class Feed:
    """One RSS or Atom feed.

    `private`: it may be at an address of this machine or of a network that is not public. That
    is so by itself where the URL says such an address, or localhost.
    """

    name: str
    url: str
    category: str = "general"
    private: bool = False

    @property
    def host(self) -> str:
        """In lower case, without a port."""
        return host_of(self.url)

    @property
    def may_be_private(self) -> bool:
        """Whether whoever configured it meant such an address."""
        return self.private or self.host == "localhost" or not is_public(self.host, names=True)


def host_of(url: str) -> str:
    """The host that a URL names, in lower case; empty if it names none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def is_public(address: str, *, names: bool = False) -> bool:
    """Whether an address belongs to the public internet; `names`: what is no address counts as
    public, for nobody has looked it up yet.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return names
    if isinstance(found, ipaddress.IPv6Address):
        # ::ffff:127.0.0.1, 64:ff9b::127.0.0.1 and 2002:7f00:1:: lead to 127.0.0.1, and to Python
        # the last two are public.
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

_CNBC: Final = "https://search.cnbc.com/rs/search/combinedcms/view.xml?partnerId=wrss01&id="

DEFAULTS: Final = (
    Feed("CNBC Top News", _CNBC + "100003114", "markets"),
    Feed("CNBC Finance", _CNBC + "10000664", "finance"),
    Feed("CNBC Economy", _CNBC + "20910258", "economy"),
    Feed("CNBC Technology", _CNBC + "19854910", "technology"),
    Feed(
        "MarketWatch Top Stories",
        "https://feeds.content.dowjones.io/public/rss/mw_topstories",
        "markets",
    ),
    Feed(
        "Federal Reserve",
        "https://www.federalreserve.gov/feeds/press_all.xml",
        "central-banks",
    ),
    Feed("ECB", "https://www.ecb.europa.eu/rss/press.html", "central-banks"),
    Feed("SEC Press Releases", "https://www.sec.gov/news/pressreleases.rss", "regulation"),
    Feed(
        "SEC Filings (8-K)",
        "https://www.sec.gov/cgi-bin/browse-edgar?action=getcurrent&type=8-K&count=40&output=atom",
        "filings",
    ),
    Feed("BLS", "https://www.bls.gov/feed/bls_latest.rss", "economy"),
)

# Which files stand in for them where there is no network, by what each is in the package.
SAMPLES: Final[Mapping[str, Feed]] = {
    "markets.rss.xml": Feed("Sample Markets Wire", "https://example.com/markets.rss", "markets"),
    "filings.atom.xml": Feed("Sample Filings", "https://example.org/filings.atom", "filings"),
    "releases.rdf.xml": Feed(
        "Sample Central Bank", "https://example.net/releases.rdf", "central-banks"
    ),
}

COMPANIES: Final[Mapping[str, tuple[str, ...]]] = {
    "AAPL": ("Apple",),
    "AMD": ("Advanced Micro Devices",),
    "AMZN": ("Amazon",),
    "BA": ("Boeing",),
    "BAC": ("Bank of America",),
    "BRK.B": ("Berkshire Hathaway",),
    "C": ("Citigroup",),
    "CVX": ("Chevron",),
    "DIS": ("Disney",),
    "F": ("Ford",),
    "GM": ("General Motors",),
    "GOOG": ("Alphabet", "Google"),
    "GOOGL": ("Alphabet", "Google"),
    "GS": ("Goldman Sachs",),
    "IBM": (),
    "INTC": ("Intel",),
    "JNJ": ("Johnson & Johnson",),
    "JPM": ("JPMorgan", "JP Morgan"),
    "KO": ("Coca-Cola",),
    "MCD": ("McDonald's", "McDonald’s"),
    "META": ("Meta Platforms", "Facebook"),
    "MS": ("Morgan Stanley",),
    "MSFT": ("Microsoft",),
    "NFLX": ("Netflix",),
    "NKE": ("Nike",),
    "NVDA": ("Nvidia",),
    "ORCL": ("Oracle",),
    "PFE": ("Pfizer",),
    "PG": ("Procter & Gamble",),
    "T": ("AT&T",),
    "TSLA": ("Tesla",),
    "UBER": (),
    "V": ("Visa",),
    "VZ": ("Verizon",),
    "WFC": ("Wells Fargo",),
    "WMT": ("Walmart",),
    "XOM": ("Exxon Mobil", "ExxonMobil"),
}
"""What companies are called, by their symbols."""
