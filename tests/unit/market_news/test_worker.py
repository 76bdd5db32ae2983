"""The process that reads feeds, by what goes in and comes out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tailrace.market_news.worker import READY
from tests.newsstand import rss

HEAD = json.dumps(
    {"feed": {"name": "A", "url": "https://example.com/a"}, "content_type": "text/xml"}
).encode()


def worked(*pieces: bytes, seconds: int = 10, first: str = "") -> tuple[int, bytes]:
    """How it ended, and what it wrote."""
    code = f"{first}\nfrom tailrace.market_news.worker import main\nmain({seconds})"
    given = b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, stdout=subprocess.PIPE, timeout=30, check=False
    )
    return done.returncode, done.stdout


def answers(written: bytes) -> list[list[str]]:
    """The titles of each answer."""
    assert written.startswith(READY)
    found, rest = [], written.removeprefix(READY)
    while rest:
        end = 4 + int.from_bytes(rest[:4], "big")
        found.append([one["title"] for one in json.loads(rest[4:end])[0]])
        rest = rest[end:]
    return found


def test_it_answers_each_and_ends_with_its_input() -> None:
    code, written = worked(HEAD, rss("one", "two"), HEAD, b"", HEAD, rss("three"))
    assert (code, answers(written)) == (0, [["one", "two"], [], ["three"]])


def test_what_is_printed_does_not_come_between() -> None:
    loud = (
        "import tailrace.market_news.worker as it\n"
        "real = it.read\n"
        "it.read = lambda *given: (print('loud', flush=True), real(*given))[1]"
    )
    code, written = worked(HEAD, rss("one"), first=loud)
    assert (code, answers(written)) == (0, [["one"]])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no alarm")
def test_it_ends_by_itself_when_a_feed_takes_too_long() -> None:
    code, written = worked(HEAD, b"\n" * 300_000 + rss("x"), seconds=1)
    assert (code, written) == (-signal.SIGALRM, READY), "nobody else might end it"


def test_it_loads_little() -> None:
    code = (
        "import sys, tailrace.market_news.worker;"
        "print([name for name in ('mcp', 'asyncio', 'httpx2', 'pydantic') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert told.stdout.strip() == b"[]"
