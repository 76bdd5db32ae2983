import pytest

from tailrace.errors import LogClosed, LogFull, TailraceError
from tests.stage import Stage
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio


async def test_the_process_answers(visitor: Visitor) -> None:
    answer = await visitor.get("/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_ready(visitor: Visitor) -> None:
    answer = await visitor.get("/readyz")
    assert (answer.status, answer.text) == (200, "ready\n")


@pytest.mark.parametrize("error", [LogFull("No space.", fix="Make some."), LogClosed("Closed.")])
async def test_not_ready_without_the_log(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, error: TailraceError
) -> None:
    async def find(_: object) -> None:
        raise error

    monkeypatch.setattr(stage.log, "find", find)
    answer = await visitor.get("/readyz")
    assert (answer.status, answer.json["code"]) == (503, error.code)
    assert (await visitor.get("/healthz")).status == 200


async def test_not_ready_while_going_away(stage: Stage, visitor: Visitor) -> None:
    await visitor.get("/readyz")
    stage.runs.hub.drain()
    answer = await visitor.get("/readyz")
    assert (answer.status, answer.text) == (503, "The server is going away.\n")


async def test_metrics(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start(name="Ada")
    async with (
        visitor.visit("GET", f"/runs/{run}/events") as one,
        visitor.visit("GET", f"/runs/{run}/events") as two,
    ):
        await one.told(b"Ada")
        await two.told(b"Ada")
        answer = await visitor.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = dict(line.split() for line in answer.text.splitlines() if line[0] != "#")
        assert samples == {
            "tailrace_connections": "2",
            "tailrace_channels": "1",
            "tailrace_runs_executing": "1",
        }
        for name in samples:
            assert f"# HELP {name} " in answer.text
            assert f"# TYPE {name} gauge\n" in answer.text


@pytest.mark.parametrize("path", ["/nope", "/runs/x/y", "/runs//events", "/events/1", "/%00"])
async def test_an_unknown_path_is_a_problem(visitor: Visitor, path: str) -> None:
    answer = await visitor.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "path-unknown"
    assert answer.json["type"] == "about:blank"
    assert answer.json["detail"].endswith("is not offered.")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/runs", "GET, POST"),
        ("PATCH", "/runs/x", "DELETE, GET"),
        ("POST", "/runs/x", "DELETE, GET"),
        ("DELETE", "/runs/x/events", "GET, POST"),
        ("GET", "/runs/x/cancel", "POST"),
        ("POST", "/events", "GET"),
        ("TRACE", "/healthz", "GET"),
    ],
)
async def test_another_method_is_told_the_right_ones(
    visitor: Visitor, method: str, path: str, allow: str
) -> None:
    answer = await visitor.ask(method, path)
    assert (answer.status, answer.json["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allow
    assert answer.json["title"] == "Method Not Allowed"


async def test_a_long_path_does_not_come_back_in_full(visitor: Visitor) -> None:
    answer = await visitor.get("/" + "x" * 5000)
    assert answer.status == 404
    assert len(answer.body) < 600


async def test_the_lifespan_is_the_engines(stage: Stage) -> None:
    app = stage.runs.asgi
    async with app.router.lifespan_context(app):
        await stage.log.touch([], 0)
    with pytest.raises(LogClosed):
        await stage.log.touch([], 0)


async def test_an_app_may_be_started_again(stage: Stage, visitor: Visitor) -> None:
    app = stage.runs.asgi
    for _ in range(2):
        async with app.router.lifespan_context(app):
            run = await stage.start("count", rows=1)
            await stage.ended(run)
            assert (await visitor.get(f"/runs/{run}/events")).ids == [1, 2, 3]


async def test_the_app_is_made_once(stage: Stage) -> None:
    assert stage.runs.asgi is stage.runs.asgi
