"""Who may do what. Made from the route table, so that a new route is covered by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tailrace.errors import Unauthorized
from tailrace.facade import Tailrace
from tailrace.http.access import NEEDS, Admitted, again, guarding, identified
from tailrace.http.limits import Limits
from tailrace.protocol.access import ADMIN, SCOPES, WHO, Access
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

# They tell whether the process lives, to whoever looks after it, and nothing else.
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz")}

THREAD = "ours"
ASKED = {"role": "user", "content": "hi"}


def named(request: Request) -> Access:
    """By a header: `ada`, or `ada:run,watch`."""
    name, _, scopes = request.headers.get("x-who", "").partition(":")
    if not name:
        raise Unauthorized("Nobody knows who asks.", fix="Send a key.")
    return Access.of(name, scopes.split(",")) if scopes else Access.of(name)


@dataclass
class House:
    runs: Tailrace
    visitor: Visitor
    run: str = ""
    turn: str = ""

    async def ask(self, who: str, method: str, path: str) -> Visit:
        """With a body where one belongs."""
        target = path.replace("{run}", self.run).replace("{id}", self.turn)
        target = target.replace("{thread}", THREAD).replace("{chat}", THREAD)
        if path == "/run_file":
            target += "?file_path=hello.sh"
        bodies: dict[tuple[str, str], Any] = {
            ("POST", "/runs"): {"operation": "count", "input": {}},
            ("POST", "/runs/{run}/events"): {"events": [{"type": "note", "data": {}}]},
            ("POST", "/tickets"): {"run": self.run},
            ("POST", "/mcp/chat/stream"): {"messages": [ASKED]},
            ("POST", "/mcp/analyze-query"): {"query": "hi"},
            ("POST", "/agui"): {"threadId": "a", "messages": [ASKED]},
            ("POST", "/api/chat"): {"id": "b", "messages": [ASKED]},
            ("POST", "/v1/responses"): {"input": "hi", "conversation": THREAD},
        }
        headers = {"x-who": who} if who else {}
        return await self.visitor.ask(method, target, headers, json=bodies.get((method, path)))

    @property
    def routes(self) -> list[tuple[str, str]]:
        """All that the OpenAPI document has."""
        paths = self.runs.asgi.openapi()["paths"]
        return [(method.upper(), path) for path, item in paths.items() for method in item]


async def count() -> int:
    return 1


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    runs = Tailrace("memory:", principal=named, grace=0.1)
    runs.operation(count)
    (tmp_path / "hello.sh").write_text("echo hello")
    runs.allow_scripts(tmp_path)
    runs.chat()
    house = House(runs, Visitor(runs.asgi))
    started = await house.ask("ada", "POST", "/runs")
    house.run = started.json["id"]
    await runs.run(house.run).wait()
    house.turn = (await house.ask("ada", "POST", "/v1/responses")).json["id"]
    yield house
    await runs.close()


async def test_every_route_says_what_it_needs(house: House) -> None:
    assert {*house.routes} - PUBLIC == NEEDS.keys()


async def test_nobody_gets_anything(house: House) -> None:
    for method, path in house.routes:
        answer = await house.ask("", method, path)
        if (method, path) in PUBLIC:
            assert answer.status == 200
        else:
            assert answer.status == 401, (method, path)
            assert answer.json["code"] == "unauthorized"
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_nothing_is_read_of_a_request_before_it_is_known_who_asks(house: House) -> None:
    for body in (b"{", b"x" * 2_000_000):
        answer = await house.visitor.ask("POST", "/runs", body=body)
        assert answer.status == 401


async def test_of_somebody_elses_run_there_is_nothing(house: House) -> None:
    everything = f"bob:{','.join(SCOPES[:-1])}"
    asked = [route for route in house.routes if "{run}" in route[1] or "{id}" in route[1]]
    assert len(asked) >= 12
    for method, path in asked:
        answer = await house.ask(everything, method, path)
        assert (answer.status, answer.json["code"]) == (404, "run-unknown"), (method, path)
    assert (await house.ask(everything, "POST", "/tickets")).status == 404
    assert (await house.ask(everything, "GET", "/runs")).json["runs"] == []
    for target in (f"/events?runs={house.run}", f"/run_file?file_path=x&after={house.run}:1"):
        answer = await house.visitor.get(target, {"x-who": "bob"})
        assert answer.status == 404, target
    for target in (f"/agui/{THREAD}/stream", f"/api/chat/{THREAD}/stream"):
        assert (await house.visitor.get(target, {"x-who": "bob"})).status == 204, target
        last = {"x-who": "bob", "last-event-id": f"{house.run}:1"}
        assert (await house.visitor.get(target, last)).status == 404, target
    assert (await house.ask(everything, "GET", "/api/chat/{chat}")).json == {"messages": []}
    vector = {"x-who": "bob", "last-event-id": f"0~{house.run}:1"}
    async with house.visitor.visit("GET", "/events", vector) as visit:
        await visit.until(lambda told: b"tailrace" in told.body)
        assert house.run.encode() not in visit.body
    mine = await house.ask("ada", "GET", "/runs/{run}")
    assert mine.json["state"] == "completed"
    assert (await house.ask("ada", "GET", "/v1/responses/{id}")).json["status"] == "completed"


async def test_a_missing_run_looks_just_the_same(house: House) -> None:
    theirs = await house.ask("bob", "GET", "/runs/{run}")
    missing = house.run[:-4] + "aaaa"
    none = await house.visitor.get(f"/runs/{missing}", {"x-who": "bob"})
    assert theirs.json["detail"].replace(house.run, "") == none.json["detail"].replace(missing, "")


async def test_admin_sees_all(house: House) -> None:
    for method, path in house.routes:
        if ("{run}" in path or "{id}" in path) and method == "GET":
            answer = await house.ask("root:admin", method, path)
            assert answer.status == 200, (method, path)
    assert len((await house.ask("root:admin", "GET", "/runs")).json["runs"]) == 2
    again = await house.ask("root:admin", "POST", "/runs/{run}/rerun")
    record = await house.runs.record(again.json["id"])
    assert record.principal == "root"


async def test_a_scope_is_for_its_routes_alone(house: House) -> None:
    for method, path in house.routes:
        needed = NEEDS.get((method, path))
        if needed is None:
            continue
        others = ",".join(scope for scope in SCOPES if scope not in (needed, ADMIN))
        answer = await house.ask(f"ada:{others}", method, path)
        assert (answer.status, answer.json["code"]) == (403, "scope-missing"), (method, path)
        assert needed in answer.json["fix"]


async def test_a_crowd_is_asked_as_well(house: House) -> None:
    """Watching has a short way of its own."""
    target = f"/runs/{house.run}/events"
    for who, status in (("ada", 200), ("bob", 404), ("ada:run", 403), ("", 401)):
        headers = {"x-who": who} if who else {}
        assert (await house.visitor.get(target, headers)).status == status, who


async def test_a_route_nobody_thought_of_is_closed() -> None:
    runs = Tailrace("memory:", principal=named)
    routes = APIRouter(route_class=guarding(runs))

    @routes.get("/secrets")
    async def secrets() -> str:
        return "hunter2"

    app = FastAPI()
    app.include_router(routes)
    visitor = Visitor(app)
    for who, status in (("ada", 403), ("root:admin", 200)):
        assert (await visitor.get("/secrets", {"x-who": who})).status == status


async def test_included_with_a_prefix(house: House) -> None:
    app = FastAPI()
    app.include_router(house.runs.router, prefix="/inner/{tenant}")
    visitor = Visitor(app)
    target = f"/inner/x/runs/{house.run}"
    for who, status in (("ada:watch", 200), ("ada:run", 403), ("bob", 404), ("", 401)):
        headers = {"x-who": who} if who else {}
        assert (await visitor.get(target, headers)).status == status, who


async def test_whoever_finds_out_may_take_time_and_refuse_in_their_own_way() -> None:
    async def slow(request: Request) -> str:
        if "authorization" not in request.headers:
            raise HTTPException(401, "Not today.", {"www-authenticate": "Basic"})
        return request.headers["authorization"]

    runs = Tailrace("memory:", principal=slow)
    runs.operation(count)
    visitor = Visitor(runs.asgi)
    refused = await visitor.get("/runs")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Basic")
    body = {"operation": "count", "input": {}}
    started = await visitor.post("/runs", body, {"authorization": "ada"})
    assert (await runs.record(started.json["id"])).principal == "ada"
    again = await visitor.get(f"/runs/{started.json['id']}/events")
    assert again.status == 401
    await runs.run(started.json["id"]).wait()
    await runs.close()


async def test_a_key_belongs_to_its_principal(house: House) -> None:
    body = {"operation": "count", "input": {}}
    ids = set()
    for who in ("ada", "bob"):
        headers = {"x-who": who, "idempotency-key": "same"}
        answer = await house.visitor.post("/runs", body, headers)
        assert answer.status == 201, json.dumps(answer.json)
        ids.add(answer.json["id"])
    assert len(ids) == 2


async def test_an_app_to_which_nobody_comes_unknown(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get(WHO))
        await Response(status_code=204)(scope, receive, send)

    def who(request: Request) -> str:
        if "x-user" not in request.headers:
            raise Unauthorized("Who is it?")
        return request.headers["x-user"]

    app = Admitted(Tailrace(tmp_path / "x.db", principal=who), inner)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://x"
    ) as client:
        refused = await client.post("/")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert seen == []
        assert (await client.post("/", headers={"x-user": "ada"})).status_code == 204
    assert seen == [Access.of("ada")]


async def test_what_is_sent_to_such_an_app_is_bounded(tmp_path: Path) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        sent = await Request(scope, receive).body()
        await Response(str(len(sent)))(scope, receive, send)

    app = Admitted(Tailrace(tmp_path / "x.db"), inner)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://x"
    ) as client:
        answer = await client.post("/", content=b"x" * 1_000_000)
        assert (answer.status_code, answer.text) == (200, "1000000")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.post("/", content=b"x" * 1_100_000)).status_code == 413
        assert (await client.get("/")).text == "0"


async def test_whoever_is_unknown_too_often(tmp_path: Path) -> None:
    limits = Limits(rates={"unknown": "3/minute"})
    runs = Tailrace(tmp_path / "x.db", principal=named, limits=limits)
    async with runs:
        visitor = Visitor(runs.asgi)
        answers = [await visitor.ask("GET", "/runs") for _ in range(5)]
        assert [answer.status for answer in answers] == [401, 401, 401, 429, 429]
        # Who has a good key may share the address with whoever has not.
        assert (await visitor.ask("GET", "/runs", {"x-who": "ada"})).status == 200


async def test_nobody_is_called_as_whoever_is_not_told_apart(tmp_path: Path) -> None:
    runs = Tailrace(tmp_path / "x.db", principal=lambda request: "local")
    async with runs:
        answer = await Visitor(runs.asgi).ask("GET", "/runs")
        assert answer.status == 401
        assert "'local'" in answer.json["detail"]


async def test_who_is_not_known_any_more(tmp_path: Path) -> None:
    names = ["ada", "bob"]

    def who(request: Request) -> str:
        if not names:
            raise Unauthorized("Who is it?")
        return names.pop(0)

    runs = Tailrace(tmp_path / "x.db", principal=who)
    scope: dict[str, Any] = {"type": "http", "headers": [], "query_string": b"", "path": "/runs",
                             "method": "GET"}  # fmt: skip
    assert (await identified(runs, scope)).principal == "ada"
    assert (await identified(runs, scope)).principal == "ada"
    assert (await again(runs, scope)).principal == "bob"
    with pytest.raises(Unauthorized):
        await again(runs, scope)
    assert WHO not in scope
