"""The documented shapes are those of the real answers, exactly."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tailrace.errors import StateMoved
from tailrace.eventlog.contract import Retention
from tailrace.http.shapes import (
    Appended,
    AppendEvents,
    AskTicket,
    EventsPage,
    OperationList,
    Problem,
    RemoteEvent,
    RunFile,
    RunSnapshot,
    RunsPage,
    StartRun,
)
from tailrace.protocol.problems import document
from tests.stage import Stage, staged
from tests.visitor import Visitor


def is_whole(shape: type[BaseModel], told: Any) -> bool:
    """Whether `told` has all members of the shape (no others are allowed), and only them."""
    read = shape.model_validate(told)
    return bool(read.model_dump(mode="json", by_alias=True, exclude_unset=True) == told)


@pytest.mark.anyio
async def test_runs(stage: Stage, visitor: Visitor) -> None:
    queued = (await visitor.post("/runs", {"operation": "puppet", "timeout": 9})).json
    failed = await stage.start()
    stage.emit(failed, "progress", current=1)
    stage.fail(failed, ValueError("no"))
    await stage.ended(failed)
    assert is_whole(RunSnapshot, queued)
    assert is_whole(RunSnapshot, (await visitor.get(f"/runs/{failed}")).json)
    assert is_whole(RunsPage, (await visitor.get("/runs?limit=1")).json)
    assert is_whole(RunsPage, (await visitor.get("/runs")).json)


@pytest.mark.anyio
async def test_operations(visitor: Visitor) -> None:
    assert is_whole(OperationList, (await visitor.get("/operations")).json)


@pytest.mark.anyio
async def test_pages_of_events() -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        run = await stage.written([("log", {"n": n}, n) for n in range(9)], ends=10)
        page = (await stage.visitor.get(f"/runs/{run}/events?format=json")).json
        assert "gap" in page
        assert is_whole(EventsPage, page)
        page = (await stage.visitor.get(f"/runs/{run}/events?format=json&after=latest")).json
        assert "gap" not in page
        assert is_whole(EventsPage, page)


@pytest.mark.anyio
async def test_appended(stage: Stage, visitor: Visitor) -> None:
    run = await stage.written()
    answer = await visitor.post(f"/runs/{run}/events", {"events": [{"type": "log"}]})
    assert is_whole(Appended, answer.json)


def test_problems() -> None:
    assert is_whole(Problem, document(StateMoved("Moved.", state="failed")))


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (StartRun, {"operation": 1}),
        (StartRun, {"operation": "x" * 201}),
        (StartRun, {"operation": "x", "input": []}),
        (StartRun, {"operation": "x", "timeout": "30"}),
        (StartRun, {"operation": "x", "timeout": True}),
        (StartRun, {"operation": "x", "priority": 1}),
        (AppendEvents, {"events": [{"type": "log"}], "attempt": 1.5}),
        (AppendEvents, {"events": [{"type": "log"}], "attempt": "1"}),
        (AppendEvents, {"events": [{"type": "log"}], "attempt": True}),
    ],
)
def test_requests_are_not_guessed_at(shape: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        shape.model_validate(body)


def test_numbers_are_numbers() -> None:
    assert AppendEvents.model_validate({"events": [{"type": "x"}], "attempt": 1.0}).attempt == 1
    assert StartRun.model_validate({"operation": "x", "timeout": 30}).timeout == 30.0


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (StartRun, {f"{n}": 0 for n in range(1000)}),
        (AskTicket, {f"{n}": 0 for n in range(1000)}),
        (RemoteEvent, {"type": "log", **{f"{n}": 0 for n in range(1000)}}),
        (AppendEvents, {"events": [{}] * 1000}),
        (AppendEvents, {"events": [{f"{n}": 0 for n in range(1000)}] * 1000}),
        (AppendEvents, {"events": [{"type": "log"}], "producer": dict.fromkeys("a" * 50 + "b", 0)
                        | {f"{n}": 0 for n in range(1000)}}),
        (RunFile, {"file_path": "x", "args": [None] * 1000}),
        (RunFile, {"file_path": "x", **{f"{n}": 0 for n in range(1000)}}),
    ],
)  # fmt: skip
def test_of_a_thousand_mistakes_few_are_told(shape: type[BaseModel], body: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        shape.model_validate(body)
    assert refused.value.error_count() <= 3


def test_of_a_few_mistakes_all_are_told() -> None:
    with pytest.raises(ValidationError) as refused:
        StartRun.model_validate({"operation": 1, "a": 1, "b": 2, "timeout": "x"})
    assert refused.value.error_count() == 4
