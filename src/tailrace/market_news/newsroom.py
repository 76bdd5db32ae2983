"""What the feeds say now, for everybody who asks: each feed is fetched once for all of them."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import anyio.to_thread

from tailrace.market_news.articles import Article, read
from tailrace.market_news.downloads import Download, Downloads, Unavailable
from tailrace.market_news.feeds import SAMPLES, Feed
from tailrace.market_news.readers import Readers
from tailrace.market_news.settings import Settings

MIN_AGE: Final = 0.9
"""Seconds for which what a feed said is good, whoever asks. A bit less than the shortest interval:
whoever asks once a second must not be told what was a second ago.
"""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a feed."""

    source: str
    what: str


@dataclass(frozen=True, slots=True)
class Edition:
    """What one feed said last: its articles, and what is wrong with it now, if anything.

    flaw: what was wrong with what it said. asked_at: when it was asked, by the newsroom's clock;
    None: never yet. asks_for: until when it asks to be left alone. answered: whether it ever told
    us anything.
    """

    articles: tuple[Article, ...] = ()
    problem: str | None = None
    flaw: str | None = None
    asked_at: float | None = None
    asks_for: float = -math.inf
    answered: bool = False
    download: Download | None = None


@dataclass(frozen=True, slots=True)
class Issue:
    """What several feeds say together. sample: it is from the feeds that are shipped with us."""

    articles: tuple[Article, ...]
    problems: tuple[Problem, ...]
    sample: bool = False


class Newsroom:
    """Asks the feeds. An async context manager; all of it in one event loop."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._now = now
        self._downloads = Downloads(settings.user_agent)
        self._editions = {feed: Edition() for feed in settings.feeds}
        self._under_way: dict[Feed, asyncio.Task[None]] = {}
        self._readers = Readers()
        self._sample: tuple[Article, ...] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._readers.close()
        await self._downloads.__aexit__(*exc)

    @property
    def categories(self) -> list[str]:
        """Those there are."""
        return sorted({feed.category for feed in self.settings.feeds})

    async def latest(
        self, *, category: str | None = None, max_age: float = MIN_AGE, patience: float
    ) -> Issue:
        """What the feeds say, or those of one of the `categories`, asking those that were last
        asked `max_age` seconds ago, or longer. Who is not done after `patience` seconds goes on,
        and is told of by a later call.

        It is the sample when all have failed, and none of them has ever answered.
        """
        feeds = [
            feed for feed in self.settings.feeds if category is None or feed.category == category
        ]
        tasks = {self._asked(feed) for feed in feeds if self._is_old(feed, max_age)}
        if tasks:
            # Neither its end nor a cancel of ours ends them: others wait for them as well.
            await asyncio.wait(tasks, timeout=patience)
        editions = {feed: self._editions[feed] for feed in feeds}
        problems = tuple(
            Problem(feed.name, what)
            for feed, edition in editions.items()
            if (what := self._trouble(feed, edition)) is not None
        )
        is_silent = all(
            not edition.answered and edition.asked_at is not None for edition in editions.values()
        )
        if is_silent and self.settings.samples:
            return Issue(await self._samples(), problems, sample=True)
        articles = [article for edition in editions.values() for article in edition.articles]
        return Issue(tuple(articles), problems)

    def _is_old(self, feed: Feed, max_age: float) -> bool:
        edition, now = self._editions[feed], self._now()
        if edition.asked_at is None:
            return True
        return now - edition.asked_at >= max(max_age, MIN_AGE) and now >= edition.asks_for

    def _trouble(self, feed: Feed, edition: Edition) -> str | None:
        if edition.asked_at is None and feed in self._under_way:
            return "It has not answered yet."
        return edition.problem

    def _asked(self, feed: Feed) -> asyncio.Task[None]:
        task = self._under_way.get(feed)
        if task is None:
            task = asyncio.create_task(self._ask(feed), name=f"feed {feed.name}")
            self._under_way[feed] = task
            task.add_done_callback(lambda _: self._under_way.pop(feed, None))
        return task

    async def _ask(self, feed: Feed) -> None:
        before, asked_at = self._editions[feed], self._now()
        try:
            found = await self._downloads.get(feed, before.download)
            if found is None or _is_same(found, before.download):
                edition = replace(before, problem=before.flaw)
            else:
                told = await self._readers.read(found.body, feed, found.content_type)
                edition = _edition(before, found, *told)
        except Unavailable as error:
            # What it said before is true still.
            until = asked_at + error.pause
            edition = replace(before, problem=str(error), asks_for=until)
        except Exception as error:  # noqa: BLE001 - logged, and told
            # Whatever a feed sends, it must not end the streams of others.
            _log.exception("The feed %s could not be read.", feed.name)
            edition = replace(before, problem=f"It could not be read ({type(error).__name__}).")
        self._editions[feed] = replace(edition, asked_at=asked_at)

    async def _samples(self) -> tuple[Article, ...]:
        if self._sample is None:
            self._sample = await anyio.to_thread.run_sync(samples)
        return self._sample


def _is_same(found: Download, before: Download | None) -> bool:
    """Many say no ETag, and send the same again."""
    return before is not None and found.body == before.body


def _edition(
    before: Edition, found: Download, articles: Sequence[Article], flaw: str | None
) -> Edition:
    """What a feed that answered says."""
    if flaw is not None and not articles:
        # An error page, perhaps. Asked again, it must not say that this is unchanged.
        return replace(before, problem=flaw)
    return Edition(tuple(articles), flaw, flaw, answered=True, download=found)


def samples() -> tuple[Article, ...]:
    """The articles that are shipped with us, read as those of any feed are. It computes."""
    folder = importlib.resources.files("tailrace.market_news") / "samples"
    return tuple(
        article
        for name, feed in SAMPLES.items()
        for article in read((folder / name).read_bytes(), feed)[0]
    )
