from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections.contract import Types
from tailrace.projections.json import page
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.cursor import Extent, Kind, Resume
from tailrace.protocol.events import draft

KINDS = ("start", "log", "progress", "log", "log", "complete")
DRAFTS = [draft(type_, {"number": number}, 0.0) for number, type_ in enumerate(KINDS, 1)]
ENDED = Extent(last=6, ended=True)


def blocks(*spans: tuple[int, int], epoch: int = 0) -> list[Block]:
    return [
        Block("run_a", first, last, pack(first, DRAFTS[first - 1 : last], epoch), epoch)
        for first, last in spans
    ]


def turned(
    found: list[Block], after: int, types: Types, limit: int, extent: Extent = ENDED, **more: Any
) -> dict[str, Any]:
    start = Resume(Kind.REPLAY, after, **more)
    body: dict[str, Any] = orjson.loads(page(found, start, types, limit, extent))
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [event["id"] for event in body["events"]]


def test_a_page_of_all() -> None:
    body = turned(blocks((1, 4), (5, 6)), 0, None, 100)
    assert [(event["id"], event["type"]) for event in body["events"]] == [
        (str(seq), type_) for seq, type_ in enumerate(KINDS, 1)
    ]
    assert body["events"][0]["data"] == orjson.loads(DRAFTS[0].data)
    assert (body["next"], body["finished"]) == ("6", True)
    assert "gap" not in body


@pytest.mark.parametrize("limit", range(1, 8))
@pytest.mark.parametrize("types", [None, frozenset({"log"}), frozenset({"none"})])
def test_pages_follow_each_other(limit: int, types: Types) -> None:
    whole = ids(turned(blocks((1, 4), (5, 6)), 0, types, 100))
    seen: list[str] = []
    after, turns = 0, 0
    while True:
        found = [block.after(after) for block in blocks((1, 4), (5, 6)) if block.last > after]
        body = turned(found, after, types, limit)
        assert len(body["events"]) <= limit
        seen += ids(body)
        after, turns = int(body["next"]), turns + 1
        if body["finished"]:
            break
        assert turns < 10
    assert seen == whole
    assert after == 6


def test_a_full_page_is_not_finished() -> None:
    body = turned(blocks((1, 6)), 0, None, 5)
    assert (body["next"], body["finished"]) == ("5", False)
    body = turned(blocks((1, 6)), 0, None, 6)
    assert (body["next"], body["finished"]) == ("6", True)


def test_what_a_filter_drops_at_the_end_is_passed() -> None:
    body = turned(blocks((1, 5)), 0, frozenset({"start"}), 1, Extent(last=5))
    assert (ids(body), body["next"], body["finished"]) == (["1"], "5", False)


def test_a_run_that_goes_on_is_not_finished() -> None:
    body = turned(blocks((1, 5)), 0, None, 100, Extent(last=5))
    assert (body["next"], body["finished"]) == ("5", False)
    body = turned([], 5, None, 100, Extent(last=5))
    assert (ids(body), body["next"], body["finished"]) == ([], "5", False)


def test_the_next_page_of_a_finished_run() -> None:
    body = turned([], 6, None, 100)
    assert (ids(body), body["next"], body["finished"]) == ([], "6", True)


def test_what_is_lost_is_told() -> None:
    body = turned(blocks((4, 6)), 3, None, 100, lost=(1, 3))
    assert body["gap"] == {"from": 1, "to": 3}


def test_cursors_have_the_epoch() -> None:
    body = turned(blocks((1, 6), epoch=2), 0, None, 2, Extent(last=6, ended=True, epoch=2))
    assert (ids(body), body["next"]) == (["2-1", "2-2"], "2-2")
