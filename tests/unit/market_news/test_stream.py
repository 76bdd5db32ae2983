import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.market_news.articles import Article
from tailrace.market_news.newsroom import Issue, Problem
from tailrace.market_news.selection import Selection
from tailrace.market_news.stream import Clock, Step, snapshot, steps

pytestmark = pytest.mark.anyio


def article(number: int) -> Article:
    return Article(
        frozenset({("h", str(number))}), "S", f"Title {number}", None, None, "markets", "x"
    )


class Time:
    """A clock whose sleepers wake at once."""

    def __init__(self) -> None:
        self.at = 50.0
        self.clock = Clock(now=lambda: self.at, wall=lambda: 1e9 + self.at, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds


class Room:
    """Has an article more each time, and takes its time for it."""

    def __init__(self, time: Time, takes: Callable[[float], float] = lambda patience: 0.0) -> None:
        self.time = time
        self.takes = takes
        self.asked: list[tuple[float, dict[str, Any]]] = []

    async def latest(self, **how: Any) -> Issue:
        self.asked.append((self.time.at - 50, how))
        self.time.at += self.takes(how["patience"])
        count = len(self.asked)
        return Issue(tuple(map(article, range(count))), (Problem("P", "down"),), sample=count > 2)


async def told(room: Room, **how: Any) -> list[tuple[float, Step]]:
    given: dict[str, Any] = {"interval": 3.0, "duration": 10.0, "limit": 10, **how}
    stream: Any = steps(room, Selection(), clock=room.time.clock, **given)  # type: ignore[arg-type]
    return [(room.time.at - 50, step) async for step in stream]


async def test_when_it_tells_and_how_far_it_is() -> None:
    found = await told(Room(Time()))
    assert [at for at, _ in found] == [0, 0, 3, 6, 9, 10]
    progress = [step.progress for _, step in found]
    assert progress == pytest.approx([0, 0, 0.3, 0.6, 0.9, 1], abs=1e-5)
    assert progress[0] == 0
    assert progress[-1] == 1
    assert all(one < next_ for one, next_ in itertools.pairwise(progress))
    assert [step.update["status"] for _, step in found] == [
        "connected", "news", "news", "news", "news", "complete",
    ]  # fmt: skip


async def test_each_article_once() -> None:
    found = await told(Room(Time()))
    articles = [one["title"] for _, step in found for one in step.update["news"]["articles"]]
    assert articles == [f"Title {number}" for number in range(4)]
    assert [step.update["news"]["count"] for _, step in found] == [0, 1, 1, 1, 1, 0]


async def test_what_it_asks_for() -> None:
    room = Room(Time())
    await told(room, category="markets", interval=3.0)
    assert room.asked[0][1] == {"category": "markets", "max_age": 1.5, "patience": 1.5}
    # Of the last update it waits for no more than there is time left.
    assert room.asked[-1][1]["patience"] == 1.0
    room = Room(Time())
    await told(room, interval=60.0, duration=100.0)
    assert room.asked[0][1]["patience"] == 3.0


async def test_slow_feeds_do_not_shift_the_times() -> None:
    found = await told(Room(Time(), takes=lambda patience: patience))
    assert [at for at, _ in found] == [0, 1.5, 4.5, 7.5, 10, 10]
    progress = [step.progress for _, step in found]
    assert all(one < next_ for one, next_ in itertools.pairwise(progress))
    assert progress[-2] < 1


async def test_an_update_that_is_missed_is_left_out() -> None:
    found = await told(Room(Time(), takes=lambda patience: 4.0))
    assert [at for at, _ in found] == [0, 4, 10, 10]


async def test_an_interval_beyond_the_duration() -> None:
    assert [at for at, _ in await told(Room(Time()), interval=60.0)] == [0, 0, 10]


async def test_timers_that_are_early() -> None:
    time = Time()
    slept = 0

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += 1
        time.at += seconds / 2 if slept % 2 else seconds

    time.clock = Clock(now=lambda: time.at, wall=lambda: 0.0, sleep=sleep)
    assert [at for at, _ in await told(Room(time))] == [0, 0, 3, 6, 9, 10]


async def test_the_message_is_json() -> None:
    found = await told(Room(Time()))
    update = json.loads(found[3][1].message)
    assert update == {
        "timestamp": "2001-09-09T01:47:36Z",
        "status": "news",
        "news": {
            "category": "all",
            "count": 1,
            "articles": [
                {
                    "source": "S",
                    "title": "Title 2",
                    "url": None,
                    "time": None,
                    "category": "markets",
                }
            ],
        },
        "more": 0,
        "problems": [{"source": "P", "what": "down"}],
        "sample": False,
        "notice": None,
    } | {"sample": True, "notice": update["notice"]}
    assert "samples" in update["notice"]
    assert "\n" not in found[3][1].message
    assert set(json.loads(found[0][1].message)) == set(update)


def test_a_snapshot_has_at_most_so_many() -> None:
    issue = Issue(tuple(map(article, range(5))), ())
    update = snapshot(issue, Selection(), limit=2, category="markets", at=0)
    assert update["news"]["count"] == len(update["news"]["articles"]) == 2
    assert (update["more"], update["news"]["category"]) == (3, "markets")
