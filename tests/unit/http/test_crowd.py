"""The short way answers as the long way does, and does not take what is not its own."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from tailrace.http import crowd
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
