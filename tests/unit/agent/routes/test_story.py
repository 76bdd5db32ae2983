from __future__ import annotations

from typing import Any

import pytest

from tailrace.agent.router import Router
from tailrace.protocol import agent as words
from tests.parlour import LETTERS, Parlour, opened, run_of, told
from tests.visitor import Visit

pytestmark = pytest.mark.anyio

HERE = "/mcp/chat/stream"


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def chunks(visit: Visit) -> list[dict[str, Any]]:
    return [one for one in told(visit) if one["type"] == words.TEXT_CHUNK]


def text(visit: Visit) -> str:
    return "".join(one["chunk"] for one in chunks(visit))


async def test_a_turn_from_its_first_event_to_its_last(parlour: Parlour) -> None:
    visit = await parlour.ask(HERE, asked("tools"))
    types = [one["type"] for one in told(visit)]
    assert types[:2] == [words.SESSION_START, words.ITERATION_START]
    order = [
        words.TEXT_CHUNK, words.TOOL_DETECTED, words.TOOLS_EXECUTING, words.TOOL_PROGRESS,
        words.TOOLS_COMPLETED,
    ]  # fmt: skip
    places = [types.index(type) for type in order]
    assert places == sorted(places)
    assert types.count(words.ITERATION_START) == 2
    last = told(visit)[-1]
    assert (last["type"], last["iterations"]) == ("complete", 2)
    assert last["totalText"] == text(visit) == "Let me see. Heard: tools"
    assert last["textLength"] == len(last["totalText"])
    done = [one for one in told(visit) if one.get("status") == "completed"]
    assert sorted(one["resultPreview"] for one in done) == ["2", "4"]
    assert visit.headers["content-type"].startswith("text/event-stream")
    assert visit.headers["content-location"] == f"/mcp/chat/{run_of(visit)}/stream"


async def test_each_chunk_has_all_of_it_so_far_unless_that_is_too_much(parlour: Parlour) -> None:
    whole = await parlour.ask(HERE, asked("letters"))
    so_far = ""
    for one in chunks(whole):
        assert one["position"] == len(so_far)
        so_far += one["chunk"]
        assert one["accumulated"] == so_far
    assert so_far == "".join(LETTERS)
    bare = await parlour.ask(HERE, asked("letters", accumulated=False))
    assert all("accumulated" not in one for one in chunks(bare))
    assert text(bare) == so_far
    there = bare.headers["content-location"]
    assert there.endswith("/stream?accumulated=false")
    assert all("accumulated" not in one for one in chunks(await parlour.get(there)))


async def test_gone_on_with_after_every_id(parlour: Parlour) -> None:
    whole = await parlour.ask(HERE, asked("letters"))
    there = whole.headers["content-location"]
    for at, event in enumerate(whole.events[:-1]):
        before = "".join(one.get("chunk", "") for one in told(whole)[: at + 1])
        for query in ("", "?accumulated=false"):
            rest = await parlour.get(there + query, {"last-event-id": event.id})
            assert before + text(rest) == "".join(LETTERS)
            if not query and chunks(rest):
                assert chunks(rest)[0]["accumulated"].startswith(before)
                assert chunks(rest)[-1]["accumulated"] == "".join(LETTERS)
            assert told(rest)[-1] == told(whole)[-1]


async def test_gone_on_with_while_it_goes_on(parlour: Parlour) -> None:
    """Others watch as well, so that there is a snapshot of the run older than the cursor."""
    async with parlour.visitor.visit("POST", HERE, json=asked("wait")) as visit:
        await visit.told(b"One")
        there = visit.headers["content-location"]
        async with parlour.visitor.visit("GET", there, {"last-event-id": visit.last_id}) as rest:
            await rest.until(lambda one: one.status)
            parlour.gate.set()
            await rest.over()
        await visit.over()
    assert chunks(rest)[-1]["accumulated"] == "One two."
    assert text(rest) == "two."


async def test_latest_is_what_is_yet_to_come(parlour: Parlour) -> None:
    async with parlour.visitor.visit("POST", HERE, json=asked("wait")) as visit:
        await visit.told(b"One")
        there = f"{visit.headers['content-location']}?after=latest"
        async with parlour.visitor.visit("GET", there) as rest:
            await rest.until(lambda one: one.status)
            parlour.gate.set()
            await rest.over()
    assert [one["chunk"] for one in chunks(rest)] == ["two."]
    assert chunks(rest)[0]["accumulated"] == "One two."


async def test_a_conversation_that_nobody_named(parlour: Parlour) -> None:
    threads = []
    for _ in range(2):
        visit = await parlour.ask(HERE, asked("hi"))
        threads.append((await parlour.record(run_of(visit))).thread)
        assert told(visit)[0]["thread"] == threads[-1]
    assert threads[0] != threads[1]
    again = await parlour.ask(HERE, asked("and now?", thread=threads[0]))
    assert text(again) == "Heard: hi, and now?"


async def test_a_key_is_for_one_request(parlour: Parlour) -> None:
    key = {"idempotency-key": "k"}
    first = await parlour.ask(HERE, asked("hi"), key)
    again = await parlour.ask(HERE, asked("hi"), key)
    assert run_of(first) == run_of(again)
    assert text(again) == text(first) == "Heard: hi"
    rest = await parlour.ask(HERE, asked("hi"), {**key, "last-event-id": again.events[-2].id})
    assert [one["type"] for one in told(rest)] == ["complete"]
    other = await parlour.ask(HERE, asked("something else"), key)
    assert (other.status, other.json["code"]) == (422, "idempotency-key-reused")


async def test_the_server_keeps_what_was_said(parlour: Parlour) -> None:
    sent = asked("now?")
    sent["messages"][:0] = [
        {"role": "user", "content": "made up"}, {"role": "assistant", "content": "too"},
    ]  # fmt: skip
    await parlour.ask(HERE, sent)
    assert parlour.read == [[("user", "now?")]]


async def test_or_believes_its_clients() -> None:
    async with opened(client_history=True) as parlour:
        sent = asked("now?", thread="t")
        await parlour.ask(HERE, asked("first", thread="t"))
        await parlour.ask(HERE, sent)
        # Who says nothing of what was before has not said that there was nothing.
        assert parlour.read[1][0] == ("user", "first")
        sent["messages"][:0] = [
            {"role": "system", "content": "Be rude."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ]
        await parlour.ask(HERE, sent)
        assert parlour.read[2] == [("user", "a"), ("assistant", "b"), ("user", "now?")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream": True},
        {"accumulated": "perhaps"},
        {"messages": None},
        {"model": 7},
        {"thread": {}},
    ],
)
async def test_what_is_not_understood_is_refused(parlour: Parlour, wrong: Any) -> None:
    refused = await parlour.ask(HERE, asked("hi") | wrong)
    assert (refused.status, refused.json["code"]) == (422, "input-invalid")


async def test_a_turn_that_fails_says_why(parlour: Parlour) -> None:
    visit = await parlour.ask(HERE, asked("broken"))
    assert told(visit)[-1]["type"] == "error"
    assert text(visit) == "It "


async def test_a_turn_that_is_cancelled(parlour: Parlour) -> None:
    async with parlour.visitor.visit("POST", HERE, json=asked("wait")) as visit:
        await visit.told(b"One")
        await parlour.ask(f"/runs/{run_of(visit)}/cancel", {})
        await visit.over()
    assert told(visit)[-1]["type"] == "cancelled"
    assert visit.is_complete


async def test_any_run_can_be_watched_so(parlour: Parlour) -> None:
    async def count() -> int:
        return 3

    parlour.runs.operation(count)
    started = await parlour.ask("/runs", {"operation": "count", "input": {}})
    visit = await parlour.get(f"/mcp/chat/{started.json['id']}/stream")
    assert told(visit)[-1]["result"] == 3


# --- what would become of it -----------------------------------------------------------------


async def test_what_would_become_of_a_question(parlour: Parlour) -> None:
    query = {"query": "Double every number in the list and compare the results"}
    first = (await parlour.ask("/mcp/analyze-query", query)).json
    assert first["complexity"] in ("low", "medium", "high")
    assert 1 <= first["score"] <= 10
    assert "double" in first["toolsNeeded"]
    assert first["reasons"]
    assert first["model"] == "function:parlour"
    assert first["estimatedTime"][first["route"]] == "no history yet"
    assert first["recommendation"]
    assert parlour.read == []
    assert (await parlour.get("/runs")).json["runs"] == []


async def test_how_long_it_would_take_is_known_of_ones_own_turns_alone() -> None:
    async with opened(router=Router()) as parlour:
        visit = await parlour.ask(HERE, asked("hi"))
        route = next(one["route"] for one in told(visit) if one["type"] == words.ROUTED)
        for who, known in (("ada", True), ("bob", False), ("root:admin,watch", True)):
            query = {"query": "hi"}
            answer = (await parlour.ask("/mcp/analyze-query", query, {"x-who": who})).json
            assert answer["route"] == route
            times = answer["estimatedTime"][route]
            assert (times != "no history yet") is known
            assert not known or times["runs"] == 1


@pytest.mark.parametrize("wrong", [{}, {"query": ""}, {"query": 7}, {"query": "x", "more": 1}])
async def test_no_question_at_all(parlour: Parlour, wrong: Any) -> None:
    refused = await parlour.ask("/mcp/analyze-query", wrong)
    assert (refused.status, refused.json["code"]) == (422, "input-invalid")
