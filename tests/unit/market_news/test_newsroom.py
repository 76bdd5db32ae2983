import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tailrace.market_news.feeds import Feed
from tailrace.market_news.newsroom import Issue, Newsroom, Problem, samples
from tailrace.market_news.readers import Readers
from tailrace.market_news.settings import Settings
from tests.newsstand import MALFORMED, Newsstand, atom, rss
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


class Hands:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Hands:
    return Hands()


@pytest.fixture
async def made(now: Hands) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(*feeds: Feed, samples: bool = False) -> Newsroom:
            settings = Settings(feeds, samples=samples)
            return await stack.enter_async_context(Newsroom(settings, now))

        yield make


def titles(issue: Issue) -> list[str]:
    return [article.title for article in issue.articles]


async def test_several_feeds(made: Callable[..., Any], stand: Newsstand) -> None:
    room = await made(
        Feed("A", stand.put("/a", rss("one", "two")), "markets"),
        Feed("B", stand.put("/b", atom("three")), "filings"),
    )
    issue = await room.latest(patience=10)
    assert titles(issue) == ["one", "two", "three"]
    assert (issue.problems, issue.sample) == ((), False)
    assert titles(await room.latest(category="filings", patience=10)) == ["three"]
    assert room.categories == ["filings", "markets"]


async def test_a_hundred_callers_ask_once(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    room = await made(Feed("A", stand.put("/a", rss("one"))))
    issues = await asyncio.gather(*(room.latest(patience=10) for _ in range(100)))
    assert {tuple(titles(issue)) for issue in issues} == {("one",)}
    assert stand.count("/a") == 1
    now.at += 0.89
    await room.latest(max_age=0.0, patience=10)
    assert stand.count("/a") == 1
    now.at += 0.02
    await room.latest(max_age=0.0, patience=10)
    assert stand.count("/a") == 2


async def test_how_old_news_may_be(made: Callable[..., Any], stand: Newsstand, now: Hands) -> None:
    room = await made(Feed("A", stand.put("/a", rss("one"))))
    await room.latest(patience=10)
    now.at += 4.9
    await room.latest(max_age=5.0, patience=10)
    assert stand.count("/a") == 1
    now.at += 0.2
    await room.latest(max_age=5.0, patience=10)
    assert stand.count("/a") == 2


async def test_what_has_not_changed_is_not_read_again(
    made: Callable[..., Any], stand: Newsstand, now: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    real = Readers.read

    async def read(*args: Any) -> Any:
        nonlocal count
        count += 1
        return await real(*args)

    monkeypatch.setattr(Readers, "read", read)
    feeds = [
        Feed("A", stand.put("/a", rss("one"), headers={"etag": '"1"'})),
        Feed("B", stand.put("/b", rss("two"))),
    ]
    room = await made(*feeds)
    for _ in range(3):
        assert titles(await room.latest(patience=10)) == ["one", "two"]
        now.at += 5
    assert (stand.count("/a"), stand.count("/b"), count) == (3, 3, 2)


async def test_a_feed_that_breaks_keeps_what_it_said(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    room = await made(Feed("A", stand.put("/a", rss("one"), headers={"etag": '"1"'})))
    await room.latest(patience=10)
    for page, problem in (
        ({"status": 500}, "It answered 500."),
        ({"body": b"<html>Down</html>"}, "It is no RSS or Atom feed."),
        ({"body": rss("one"), "headers": {"etag": '"1"'}}, None),
        ({"body": rss("two", first=2)}, None),
    ):
        stand.put("/a", **page)
        now.at += 5
        issue = await room.latest(patience=10)
        assert issue.problems == (() if problem is None else (Problem("A", problem),))
    assert titles(issue) == ["two"]


async def test_who_asks_to_be_left_alone_is(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    url = stand.put("/a", status=429, headers={"retry-after": "60"})
    room = await made(Feed("A", url))
    for _ in range(3):
        issue = await room.latest(patience=10)
        assert issue.problems == (Problem("A", "It answered 429."),)
        now.at += 20
    assert stand.count("/a") == 1
    stand.put("/a", rss("one"))
    assert titles(await room.latest(patience=10)) == ["one"]


async def test_a_malformed_feed_stays_so_while_it_is_unchanged(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    room = await made(Feed("A", stand.put("/a", MALFORMED, headers={"etag": '"1"'})))
    for _ in range(2):
        issue = await room.latest(patience=10)
        assert issue.problems[0].what.startswith("It is malformed")
        assert titles(issue)[0] == "Profits & losses"
        now.at += 5


async def test_a_slow_feed_holds_up_nobody(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    gate = threading.Event()
    room = await made(
        Feed("Slow", stand.put("/slow", rss("late"), gate=gate)),
        Feed("B", stand.put("/b", rss("two"))),
        samples=True,
    )
    issue = await room.latest(patience=0.2)
    assert titles(issue) == ["two"]
    assert issue.problems == (Problem("Slow", "It has not answered yet."),)
    gate.set()
    await until(lambda: not room._under_way)
    issue = await room.latest(patience=0)
    assert (sorted(titles(issue)), issue.problems) == (["late", "two"], ())
    assert stand.count("/slow") == 1


async def test_silence_alone_is_no_reason_for_samples(
    made: Callable[..., Any], stand: Newsstand
) -> None:
    gate = threading.Event()
    room = await made(Feed("Slow", stand.put("/slow", rss("x"), gate=gate)), samples=True)
    issue = await room.latest(patience=0.05)
    assert (issue.sample, issue.articles) == (False, ())
    gate.set()
    await until(lambda: not room._under_way)


async def test_a_caller_who_goes_takes_nothing_from_others(
    made: Callable[..., Any], stand: Newsstand
) -> None:
    gate = threading.Event()
    room = await made(Feed("A", stand.put("/a", rss("one"), gate=gate)))
    going = asyncio.create_task(room.latest(patience=10))
    staying = asyncio.create_task(room.latest(patience=10))
    await until(lambda: stand.count("/a") == 1)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    gate.set()
    assert titles(await soon(staying)) == ["one"]
    assert stand.count("/a") == 1


async def test_samples_while_nothing_ever_answered(
    made: Callable[..., Any], stand: Newsstand, now: Hands
) -> None:
    room = await made(Feed("A", stand.url("/a")), Feed("B", stand.url("/b")), samples=True)
    issue = await room.latest(patience=10)
    assert issue.sample
    assert issue.articles == samples()
    assert {problem.source for problem in issue.problems} == {"A", "B"}
    stand.put("/b", rss("real"))
    now.at += 5
    issue = await room.latest(patience=10)
    assert (issue.sample, titles(issue)) == (False, ["real"])
    stand.put("/b", status=500)
    now.at += 5
    assert not (await room.latest(patience=10)).sample


async def test_no_samples_where_they_are_not_wanted(
    made: Callable[..., Any], stand: Newsstand
) -> None:
    room = await made(Feed("A", stand.url("/a")))
    issue = await room.latest(patience=10)
    assert (issue.sample, issue.articles, len(issue.problems)) == (False, (), 1)


async def test_a_fault_of_ours_is_a_problem_of_the_feed(
    made: Callable[..., Any],
    stand: Newsstand,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def read(*args: Any) -> Any:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Readers, "read", read)
    room = await made(Feed("A", stand.put("/a", rss("x"))))
    issue = await room.latest(patience=10)
    assert issue.problems == (Problem("A", "It could not be read (RuntimeError)."),)
    assert "no luck" in caplog.text


async def test_its_end_ends_what_is_under_way(stand: Newsstand) -> None:
    gate = threading.Event()
    settings = Settings((Feed("A", stand.put("/a", gate=gate)),))
    async with Newsroom(settings) as room:
        await room.latest(patience=0.05)
        tasks = list(room._under_way.values())
        assert len(tasks) == 1
    assert tasks[0].cancelled()


def test_samples_say_that_they_are_samples() -> None:
    found = samples()
    assert len(found) >= 20
    assert len(frozenset[object]().union(*(article.keys for article in found))) == 2 * len(found)
    for article in found:
        assert article.title.startswith("Sample: ")
        assert article.source.startswith("Sample ")
        assert article.time is not None
        assert article.url is not None
        assert article.url.split("/")[2] in ("example.com", "example.org", "example.net")
