from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

import tailrace
from tailrace.agent.tools import (
    MAX_MESSAGE,
    CallContext,
    Tool,
    how_far,
    of_functions,
    of_operations,
    tool,
)
from tailrace.engine import Engine
from tailrace.errors import InputInvalid, RunFailed
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery
from tailrace.run import RunContext, current
from tests.speaking import Listened
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


class Call(CallContext):
    """A call that remembers what it is told."""

    def __init__(self) -> None:
        self.progressed: list[dict[str, Any]] = []
        self.runs: list[str] = []
        self.turn = Listened()
        super().__init__(self.turn, self.progressed.append, self.runs.append)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.2) as engine:
        yield engine


def only(function: Any) -> Tool:
    (made,) = of_functions([function])
    return made


# --- the decorator -----------------------------------------------------------------------------


def test_a_marked_function_stays_what_it_is() -> None:
    @tailrace.tool
    def plain(x: int) -> int:
        """Doubles."""
        return 2 * x

    @tool(name="other-name", description="What it does.", timeout=3)
    def named(x: int) -> int:
        return x

    assert plain(4) == 8
    assert named(4) == 4
    first, second = of_functions([plain, named])
    assert (first.name, first.description) == ("plain", "Doubles.")
    assert (second.name, second.description) == ("other-name", "What it does.")
    assert first.parameters["required"] == ["x"]


def test_what_providers_do_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="'a b' is no tool's name"):
        tool(name="a b")
    with pytest.raises(ValueError, match="timeout of 0"):
        tool(timeout=0)
    with pytest.raises(ValueError, match="'<lambda>' is no tool's name"):
        of_functions([lambda: 1])
    with pytest.raises(ValueError, match="two tools 'wait'"):
        of_functions([wait, wait])

    def odd(x: threading.Event) -> None: ...

    with pytest.raises(TypeError, match="odd has no schema"):
        of_functions([odd])


# --- functions ---------------------------------------------------------------------------------


async def wait(run: RunContext, x: int = 1) -> int:
    run.progress(x, 4, "half")
    return x


async def test_a_coroutine_tells_its_own_call() -> None:
    made, call = only(wait), Call()
    assert "run" not in made.parameters["properties"]
    assert await made.call({"x": 2}, call) == 2
    assert call.progressed == [{"current": 2, "total": 4, "percent": 50.0, "message": "half"}]
    assert not call.turn.told


async def test_a_plain_function_has_a_thread_and_the_same_words() -> None:
    def work() -> int:
        run = current()
        run.log("so far", step="x")
        run.emit("chart", points=[1])
        return threading.get_ident()

    made, call = only(work), Call()
    with call.entered():
        there = await made.call({}, call)
    assert there != threading.get_ident()
    assert call.progressed == [{"message": "so far"}]
    assert call.turn.told == [("chart", {"points": [1]})]
    assert call.turn.threads == {there}
    assert (call.thread, call.principal) == ("t", "p")


async def test_generators_are_tools_as_well() -> None:
    def count() -> Generator[Any, None, int]:
        yield "one"
        yield "progress", {"percent": 50}
        yield "chart", {"x": 1}
        return 3

    made, call = only(count), Call()
    assert await made.call({}, call) == 3
    assert call.progressed == [{"message": "one"}, {"percent": 50}]
    assert call.turn.told == [("chart", {"x": 1})]


async def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputInvalid, match="wait does not take this input: x: "):
        await only(wait).call({"x": "many"}, Call())


async def test_a_thread_is_asked_to_stop() -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless() -> None:
        begun.set()
        try:
            while True:
                current().progress(message="on")
                current().wait_cancelled(0.01)
        finally:
            ended.set()

    call = Call()
    with call.entered():
        task = asyncio.ensure_future(only(endless).call({}, call))
    await until(begun.is_set, "begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert ended.is_set()


async def test_a_tool_that_takes_too_long_has_failed() -> None:
    @tool(timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await soon(only(slow).call({}, Call()))


async def test_a_call_waits_as_its_turn_does() -> None:
    call = Call()
    await call.ebb()
    await call.drain()


def test_what_is_told_of_progress() -> None:
    payload = {"current": 1, "total": None, "step": "a", "message": "b", "eta_seconds": 3}
    assert how_far(payload) == {"current": 1, "message": "a: b"}
    assert how_far({}) == {}
    assert len(how_far({"message": "x" * 9000})["message"]) == MAX_MESSAGE


# --- operations --------------------------------------------------------------------------------


def offer(engine: Engine, *names: str) -> None:
    async def there(run: RunContext, x: int = 1) -> dict[str, int]:
        """Waits there."""
        run.progress(x, 2)
        run.log("there")
        return {"x": x}

    for name in names:
        engine.offer(there, name=name)


async def test_operations_are_chosen_by_patterns(engine: Engine) -> None:
    offer(engine, "market.news", "market.prices", "script", "chat", "other")
    made = of_operations(engine, ["market.*", "script", "chat"], ["script"])
    assert [(one.name, one.runs) for one in made] == [
        ("market_news", "market.news"), ("market_prices", "market.prices"), ("script_2", "script"),
    ]  # fmt: skip
    assert made[0].description == "Waits there."
    assert made[0].parameters["properties"].keys() == {"x"}
    assert of_operations(engine, [], []) == []


async def test_names_are_what_providers_take(engine: Engine) -> None:
    long = "market." + "x" * 100
    offer(engine, "a.b", "a/b", long, long + "y")
    names = [one.name for one in of_operations(engine, ["*"], [])]
    assert names[:2] == ["a_b", "a_b_2"]
    assert [len(name) for name in names[2:]] == [64, 64]
    assert names[2] != names[3]


async def test_a_call_is_a_run_of_whoever_asked(engine: Engine) -> None:
    offer(engine, "there")
    (made,) = of_operations(engine, ["there"], [])
    call = Call()
    assert await soon(made.call({"x": 2}, call)) == {"x": 2}
    (record,) = await engine.find(RunQuery(operation="there"))
    assert call.runs == [record.id]
    assert record.principal == "p"
    assert record.thread is None
    assert call.progressed == [
        {"current": 2, "total": 2, "percent": 100.0},
        {"message": "there"},
    ]


async def test_what_a_program_writes_is_part_of_its_result(engine: Engine) -> None:
    async def writes(run: RunContext, fails: bool) -> int:
        run.output("one\n")
        run.output("two\n")
        if fails:
            raise ValueError("no")
        return 3

    engine.offer(writes, name="writes")
    (made,) = of_operations(engine, ["writes"], [])
    answer = await soon(made.call({"fails": False}, Call()))
    assert answer == {"result": 3, "output": "one\ntwo\n"}
    with pytest.raises(RunFailed, match=r"(?s)^no\n\nIts output ends with:\none\ntwo\n$"):
        await soon(made.call({"fails": True}, Call()))


async def test_an_operation_that_refuses_its_input_starts_nothing(engine: Engine) -> None:
    offer(engine, "there")
    (made,) = of_operations(engine, ["there"], [])
    with pytest.raises(InputInvalid):
        await made.call({"x": "many"}, Call())
    assert await engine.find(RunQuery()) == []


async def test_a_run_that_is_cancelled_has_failed(engine: Engine) -> None:
    async def endless(run: RunContext) -> None:
        run.log("begun")
        await asyncio.Event().wait()

    engine.offer(endless, name="endless")
    (made,) = of_operations(engine, ["endless"], [])
    call = Call()
    task = asyncio.ensure_future(made.call({}, call))
    await until(lambda: call.progressed, "begun")
    await engine.cancel(call.runs[0])
    with pytest.raises(RunFailed, match="cancelled"):
        await soon(task)


async def test_a_run_is_stopped_with_its_call(engine: Engine) -> None:
    async def endless(run: RunContext) -> None:
        run.log("begun")
        await asyncio.Event().wait()

    engine.offer(endless, name="endless")
    (made,) = of_operations(engine, ["endless"], [])
    call = Call()
    task = asyncio.ensure_future(made.call({}, call))
    await until(lambda: call.progressed, "begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    record = await soon(engine.run(call.runs[0]).wait())
    assert record.state is State.CANCELLED


async def test_a_run_that_is_just_being_started_is_stopped_as_well(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    engine.offer(endless, name="endless")
    (made,) = of_operations(engine, ["endless"], [])
    submit, begun, go_on = engine.submit, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **more: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await submit(*args, **more)

    monkeypatch.setattr(engine, "submit", slowly)
    task = asyncio.ensure_future(made.call({}, Call()))
    await soon(begun.wait())
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    (record,) = await engine.find(RunQuery(operation="endless"))
    assert (await soon(engine.run(record.id).wait())).state is State.CANCELLED


async def test_a_call_is_stopped_with_its_turn() -> None:
    call = Call()
    before = call.cancelled
    call.turn.request_stop()
    assert (before, call.cancelled) == (False, True)
    call.progress(1)
    with pytest.raises(tailrace.RunCancelled):
        await asyncio.to_thread(call.progress, 2)
    await asyncio.to_thread(call.progress, 3)
    with pytest.raises(tailrace.RunCancelled):
        call.check()
    assert [told["current"] for told in call.progressed] == [1, 3]
