"""A stream of news: when it asks, what it tells, and how far it is."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import anyio

# That of typing is not enough for pydantic before Python 3.12.
from typing_extensions import TypedDict

from tailrace.market_news.articles import rfc3339
from tailrace.market_news.newsroom import Issue, Newsroom
from tailrace.market_news.selection import Selection

MIN_INTERVAL: Final = 1.0
MAX_INTERVAL: Final = 3600.0
MAX_DURATION: Final = 86_400.0
MAX_LIMIT: Final = 100

# What is asked longer is told of by the next update: an update must not be late for the next.
_PATIENCE_SECONDS: Final = 3.0

# Each progress is more than the one before (MCP 2025-06-18, basic/utilities/progress).
_STEP: Final = 1e-6

_SAMPLE: Final = "No feed could be read: these are samples that are shipped, and no news."


class Told(TypedDict):
    """An article."""

    source: str
    title: str
    url: str | None
    time: str | None
    category: str


class News(TypedDict):
    """Articles of a category, or of all."""

    category: str
    count: int
    articles: list[Told]


class Trouble(TypedDict):
    """A feed, and what is wrong with it."""

    source: str
    what: str


class Update(TypedDict):
    """What is told at once.

    status: connected at first, complete at last. more: how many further articles there are, which
    follow in later updates. sample: the articles are no news; then `notice` says so.
    """

    timestamp: str
    status: Literal["connected", "news", "complete"]
    news: News
    more: int
    problems: list[Trouble]
    sample: bool
    notice: str | None


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, and waiting for it."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


@dataclass(frozen=True, slots=True)
class Step:
    """An update, and how far the stream is: from 0 to 1, each more than the one before."""

    progress: float
    update: Update

    @property
    def message(self) -> str:
        """The update as a line of JSON."""
        return json.dumps(self.update, ensure_ascii=False, separators=(",", ":"))


def snapshot(
    issue: Issue | None,
    selection: Selection,
    *,
    limit: int,
    category: str | None,
    at: float,
    status: Literal["connected", "news", "complete"] = "news",
) -> Update:
    """What of an issue is new to a selection; `at` is a time as time.time() has it."""
    taken, more = ([], 0) if issue is None else selection.take(issue.articles, limit)
    is_sample = issue is not None and issue.sample
    articles: list[Told] = [
        {
            "source": article.source,
            "title": article.title,
            "url": article.url,
            "time": article.time,
            "category": article.category,
        }
        for article in taken
    ]
    return {
        "timestamp": rfc3339(at),
        "status": status,
        "news": {"category": category or "all", "count": len(articles), "articles": articles},
        "more": more,
        "problems": [
            {"source": problem.source, "what": problem.what}
            for problem in (() if issue is None else issue.problems)
        ],
        "sample": is_sample,
        "notice": _SAMPLE if is_sample else None,
    }


async def steps(
    room: Newsroom,
    selection: Selection,
    *,
    interval: float,
    duration: float,
    limit: int,
    category: str | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Step]:
    """At once that it is there, then the news every `interval` seconds, beginning now, and after
    `duration` seconds the end.

    However long the feeds take, the times of the updates stay where they are: one that is missed
    is left out.
    """
    clock = clock or Clock()
    began = clock.now()
    progress = 0.0

    def step(issue: Issue | None, status: Literal["connected", "news", "complete"]) -> Step:
        nonlocal progress
        share = (clock.now() - began) / duration
        if status == "news":
            progress = min(max(share, progress + _STEP), 1 - _STEP * (1 - progress))
        elif status == "complete":
            progress = 1.0
        update = snapshot(
            issue, selection, limit=limit, category=category, at=clock.wall(), status=status
        )
        return Step(progress, update)

    yield step(None, "connected")
    turn = 0
    while turn * interval < duration:
        await _until(began + turn * interval, clock)
        left = began + duration - clock.now()
        issue = await room.latest(
            category=category,
            # Half of it: others with other turns may ask as well, and each has news that are new.
            max_age=interval / 2,
            patience=max(0.0, min(_PATIENCE_SECONDS, interval / 2, left)),
        )
        yield step(issue, "news")
        turn = max(turn + 1, math.ceil((clock.now() - began) / interval))
    await _until(began + duration, clock)
    yield step(None, "complete")


async def _until(moment: float, clock: Clock) -> None:
    # Timers may be early by a hair.
    while (left := moment - clock.now()) > 0:
        await clock.sleep(left)
