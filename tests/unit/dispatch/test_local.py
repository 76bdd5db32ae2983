from __future__ import annotations

import asyncio

import pytest

from tailrace.dispatch.contract import Dispatcher
from tailrace.dispatch.local import LocalDispatcher
from tailrace.errors import LogClosed
from tests.waiting import soon, turns

pytestmark = pytest.mark.anyio


async def test_each_run_executes_in_a_task_of_its_own() -> None:
    dispatcher: Dispatcher = LocalDispatcher()
    names: list[str] = []
    everybody = asyncio.Barrier(3)

    async def execute(run: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())
        await everybody.wait()

    dispatcher.bind(execute)
    for run in "abc":
        await dispatcher.submit(run)
    await soon(dispatcher.close())
    assert names == ["tailrace-a", "tailrace-b", "tailrace-c"]


async def test_closing_waits_for_all_that_executes() -> None:
    dispatcher = LocalDispatcher()
    go = asyncio.Event()
    over: list[str] = []

    async def execute(run: str) -> None:
        await go.wait()
        over.append(run)

    dispatcher.bind(execute)
    await dispatcher.submit("a")
    closing = asyncio.create_task(dispatcher.close())
    await turns()
    assert not closing.done()
    go.set()
    await soon(closing)
    assert over == ["a"]


async def test_nothing_executes_before_and_after() -> None:
    dispatcher = LocalDispatcher()
    with pytest.raises(LogClosed):
        await dispatcher.submit("a")

    async def execute(run: str) -> None:
        with pytest.raises(LogClosed):
            # Work in its grace may want to start something.
            await dispatcher.submit("b")

    dispatcher.bind(execute)
    await dispatcher.submit("a")
    await soon(dispatcher.close())
    await soon(dispatcher.close())
    with pytest.raises(LogClosed):
        await dispatcher.submit("a")


async def test_it_is_bound_again() -> None:
    dispatcher = LocalDispatcher()
    executed: list[str] = []

    async def execute(run: str) -> None:
        executed.append(run)

    for run in "ab":
        dispatcher.bind(execute)
        await dispatcher.submit(run)
        await soon(dispatcher.close())
    assert executed == ["a", "b"]


async def test_one_that_breaks_down_is_told_of_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher = LocalDispatcher()
    executed: list[str] = []

    async def execute(run: str) -> None:
        if run == "bad":
            raise ZeroDivisionError
        executed.append(run)

    dispatcher.bind(execute)
    for run in ("bad", "good"):
        await dispatcher.submit(run)
    await soon(dispatcher.close())
    assert executed == ["good"]
    assert "tailrace-bad broke down" in caplog.text
    assert "ZeroDivisionError" in caplog.text
