"""Lists of runs and pages of events, to their ends by `next`."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tailrace.eventlog.contract import Retention
from tailrace.protocol.runs import RunRecord
from tests.stage import Stage, staged
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

PRIVATE = {"content-type": "application/json", "cache-control": "no-store"}

# --- lists -----------------------------------------------------------------------------------


def listed(answer: Visit) -> list[str]:
    assert answer.status == 200, answer
    return [run["id"] for run in answer.json["runs"]]


async def test_runs_newest_first_in_pages(stage: Stage, visitor: Visitor) -> None:
    started = [await stage.start() for _ in range(7)]
    assert listed(await visitor.get("/runs")) == started[::-1]
    found: list[str] = []
    cursor, pages = "", 0
    while True:
        answer = await visitor.get(f"/runs?limit=3{cursor}")
        found += listed(answer)
        pages += 1
        if answer.json["next"] is None:
            break
        cursor = f"&cursor={answer.json['next']}"
        # What begins meanwhile must not shift the pages.
        await stage.start()
    assert found == started[::-1]
    assert pages == 3
    exact = await visitor.get("/runs?limit=10")
    assert exact.json["next"] is None


async def test_runs_by_what_they_are(stage: Stage, visitor: Visitor) -> None:
    running, done, failed = await stage.start(), await stage.done(), await stage.start()
    stage.fail(failed, ValueError())
    await stage.ended(failed)
    counted = await stage.start("count", rows=1)
    await stage.ended(counted)
    for query, expected in (
        ("state=running", [running]),
        ("state=failed,running", [failed, running]),
        ("state=cancelled", []),
        ("operation=count", [counted]),
        ("operation=coun", []),
        ("q=oun", [counted]),
        (f"q={done[10:20]}", [done]),
        ("q=", [counted, failed, done, running]),
        ("q=%25", []),
        ("q=%00", []),
        ("operation=puppet&state=completed", [done]),
    ):
        assert listed(await visitor.get(f"/runs?{query}")) == expected, query


@pytest.mark.parametrize("state", ["", "Running", "running,", "done", "running, failed"])
async def test_states_that_are_none(visitor: Visitor, state: str) -> None:
    answer = await visitor.get(f"/runs?state={quote(state)}")
    assert (answer.status, answer.json["code"]) == (422, "input-invalid")
    assert "timed_out" in answer.json["fix"]


# --- pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 5, 14, 10_000])
async def test_pages_of_events_to_the_end(stage: Stage, visitor: Visitor, limit: int) -> None:
    run = await stage.start("count", rows=12)
    await stage.ended(run)
    found: list[dict[str, Any]] = []
    after = "0"
    while True:
        answer = await visitor.get(f"/runs/{run}/events?format=json&limit={limit}&after={after}")
        assert PRIVATE.items() <= answer.headers.items()
        page = answer.json
        assert 0 < len(page["events"]) <= limit
        found += page["events"]
        after = page["next"]
        if page["finished"]:
            break
    assert [event["id"] for event in found] == [str(number) for number in range(1, 15)]
    assert after == "14"
    stream = await visitor.get(f"/runs/{run}/events")
    assert [(e.id, e.event, json.loads(e.data)) for e in stream.events] == [
        (event["id"], event["type"], event["data"]) for event in found
    ]
    over = await visitor.get(f"/runs/{run}/events?format=json&after={after}")
    assert over.status == 200
    assert over.json == {"events": [], "next": "14", "finished": True}


async def test_a_page_of_a_run_that_goes_on(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    page = (await visitor.get(f"/runs/{run}/events", {"accept": "application/json"})).json
    assert (len(page["events"]), page["next"], page["finished"]) == (2, "2", False)
    latest = (await visitor.get(f"/runs/{run}/events?format=json&after=latest")).json
    assert latest == {"events": [], "next": "2", "finished": False}
    stage.emit(run, "log", message="more")
    await stage.head(run, 3)
    page = (await visitor.get(f"/runs/{run}/events?format=json&after=2")).json
    assert [event["id"] for event in page["events"]] == ["3"]


async def test_pages_of_some_types_always_have_the_end(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start("count", rows=5)
    await stage.ended(run)
    page = (await visitor.get(f"/runs/{run}/events?format=json&types=start")).json
    assert [event["type"] for event in page["events"]] == ["start", "complete"]
    assert page["finished"]
    assert page["next"] == "7"


async def test_what_is_trimmed_between_two_looks_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        run = await stage.written([("log", {"n": n}, n) for n in range(9)], ends=10)
        record = await stage.runs.record(run)
        assert record.first_seq > 1

        async def before(*_: object) -> RunRecord:
            return record.with_(first_seq=1)

        monkeypatch.setattr(stage.runs, "record", before)
        page = (await stage.visitor.get(f"/runs/{run}/events?format=json&after=1")).json
        assert page["gap"] == {"from": 2, "to": record.first_seq - 1}
        assert page["events"][0]["id"] == str(record.first_seq)
