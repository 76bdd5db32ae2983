"""Every kind of stream an app has, each in a few lines, and a page to try them.

    tailrace serve examples.tutorial:app      # or: uvicorn examples.tutorial:app

Then open http://127.0.0.1:4000 (uvicorn: 8000). TUTORIAL_LOG says where runs are kept; without it
they are forgotten with the process.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from tailrace import EventSourceResponse, RunContext, Tailrace, TailraceError

HERE = Path(__file__).parent

runs = Tailrace(os.environ.get("TUTORIAL_LOG", "memory:"))
app = FastAPI(title="Tutorial", lifespan=runs.lifespan)
app.include_router(runs.router, prefix="/tailrace")
app.add_exception_handler(TailraceError, runs.problem)
# Whose pages may read what is streamed here. An EventSource of another origin needs that, too.
app.add_middleware(
    CORSMiddleware,
    allow_origins=["http://localhost:3000"],
    allow_headers=["last-event-id", "content-type"],
    expose_headers=["tailrace-run"],
)

Pause = Annotated[float, Query(ge=0, le=10, description="Seconds between two events")]


# --- 1. a stream that is not kept: who leaves ends it -------------------------------------

seen = {"left": 0}


@app.get("/stream/hello")
async def hello(name: str = "world", pause: Pause = 0.3) -> Response:
    """A greeting, word by word."""

    async def words() -> AsyncIterator[dict[str, Any]]:
        try:
            for word in f"Hello, {name}! Nice to see you.".split():
                yield {"event": "token", "data": word}
                await asyncio.sleep(pause)
            yield {"event": "complete", "data": {"status": "completed"}}
        except asyncio.CancelledError:
            seen["left"] += 1  # the client went away: stop whatever it was waiting for
            raise

    return EventSourceResponse(words())


@app.get("/stream/left")
async def who_left() -> dict[str, int]:
    """How many left a greeting before its end."""
    return seen


# --- 2. the same generator as a run: leave, reload, come back -------------------------------


@app.get("/stream/progress")
async def progress(request: Request, steps: Annotated[int, Query(ge=1, le=1000)] = 10,
                   pause: Pause = 0.2) -> Response:  # fmt: skip
    """Progress that a closed tab does not stop."""

    async def work() -> AsyncIterator[tuple[str, dict[str, Any]]]:
        for step in range(1, steps + 1):
            await asyncio.sleep(pause)
            yield "progress", {"current": step, "total": steps, "percent": 100 * step / steps}
        yield "result", {"steps": steps}

    return await runs.stream(work(), request, format="events")


@app.get("/countdown/{seconds}")
async def countdown(request: Request, seconds: int, timeout: float | None = None) -> Response:
    """Down to zero; with `timeout`, not always."""
    if not 1 <= seconds <= 3600:
        raise HTTPException(422, "Count down from 1 to 3600 seconds.")

    async def numbers() -> AsyncIterator[tuple[str, dict[str, Any]]]:
        for number in range(seconds, 0, -1):
            yield "countdown", {"remaining": number}
            await asyncio.sleep(1)
        yield "result", {"message": "Lift-off!"}

    return await runs.stream(numbers(), request, format="events", timeout=timeout)


# --- 3. tasks: an operation with checked input, started by POST, watched by GET ---------------


class Task(BaseModel):
    """What is to be done: texts whose words are counted."""

    title: str = Field(max_length=200)
    texts: list[str] = Field(min_length=1, max_length=100)
    pause: float = Field(0.2, ge=0, le=10)


@runs.operation
async def count_words(
    run: RunContext, title: str, texts: list[str], pause: float
) -> dict[str, Any]:
    """Count the words of some texts, one after the other."""
    run.emit("status", status="working", message=f"Starting {title}")
    words: Counter[str] = Counter()
    steps = run.steps(len(texts))
    for number, text in enumerate(texts, 1):
        steps.next_step(f"Text {number}")
        words.update(re.findall(r"\w+", text.lower()))
        steps.log(f"{sum(words.values())} words so far")
        await asyncio.sleep(pause)
    steps.complete()
    return {"words": sum(words.values()), "most_common": words.most_common(3)}


tasks: dict[str, Task] = {}


@app.post("/tasks", status_code=201)
async def create(task: Task) -> dict[str, str]:
    """Keep a task for later."""
    tasks[id := f"task-{len(tasks) + 1}"] = task
    return {"id": id}


@app.post("/tasks/execute/stream")
async def execute(request: Request, task: Task) -> Response:
    """Do a task at once, and watch."""
    return await runs.stream(count_words, request, task.model_dump())


@app.post("/tasks/{id}/execute/stream")
async def execute_kept(request: Request, id: str) -> Response:
    """Do a task that was kept. A second start while it goes on is refused (409)."""
    if id not in tasks:
        raise HTTPException(404, f"There is no task {id}.")
    return await runs.stream(count_words, request, tasks[id].model_dump(), thread=id)


@app.get("/tasks/{id}/progress/stream")
async def watch(request: Request, id: str) -> Response:
    """How far the newest execution of a task is: all of it, or from where one was."""
    found = await runs.newest(id)
    if found is None:
        raise HTTPException(404, f"Task {id} was not executed yet.")
    return found.response(request)


# --- 4. something that thinks -----------------------------------------------------------------


class Question(BaseModel):
    """What is asked."""

    query: str = Field(min_length=1, max_length=2000)


def tools_for(query: str) -> dict[str, Any]:
    """What a small mind can find out: about numbers and about words."""
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", query)]
    words = re.findall(r"[^\W\d_]+", query)
    found: dict[str, Any] = {"count_words": lambda: len(words)}
    if numbers:
        found["add_numbers"] = lambda: sum(numbers)
    if words:
        found["longest_word"] = lambda: max(words, key=len)
    return found


@runs.operation(timeout=60)
async def agent(run: RunContext, query: str, pause: float = 0.1) -> dict[str, Any]:
    """Thinks about a text: which tools fit, what they say, and what follows from that."""
    run.emit("status", status="thinking")
    run.emit("thought", text=f"I am asked: {query!r}")
    tools, answers = tools_for(query), {}
    for number, (name, tool) in enumerate(tools.items(), 1):
        await asyncio.sleep(pause)
        run.emit("thinking", text=f"{name} may say something about it.")
        run.emit("tool", name=name, status="running")
        answers[name] = tool()
        run.emit("tool", name=name, status="completed", result=answers[name])
        run.progress(number, len(tools), step=name)
    answer = "; ".join(f"{name}: {value}" for name, value in answers.items())
    for token in answer.split():
        run.emit("token", text=token)
        await asyncio.sleep(pause / 10)
    run.result(answer)
    return answers


@app.get("/agent/stream")
async def agent_stream(request: Request, query: str = "What are 19 and 23?") -> Response:
    """All that it does."""
    return await runs.stream(agent, request, {"query": query})


@app.get("/agent/think/stream")
async def agent_think(query: str = "Why is the sky blue?") -> Response:
    """Only what it thinks, from a run that goes on for itself."""

    async def thoughts() -> AsyncIterator[dict[str, Any]]:
        run = await agent.start(query=query)
        async for event in run.events():
            if event.type in ("thought", "thinking", "error"):
                yield {"event": event.type, "data": event.payload}
        yield {"event": "complete", "data": await run.snapshot()}

    return EventSourceResponse(thoughts())


@app.post("/agent/process/stream")
async def agent_process(request: Request, question: Question) -> Response:
    """The same, for long questions; and given up when nobody has watched for 10 seconds."""
    return await runs.stream(agent, request, {"query": question.query}, abandon_after=10)


@app.get("/", include_in_schema=False)
@app.get("/{name}", include_in_schema=False)
async def page(name: str = "tutorial.html") -> Response:
    """The page."""
    if name not in ("tutorial.html", "tutorial.js"):
        return Response(status_code=204 if name == "favicon.ico" else 404)
    return FileResponse(HERE / name, headers={"content-security-policy": "default-src 'self'"})
