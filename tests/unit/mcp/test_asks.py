import asyncio
from typing import Any

import pytest

from tailrace import RunContext, Tailrace
from tailrace.errors import TailraceError
from tailrace.mcp.asks import ASK, Asks
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def runs() -> Tailrace:
    return Tailrace("memory:")


async def waiting(asks: Asks, run: str, count: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with asyncio.timeout(10):
        while len(found) < count:
            found = await asks.waiting(run)
            await asyncio.sleep(0.005)
    return dict(found)


async def test_a_question_waits_for_its_answer(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> Any:
        return await asks.ask(run, "Name?", {"type": "object", "properties": {"n": {}}})

    async with runs:
        run = await work.start()
        [(key, told)] = (await waiting(asks, run.id)).items()
        assert told["method"] == "elicitation/create"
        assert told["params"]["message"] == "Name?"
        await asks.answer(run.id, {key: {"response": {"action": "accept", "content": {"n": 1}}}})
        assert await soon(run.result()) == {"n": 1}
        assert await asks.waiting(run.id) == {}


async def test_who_does_not_want_to_answer_answers_none(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> Any:
        return await asks.ask(run, "Sure?")

    async with runs:
        run = await work.start()
        [key] = await waiting(asks, run.id)
        await asks.answer(run.id, {key: {"response": {"action": "decline"}}})
        assert await soon(run.result()) is None


async def test_two_questions_are_answered_one_by_one(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> Any:
        return await asyncio.gather(*(asks.request(run, "roots/list", {}) for _ in range(2)))

    async with runs:
        run = await work.start()
        first, second = await waiting(asks, run.id, 2)
        await asks.answer(run.id, {second: {"response": {"n": 2}}, "unknown": {"response": {}}})
        assert list(await asks.waiting(run.id)) == [first]
        await asks.answer(run.id, {first: {"response": {"n": 1}}, second: {"response": {"n": 3}}})
        assert sorted(one["n"] for one in await soon(run.result())) == [1, 2]


async def test_nobody_to_ask_is_an_error_in_the_work(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> str:
        try:
            await asks.ask(run, "Sure?")
        except TailraceError as error:
            return str(error)
        return "answered"

    async with runs:
        run = await work.start()
        [key] = await waiting(asks, run.id)
        await asks.answer(run.id, {key: {"problem": "Nobody is there."}})
        assert await soon(run.result()) == "Nobody is there."


async def test_a_question_does_not_wait_for_ever(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> str:
        try:
            await asks.ask(run, "Sure?", timeout=0.05)
        except TimeoutError:
            return "gave up"
        return "answered"

    async with runs:
        assert await soon((await work.start()).result()) == "gave up"


async def test_an_answer_that_comes_too_late_harms_nobody(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> None:
        run.emit(ASK, key="k", method="roots/list", params={})

    async with runs:
        run = await work.start()
        await soon(run.wait())
        await asks.answer(run.id, {"k": {"response": {}}})
        await until(lambda: not runs.executing)


async def test_what_an_operation_tells_by_a_similar_name_is_its_own(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def bid(run: RunContext) -> None:
        run.emit("ask", key="price", method="roots/list", bid=3)
        run.emit("answer", key="price")
        run.emit(ASK, method="roots/list")
        run.emit(ASK, key="", method="roots/list")
        run.emit(ASK, key=7, method="roots/list")
        run.emit(ASK, key="odd", method="nonsense")
        run.emit(ASK, key="odder", method=["roots/list"])
        run.emit(ASK, key="real", method="roots/list")

    async with runs:
        run = await bid.start()
        await soon(run.wait())
        assert list(await asks.waiting(run.id)) == ["real"]


async def test_what_no_client_can_be_asked_is_an_error_at_once(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> str:
        try:
            await asks.request(run, "nonsense", {})
        except TailraceError as error:
            return str(error)
        return "answered"

    async with runs:
        assert await soon((await work.start()).result()) == "A client cannot be asked 'nonsense'."


async def test_what_was_asked_is_remembered_when_it_is_answered(runs: Tailrace) -> None:
    asks = Asks(runs)

    @runs.operation
    async def work(run: RunContext) -> Any:
        return await asks.ask(run, "Sure?")

    async with runs:
        run = await work.start()
        [key] = await waiting(asks, run.id)
        assert await asks.has_asked(run.id, key)
        assert not await asks.has_asked(run.id, "")
        await asks.answer(run.id, {key: {"response": {"action": "decline"}}})
        await soon(run.wait())
        assert await asks.has_asked(run.id, key)
        assert await Asks(runs).has_asked(run.id, key)


async def test_another_process_of_the_log_may_hear_the_question(tmp_path: Any) -> None:
    here, there = (Tailrace(tmp_path / "runs.db") for _ in range(2))
    asks, others = Asks(here), Asks(there)

    @here.operation
    async def work(run: RunContext) -> Any:
        return await asks.ask(run, "Sure?")

    async with here, there:
        run = await work.start()
        [key] = await waiting(others, run.id)
        await others.answer(run.id, {key: {"response": {"action": "accept", "content": {"a": 1}}}})
        assert await soon(run.result()) == {"a": 1}
