"""Everything that is asked once and answered at once; streams are in test_stream."""

from typing import Any

import pytest

from tailrace.operations import MAX_INPUT_BYTES
from tailrace.protocol.runs import run_id
from tailrace.protocol.wire import MAX_BODY_BYTES
from tests.stage import Stage
from tests.visitor import Visit, Visitor, encoded

pytestmark = pytest.mark.anyio

STREAM = {"accept": "text/event-stream"}
NOBODY = run_id(b"nobody knows me.")


def refused(answer: Visit, status: int, code: str) -> dict[str, Any]:
    """A problem document, and a whole one."""
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    problem: dict[str, Any] = answer.json
    assert problem["status"] == status
    assert problem["type"] == f"urn:tailrace:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


def is_private_json(answer: Visit) -> bool:
    return {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }.items() <= answer.headers.items()


# --- operations ------------------------------------------------------------------------------


async def test_what_can_be_run(visitor: Visitor) -> None:
    answer = await visitor.get("/operations")
    assert answer.status == 200
    assert is_private_json(answer)
    told = {operation["name"]: operation for operation in answer.json["operations"]}
    assert list(told) == ["puppet", "count", "write"]
    assert told["count"] == {
        "name": "count",
        "description": "Count up to `rows`.",
        "input": {
            "title": "count",
            "type": "object",
            "properties": {"rows": {"title": "rows", "type": "integer", "default": 10}},
            "additionalProperties": False,
        },
        "timeout": None,
        "abandon_after": None,
    }


# --- starting --------------------------------------------------------------------------------


async def test_a_run_is_started(stage: Stage, visitor: Visitor) -> None:
    answer = await visitor.post(
        "/runs",
        {"operation": "puppet", "input": {"name": "Ada"}, "timeout": 60, "abandon_after": 2.5},
    )
    assert answer.status == 201
    assert is_private_json(answer)
    run = answer.json
    assert answer.headers["location"] == f"/runs/{run['id']}"
    assert "content-location" not in answer.headers
    assert run["state"] == "queued"
    assert run["input"] == {"name": "Ada"}
    assert (run["timeout"], run["abandon_after"]) == (60.0, 2.5)
    assert run["links"] == {
        "self": f"/runs/{run['id']}",
        "events": f"/runs/{run['id']}/events",
        "output": f"/runs/{run['id']}/output",
        "cancel": f"/runs/{run['id']}/cancel",
    }
    stage.finish(run["id"], {"answer": 42})
    await stage.ended(run["id"])
    shown = (await visitor.get(run["links"]["self"])).json
    assert (shown["state"], shown["result"]) == ("completed", {"answer": 42})


async def test_defaults_are_filled_in(visitor: Visitor) -> None:
    answer = await visitor.post("/runs", {"operation": "count"})
    assert answer.json["input"] == {"rows": 10}
    assert (answer.json["timeout"], answer.json["abandon_after"]) == (None, None)


@pytest.mark.parametrize("media", ["application/json", "Application/JSON ; charset=utf-8"])
async def test_json_may_be_declared_in_any_way(visitor: Visitor, media: str) -> None:
    answer = await visitor.ask(
        "POST", "/runs", {"content-type": media}, body=b'{"operation": "count"}'
    )
    assert answer.status == 201


async def test_a_body_may_come_in_pieces_and_without_a_length(visitor: Visitor) -> None:
    body = encoded({"operation": "count", "input": {"rows": 3}})
    pieces = [body[at : at + 1] for at in range(len(body))]
    answer = await visitor.ask("POST", "/runs", {"content-type": "application/json"}, chunks=pieces)
    assert answer.json["input"] == {"rows": 3}


@pytest.mark.parametrize(
    ("accept", "status", "media"),
    [
        ("", 201, "application/json"),
        ("*/*", 201, "application/json"),
        ("application/json, text/event-stream", 201, "application/json"),
        ("text/event-stream;q=0, application/json", 201, "application/json"),
        ("text/event-stream", 201, "text/event-stream; charset=utf-8"),
        ("application/x-ndjson", 201, "application/x-ndjson"),
        ("image/png", 406, "application/problem+json"),
    ],
)
async def test_the_answer_is_of_the_type_that_is_accepted(
    stage: Stage, visitor: Visitor, accept: str, status: int, media: str
) -> None:
    answer = await visitor.post("/runs", {"operation": "count"}, {"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (status, media)
    kept = (await visitor.get("/runs")).json["runs"]
    assert len(kept) == (status == 201), "what cannot be told must not run"
    assert stage.runs.hub.is_idle


# --- threads ---------------------------------------------------------------------------------


async def test_the_runs_of_a_thread_follow_each_other(stage: Stage, visitor: Visitor) -> None:
    asked = {"operation": "puppet", "thread": "chat 7 ☃"}
    key = {"idempotency-key": "mine"}
    first = (await visitor.post("/runs", asked, key)).json
    assert first["thread"] == "chat 7 ☃"
    for headers in ({}, STREAM):
        busy = await visitor.post("/runs", asked, headers)
        refused(busy, 409, "thread-busy")
        assert busy.json["run"] == first["id"]
        assert first["id"] in busy.json["detail"]
    assert (await visitor.post("/runs", asked, key)).status == 200
    refused(await visitor.post(f"/runs/{first['id']}/rerun"), 409, "thread-busy")
    assert (await visitor.post("/runs", {**asked, "thread": None})).json["thread"] is None
    stage.finish(first["id"])
    await stage.ended(first["id"])
    second = (await visitor.post("/runs", asked)).json
    found = (await visitor.get("/runs?limit=1&thread=chat%207%20%E2%98%83")).json
    assert [run["id"] for run in found["runs"]] == [second["id"]]
    found = (await visitor.get(f"/runs?thread=chat%207%20%E2%98%83&cursor={found['next']}")).json
    assert [run["id"] for run in found["runs"]] == [first["id"]]
    assert found["next"] is None
    assert (await visitor.get("/runs?thread=chat")).json == {"runs": [], "next": None}
    stage.finish(second["id"])
    await stage.ended(second["id"])
    assert (await visitor.post(f"/runs/{second['id']}/rerun")).json["thread"] == "chat 7 ☃"


# --- idempotency -----------------------------------------------------------------------------


async def test_a_repeated_request_answers_the_same_run(stage: Stage, visitor: Visitor) -> None:
    asked = {"operation": "puppet", "input": {"name": "Ada"}}
    key = {"idempotency-key": "mine"}
    first = await visitor.post("/runs", asked, key)
    again = await visitor.post("/runs", asked, key)
    other = await visitor.post("/runs", asked, {"idempotency-key": "another"})
    assert (first.status, again.status, other.status) == (201, 200, 201)
    assert again.headers["location"] == first.headers["location"] != other.headers["location"]
    assert again.json["id"] == first.json["id"]
    stage.finish(first.json["id"])
    await stage.ended(first.json["id"])
    assert (await visitor.post("/runs", asked, key)).json["state"] == "completed"


@pytest.mark.parametrize(
    "other",
    [{"operation": "count"}, {"operation": "puppet", "input": {"name": "Bob"}}],
)
async def test_a_key_names_one_request_only(visitor: Visitor, other: dict[str, Any]) -> None:
    key = {"idempotency-key": "mine"}
    await visitor.post("/runs", {"operation": "puppet", "input": {"name": "Ada"}}, key)
    refused(await visitor.post("/runs", other, key), 422, "idempotency-key-reused")
    assert len((await visitor.get("/runs")).json["runs"]) == 1


async def test_a_refused_request_does_not_use_up_its_key(visitor: Visitor) -> None:
    key = {"idempotency-key": "mine"}
    wrong = {"operation": "count", "input": {"rows": "many"}}
    refused(await visitor.post("/runs", wrong, key), 422, "input-invalid")
    assert (await visitor.post("/runs", {"operation": "count"}, key)).status == 201


# --- a run -----------------------------------------------------------------------------------


async def test_a_snapshot_follows_the_run(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    stage.emit(run, "progress", current=1, total=4)
    await stage.head(run, 3)
    answer = await visitor.get(f"/runs/{run}")
    assert answer.status == 200
    assert is_private_json(answer)
    shown = answer.json
    assert shown["state"] == "running"
    assert shown["progress"]["current"] == 1
    assert (shown["last_event_id"], shown["attempt"]) == ("3", 1)
    assert shown["created_at"] <= shown["started_at"]
    assert shown["ended_at"] is shown["duration_seconds"] is shown["error"] is None
    stage.fail(run, ValueError("no more rows"))
    await stage.ended(run)
    shown = (await visitor.get(f"/runs/{run}")).json
    assert shown["state"] == "failed"
    assert (shown["error"]["error"], shown["error"]["type"]) == ("no more rows", "ValueError")
    assert shown["duration_seconds"] >= 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/events?format=json"),
     ("GET", "/output"), ("POST", "/cancel"), ("POST", "/rerun"), ("POST", "/events")],
)  # fmt: skip
async def test_an_unknown_run_is_404_everywhere(visitor: Visitor, method: str, path: str) -> None:
    body = {"events": [{"type": "log"}]} if (method, path) == ("POST", "/events") else None
    answer = await visitor.ask(method, f"/runs/{NOBODY}{path}", json=body)
    refused(answer, 404, "run-unknown")


# --- forgetting and cancelling ---------------------------------------------------------------


async def test_only_what_has_ended_can_be_forgotten(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    refused(await visitor.ask("DELETE", f"/runs/{run}"), 409, "run-active")
    stage.finish(run)
    await stage.ended(run)
    answer = await visitor.ask("DELETE", f"/runs/{run}")
    assert (answer.status, answer.body) == (204, b"")
    refused(await visitor.ask("DELETE", f"/runs/{run}"), 404, "run-unknown")
    refused(await visitor.get(f"/runs/{run}"), 404, "run-unknown")
    assert (await visitor.get("/runs")).json["runs"] == []


async def test_cancelling_twice_is_cancelling(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    answer = await visitor.post(f"/runs/{run}/cancel")
    assert answer.status == 202
    assert is_private_json(answer)
    assert answer.json["state"] == "cancelling"
    await visitor.post(f"/runs/{run}/cancel")
    await stage.ended(run)
    again = await visitor.post(f"/runs/{run}/cancel")
    assert (again.status, again.json["state"]) == (202, "cancelled")
    page = (await visitor.get(f"/runs/{run}/events?format=json")).json["events"]
    types = [event["type"] for event in page]
    assert types.count("status") == types.count("cancelled") == 1
    assert types[-1] == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(stage: Stage, visitor: Visitor) -> None:
    run = await stage.done()
    before = (await visitor.get(f"/runs/{run}")).body
    answer = await visitor.post(f"/runs/{run}/cancel")
    assert (answer.status, answer.body) == (202, before)


# --- the same again --------------------------------------------------------------------------


async def test_a_run_again(stage: Stage, visitor: Visitor) -> None:
    asked = {"operation": "puppet", "input": {"name": "Ada"}, "timeout": 60, "abandon_after": 9}
    first = (await visitor.post("/runs", asked)).json
    stage.finish(first["id"])
    await stage.ended(first["id"])
    answer = await visitor.post(f"/runs/{first['id']}/rerun")
    assert answer.status == 201
    assert is_private_json(answer)
    again = answer.json
    assert answer.headers["location"] == again["links"]["self"] == f"/runs/{again['id']}"
    assert again["id"] != first["id"]
    same = ("operation", "input", "timeout", "abandon_after")
    assert [again[name] for name in same] == [first[name] for name in same]
    stage.finish(again["id"], "done")
    assert (await stage.ended(again["id"])).result == b'"done"'
    assert len((await visitor.get("/runs")).json["runs"]) == 2


async def test_a_run_again_as_a_stream(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start("count", rows=1)
    await stage.ended(run)
    # The id of the other run's last event: a new one has no past.
    answer = await visitor.ask("POST", f"/runs/{run}/rerun", {**STREAM, "last-event-id": "3"})
    assert answer.status == 201
    assert answer.headers["content-location"] == answer.headers["location"] + "/events"
    assert answer.ids == [1, 2, 3]
    bad = await visitor.ask("POST", f"/runs/{run}/rerun?format=xml")
    refused(bad, 406, "format-unknown")
    assert len((await visitor.get("/runs")).json["runs"]) == 2


# --- bounds ----------------------------------------------------------------------------------


def naming(size: int) -> bytes:
    """A body that starts a puppet, of that size."""
    return b'{"operation":"puppet","input":{"name":"%b"}}' % (b"x" * (size - 42))


async def test_a_body_has_a_bound(visitor: Visitor) -> None:
    body = naming(MAX_BODY_BYTES)
    assert len(body) == MAX_BODY_BYTES
    answer = await visitor.ask("POST", "/runs", body=body)
    assert "input of puppet" in refused(answer, 413, "body-too-large")["detail"]
    answer = await visitor.ask("POST", "/runs", body=body + b" ")
    assert "request body" in refused(answer, 413, "body-too-large")["detail"]
    assert (await visitor.get("/runs")).json["runs"] == []


async def test_the_largest_input_is_told_as_well(stage: Stage, visitor: Visitor) -> None:
    name = "x" * (MAX_INPUT_BYTES - len('{"name":""}'))
    run = await stage.done(name=name)
    shown = (await visitor.get(f"/runs/{run}")).json
    assert shown["state"] == "completed"
    assert shown["input"] == {"name": name}
    page = (await visitor.get(f"/runs/{run}/events?format=json")).json
    assert page["events"][0]["data"]["input"] == {"name": name}


@pytest.mark.parametrize("key", ["offset", "cut"])
async def test_nobody_else_says_how_far_a_script_has_come(
    stage: Stage, visitor: Visitor, key: str
) -> None:
    run = await stage.start()
    body = {"events": [{"type": "output", "data": {"text": "x", key: 1_000_000}}]}
    answer = await visitor.post(f"/runs/{run}/events", body)
    assert (answer.status, answer.json["code"]) == (422, "event-invalid")
    body["events"][0]["data"] = {"stream": "stdout", "text": "x"}
    assert (await visitor.post(f"/runs/{run}/events", body)).status == 200
