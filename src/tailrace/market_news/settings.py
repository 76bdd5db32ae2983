"""What a news server reads, and for whom: from a TOML file and a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tailrace.errors import SettingsInvalid
from tailrace.market_news.feeds import COMPANIES, DEFAULTS, MAX_FEEDS, Feed
from tailrace.market_news.selection import symbol_of

USER_AGENT: Final = "tailrace-market-news"

_MAX_NAME: Final = 80

_FORM: Final = (
    'Write user_agent, samples, a table [companies] with lines like AAPL = ["Apple"], and for '
    "each feed a table [[feeds]] with name, url, category, and private = true if it is in a "
    "network of your own."
)
_KNOWN: Final = ("user_agent", "samples", "companies", "feeds")
_OF_A_FEED: Final = ("name", "url", "category", "private")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a news server is set up.

    feeds: those that are read; names are unique.
    companies: further words by which a symbol is found in a text, by symbol.
    user_agent: who we say we are. The SEC answers only to one with a mail address in it.
    samples: whether articles of our own stand in while no feed has ever answered.
    """

    feeds: tuple[Feed, ...] = DEFAULTS
    companies: Mapping[str, Sequence[str]] = field(default_factory=lambda: COMPANIES)
    user_agent: str = USER_AGENT
    samples: bool = True


def load(config: Path | None = None, urls: Sequence[str] = ()) -> Settings:
    """As a file and a command line say; feeds given as `urls` are read instead of any others.

    Raises SettingsInvalid.
    """
    settings = Settings() if config is None else _of_file(config)
    if not urls:
        return settings
    feeds = [_feed({"url": url}, "--feed") for url in urls]
    return replace(settings, feeds=_distinct(feeds, "--feed"))


def _of_file(path: Path) -> Settings:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise SettingsInvalid(
            f"The settings file {path} cannot be read: {error.strerror}.", fix="Check --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"The settings file {path} is not TOML: {error}.", fix=_FORM
        ) from None
    stray = next((name for name in document if name not in _KNOWN), None)
    if stray is not None:
        raise SettingsInvalid(f"{stray!r} in {path} is nothing that is read from there.", fix=_FORM)
    settings = Settings()
    if "user_agent" in document:
        settings = replace(settings, user_agent=_line(document["user_agent"], "user_agent", path))
    if "samples" in document:
        if type(document["samples"]) is not bool:
            raise SettingsInvalid(f"samples in {path} must be true or false.", fix=_FORM)
        settings = replace(settings, samples=document["samples"])
    if "companies" in document:
        named = _companies(document["companies"], path)
        settings = replace(settings, companies={**COMPANIES, **named})
    if "feeds" in document:
        tables = document["feeds"]
        if type(tables) is not list or not tables or any(type(one) is not dict for one in tables):
            raise SettingsInvalid(f"feeds in {path} must be tables [[feeds]].", fix=_FORM)
        feeds = [_feed(table, f"a feed in {path}") for table in tables]
        settings = replace(settings, feeds=_distinct(feeds, str(path)))
    return settings


def _line(value: Any, name: str, where: object, most: int = 200) -> str:
    if type(value) is not str or not value.strip() or not value.isprintable() or len(value) > most:
        raise SettingsInvalid(
            f"{name} in {where} must be a line of text, at most {most} characters.", fix=_FORM
        )
    return value.strip()


def _companies(table: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if type(table) is not dict:
        raise SettingsInvalid(f"companies in {path} must be a table.", fix=_FORM)
    named: dict[str, tuple[str, ...]] = {}
    for key, names in table.items():
        symbol = symbol_of(key)
        if symbol is None or type(names) is not list:
            raise SettingsInvalid(
                f"{key!r} in [companies] of {path} must be a symbol with a list of names.",
                fix=_FORM,
            )
        named[symbol] = tuple(_line(name, key, path, _MAX_NAME) for name in names)
    return named


def _feed(table: Mapping[str, Any], where: str) -> Feed:
    stray = next((name for name in table if name not in _OF_A_FEED), None)
    if stray is not None:
        raise SettingsInvalid(f"{stray!r} of {where} is nothing that a feed has.", fix=_FORM)
    url = table.get("url")
    host = _host(url)
    if host is None:
        raise SettingsInvalid(
            f"The url of {where} must be a http or https URL, without a name and password.",
            fix="Give something like https://www.federalreserve.gov/feeds/press_all.xml.",
        )
    private = table.get("private", False)
    if type(private) is not bool:
        raise SettingsInvalid(f"private of {where} must be true or false.", fix=_FORM)
    name = _line(table.get("name", host), "name", where, _MAX_NAME)
    category = _line(table.get("category", "general"), "category", where, _MAX_NAME)
    return Feed(name, str(url), category.lower(), private)


def _host(url: Any) -> str | None:
    """The host of a URL that we would ask; None for any other."""
    if type(url) is not str or not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    # What is in the settings is told to whoever watches: no place for a password.
    if parts.scheme not in ("http", "https") or parts.username is not None:
        return None
    return parts.hostname


def _distinct(feeds: Sequence[Feed], where: str) -> tuple[Feed, ...]:
    """Each under a name of its own, for by that its problems are told."""
    if len(feeds) > MAX_FEEDS:
        raise SettingsInvalid(
            f"{where} names {len(feeds)} feeds, and at most {MAX_FEEDS} are read.",
            fix="Have several servers, each with some of them.",
        )
    taken: set[str] = set()
    made: list[Feed] = []
    for feed in dict.fromkeys(feeds):
        name, count = feed.name, 1
        while name in taken:
            count += 1
            name = f"{feed.name} ({count})"
        taken.add(name)
        made.append(replace(feed, name=name))
    return tuple(made)
