from pathlib import Path

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.market_news.feeds import COMPANIES, DEFAULTS, Feed
from tailrace.market_news.settings import USER_AGENT, Settings, load


def test_by_default() -> None:
    assert load() == Settings(DEFAULTS, COMPANIES, USER_AGENT, samples=True)


def test_a_file(tmp_path: Path) -> None:
    place = tmp_path / "news.toml"
    place.write_text(
        'user_agent = "news me@example.com"\nsamples = false\n'
        '[companies]\nacme = ["Acme", "Roadrunner & Co."]\n'
        '[[feeds]]\nname = "A"\nurl = "https://example.com/a"\ncategory = "Markets"\n'
        '[[feeds]]\nurl = "http://intranet/b"\nprivate = true\n',
        encoding="utf-8",
    )
    settings = load(place)
    assert settings.user_agent == "news me@example.com"
    assert not settings.samples
    assert settings.companies["ACME"] == ("Acme", "Roadrunner & Co.")
    assert settings.companies["AAPL"] == COMPANIES["AAPL"]
    assert settings.feeds == (
        Feed("A", "https://example.com/a", "markets"),
        Feed("intranet", "http://intranet/b", "general", private=True),
    )


def test_feeds_of_the_command_line_are_instead_of_others(tmp_path: Path) -> None:
    place = tmp_path / "news.toml"
    place.write_text('user_agent = "x"\n[[feeds]]\nurl = "https://example.com/a"\n')
    settings = load(place, ["http://127.0.0.1:1/one", "http://127.0.0.1:1/two"])
    assert settings.user_agent == "x"
    assert [(feed.name, feed.url) for feed in settings.feeds] == [
        ("127.0.0.1", "http://127.0.0.1:1/one"),
        ("127.0.0.1 (2)", "http://127.0.0.1:1/two"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com/a", "ftp://example.com/a", "file:///etc/passwd", "http://", "http://a b/",
        "https://me:secret@example.com/a", "http://example.com:99999/", "http://[::1/",
        "http://ex\u00e4mple.com/", "http://example.com/\n",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_feed(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="http or https URL") as caught:
        load(None, [url])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "'x'"),
        ("[", "not TOML"),
        ("samples = 1", "true or false"),
        ("user_agent = 7", "line of text"),
        ('user_agent = "a\\nb"', "line of text"),
        ("feeds = 1", "tables"),
        ("feeds = []", "tables"),
        ("[[feeds]]\nname = 'x'", "The url"),
        ("[[feeds]]\nurl = 'https://e.com'\nnmae = 'x'", "'nmae'"),
        ("[[feeds]]\nurl = 'https://e.com'\nname = ''", "name"),
        ("[[feeds]]\nurl = 'https://e.com'\nprivate = 1", "private"),
        ("companies = 1", "companies"),
        ("[companies]\nAAPL = 'Apple'", "'AAPL'"),
        ("[companies]\n'a b' = ['Apple']", "'a b'"),
        ("[companies]\nAAPL = ['']", "AAPL"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, said: str) -> None:
    place = tmp_path / "news.toml"
    place.write_text(text)
    with pytest.raises(SettingsInvalid, match=said) as caught:
        load(place)
    assert caught.value.fix


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_too_many_feeds() -> None:
    with pytest.raises(SettingsInvalid, match="at most 50"):
        load(None, [f"https://example.com/{number}" for number in range(51)])


def test_the_same_feed_twice_is_one() -> None:
    assert len(load(None, ["https://example.com/a"] * 3).feeds) == 1
