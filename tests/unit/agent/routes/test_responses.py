from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Limits
from tests.parlour import Parlour, opened, run_of, told
from tests.visitor import Visit
from tests.waiting import until

pytestmark = pytest.mark.anyio

HERE = "/v1/responses"


def asked(given: Any, /, **more: Any) -> dict[str, Any]:
    return {"input": given, **more}


def text(response: dict[str, Any]) -> str:
    return "".join(
        content["text"]
        for item in response["output"] if item["type"] == "message"
        for content in item["content"]
    )  # fmt: skip


async def made(parlour: Parlour, given: Any, /, **more: Any) -> dict[str, Any]:
    visit = await parlour.ask(HERE, asked(given, **more))
    assert visit.status == 200, visit
    response: dict[str, Any] = visit.json
    return response


async def shown(parlour: Parlour, id: str) -> dict[str, Any]:
    response: dict[str, Any] = (await parlour.get(f"{HERE}/{id}")).json
    return response


def problem(visit: Visit) -> tuple[int, str]:
    """A refusal, which says it in both ways."""
    assert visit.headers["content-type"] == "application/problem+json"
    error = visit.json["error"]
    assert error["code"] == visit.json["code"]
    assert error["type"] == ("invalid_request_error" if visit.status < 500 else "server_error")
    assert visit.json["detail"] in error["message"]
    assert int(visit.headers["content-length"]) == len(visit.body)
    return visit.status, visit.json["code"]


async def test_an_answer_when_it_is_there(parlour: Parlour) -> None:
    response = await made(parlour, "tools")
    assert (response["object"], response["status"]) == ("response", "completed")
    assert [item["type"] for item in response["output"]] == [
        "message", "mcp_call", "mcp_call", "message",
    ]  # fmt: skip
    assert text(response) == "Let me see. Heard: tools"
    assert await shown(parlour, response["id"]) == response


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "user", "content": "hi"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "mcp_call", "id": "mcp_1", "name": "double", "output": "2"},
            {"role": "user", "content": "hi"},
        ],
    ],
)
async def test_each_way_to_ask(parlour: Parlour, given: Any) -> None:
    assert text(await made(parlour, given)) == "Heard: hi"


async def test_live(parlour: Parlour) -> None:
    visit = await parlour.ask(HERE, asked("tools", stream=True))
    types = [one["type"] for one in told(visit)]
    assert (types[0], types[-1]) == ("response.created", "response.completed")
    assert told(visit)[-1]["response"] == await shown(parlour, told(visit)[0]["response"]["id"])
    numbers = [one["sequence_number"] for one in told(visit)]
    assert numbers == sorted(set(numbers))
    assert (await parlour.get(visit.headers["content-location"])).body == visit.body


async def test_in_the_background(parlour: Parlour) -> None:
    response = await made(parlour, "wait", background=True)
    assert response["status"] in ("queued", "in_progress")
    parlour.gate.set()
    await parlour.ended(response["id"].replace("resp_", "run_"))
    assert text(await shown(parlour, response["id"])) == "One two."


async def test_after_a_number(parlour: Parlour) -> None:
    whole = await parlour.ask(HERE, asked("letters", stream=True))
    told_whole = told(whole)
    there = f"{HERE}/{told_whole[0]['response']['id']}?stream=true"
    assert told(await parlour.get(f"{there}&starting_after=0")) == told_whole
    assert (await parlour.get(f"{there}&starting_after=7")).status == 200
    for at, one in enumerate(told_whole[:-1]):
        rest = await parlour.get(f"{there}&starting_after={one['sequence_number']}")
        assert told(rest) == told_whole[at + 1 :]
    last = told_whole[-1]["sequence_number"]
    nothing = await parlour.get(f"{there}&starting_after={last}")
    assert (nothing.status, told(nothing)) == (200, [])
    assert nothing.body.endswith(b": end\n")
    # What a connection has had last is newer than what stands in its address.
    rest = await parlour.get(f"{there}&starting_after=0", {"last-event-id": whole.events[-2].id})
    assert told(rest) == told_whole[-1:]


async def test_a_number_that_there_is_not(parlour: Parlour) -> None:
    response = await made(parlour, "hi")
    there = f"{HERE}/{response['id']}?stream=true&starting_after="
    assert problem(await parlour.get(f"{there}99999")) == (400, "cursor-from-future")
    for wrong in ("-1", "x", "1e3", "9" * 30):
        assert problem(await parlour.get(there + wrong)) == (422, "input-invalid")


async def test_after_the_response_before(parlour: Parlour) -> None:
    first = await made(parlour, "a")
    second = await made(parlour, "b", previous_response_id=first["id"])
    assert text(second) == "Heard: a, b"
    assert second["conversation"] == first["conversation"]
    again = await made(parlour, "c", previous_response_id=second["id"])
    assert text(again) == "Heard: a, b, c"


async def test_after_a_response_that_is_not_the_last(parlour: Parlour) -> None:
    first = await made(parlour, "a")
    second = await made(parlour, "b", previous_response_id=first["id"])
    await made(parlour, "c", previous_response_id=second["id"])
    other = await made(parlour, "B", previous_response_id=first["id"])
    assert text(other) == "Heard: a, B"
    assert text(await made(parlour, "C", previous_response_id=other["id"])) == "Heard: a, B, C"
    refused = await parlour.ask(HERE, asked("c", previous_response_id=second["id"]))
    assert problem(refused) == (422, "input-invalid")
    assert "went on without that response" in refused.json["detail"]


async def test_in_a_conversation(parlour: Parlour) -> None:
    await made(parlour, "a", conversation="t")
    second = await made(parlour, "b", conversation={"id": "t"})
    assert text(second) == "Heard: a, b"
    assert second["conversation"] == {"id": "t"}
    both = asked("c", conversation="t", previous_response_id=second["id"])
    assert problem(await parlour.ask(HERE, both)) == (422, "input-invalid")


async def test_a_turn_of_no_conversation(parlour: Parlour) -> None:
    started = await parlour.ask("/runs", {"operation": "chat", "input": {"message": "hi"}})
    id = started.json["id"].replace("run_", "resp_")
    await parlour.ended(started.json["id"])
    assert text(await shown(parlour, id)) == "Heard: hi"
    refused = await parlour.ask(HERE, asked("more", previous_response_id=id))
    assert problem(refused) == (422, "input-invalid")


@pytest.mark.parametrize("is_live", [False, True])
async def test_a_request_that_is_repeated(parlour: Parlour, is_live: bool) -> None:
    key = {"idempotency-key": "k"}

    async def run(**more: Any) -> str:
        visit = await parlour.ask(HERE, asked("hi", stream=is_live, **more), key)
        return run_of(visit)

    first = await run()
    assert await run() == first
    before = {"previous_response_id": first.replace("run_", "resp_")}
    key["idempotency-key"] = "l"
    second = await run(**before)
    assert await run(**before) == second != first
    # In the place of the second one.
    key["idempotency-key"] = "m"
    third = await run(**before)
    assert await run(**before) == third
    assert [text for who, text in parlour.read[-1] if who == "user"] == ["hi", "hi"]
    assert len(parlour.read) == 3
    other = await parlour.ask(HERE, asked("something else"), key)
    assert problem(other) == (422, "idempotency-key-reused")


async def test_cancel(parlour: Parlour) -> None:
    async with parlour.visitor.visit("POST", HERE, json=asked("wait", stream=True)) as visit:
        await visit.told(b"One")
        id = told(visit)[0]["response"]["id"]
        busy = await parlour.visitor.ask("DELETE", f"{HERE}/{id}")
        assert problem(busy) == (409, "run-active")
        cancelled = await parlour.ask(f"{HERE}/{id}/cancel", None)
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        assert text(cancelled.json) == "One "
        await visit.over()
    assert told(visit)[-1]["response"]["status"] == "cancelled"
    again = await parlour.ask(f"{HERE}/{id}/cancel", None)
    assert again.json == cancelled.json == await shown(parlour, id)


async def test_forget(parlour: Parlour) -> None:
    id = (await made(parlour, "hi"))["id"]
    forgotten = await parlour.visitor.ask("DELETE", f"{HERE}/{id}")
    assert forgotten.json == {"id": id, "object": "response.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        gone = await parlour.visitor.ask(method, f"{HERE}/{id}")
        assert problem(gone) == (404, "run-unknown")


async def test_what_was_asked(parlour: Parlour) -> None:
    id = (await made(parlour, "hi"))["id"]
    listed = (await parlour.get(f"{HERE}/{id}/input_items")).json
    (item,) = listed["data"]
    assert item["content"] == [{"type": "input_text", "text": "hi"}]
    assert listed["first_id"] == listed["last_id"] == item["id"]
    assert not listed["has_more"]


async def test_the_models(parlour: Parlour) -> None:
    listed = (await parlour.get("/v1/models")).json
    assert [one["id"] for one in listed["data"]] == ["function:parlour", "demo"]
    for one in listed["data"]:
        assert text(await made(parlour, "hi", model=one["id"]))


async def test_a_turn_that_fails(parlour: Parlour) -> None:
    response = await made(parlour, "broken")
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert text(response) == "It "


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"instructions": "Be rude."}, "instructions"),
        ({"store": False}, "store"),
        ({"conversation": {}}, "conversation"),
        ({"conversation": {"id": 7}}, "conversation"),
    ],
)
async def test_what_cannot_be_done_is_refused(parlour: Parlour, more: Any, where: str) -> None:
    refused = await parlour.ask(HERE, asked("hi", **more))
    assert problem(refused) == (422, "input-invalid")
    assert refused.json["errors"][0]["where"] == where
    assert parlour.read == []


async def test_what_is_empty_or_theirs_to_know_does_no_harm(parlour: Parlour) -> None:
    more = {"tools": [], "instructions": "", "store": True, "metadata": {}, "temperature": 0.2,
            "text": {"format": {"type": "text"}}, "include": []}  # fmt: skip
    assert (await made(parlour, "hi", **more))["status"] == "completed"


@pytest.mark.parametrize(
    "id", ["resp_x", "run_abcdefghijklmnopqrstuvwxyz", "resp_abcdefghijklmnopqrstuvwxyz", "x"]
)
async def test_no_such_response(parlour: Parlour, id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        refused = await parlour.visitor.ask(method, f"{HERE}/{id}{path}")
        assert problem(refused) == (404, "run-unknown")
    refused = await parlour.ask(HERE, asked("hi", previous_response_id=id))
    assert problem(refused) == (404, "run-unknown")


async def test_a_run_that_is_no_turn(parlour: Parlour) -> None:
    async def count() -> int:
        return 3

    parlour.runs.operation(count)
    started = await parlour.ask("/runs", {"operation": "count", "input": {}})
    id = started.json["id"].replace("run_", "resp_")
    assert problem(await parlour.get(f"{HERE}/{id}")) == (404, "run-unknown")


async def test_who_is_refused_is_told_in_both_ways(parlour: Parlour) -> None:
    refused = await parlour.ask(HERE, asked("hi"), {"x-who": "ada:watch"})
    assert problem(refused) == (403, "scope-missing")
    assert problem(await parlour.ask(HERE, {"input": None})) == (422, "input-invalid")
    broken = await parlour.visitor.ask("POST", HERE, body=b"{")
    assert problem(broken) == (422, "input-invalid")


async def test_whoever_waits_has_a_seat(anyio_backend: str) -> None:
    async with opened(engine={"limits": Limits(streams_each=1)}) as parlour:
        waiting = asyncio.create_task(parlour.ask(HERE, {"input": "wait"}))
        await until(lambda: parlour.runs.hub.seats.taken == 1)
        full = await parlour.ask(HERE, {"input": "hi"})
        assert (full.status, full.json["error"]["code"]) == (429, "too-many-requests")
        # Nobody waits for what goes on by itself.
        assert (await parlour.ask(HERE, {"input": "hi", "background": True})).status == 200
        parlour.gate.set()
        assert (await waiting).status == 200
        assert parlour.runs.hub.seats.taken == 0
