"""POST /runs/{id}/events: a remote producer's events, each exactly once."""

import asyncio
import json
import logging
from typing import Any

import pytest

from tailrace.http.shapes import MAX_EVENTS
from tailrace.protocol.events import MAX_EVENT_BYTES
from tests.stage import Stage
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio


@pytest.fixture
async def run(stage: Stage) -> str:
    """A running run of attempt 1 without an event, which nobody here executes."""
    return await stage.written()


def batch(*messages: str, **more: Any) -> dict[str, Any]:
    return {"events": [{"type": "log", "data": {"message": m}} for m in messages], **more}


def by(seq: int, name: str = "worker-7") -> dict[str, Any]:
    return {"attempt": 1, "producer": {"id": name, "seq": seq}}


def told(appended: int, last: str, state: str = "running") -> dict[str, Any]:
    return {"appended": appended, "last_event_id": last, "state": state}


async def messages(visitor: Visitor, run: str) -> list[str]:
    page = (await visitor.get(f"/runs/{run}/events?format=json")).json
    return [event["data"].get("message") for event in page["events"]]


def refused(answer: Visit, status: int, code: str) -> dict[str, Any]:
    assert (answer.status, answer.json["code"]) == (status, code), answer
    problem: dict[str, Any] = answer.json
    assert problem["detail"]
    assert problem["fix"]
    return problem


async def test_events_are_numbered_stamped_and_told(stage: Stage, run: str) -> None:
    async with stage.visitor.visit("GET", f"/runs/{run}/events") as visit:
        await visit.told(b"retry: ")
        answer = await stage.visitor.post(
            f"/runs/{run}/events",
            {
                "events": [
                    {"type": "log", "data": {"message": "hello"}},
                    {"type": "my.own:type"},
                    {"type": "log", "data": {"message": "old", "timestamp": "2001-01-01"}},
                ]
            },
        )
        assert answer.status == 200
        assert answer.json == {"appended": 3, "last_event_id": "3", "state": "running"}
        assert answer.headers["cache-control"] == "no-store"
        await visit.told(b"2001-01-01")
        assert visit.ids == [1, 2, 3]
        assert [event.event for event in visit.events] == ["log", "my.own:type", "log"]
        stamps = [json.loads(event.data)["timestamp"] for event in visit.events]
        assert stamps[0] == stamps[1] > stamps[2] == "2001-01-01"


async def test_a_repeated_request_adds_nothing(visitor: Visitor, run: str) -> None:
    first = batch("a", "b", **by(1))
    assert (await visitor.post(f"/runs/{run}/events", first)).json["appended"] == 2
    again = await visitor.post(f"/runs/{run}/events", first)
    assert (again.status, again.json) == (200, told(0, "2"))
    # Half of it is known: only the rest is new.
    over = await visitor.post(f"/runs/{run}/events", batch("b", "c", **by(2)))
    assert over.json == told(1, "3")
    other = await visitor.post(f"/runs/{run}/events", batch("x", **by(1, "worker-8")))
    assert other.json == told(1, "4")
    assert await messages(visitor, run) == ["a", "b", "c", "x"]


async def test_repeats_at_the_same_time(visitor: Visitor, run: str) -> None:
    answers = await asyncio.gather(
        *(visitor.post(f"/runs/{run}/events", batch("a", "b", **by(1))) for _ in range(10))
    )
    assert sorted(answer.json["appended"] for answer in answers) == [0] * 9 + [2]
    assert await messages(visitor, run) == ["a", "b"]


async def test_a_repeat_after_the_end_still_succeeds(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    assert (await visitor.post(f"/runs/{run}/events", batch("a", **by(1)))).status == 200
    stage.finish(run)
    await stage.ended(run)
    again = await visitor.post(f"/runs/{run}/events", batch("a", **by(1)))
    assert (again.status, again.json) == (200, told(0, "4", "completed"))
    refused(await visitor.post(f"/runs/{run}/events", batch("b", **by(2))), 409, "run-ended")
    refused(await visitor.post(f"/runs/{run}/events", batch("b")), 409, "run-ended")


async def test_a_skipped_number_is_a_gap(visitor: Visitor, run: str) -> None:
    answer = await visitor.post(f"/runs/{run}/events", batch("c", **by(3)))
    assert refused(answer, 409, "producer-gap")["expected"] == 1
    await visitor.post(f"/runs/{run}/events", batch("a", "b", **by(1)))
    answer = await visitor.post(f"/runs/{run}/events", batch("d", **by(4)))
    assert refused(answer, 409, "producer-gap")["expected"] == 3
    assert await messages(visitor, run) == ["a", "b"]


@pytest.mark.parametrize("attempt", [2, 2**53])
async def test_only_the_present_attempt_may_write(visitor: Visitor, run: str, attempt: int) -> None:
    answer = await visitor.post(f"/runs/{run}/events", batch("a", attempt=attempt))
    refused(answer, 409, "writer-fenced")
    assert (await visitor.post(f"/runs/{run}/events", batch("a", attempt=1))).status == 200
    assert await messages(visitor, run) == ["a"]


async def test_a_higher_epoch_takes_the_place_of_a_lower_one(visitor: Visitor, run: str) -> None:
    async def send(message: str, epoch: int, seq: int = 1, **more: Any) -> Visit:
        body = batch(message, producer={"id": "worker-7", "epoch": epoch, "seq": seq}, **more)
        return await visitor.post(f"/runs/{run}/events", body)

    assert (await send("a", 0)).json["appended"] == 1
    # The same work once more: what it says again is known, whatever the attempt.
    assert (await send("a", 0, attempt=1)).json["appended"] == 0
    assert (await send("b", 7)).json["appended"] == 1
    refused(await send("c", 6), 409, "writer-fenced")
    refused(await send("c", 0, seq=2), 409, "writer-fenced")
    assert (await send("c", 7.0, seq=2)).json["appended"] == 1  # type: ignore[arg-type]
    assert await messages(visitor, run) == ["a", "b", "c"]
    # Without an epoch it is that of the attempt, which is lower.
    refused(await visitor.post(f"/runs/{run}/events", batch("d", **by(1))), 409, "writer-fenced")


async def test_who_sends_nothing_is_told_how_the_run_stands(
    stage: Stage, visitor: Visitor, run: str
) -> None:
    async def ask(run: str, **more: Any) -> Visit:
        return await visitor.post(f"/runs/{run}/events", {"events": [], **more})

    assert (await ask(run)).json == told(0, "0")
    await visitor.post(f"/runs/{run}/events", batch("a"))
    assert (await ask(run, **by(9))).json == told(0, "1")
    refused(await ask(run, attempt=2), 409, "writer-fenced")
    refused(await ask("run_" + "a" * 26), 404, "run-unknown")
    ended = await stage.start()
    await stage.head(ended, 2)
    stage.finish(ended)
    await stage.ended(ended)
    assert (await ask(ended)).json == told(0, "3", "completed")
    assert await messages(visitor, run) == ["a"]


@pytest.mark.parametrize("type_", ["complete", "error", "cancelled", "gap", "reset", "tick"])
async def test_nobody_else_ends_a_run_or_forges_a_frame(
    visitor: Visitor, run: str, type_: str
) -> None:
    body = batch("before")
    body["events"].append({"type": type_})
    refused(await visitor.post(f"/runs/{run}/events", body), 422, "event-invalid")
    assert await messages(visitor, run) == [], "all of a request or nothing"


@pytest.mark.parametrize("type_", ["", "1", "a b", "lög", "log\nid: 9", "log\r", "x" * 65, "a\0"])
async def test_types_that_could_break_the_framing(visitor: Visitor, run: str, type_: str) -> None:
    answer = await visitor.post(f"/runs/{run}/events", {"events": [{"type": type_}]})
    refused(answer, 422, "event-invalid")


async def test_line_ends_in_data_stay_in_the_data(visitor: Visitor, stage: Stage, run: str) -> None:
    text = "a\nid: 99\r\n\r\nevent: complete\n\n\u2028\0"
    assert (await visitor.post(f"/runs/{run}/events", batch(text))).status == 200
    async with visitor.visit("GET", f"/runs/{run}/events") as visit:
        await visit.told(b"timestamp")
        assert visit.ids == [1]
        assert json.loads(visit.events[0].data)["message"] == text
        assert b"\r" not in visit.body


async def test_one_event_has_a_bound(visitor: Visitor, run: str) -> None:
    frame = len('{"message":"","timestamp":"2026-11-20T09:30:00.000Z"}')
    fits = batch("x" * (MAX_EVENT_BYTES - frame))
    assert (await visitor.post(f"/runs/{run}/events", fits)).status == 200
    over = batch("small", "x" * (MAX_EVENT_BYTES - frame + 1))
    refused(await visitor.post(f"/runs/{run}/events", over), 413, "event-too-large")
    assert len(await messages(visitor, run)) == 1


async def test_one_request_has_a_bound(visitor: Visitor, run: str) -> None:
    most = batch(*["x"] * MAX_EVENTS)
    assert (await visitor.post(f"/runs/{run}/events", most)).json["appended"] == MAX_EVENTS
    more = batch(*["x"] * (MAX_EVENTS + 1))
    refused(await visitor.post(f"/runs/{run}/events", more), 422, "input-invalid")
    large = batch(*["x" * 200_000] * 6)
    refused(await visitor.post(f"/runs/{run}/events", large), 413, "body-too-large")


async def test_progress_from_elsewhere_is_in_the_snapshot(visitor: Visitor, run: str) -> None:
    events = [
        {"type": "progress", "data": {"current": 1, "total": 3}},
        {"type": "progress", "data": {"current": 2, "total": 3}},
        {"type": "log"},
    ]
    await visitor.post(f"/runs/{run}/events", {"events": events})
    assert (await visitor.get(f"/runs/{run}")).json["progress"]["current"] == 2
    await visitor.post(f"/runs/{run}/events", batch("no progress"))
    assert (await visitor.get(f"/runs/{run}")).json["progress"]["current"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"events": {}},
        {"events": [{}]},
        {"events": [{"type": 1}]},
        {"events": [{"type": "log", "data": []}]},
        {"events": [{"type": "log", "id": "7"}]},
        batch("a", attempt=0),
        batch("a", attempt="1"),
        batch("a", attempt=True),
        batch("a", attempt=1.5),
        batch("a", attempt=2**60),
        batch("a", producer="me"),
        batch("a", producer={"id": "me"}),
        batch("a", producer={"id": "me", "seq": 0}),
        batch("a", producer={"id": "", "seq": 1}),
        batch("a", producer={"id": "x" * 101, "seq": 1}),
        batch("a", producer={"id": "me", "seq": 1, "epoch": -1}),
        batch("a", producer={"id": "me", "seq": 1, "epoch": 2**60}),
        batch("a", seq=1),
    ],
    ids=lambda body: json.dumps(body)[:60],
)
async def test_other_bodies_are_refused_whole(
    visitor: Visitor, run: str, body: dict[str, Any]
) -> None:
    problem = refused(await visitor.post(f"/runs/{run}/events", body), 422, "input-invalid")
    assert problem["errors"]
    assert await messages(visitor, run) == []


async def test_who_only_asks_has_not_appended(
    stage: Stage, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    visitor, path = stage.visitor, f"/runs/{run}/events"
    with caplog.at_level(logging.INFO, "tailrace.audit"):
        await visitor.post(path, {"events": [], "producer": by(1)["producer"]})
        await visitor.post(path, batch("a"))
        await visitor.post(path, {"events": [], "attempt": 9})
    audits = [record.__dict__["audit"] for record in caplog.records]
    assert [(audit["action"], audit["wanted"], audit["run"]) for audit in audits] == [
        ("looked at", "looked at", run),
        ("appended to", "appended to", run),
        ("failed", "looked at", run),
    ]
