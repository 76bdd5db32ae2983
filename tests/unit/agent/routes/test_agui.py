from __future__ import annotations

from typing import Any

import pytest

from tests.parlour import Parlour, run_of, told

pytestmark = pytest.mark.anyio

HERE = "/agui"


def asked(text: str, run: str | None = "r1", thread: str = "t") -> dict[str, Any]:
    return {
        "threadId": thread, "runId": run, "state": {}, "tools": [], "context": [],
        "forwardedProps": {}, "messages": [{"id": "m", "role": "user", "content": text}],
    }  # fmt: skip


async def test_a_turn(parlour: Parlour) -> None:
    visit = await parlour.ask(HERE, asked("tools"))
    types = [one["type"] for one in told(visit)]
    assert (types[0], types[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert types.count("TOOL_CALL_RESULT") == 2
    assert told(visit)[0]["threadId"] == "t"
    there = f"/runs/{run_of(visit)}/events?format=ag-ui"
    assert visit.headers["content-location"] == there
    assert (await parlour.get(there)).body == visit.body


async def test_the_clients_id_of_a_run_names_it(parlour: Parlour) -> None:
    first = await parlour.ask(HERE, asked("hi"))
    assert run_of(await parlour.ask(HERE, asked("hi"))) == run_of(first)
    other = await parlour.ask(HERE, asked("hi", thread="u"))
    assert run_of(other) != run_of(first)
    changed = await parlour.ask(HERE, asked("something else"))
    assert (changed.status, changed.json["code"]) == (422, "idempotency-key-reused")
    runs = {run_of(await parlour.ask(HERE, asked("hi", run=None))) for _ in range(2)}
    assert len(runs) == 2


async def test_come_back_to_a_conversation(parlour: Parlour) -> None:
    there = f"{HERE}/t/stream"
    assert (await parlour.get(there)).status == 204
    async with parlour.visitor.visit("POST", HERE, json=asked("wait")) as visit:
        await visit.told(b"One")
        plain, run = visit.last_id, run_of(visit)
    async with parlour.visitor.visit("GET", there) as cut:
        await cut.told(b"One")
        last = cut.last_id
    assert last == f"{run}:{plain}"
    async with (
        parlour.visitor.visit("GET", f"{there}?after=0") as whole,
        parlour.visitor.visit("GET", there, {"last-event-id": last}) as rest,
        parlour.visitor.visit("GET", f"{there}?after={last}") as same,
    ):
        for one in (whole, rest, same):
            await one.until(lambda visit: visit.status)
            assert run_of(one) == run
        assert (await parlour.get(f"{HERE}/other/stream")).status == 204
        parlour.gate.set()
        for one in (whole, rest, same):
            await one.over()
    ids = [event.id for event in whole.events]
    assert [event.id for event in rest.events] == ids[ids.index(last) + 1 :]
    assert [event.id for event in same.events] == [event.id for event in rest.events]
    assert told(whole)[0]["type"] == "RUN_STARTED"
    # It has ended: whoever begins anew has nothing to watch, and who has a part gets the rest.
    assert (await parlour.get(there)).status == 204
    late = await parlour.get(there, {"last-event-id": last})
    assert [event.data for event in late.events] == [event.data for event in rest.events]
    assert (await parlour.get(there, {"last-event-id": ids[-1]})).status == 204


async def test_two_turns_are_never_mixed(parlour: Parlour) -> None:
    there = f"{HERE}/t/stream"
    first = await parlour.ask(HERE, asked("hi"))
    async with parlour.visitor.visit("POST", HERE, json=asked("wait", "r2")) as second:
        await second.told(b"One")
        # The rest of the first, though the second goes on.
        rest = await parlour.get(there, {"last-event-id": f"{run_of(first)}:3"})
        assert run_of(rest) == run_of(first)
        whole = first.events
        assert [event.data for event in rest.events] == [
            event.data for event in whole[[event.id for event in whole].index("3") + 1 :]
        ]
        # An id that names no turn could be of either.
        plain = await parlour.get(there, {"last-event-id": "3"})
        assert (plain.status, plain.json["code"]) == (400, "cursor-malformed")
        elsewhere = await parlour.get(f"{HERE}/u/stream", {"last-event-id": f"{run_of(first)}:3"})
        assert (elsewhere.status, elsewhere.json["code"]) == (404, "run-unknown")
        parlour.gate.set()
        await second.over()


async def test_what_an_agent_page_sends_besides(parlour: Parlour) -> None:
    sent = asked("hi") | {"parentRunId": "p", "resume": None, "tools": [{"name": "alert"}]}
    sent["messages"][:0] = [
        {"id": "a", "role": "assistant", "toolCalls": [{"id": "c", "type": "function"}]},
        {"id": "b", "role": "tool", "toolCallId": "c", "content": "7"},
        {"id": "c", "role": "activity", "activityType": "x", "content": {"a": 1}},
        {"id": "d", "role": "user", "content": [{"type": "binary", "mimeType": "image/png"}]},
    ]
    assert (await parlour.ask(HERE, sent)).status == 200
    assert parlour.read == [[("user", "hi")]]


@pytest.mark.parametrize("name", ["threadId", "messages"])
async def test_what_must_be_there(parlour: Parlour, name: str) -> None:
    sent = asked("hi")
    del sent[name]
    refused = await parlour.ask(HERE, sent)
    assert refused.status == 422
    assert refused.json["errors"] == [{"where": name, "what": "It is required"}]


async def test_a_thread_with_any_name(parlour: Parlour) -> None:
    thread = "über/x y?%"
    async with parlour.visitor.visit("POST", HERE, json=asked("wait", thread=thread)) as visit:
        await visit.told(b"One")
        # What has a slash in it is no part of a path; others are.
        missing = await parlour.get("/agui/%C3%BCber%2Fx%20y%3F%25/stream")
        assert missing.status == 404
        parlour.gate.set()
        await visit.over()
    parlour.gate.clear()
    thread = "über x?%"
    async with parlour.visitor.visit("POST", HERE, json=asked("wait", thread=thread)) as visit:
        await visit.told(b"One")
        async with parlour.visitor.visit("GET", "/agui/%C3%BCber%20x%3F%25/stream") as rest:
            await rest.until(lambda one: one.status == 200)
        parlour.gate.set()
        await visit.over()
