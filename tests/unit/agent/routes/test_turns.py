"""What is alike in all dialects: threads, repeats, seats, prefixes, and who may do what."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tailrace.agent.routes.turns import named, own_thread
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.protocol import agent as words
from tailrace.protocol.wire import MAX_BODY_BYTES
from tests.parlour import LETTERS, Parlour, opened, run_of, told
from tests.processes import ROOT
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio


def story(text: str, thread: str = "t", id: str = "") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "thread": thread}


def agui(text: str, thread: str = "t", id: str = "1") -> dict[str, Any]:
    messages = [{"id": id, "role": "user", "content": text}]
    return {"threadId": thread, "runId": id, "messages": messages, "tools": [], "context": [],
            "state": {}, "forwardedProps": {}}  # fmt: skip


def aisdk(text: str, thread: str = "t", id: str = "1") -> dict[str, Any]:
    parts = [{"type": "text", "text": text}]
    return {"id": thread, "messages": [{"id": id, "role": "user", "parts": parts}],
            "trigger": "submit-message"}  # fmt: skip


def responses(text: str, thread: str = "t", id: str = "") -> dict[str, Any]:
    return {"input": text, "conversation": thread, "stream": True}


Body = Callable[..., dict[str, Any]]

STARTS: list[Any] = [
    pytest.param("/mcp/chat/stream", story, id="story"),
    pytest.param("/agui", agui, id="agui"),
    pytest.param("/api/chat", aisdk, id="aisdk"),
    pytest.param("/v1/responses", responses, id="responses"),
]
ALL = [(param.values[0], param.values[1]) for param in STARTS]
dialects = pytest.mark.parametrize(("target", "body"), STARTS)


@dialects
async def test_a_conversation_goes_on(parlour: Parlour, target: str, body: Body) -> None:
    for number, text in enumerate(("first", "second", "third")):
        visit = await parlour.ask(target, body(text, id=str(number)))
        assert visit.status == 200, visit
        assert (await parlour.record(run_of(visit))).thread == "t"
    assert parlour.read[2] == [
        ("user", "first"), ("assistant", "Heard: first"),
        ("user", "second"), ("assistant", "Heard: first, second"),
        ("user", "third"),
    ]  # fmt: skip
    other = await parlour.ask(target, body("alone", thread="u", id="9"))
    assert b"Heard: " in other.body
    assert parlour.read[3] == [("user", "alone")]


async def test_dialects_share_the_conversation(parlour: Parlour) -> None:
    for number, (target, body) in enumerate(ALL):
        assert (await parlour.ask(target, body(f"q{number}", id=str(number)))).status == 200
    assert [text for who, text in parlour.read[-1] if who == "user"] == ["q0", "q1", "q2", "q3"]


@dialects
async def test_one_turn_at_a_time(parlour: Parlour, target: str, body: Body) -> None:
    async with parlour.visitor.visit("POST", target, json=body("wait", id="1")) as visit:
        await visit.told(b"One")
        refused = await parlour.ask(target, body("other", id="2"))
        assert (refused.status, refused.json["code"]) == (409, "thread-busy")
        # Nobody else's conversation is in the way, though it is called the same.
        theirs = await parlour.ask(target, body("other", id="2"), {"x-who": "bob"})
        assert theirs.status == 200
        parlour.gate.set()
        await visit.over()
    assert (await parlour.ask(target, body("other", id="2"))).status == 200


@dialects
async def test_leaving_stops_nothing(parlour: Parlour, target: str, body: Body) -> None:
    async with parlour.visitor.visit("POST", target, json=body("wait")) as visit:
        await visit.told(b"One")
        run, there = run_of(visit), visit.headers["content-location"]
    parlour.gate.set()
    assert (await parlour.ended(run)).state == "completed"
    rest = await parlour.get(there, {"last-event-id": visit.last_id})
    whole = await parlour.get(there)
    if target == "/mcp/chat/stream":
        assert b"two." in rest.body
    else:
        # Whatever was told is told again in the same bytes.
        assert whole.body.endswith(rest.body[rest.body.index(b"id: ") :])
    ids = [event.id for event in visit.events] + [event.id for event in rest.events]
    assert len(ids) == len(set(ids))


@dialects
async def test_cut_after_each_event_and_gone_on_with(
    parlour: Parlour, target: str, body: Body
) -> None:
    whole = await parlour.ask(target, body("letters"))
    there = whole.headers["content-location"]
    query = "&" if "?" in there else "?"
    plain = await parlour.get(there) if target != "/mcp/chat/stream" else whole
    assert len(plain.events) > len(LETTERS)
    for at, event in enumerate(plain.events[:-1]):
        expected = [(e.id, e.data) for e in plain.events[at + 1 :]]
        by_header = await parlour.get(there, {"last-event-id": event.id})
        by_query = await parlour.get(f"{there}{query}after={event.id}")
        if target == "/mcp/chat/stream":
            # Chunks of text that are told late may be told as one: see there.
            assert text(by_header) == text(by_query)
        else:
            assert [(e.id, e.data) for e in by_header.events] == expected
            assert by_query.body == by_header.body
    last = plain.events[-1].id
    assert (await parlour.get(there, {"last-event-id": last})).status == 204
    # A browser that reconnects sends both, and what stands in the address is older.
    both = await parlour.get(f"{there}{query}after=0", {"last-event-id": last})
    assert both.status == 204


def text(visit: Visit) -> str:
    return "".join(one.get("chunk", "") for one in told(visit))


@dialects
async def test_a_cursor_that_makes_no_sense(parlour: Parlour, target: str, body: Body) -> None:
    there = (await parlour.ask(target, body("hi"))).headers["content-location"]
    for last, code in (("x", "cursor-malformed"), ("999", "cursor-from-future")):
        refused = await parlour.get(there, {"last-event-id": last})
        assert (refused.status, refused.json["code"]) == (400, code)


@pytest.mark.parametrize(("target", "body"), STARTS[:3])
async def test_a_request_that_is_repeated_starts_nothing(
    parlour: Parlour, target: str, body: Body
) -> None:
    headers = {"idempotency-key": "k"} if target == "/mcp/chat/stream" else {}
    first = await parlour.ask(target, body("hi", id="m1"), headers)
    again = await parlour.ask(target, body("hi", id="m1"), headers)
    assert run_of(first) == run_of(again)
    assert len(parlour.read) == 1
    assert text(again) == text(first)
    theirs = await parlour.ask(target, body("hi", id="m1"), {**headers, "x-who": "bob"})
    assert run_of(theirs) != run_of(first)
    # Who repeats it because the connection was cut may say how much there was.
    rest = await parlour.ask(target, body("hi", id="m1"), {**headers, "last-event-id": "3"})
    assert run_of(rest) == run_of(first)
    assert min(rest.events[0].id.split(".")) > "3"
    other = await parlour.ask(target, body("hi", id="m2"), headers and {"idempotency-key": "l"})
    assert run_of(other) != run_of(first)


@pytest.mark.parametrize(("target", "body"), STARTS[:3])
async def test_long_ids_are_told_apart(parlour: Parlour, target: str, body: Body) -> None:
    long = "x" * 200
    runs = set()
    for id in ("1", "2"):
        visit = await parlour.ask(target, body(f"hi {id}", thread=long, id=id))
        runs.add(run_of(visit))
    assert len(runs) == 2


def test_ids_are_not_put_together_as_they_are() -> None:
    assert named("a", "b:c") != named("a:b", "c") != named("a", None, "b:c")
    assert named("a", "b") == named("a", "b")
    assert len(named("x" * 10_000)) < 200
    assert own_thread() != own_thread()
    assert own_thread("k") == own_thread("k") != own_thread("l")


@dialects
@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [], "input": []},
        {"messages": "hi", "input": 7},
        {"messages": [{"role": "assistant", "content": "hi"}]},
        {"messages": [{"role": "user", "content": ""}], "input": " "},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]},
        {"messages": [{"role": "user", "content": "x"}] * 1001},
        {"thread": "", "threadId": "", "id": "", "conversation": ""},
        {"thread": "a\nb", "threadId": "a\nb", "id": "a\nb", "conversation": "a\nb"},
        {"thread": 7, "threadId": 7, "id": 7, "conversation": 7},
    ],
)
async def test_what_cannot_be_asked(parlour: Parlour, target: str, body: Body, wrong: Any) -> None:
    sent = body("hi")
    if "messages" in wrong:
        wrong = {"input": wrong["messages"], **wrong}
    sent |= {name: value for name, value in wrong.items() if name in sent}
    refused = await parlour.ask(target, sent)
    assert (refused.status, refused.json["code"]) == (422, "input-invalid"), refused
    assert refused.json["fix"]
    assert parlour.read == []
    assert (await parlour.get("/runs")).json["runs"] == []


@pytest.mark.parametrize(("target", "body"), [STARTS[0], *STARTS[2:]])
async def test_the_models_that_may_be_asked_for(parlour: Parlour, target: str, body: Body) -> None:
    for name in ("gpt-5", "openai:gpt-5", "http://127.0.0.1/v1", ""):
        refused = await parlour.ask(target, body("hi") | {"model": name})
        assert refused.status == 422, name
        assert "does not ask the model" in refused.json["detail"]
    visit = await parlour.ask(target, body("hi") | {"model": "demo"})
    result = json.loads((await parlour.ended(run_of(visit))).result or b"")
    assert result["model"] == "demo"


@dialects
async def test_how_much_may_be_sent(parlour: Parlour, target: str, body: Body) -> None:
    large = await parlour.ask(target, body("x" * MAX_BODY_BYTES))
    assert (large.status, large.json["code"]) == (413, "body-too-large")
    kept = await parlour.ask(target, body("x" * (MAX_BODY_BYTES - 100_000)))
    assert (kept.status, kept.json["code"]) == (413, "body-too-large")
    assert "can be kept" in kept.json["detail"]
    assert (await parlour.ask(target, body("x" * 200_000))).status == 200
    kind = {"content-type": "text/plain"}
    plain = await parlour.visitor.ask("POST", target, kind, body=b"{}")
    assert plain.status == 415


@dialects
async def test_there_is_room_or_nothing_is_started(target: str, body: Body) -> None:
    limits = Limits(streams_each=1)
    async with opened(engine={"limits": limits}) as parlour:
        async with parlour.visitor.visit("POST", target, json=body("wait", id="1")) as visit:
            await visit.told(b"One")
            refused = await parlour.ask(target, body("more", thread="u", id="2"))
            assert (refused.status, refused.json["code"]) == (429, "too-many-requests")
            assert len((await parlour.get("/runs")).json["runs"]) == 1
            rest = await parlour.get(visit.headers["content-location"])
            assert rest.status == 429
            theirs = await parlour.ask(target, body("hi"), {"x-who": "bob"})
            assert theirs.status == 200
        parlour.gate.set()


WATCHES = [
    ("GET", "/mcp/chat/{run}/stream"),
    ("GET", "/v1/responses/{response}"),
    ("GET", "/v1/responses/{response}?stream=true"),
    ("GET", "/v1/responses/{response}/input_items"),
    ("POST", "/v1/responses/{response}/cancel"),
    ("DELETE", "/v1/responses/{response}"),
]


async def test_of_somebody_elses_turn_there_is_nothing(parlour: Parlour) -> None:
    async with parlour.visitor.visit("POST", "/agui", json=agui("wait")) as visit:
        await visit.told(b"One")
        run = run_of(visit)
        for method, path in WATCHES:
            target = path.format(run=run, response=run.replace("run_", "resp_"))
            refused = await parlour.visitor.ask(method, target, {"x-who": "bob"})
            assert (refused.status, refused.json["code"]) == (404, "run-unknown"), path
        for path in ("/agui/t/stream", "/api/chat/t/stream"):
            assert (await parlour.get(path, {"x-who": "bob"})).status == 204
        assert (await parlour.get("/api/chat/t", {"x-who": "bob"})).json == {"messages": []}
        stopped = await parlour.visitor.ask("POST", "/api/chat/t/stop", {"x-who": "bob"})
        assert stopped.status == 204
        assert "tailrace-run" not in stopped.headers
        before = {"input": "and now?", "previous_response_id": run.replace("run_", "resp_")}
        refused = await parlour.ask("/v1/responses", before, {"x-who": "bob"})
        assert refused.status == 404
        parlour.gate.set()
        await visit.over()
    assert (await parlour.ended(run)).state == "completed"


@dialects
async def test_scopes(parlour: Parlour, target: str, body: Body) -> None:
    refused = await parlour.ask(target, body("hi"), {"x-who": "ada:watch,cancel"})
    assert (refused.status, refused.json["code"]) == (403, "scope-missing")
    visit = await parlour.ask(target, body("hi"), {"x-who": "ada:run"})
    there = visit.headers["content-location"]
    assert (await parlour.get(there, {"x-who": "ada:run"})).status == 403
    assert (await parlour.get(there, {"x-who": "ada:watch"})).status == 200


# --- where it stands ---------------------------------------------------------------------------


def _mounted(runs: Tailrace) -> Any:
    return Starlette(routes=[Mount("/a", routes=[Mount("/b c", runs.asgi)])])


def _included(runs: Tailrace) -> Any:
    host = FastAPI()
    host.include_router(runs.router, prefix="/inner/{tenant}")
    return host


@dialects
@pytest.mark.parametrize(
    ("host", "prefix"), [(_mounted, "/a/b%20c"), (_included, "/inner/x")], ids=["mount", "router"]
)
async def test_below_a_prefix(target: str, body: Body, host: Any, prefix: str) -> None:
    async with opened() as parlour:
        parlour.visitor = Visitor(host(parlour.runs))
        visit = await parlour.ask(prefix + target, body("hi"))
        there = visit.headers["content-location"]
        assert there.startswith(f"{prefix}/")
        rest = await parlour.get(there, {"last-event-id": "2"})
        assert rest.status == 200
        assert rest.events[-1].id == visit.events[-1].id
        again = await parlour.get(there)
        assert again.headers.get("content-location", there) == there
        refused = await parlour.ask(prefix + target, body("hi"), {"x-who": "ada:watch"})
        assert refused.status == 403


async def test_without_a_chat_there_is_nothing_of_it() -> None:
    runs = Tailrace("memory:")
    visitor = Visitor(runs.asgi)
    for target, body in ALL:
        assert (await visitor.post(target, body("hi"))).status == 404
    paths = runs.asgi.openapi()["paths"]
    assert not [path for path in paths if path.startswith(("/mcp/", "/agui", "/api/", "/v1/"))]
    await runs.close()


@pytest.mark.parametrize("face", ["asgi", "router"])
def test_the_endpoints_are_made_once(face: str) -> None:
    runs = Tailrace("memory:")
    getattr(runs, face)
    with pytest.raises(ValueError, match="call chat"):
        runs.chat()
    assert "chat" not in [operation.name for operation in runs.operations]


def test_there_is_one_chat() -> None:
    runs = Tailrace("memory:")
    runs.chat()
    with pytest.raises(ValueError, match="chat"):
        runs.chat()


async def test_the_document(parlour: Parlour) -> None:
    paths = (await parlour.get("/openapi.json")).json["paths"]
    told = {
        path: item for path, item in paths.items() if "chat" in next(iter(item.values()))["tags"]
    }
    assert len(told) == 14
    for path, item in told.items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert operation["description"], path
            default = operation["responses"]["default"]["content"]
            assert list(default) == ["application/problem+json"]
            names = [(p["in"], p["name"]) for p in operation.get("parameters", ())]
            assert len(names) == len(set(names))
            if method == "get" and "text/event-stream" in operation["responses"]["200"].get(
                "content", ()
            ):
                assert ("header", "Last-Event-ID") in names
                assert ("query", "after") in names
                assert "204" in operation["responses"]


def test_what_is_documented() -> None:
    runs = Tailrace("memory:")
    runs.chat()
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    said = {
        (method, path)
        for line in re.findall(r"^\| (`(?:GET|POST)[^|]*)\|", text, re.MULTILINE)
        for method, path in re.findall(r"`(GET|POST|DELETE) (/[^`?]*)", line)
    }
    paths = runs.asgi.openapi()["paths"]
    offered = {
        (method.upper(), path)
        for path, item in paths.items()
        for method in item
        if "chat" in item[method]["tags"]
    }
    assert said == {*offered, ("POST", "/runs")}
    types = {name for key, name in vars(words).items() if key.isupper() and "_" in str(name)}
    assert {word for word in types if f"`{word}`" not in text} == set()
    assert all(f"`{format}`" in text for format in ("chat", "ag-ui", "ai-sdk", "responses"))


# --- what is written down -----------------------------------------------------------------------


async def test_what_is_written_down(parlour: Parlour, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tailrace.audit")
    runs = []
    for number, (target, body) in enumerate(ALL):
        runs.append(run_of(await parlour.ask(target, body("a secret", id=str(number)))))
    id = runs[-1].replace("run_", "resp_")
    for method, target in (
        ("GET", f"/mcp/chat/{runs[0]}/stream"),
        ("GET", f"/v1/responses/{id}"),
        ("GET", f"/v1/responses/{id}?stream=true"),
        ("GET", f"/v1/responses/{id}/input_items"),
        ("GET", "/v1/models"),
        ("GET", "/api/chat/t"),
        ("POST", f"/v1/responses/{id}/cancel"),
        ("DELETE", f"/v1/responses/{id}"),
    ):
        assert (await parlour.visitor.ask(method, target)).status == 200
    await parlour.ask("/mcp/analyze-query", {"query": "a secret"})
    await parlour.ask("/agui", agui("a secret"), {"x-who": "bob:watch"})
    told = [record.__dict__["audit"] for record in caplog.records]
    assert [(one["action"], one["run"]) for one in told] == [
        *(("started", run) for run in runs),
        ("watched", runs[0]),
        *[("watched", runs[-1])] * 2,
        ("looked at", runs[-1]),
        ("listed", None),
        ("looked at", None),
        ("cancelled", runs[-1]),
        ("forgot", runs[-1]),
        ("analysed", None),
        ("refused", None),
    ]
    assert "secret" not in caplog.text


async def test_a_stop_is_written_down_with_its_run(
    parlour: Parlour, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tailrace.audit")
    async with parlour.visitor.visit("POST", "/api/chat", json=aisdk("wait")) as visit:
        await visit.told(b"One")
        await parlour.visitor.ask("POST", "/api/chat/t/stop")
        await visit.over()
    said = caplog.records[-1].__dict__["audit"]
    assert (said["action"], said["run"]) == ("cancelled", run_of(visit))
