import pytest

from tailrace.market_news.articles import Article, read
from tailrace.market_news.feeds import COMPANIES, Feed
from tailrace.market_news.selection import MAX_SENT, Selection, symbol_of
from tests.newsstand import rss


def article(key: str = "1", title: str = "x", time: str | None = None, **more: str) -> Article:
    category = more.get("category", "markets")
    text = f"{title}\n{more.get('summary', '')}"
    return Article(frozenset({("h", key)}), "S", title, None, time, category, text)


@pytest.mark.parametrize(
    ("said", "symbol"),
    [
        ("AAPL", "AAPL"), (" $aapl ", "AAPL"), ("brk.b", "BRK.B"), ("^GSPC", "^GSPC"), ("F", "F"),
        ("", None), ("A B", None), ("A" * 13, None), (".*", None), ("\u00c4", None), ("(", None),
    ],
)  # fmt: skip
def test_what_is_a_symbol(said: str, symbol: str | None) -> None:
    assert symbol_of(said) == symbol


@pytest.mark.parametrize(
    ("symbol", "title", "wanted"),
    [
        ("AAPL", "Shares of AAPL rise", True),
        ("AAPL", "AAPL: up", True),
        ("AAPL", "(AAPL)", True),
        ("AAPL", "$AAPL", True),
        ("AAPL", "XAAPL rises", False),
        ("AAPL", "AAPLE rises", False),
        ("AAPL", "AAPL.L rises", False),
        ("AAPL", "aapl", False),
        ("AAPL", "Apple's new phone", True),
        ("AAPL", "APPLE AT A HIGH", True),
        ("AAPL", "An apple a day", False),
        ("AAPL", "Pineapple futures", False),
        ("AAPL", "Applebee's opens", False),
        ("F", "Ford recalls", True),
        ("F", "Plan F fails", False),
        ("F", "Up: (F), (GM)", True),
        ("F", "NYSE: F", True),
        ("T", "AT&T merges", True),
        ("T", "Mr. T speaks", False),
        ("BRK.B", "BRK.B and BRK-B", True),
        ("BRK.B", "BRK/B", True),
        ("BRK.B", "BRKXB", False),
        ("META", "Meta analysis of trials", False),
        ("META", "META falls", True),
        ("ALL", "All about it", False),
        ("ZZZZ", "Nothing at all", False),
        ("^GSPC", "The ^GSPC", True),
    ],
)
def test_the_symbol_is_a_word(symbol: str, title: str, wanted: bool) -> None:
    assert Selection(symbol, companies=COMPANIES).wants(article(title=title)) is wanted


def test_the_summary_counts() -> None:
    assert Selection("AAPL").wants(article(summary="What AAPL did"))


def test_the_category_in_any_case() -> None:
    assert Selection(category="Markets").wants(article())
    assert not Selection(category="economy").wants(article())


def test_each_once_the_newest_first_and_the_rest_later() -> None:
    selection = Selection()
    times = {"a": "2026-11-20T10:00:00Z", "b": None, "c": "2026-11-20T11:00:00Z", "d": None}
    found = [article(key, time=time) for key, time in times.items()]

    def take(limit: int) -> tuple[list[str], int]:
        taken, more = selection.take(found + found, limit)
        return [next(iter(one.keys))[1] for one in taken], more

    assert take(1) == (["c"], 3)
    found.append(article("e", time="2026-11-20T12:00:00Z"))
    assert take(2) == (["e", "a"], 2)
    assert take(9) == (["b", "d"], 0)
    assert take(9) == ([], 0)


def test_the_same_guid_in_several_feeds() -> None:
    def found(url: str, link: str) -> Article:
        body = rss("x").replace(b"https://www.cnbc.com/1.html", link.encode())
        return read(body, Feed("F", url))[0][0]

    there = found("https://a.example/rss", "https://a.example/1")
    again = found("https://a.example/other", "https://a.example/1")
    moved = found("https://a.example/rss", "https://a.example/1?from=rss")
    other = found("https://b.example/rss", "https://b.example/1")
    selection = Selection()
    assert selection.take([there, again, moved, other], 9) == ([there, other], 0)
    assert selection.take([again, moved], 9) == ([], 0)


def test_what_was_sent_is_bounded() -> None:
    selection = Selection()
    selection.take([article(str(number)) for number in range(MAX_SENT + 5)], MAX_SENT + 5)
    assert len(selection._sent) == MAX_SENT
