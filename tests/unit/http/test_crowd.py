"""The short way answers as the long way does, and does not take what is not its own."""

import logging
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from tailrace.errors import TooManyRequests
from tailrace.facade import Tailrace
from tailrace.http import crowd
from tailrace.http.limits import Limits
from tests.stage import Stage, staged
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request went the short way."""
    found: list[bool] = []
    short = crowd.Crowd.__call__

    async def noted(self: crowd.Crowd, scope: Scope, receive: Receive, send: Send) -> bool:
        found.append(await short(self, scope, receive, send))
        return found[-1]

    monkeypatch.setattr(crowd.Crowd, "__call__", noted)
    return found


QUERIES = [
    "", "?after=1", "?types=log", "?format=text", "?format=ndjson", "?tick=5", "?format=json",
    "?speed=10", "?after=nonsense", "?format=nonsense", "?after=99", "?limit=0",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("last", [None, "1", "x", "99"])
async def test_both_ways_answer_the_same(
    stage: Stage, taken: list[bool], query: str, last: str | None
) -> None:
    run = await stage.written([("log", {"n": 1}, 0.01)], ends=0.02)
    headers = {} if last is None else {"last-event-id": last}
    target = f"/runs/{run}/events{query}"
    short = await stage.visitor.get(target, headers)
    await through_middleware(stage)
    long = await Visitor(stage.runs.asgi).get(target, headers)
    assert (short.status, short.body) == (long.status, long.body)
    assert sorted(short.raw_headers) == sorted(long.raw_headers)
    assert len(taken) == 1, "middleware closes the short way"
    odd = {"?format=json", "?speed=10", "?after=nonsense", "?format=nonsense", "?limit=0"}
    assert taken[0] is (query not in odd and last != "x")


async def through_middleware(stage: Stage) -> None:
    def around(app: Any) -> Any:
        async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        return passed_on

    assert isinstance(stage.runs.asgi, FastAPI)
    stage.runs.asgi.middleware_stack = None
    stage.runs.asgi.add_middleware(around)


async def test_what_is_somebody_elses(stage: Stage, taken: list[bool]) -> None:
    run = await stage.written(ends=1)
    for method, path in (
        ("POST", f"/runs/{run}/events"),
        ("HEAD", f"/runs/{run}/events"),
        ("GET", f"/runs/{run}"),
        ("GET", f"/runs/{run}/output"),
        ("GET", f"/other/runs/{run}/events"),
        ("GET", "/runs/run_none/events"),
        ("GET", "/runs//events"),
    ):
        answer = await stage.visitor.ask(method, path)
        assert answer.status in (200, 404, 405, 415, 422), path
    assert not any(taken)


@pytest.mark.parametrize("root", ["", "/inner"])
async def test_under_a_mount(taken: list[bool], root: str) -> None:
    async with staged() as stage:
        run = await stage.written(ends=1)
        host = FastAPI()
        host.mount(root or "/", stage.runs.asgi)
        answer = await Visitor(host).get(f"{root}/runs/{run}/events")
        assert (answer.status, answer.ids) == (200, [1])
        assert taken == [True]


async def test_a_host_that_takes_nobody_for_now(taken: list[bool]) -> None:
    def busy(request: Request) -> str:
        raise TooManyRequests("Not so often.", retry_after=7)

    async with Tailrace("memory:", principal=busy) as runs:
        answer = await Visitor(runs.asgi).get("/runs/run_abcdefghijklmnopqrstuvwxyz/events")
    assert (answer.status, answer.json["code"]) == (429, "too-many-requests")
    assert answer.headers["retry-after"] == "7"
    assert taken == [True]


KINDS = {
    "short": "/runs/{run}/events",
    "long": "/runs/{run}/events?tick=5",
    "playback": "/runs/{run}/events?speed=1",
    "output": "/runs/{run}/output",
    "many": "/events",
}


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [(kind, Limits(streams=1)) for kind in KINDS]
    + [(kind, Limits(streams_each=1)) for kind in KINDS]
    # It is of no run.
    + [(kind, Limits(watchers=1)) for kind in KINDS if kind != "many"],
)
async def test_who_finds_no_seat_has_not_watched(
    stage: Stage, kind: str, bounds: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    run = await stage.written([("log", {}, 1)], ends=5000)
    going = await stage.start()
    stage.runs.hub.seats = bounds.seats()
    target = KINDS[kind].format(run=run if kind == "playback" else going)
    with caplog.at_level(logging.INFO, "tailrace.audit"):
        async with stage.visitor.visit("GET", target) as visit:
            await visit.until(lambda v: v.chunks)
            assert (await stage.visitor.get(target)).status == 429
    said = [record.__dict__["audit"] for record in caplog.records]
    assert [(each["action"], each["status"]) for each in said] == [
        ("watched", 200),
        ("refused", 429),
    ]
