"""A stream as time goes by: silence, ticks, leaving, going away, faults."""

import json
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from tailrace.errors import LogFull
from tailrace.projections import STREAMS
from tailrace.protocol.wire import HEARTBEAT_SECONDS
from tests.stage import BEGAN, Stage
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio

OPENING = b": tailrace\nretry: 1000\n"
KEEP_ALIVE = b": keep-alive\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"last-event-id", b"0"),
]
LAST = HEARTBEAT_SECONDS + 1


# --- timed: keep-alives, ticks ---------------------------------------------------------------


async def test_a_silent_stream_is_kept_alive_without_ghosts(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    async with visitor.visit("GET", f"/runs/{run}/events") as visit:
        await visit.told(b"I am")
        stage.beat(HEARTBEAT_SECONDS - 1)
        for seconds in (LAST, 2 * LAST, 3 * LAST):
            stage.beat(seconds)
        await visit.until(lambda v: v.body.count(KEEP_ALIVE) == 3)
        stage.emit(run, "log", message="again")
        await visit.told(b"again")
        silence = visit.text.partition("I am ")[2].partition("id: 3\n")[0]
        assert silence.endswith("\n\n" + KEEP_ALIVE.decode() * 3)
        assert visit.ids == [1, 2, 3]


@pytest.mark.parametrize("name", STREAMS)
async def test_every_format_is_kept_alive(stage: Stage, visitor: Visitor, name: str) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    async with visitor.visit("GET", f"/runs/{run}/events?after=latest&format={name}") as visit:
        await visit.until(lambda v: v.body)
        stage.beat(LAST)
        alive = STREAMS[name].opening + STREAMS[name].heartbeat
        await visit.until(lambda v: v.body == alive)


async def test_ticks_tell_how_long_it_takes(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.written()
    now = BEGAN + 90
    monkeypatch.setattr("tailrace.cohort.time.time", lambda: now)
    async with visitor.visit("GET", f"/runs/{run}/events?tick=2") as visit:
        await visit.told(OPENING)
        stage.beat(1.9)
        stage.beat(2.1)
        await visit.told(b"tick")
        stage.beat(3.9)
        assert visit.body == OPENING + b'event: tick\ndata: {"elapsed_seconds":90.0}\n\n'
        assert visit.last_id == ""
        stage.beat(4.2)
        await visit.until(lambda v: v.body.count(b"event: tick") == 2)


async def test_no_ticks_unasked(stage: Stage, visitor: Visitor) -> None:
    run = await stage.written()
    async with visitor.visit("GET", f"/runs/{run}/events") as visit:
        await visit.told(OPENING)
        for seconds in (1, 5, 14, LAST):
            stage.beat(seconds)
        await visit.told(KEEP_ALIVE)
        assert visit.body == OPENING + KEEP_ALIVE


# --- leaving ---------------------------------------------------------------------------------


async def test_leaving_frees_everything_and_stops_nothing(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    hub = stage.runs.hub
    async with visitor.visit("GET", f"/runs/{run}/events") as visit:
        await visit.told(b"I am")
        assert (hub.connections, hub.watchers(run)) == (1, 1)
    assert not visit.is_complete
    assert (hub.connections, hub.watchers(run)) == (0, 0)
    stage.emit(run, "log", message="all the same")
    assert (await stage.head(run, 3)).state == "running"


async def test_a_stalled_watcher_holds_nobody_up(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    slow, quick = (visitor.open("GET", f"/runs/{run}/events") for _ in range(2))
    await slow.told(b"I am")
    slow.stall()
    for n in range(5):
        stage.emit(run, "log", message=f"number {n};")
    await quick.told(b"number 4;")
    assert b"number 4" not in slow.body
    stage.finish(run)
    await quick.over()
    slow.go_on()
    await slow.over()
    assert slow.body == quick.body


async def test_the_server_goes_away(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    visit = visitor.open("GET", f"/runs/{run}/events")
    await visit.told(b"I am")
    stage.runs.hub.drain()
    await visit.over()
    assert visit.is_complete
    assert visit.body.endswith(b"\n\nretry: 500\n: end\n")
    late = await visitor.get(f"/runs/{run}/events")
    assert late.body == OPENING + b"retry: 500\n: end\n"


# --- faults ----------------------------------------------------------------------------------


async def test_a_fault_of_the_log_before_the_stream_is_a_problem(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.written()
    answers: list[Any] = [await stage.log.get(run)]

    async def get(_: str) -> Any:
        if answers:
            return answers.pop()
        raise LogFull("No space.", fix="Make some.")

    monkeypatch.setattr(stage.log, "get", get)
    answer = await visitor.get(f"/runs/{run}/events")
    assert (answer.status, answer.json["code"]) == (507, "log-full")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_fault_of_the_log_in_the_stream_is_an_event(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.written(ends=1)

    async def read(*_: Any) -> Any:
        raise LogFull("No space.", fix="Make some.")

    monkeypatch.setattr(stage.log, "read", read)
    answer = await visitor.get(f"/runs/{run}/events")
    assert answer.status == 200
    [event] = answer.events
    assert (event.event, event.id) == ("error", "")
    assert json.loads(event.data)["code"] == "log-full"
    assert answer.body.endswith(b"\n\n: end\n")


async def test_a_run_that_is_forgotten_between_two_looks(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.written(ends=1)
    record = await stage.runs.record(run)

    async def known(*_: Any) -> Any:
        await stage.log.forget(run)
        return record

    monkeypatch.setattr(stage.runs, "record", known)
    answer = await visitor.get(f"/runs/{run}/events")
    assert (answer.status, answer.json["code"]) == (404, "run-unknown")


# --- a host's own endpoint -------------------------------------------------------------------


async def test_a_run_answers_a_request_of_the_host(stage: Stage) -> None:
    host = FastAPI()

    @host.get("/report")
    async def report(request: Request) -> Response:
        run = await stage.runs.operations.get("count").start(rows=2)
        await run.wait()
        response: Response = run.response(request)
        return response

    visitor = Visitor(host)
    answer = await visitor.get("/report?types=complete")
    (named,) = [value for name, value in answer.raw_headers if name == b"tailrace-run"]
    sent = [*STREAM_HEADERS[:-1], (b"last-event-id", named + b":0"), (b"tailrace-run", named)]
    assert sorted(answer.raw_headers) == sorted(sent)
    assert [event.id for event in answer.events] == [f"{named.decode()}:4"]
    text = await visitor.get("/report?format=text", {"last-event-id": "3"})
    assert text.text.removeprefix(OPENING.decode()).startswith(
        f"id: {text.headers['tailrace-run']}:4\ndata: *** Execution completed ***"
    )


async def test_a_hosts_own_endpoint_ticks_as_well(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FastAPI()
    run = await stage.written()

    @host.get("/report")
    async def report(request: Request) -> Response:
        return stage.runs.run(run).response(request)

    now = BEGAN
    monkeypatch.setattr("tailrace.cohort.time.time", lambda: now)
    async with Visitor(host).visit("GET", "/report?tick=2") as visit:
        await visit.told(OPENING)
        now += 2.5
        stage.beat(2.5)
        await visit.told(b'{"elapsed_seconds":2.5}')
