from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
import pytest
from mcp_types import LoggingMessageNotificationParams

from tailrace.errors import BufferFull, TailraceError
from tailrace.mcp.feed import Feed
from tailrace.outbox import Outbox
from tailrace.protocol.events import Draft
from tailrace.protocol.runs import RunRecord
from tailrace.run import RunContext

pytestmark = pytest.mark.anyio

RECORD = RunRecord(id="run_" + "a" * 26, operation="market.news", principal="local", created_at=0.0)


class Box:
    """Takes what is put."""

    is_foreign_thread = False

    def __init__(self, refuse: Callable[[Draft], TailraceError | None] = lambda _: None) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._refuse = refuse

    def put(self, draft: Draft) -> None:
        error = self._refuse(draft)
        if error is not None:
            raise error
        payload = orjson.loads(draft.data)
        del payload["timestamp"]
        self.told.append((draft.type, payload))


def feed(box: Box) -> Feed:
    return Feed(RunContext(RECORD, cast("Outbox", box)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.0, None, None), {"current": 0}),
        ((0.25, 1.0, "a"), {"current": 0.25, "total": 1, "percent": 25.0, "message": "a"}),
        ((3.0, 10.0, ""), {"current": 3, "total": 10, "percent": 30.0, "message": ""}),
        ((1.0, 0.0, '{"news": []}'), {"current": 1, "total": 0, "message": '{"news": []}'}),
        ((-1.0, None, None), {"current": -1}),
        ((1e300, None, None), {"current": 1e300}),
        ((float("inf"), None, None), {"current": None}),
    ],
)
async def test_progress_is_told_as_it_came(
    given: tuple[float, float | None, str | None], expected: dict[str, Any]
) -> None:
    box = Box()
    await feed(box).progress(*given)
    assert box.told == [("progress", expected)]
    assert type(box.told[0][1]["current"]) is type(expected["current"]), "3 and not 3.0"


@pytest.mark.parametrize(
    ("data", "logger", "expected"),
    [
        ("a text", None, {"message": "a text"}),
        ("a text", "feeds", {"message": "a text", "details": {"logger": "feeds"}}),
        ({"n": 1}, None, {"message": '{"n":1}'}),
        (None, None, {"message": "null"}),
    ],
)
async def test_a_log_is_told(data: Any, logger: str | None, expected: dict[str, Any]) -> None:
    box = Box()
    told = LoggingMessageNotificationParams(level="notice", data=data, logger=logger)
    await feed(box).log(told)
    assert box.told == [("log", {"level": "notice", **expected})]


async def test_what_comes_after_the_answer_is_dropped() -> None:
    box = Box()
    one = feed(box)
    heard = [one.has_heard]
    await one.progress(1, 2)
    assert [*heard, one.has_heard] == [False, True]
    one.close()
    await one.progress(2, 2)
    assert [payload["current"] for _, payload in box.told] == [1]


async def test_one_that_is_too_large_costs_only_itself() -> None:
    box = Box()
    one = feed(box)
    await one.progress(1, 2, "x" * 300_000)
    await one.progress(2, 2, "small")
    (left, warning), (kept, _) = box.told
    assert (left, kept) == ("log", "progress")
    assert "was left out" in warning["message"]
    assert one.fault is None


async def test_where_nothing_can_be_kept_the_call_is_left() -> None:
    full = BufferFull("Too much.")
    box = Box(lambda _: full)
    one = feed(box)
    await one.progress(1)
    await one.progress(2)
    assert one.fault is full
    assert one.scope.cancel_called
    assert box.told == []
