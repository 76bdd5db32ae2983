"""The same endpoints under any prefix, in any host, and without its lifespan."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.stage import Stage
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio

Host = Callable[[Stage], Any]


def mounted(stage: Stage) -> Any:
    host = FastAPI()
    host.mount("/tailrace", stage.runs.asgi)
    return host


def mounted_twice(stage: Stage) -> Any:
    return Starlette(routes=[Mount("/a", routes=[Mount("/b c", stage.runs.asgi)])])


def included(stage: Stage) -> Any:
    host = FastAPI()
    host.include_router(stage.runs.router)
    return host


def included_below(stage: Stage) -> Any:
    host = FastAPI()
    outer = APIRouter(prefix="/v1")
    outer.include_router(stage.runs.router, prefix="/runs")
    host.include_router(outer, prefix="/api")
    return host


def included_in_mounted(stage: Stage) -> Any:
    inner = FastAPI()
    inner.include_router(stage.runs.router, prefix="/inner")
    return Starlette(routes=[Mount("/outer", inner)])


HOSTS: list[Any] = [
    pytest.param(mounted, "/tailrace", id="mounted"),
    pytest.param(mounted_twice, "/a/b%20c", id="mounted-twice"),
    pytest.param(included, "", id="included"),
    pytest.param(included_below, "/api/v1/runs", id="included-below"),
    pytest.param(included_in_mounted, "/outer/inner", id="included-in-mounted"),
]


@pytest.mark.parametrize(("host", "prefix"), HOSTS)
async def test_links_carry_the_prefix(stage: Stage, host: Host, prefix: str) -> None:
    visitor = Visitor(host(stage))
    answer = await visitor.post(f"{prefix}/runs", {"operation": "count", "input": {"rows": 2}})
    assert answer.status == 201
    run = answer.json["id"]
    here = f"{prefix}/runs/{run}"
    assert answer.headers["location"] == here
    links = {
        "self": here,
        "events": f"{here}/events",
        "output": f"{here}/output",
        "cancel": f"{here}/cancel",
    }
    assert answer.json["links"] == links
    stream = await visitor.get(links["events"])
    assert (stream.status, stream.ids) == (200, [1, 2, 3, 4])
    assert (await visitor.get(links["self"])).json["links"] == links
    assert (await visitor.get(f"{prefix}/runs")).json["runs"][0]["links"] == links
    assert (await visitor.post(links["cancel"])).json["links"] == links
    assert (await visitor.get(links["output"])).status == 200
    posted = await visitor.post(
        f"{prefix}/runs", {"operation": "count"}, {"accept": "text/event-stream"}
    )
    assert posted.headers["content-location"].startswith(f"{prefix}/runs/run_")
    assert (await visitor.get(posted.headers["content-location"])).body == posted.body
    assert (await visitor.ask("DELETE", links["self"])).status == 204


@pytest.mark.parametrize(("host", "prefix"), HOSTS)
async def test_refusals_are_problems_in_every_host(stage: Stage, host: Host, prefix: str) -> None:
    visitor = Visitor(host(stage))
    for answer, status, code in (
        (await visitor.get(f"{prefix}/runs/x"), 404, "run-unknown"),
        (await visitor.get(f"{prefix}/runs?limit=x"), 422, "input-invalid"),
        (await visitor.post(f"{prefix}/runs", {"operation": 1}), 422, "input-invalid"),
        (await visitor.ask("POST", f"{prefix}/runs", body=b"{"), 422, "input-invalid"),
        (await visitor.post(f"{prefix}/runs", {"operation": "x"}), 404, "operation-unknown"),
    ):
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("root", "path"), [("/proxied", "/proxied/runs"), ("/proxied", "/runs"), ("/pro", "/runs")]
)
async def test_a_proxy_that_cuts_a_prefix_off(stage: Stage, root: str, path: str) -> None:
    # uvicorn repeats its root path in the path, others do not.
    answer = await Visitor(stage.runs.asgi, root).post(path, {"operation": "count"})
    assert answer.status == 201
    assert answer.headers["location"] == f"{root}/runs/{answer.json['id']}"


async def test_a_prefix_is_anybodys_text(stage: Stage) -> None:
    # In a path parameter of the host a client can put what would end a header.
    host = Starlette(routes=[Mount("/{tenant}", stage.runs.asgi)])
    answer = await Visitor(host).post("/a%0d%0aSet-Cookie:x=1/runs", {"operation": "count"})
    assert answer.status == 201
    assert answer.headers["location"].startswith("/a%0D%0ASet-Cookie%3Ax%3D1/runs/run_")
    assert b"\r" not in b"".join(value for _, value in answer.raw_headers)


async def test_the_engine_starts_with_the_first_request(stage: Stage) -> None:
    visitor = Visitor(mounted(stage))
    assert (await visitor.get("/tailrace/healthz")).json == {"status": "ok"}
    answer = await visitor.get("/tailrace/readyz")
    assert (answer.status, answer.text) == (200, "ready\n")
    assert (await visitor.get("/tailrace/runs")).json == {"runs": [], "next": None}


async def test_a_hosts_own_gate_is_kept(stage: Stage) -> None:
    def gate(request: Request) -> None:
        if "x-key" not in request.headers:
            raise HTTPException(401, "Show your key.", {"www-authenticate": "Bearer"})

    host = FastAPI()
    host.include_router(stage.runs.router, prefix="/api", dependencies=[Depends(gate)])
    visitor = Visitor(host)
    answer = await visitor.get("/api/runs")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json["detail"], answer.json["title"]) == ("Show your key.", "Unauthorized")
    assert (await visitor.get("/api/runs", {"x-key": "1"})).status == 200


async def test_a_host_keeps_its_own_documentation(stage: Stage) -> None:
    visitor = Visitor(included_below(stage))
    document = (await visitor.get("/openapi.json")).json
    assert "/api/v1/runs/runs/{run}/events" in document["paths"]
    assert "RunSnapshot" in document["components"]["schemas"]
