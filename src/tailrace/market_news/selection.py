"""Which articles somebody wants, and which of them are new to them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tailrace.market_news.articles import Article

# 50 feeds with 200 articles of two keys each, twice over: what is still in a feed is not forgotten.
MAX_SENT: Final = 40_000

_SYMBOL: Final = re.compile(r"[A-Z0-9^][A-Z0-9.\-=]{0,11}", re.ASCII)


def symbol_of(said: str) -> str | None:
    """A ticker symbol in its usual form: `$aapl` is AAPL. None if it is none."""
    symbol = said.strip().removeprefix("$").upper()
    return symbol if _SYMBOL.fullmatch(symbol) else None


class Selection:
    """What one caller is told: articles about a symbol, of a category, each of them once.

    `symbol` as `symbol_of` has it, or None for all; `category` in any case, or None for all.
    """

    def __init__(
        self,
        symbol: str | None = None,
        category: str | None = None,
        companies: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._category = None if category is None else category.lower()
        self._pattern = None if symbol is None else _pattern(symbol, (companies or {}).get(symbol))
        self._sent: dict[tuple[str, str], None] = {}

    def wants(self, article: Article) -> bool:
        """Whether it is one of those asked for, told already or not."""
        if self._category is not None and article.category.lower() != self._category:
            return False
        return self._pattern is None or self._pattern.search(article.text) is not None

    def take(self, articles: Iterable[Article], limit: int) -> tuple[list[Article], int]:
        """At most `limit` that are wanted and were not taken before, the newest first; and how
        many more of them there are. Those are taken by a later call, unless they are gone by
        then.
        """
        new: list[Article] = []
        found: set[tuple[str, str]] = set()
        for article in articles:
            keys = article.keys
            if (
                self._sent.keys().isdisjoint(keys)
                and found.isdisjoint(keys)
                and self.wants(article)
            ):
                new.append(article)
                found |= keys
        # Stable: what has no time keeps the order of its feed, behind all others.
        ordered = sorted(new, key=lambda article: article.time or "", reverse=True)
        taken = ordered[:limit]
        for article in taken:
            self._sent.update(dict.fromkeys(article.keys))
        while len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]
        return taken, len(ordered) - len(taken)


def _pattern(symbol: str, names: Sequence[str] | None) -> re.Pattern[str]:
    """Finds the symbol, in capitals, or a company's name, as a word of its own."""
    # BRK.B is also written BRK-B and BRK/B.
    written = re.sub(r"\\?[.\-]", "[./-]", re.escape(symbol))
    ends = r"(?![\w])(?![.\-][A-Z]\b)"
    if len(symbol) == 1:
        # "A Fed official": a letter alone is no symbol, (A), NYSE: A and $A are.
        alone = rf"(?:\$|\(|:\s?){written}{ends}"
    else:
        alone = rf"(?<![\w.\-]){written}{ends}"
    called = [
        rf"(?<!\w){re.escape(way)}(?!\w)"
        for name in names or ()
        for way in dict.fromkeys((name, name.upper()))
    ]
    return re.compile("|".join([alone, *called]))
