import json
import logging
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tailrace import errors
from tailrace.errors import TailraceError
from tailrace.http import problems
from tailrace.http.body import SMALL_BYTES
from tailrace.http.problems import ProblemRoute
from tailrace.protocol.wire import MAX_BODY_BYTES
from tests.visitor import Visitor


def every(kind: type[TailraceError]) -> list[type[TailraceError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in every(below))]


KINDS = [kind for kind in every(TailraceError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_problem(kind: type[TailraceError]) -> None:
    more: dict[str, Any] = {"state": "failed"} if kind is errors.StateMoved else {"fix": "Do."}
    answer = problems.response(kind("What and why.", **more))
    told = json.loads(bytes(answer.body))
    assert answer.status_code == told["status"] == kind.status
    assert 400 <= kind.status < 600
    assert told["type"] == f"urn:tailrace:{told['code']}"
    assert (told["title"], told["detail"]) == (kind.title, "What and why.")
    assert told["fix"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_codes_are_one_to_one() -> None:
    codes = [kind.code for kind in KINDS]
    assert sorted(codes) == sorted(set(codes))


def request(path: str = "/x") -> Request:
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"",
             "server": ("testserver", 80), "scheme": "http"}  # fmt: skip
    return Request(scope)


@pytest.mark.parametrize(
    ("error", "title", "code", "detail"),
    [
        (HTTPException(404), "Not Found", "path-unknown", "GET /x is not offered."),
        (HTTPException(405), "Method Not Allowed", "method-not-allowed", "GET /x is not offered."),
        (HTTPException(403, "Not you."), "Forbidden", "http-403", "Not you."),
        (HTTPException(401), "Unauthorized", "http-401", "GET /x: Unauthorized."),
        (HTTPException(499, "?"), "Refused", "http-499", "?"),
        (HTTPException(418, "x" * 5000), "I'm a Teapot", "http-418", None),
    ],
)
def test_the_frameworks_own_refusals(
    error: HTTPException, title: str, code: str, detail: str | None
) -> None:
    answer = problems.from_starlette(error, request())
    told = json.loads(bytes(answer.body))
    assert (answer.status_code, told["status"]) == (error.status_code, error.status_code)
    assert (told["type"], told["title"], told["code"]) == ("about:blank", title, code)
    assert len(told["detail"]) <= 1000
    assert detail is None or told["detail"] == detail


def test_headers_of_a_refusal_are_kept() -> None:
    error = HTTPException(429, "Slow down.", {"Retry-After": "7"})
    answer = problems.from_starlette(error, request(), {"x-more": "1"})
    assert (answer.headers["retry-after"], answer.headers["x-more"]) == ("7", "1")


# --- the route -------------------------------------------------------------------------------


@pytest.fixture
def visitor() -> Visitor:
    routes = APIRouter(route_class=ProblemRoute)

    @routes.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("the secret is 42")

    @routes.post("/bare")
    async def bare(request: Request) -> Response:
        return Response(await request.body())

    @routes.post("/whole")
    async def whole(request: Request, body: dict[str, Any]) -> Response:
        return Response(await request.body())

    host = FastAPI()
    host.include_router(routes)
    return Visitor(host)


@pytest.mark.anyio
async def test_a_fault_of_ours_is_logged_and_not_told(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "tailrace.http"):
        answer = await visitor.get("/broken")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    for word in ("42", "secret", "ZeroDivision", "Traceback", ".py"):
        assert word not in answer.text
    assert "the secret is 42" in caplog.text


@pytest.mark.anyio
async def test_the_endpoint_gets_the_body_as_it_was(visitor: Visitor) -> None:
    answer = await visitor.ask("POST", "/whole", body=b' {"a" : 1} ')
    assert answer.body == b' {"a" : 1} '
    answer = await visitor.ask("POST", "/bare", {"content-type": "text/csv"}, body=b"\xff;\0")
    assert answer.body == b"\xff;\0"


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/bare", "/whole"])
async def test_no_more_is_read_than_may_be(visitor: Visitor, path: str) -> None:
    chunks = [b"x" * (MAX_BODY_BYTES // 4)] * 100
    visit = visitor.open("POST", path, {"content-type": "application/json"}, chunks=chunks)
    await visit.over()
    assert (visit.status, visit.json["code"]) == (413, "body-too-large")
    assert len(visit._request) == 95, "five chunks were enough"


@pytest.mark.anyio
async def test_where_nothing_is_expected_little_may_come(visitor: Visitor) -> None:
    assert (await visitor.ask("POST", "/bare", body=b"x" * SMALL_BYTES)).status == 200
    chunks = [b"x" * SMALL_BYTES] * 3
    visit = visitor.open("POST", "/bare", chunks=chunks)
    await visit.over()
    assert (visit.status, visit.json["code"]) == (413, "body-too-large")
    assert f"{SMALL_BYTES:,}" in visit.json["detail"]
    assert not visit._request, "it could send all of it, and see the answer"


@pytest.mark.anyio
async def test_what_is_declared_too_large_is_not_read_at_all(visitor: Visitor) -> None:
    length = {"content-length": str(MAX_BODY_BYTES + 1), "content-type": "application/json"}
    visit = visitor.open("POST", "/whole", length, chunks=[b"{", b"}"])
    await visit.over()
    assert (visit.status, visit.json["code"]) == (413, "body-too-large")
    assert visit._request == [b"{", b"}"]


@pytest.mark.anyio
@pytest.mark.parametrize("declared", ["", "x", "-1", "1e9", "\u0663", "9" * 40])
async def test_a_senseless_length_is_not_believed(visitor: Visitor, declared: str) -> None:
    length = {"content-length": declared.encode().decode("latin-1")}
    answer = await visitor.ask("POST", "/whole", length, body=b'{"a":1}')
    assert answer.status == 200


@pytest.mark.anyio
async def test_a_client_may_leave_in_the_middle_of_its_body(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    visit = visitor.open("POST", "/whole", {"content-type": "application/json"}, chunks=[b"{"])
    visit.leave()
    await visit.over()
    assert caplog.text == ""
