"""An app as its developer writes it: `mypy --strict` must find the public names typed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel

from tailrace import (
    Access,
    AsyncClient,
    Client,
    Event,
    EventSourceResponse,
    ProgressLogger,
    Run,
    RunContext,
    RunLogs,
    RunRecord,
    ServerSentEvent,
    State,
    Tailrace,
    TailraceError,
    attach,
    current,
    tool,
    tqdm,
)

runs = Tailrace("memory:", principal=lambda request: request.headers.get("x-user", "guest"))
app = FastAPI(lifespan=runs.lifespan)
app.include_router(runs.router)
app.mount("/tailrace", runs.asgi)
app.add_exception_handler(TailraceError, runs.problem)
logging.getLogger().addHandler(RunLogs(logging.INFO))


class Report(BaseModel):
    rows: int


@runs.operation
async def crunch(run: RunContext, rows: int = 100) -> Report:
    async for row in run.track(range(rows), "Crunching"):
        assert_type(row, int)
    return Report(rows=rows)


@runs.operation(timeout=60, concurrency=2)
def blocking(rows: int) -> int:
    steps = ProgressLogger(total_steps=2)
    steps.next_step("Read")
    for row in tqdm(range(rows), desc="Rows"):
        assert_type(row, int)
    with steps.step("Write"):
        current().log("Nearly there")
    steps.complete()
    return rows


@runs.operation
def generated(rows: int) -> Iterator[tuple[str, dict[str, int]]]:
    for row in range(rows):
        yield "row", {"number": row}


async def words() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent("hello", event="word", id="1")


@app.post("/reports")
async def start(request: Request, rows: int) -> Response:
    run = await crunch.start(rows=rows)
    assert_type(run, Run)
    return run.response(request)


User = Annotated[Access, Depends(runs.asker)]


@app.post("/reports/mine")
async def start_mine(user: User, rows: int) -> str:
    run = await crunch.by(user).start(rows=rows)
    assert_type(run, Run)
    return run.id


@app.get("/reports/{id}")
async def watch_mine(request: Request, user: User, id: str) -> Response:
    run = runs.run(id, user)
    answer: Response = run.response(request)
    return answer


@app.get("/words")
async def stream() -> EventSourceResponse:
    return EventSourceResponse(words(), ping=5, send_timeout=10)


@app.get("/durable")
async def durable(request: Request) -> Response:
    return await runs.stream(words(), request, abandon_after=60)


async def watched(run: Run) -> list[Event]:
    events = [event async for event in run.events()]
    record = await run.wait()
    assert_type(record, RunRecord)
    assert_type(record.state, State)
    return events


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


def elsewhere(url: str, run: str) -> None:
    with attach(url, run) as there:
        for row in there.track(range(3), "Rows"):
            assert_type(row, int)
        there.progress(3, 3)


def watching(url: str) -> list[dict[str, Any]]:
    with Client(url) as client:
        run = client.start("crunch", {"rows": 5})
        return [event.data for event in client.watch(run["id"])]


async def asked(url: str) -> dict[str, Any]:
    async with AsyncClient(url) as client:
        return await client.wait((await client.start("crunch"))["id"])
