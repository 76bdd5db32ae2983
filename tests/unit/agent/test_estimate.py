from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent import estimate
from tailrace.agent.estimate import NO_HISTORY, Estimates, analyse, quantile, summary
from tailrace.agent.router import Route, Router, When
from tailrace.engine import Engine
from tailrace.protocol.runs import RunQuery
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


class Turns:
    """A chat without a model: turns end when they are let."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.gates: dict[str, asyncio.Event] = {}
        engine.offer(self.turn, name="chat")

    async def turn(self, route: Any = "tools", gate: str = "") -> Any:
        if gate == "fail":
            raise ValueError("no")
        if gate:
            await self.gates.setdefault(gate, asyncio.Event()).wait()
        return {"route": route} if route != "none" else "no object"

    async def begin(self, principal: str = "ann", **input: Any) -> str:
        record, _ = await self.engine.submit("chat", input, principal=principal)
        return record.id

    async def end(self, run: str) -> None:
        await soon(self.engine.run(run).wait())

    async def whole(self, count: int = 1, **given: Any) -> None:
        for run in [await self.begin(**given) for _ in range(count)]:
            await self.end(run)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    async with Engine("memory:", grace=0.05) as engine:
        yield Turns(engine)


async def runs(estimates: Estimates, route: str = "tools", sees: str | None = None) -> int:
    known = await estimates.of(route, sees=sees)
    return 0 if known is None else int(known["runs"])


async def test_without_history_there_is_no_estimate(turns: Turns) -> None:
    assert await Estimates(turns.engine).of("tools", sees=None) is None


async def test_only_finished_turns_of_the_route_count(turns: Turns) -> None:
    await turns.whole(3)
    await turns.whole(2, route="deep")
    for other in ("none", 5, None):
        await turns.whole(route=other)
    await turns.end(await turns.begin(gate="fail"))
    turns.engine.offer(turns.turn, name="other")
    await turns.end((await turns.engine.submit("other", {}))[0].id)
    estimates = Estimates(turns.engine)
    assert await runs(estimates) == 3
    assert await runs(estimates, "deep") == 2
    assert await runs(estimates, "5") == 0


async def test_times_are_those_between_start_and_end(turns: Turns) -> None:
    run = await turns.begin()
    await turns.end(run)
    record = await turns.engine.record(run)
    assert record.started_at
    assert record.ended_at
    taken = round(record.ended_at - record.started_at, 3)
    known = await Estimates(turns.engine).of("tools", sees=None)
    assert known == {"p50_seconds": taken, "p90_seconds": taken, "runs": 1}


async def test_one_s_own_turns_only(turns: Turns) -> None:
    await turns.whole(2, principal="ann")
    await turns.whole(3, principal="bob")
    estimates = Estimates(turns.engine)
    assert await runs(estimates, sees="ann") == 2
    assert await runs(estimates, sees="bob") == 3
    assert await runs(estimates, sees="eve") == 0
    assert await runs(estimates, sees=None) == 5


async def test_new_turns_count_from_their_end_on(turns: Turns) -> None:
    estimates = Estimates(turns.engine, fresh=0)
    await turns.whole(1)
    assert await runs(estimates) == 1
    slow = await turns.begin(gate="slow")
    await turns.whole(1)
    # The slow one began before, and is not passed over.
    assert await runs(estimates) == 2
    await until(lambda: "slow" in turns.gates)
    turns.gates["slow"].set()
    await turns.end(slow)
    assert await runs(estimates) == 3
    assert await runs(estimates) == 3


async def test_what_began_before_the_first_look(turns: Turns) -> None:
    slow = await turns.begin(gate="slow")
    await turns.whole(1)
    estimates = Estimates(turns.engine, fresh=0)
    assert await runs(estimates) == 1
    await until(lambda: "slow" in turns.gates)
    turns.gates["slow"].set()
    await turns.end(slow)
    assert await runs(estimates) == 2


async def test_a_forgotten_turn_is_not_waited_for(turns: Turns) -> None:
    estimates = Estimates(turns.engine, fresh=0)
    slow = await turns.begin(gate="slow")
    assert await runs(estimates) == 0
    await turns.engine.cancel(slow)
    await turns.end(slow)
    await turns.engine.forget(slow)
    assert await runs(estimates) == 0
    assert not estimates._unfinished


async def test_many_are_read_page_by_page(turns: Turns) -> None:
    estimates = Estimates(turns.engine, fresh=0)
    await turns.whole(120)
    assert await runs(estimates) == 120
    await turns.whole(60)
    assert await runs(estimates) == 180
    assert await runs(Estimates(turns.engine)) == 180


async def test_the_latest_count(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "KEPT", 3)
    monkeypatch.setattr(estimate, "_PAGE", 2)
    for first_look in (6, 100):
        monkeypatch.setattr(estimate, "_FIRST_LOOK", first_look)
        await turns.whole(5)
        estimates = Estimates(turns.engine)
        assert await runs(estimates) == 3
        records = await turns.engine.find(RunQuery(operation="chat", limit=3))
        taken = [estimate._turn(record).seconds for record in reversed(records)]
        assert list(estimates._everybody["tools"]) == taken


async def test_what_is_remembered_is_bounded(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_MAX_PRINCIPALS", 2)
    monkeypatch.setattr(estimate, "_MAX_UNFINISHED", 2)
    estimates = Estimates(turns.engine)
    for name in ("ann", "bob", "eve"):
        await turns.whole(principal=name)
        await turns.begin(principal=name, gate="slow")
    assert await runs(estimates, sees=None) == 3
    assert list(estimates._own) == ["bob", "eve"]
    assert len(estimates._unfinished) == 2


async def test_they_are_read_now_and_then_only(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates = Estimates(turns.engine)
    await asyncio.gather(*(estimates.of("tools", sees=None) for _ in range(3)))
    await turns.whole(1)
    assert await runs(estimates) == 0
    monkeypatch.setattr(estimates, "_looked", -math.inf)
    assert await runs(estimates) == 1


@pytest.mark.parametrize(
    ("count", "half", "most"), [(1, 1, 1), (2, 1, 2), (3, 2, 3), (10, 5, 9), (11, 6, 10)]
)
def test_quantiles_are_values_that_were(count: int, half: int, most: int) -> None:
    assert summary(range(count, 0, -1)) == {
        "p50_seconds": half,
        "p90_seconds": most,
        "runs": count,
    }


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_a_quantile_by_its_definition(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in values
    # 1e-9: the share itself is not exact.
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


# --- the analysis -----------------------------------------------------------------------

ROUTER = Router(
    Router().rules,
    [Route("deep", "big", When(min_score=7), "Take a coffee."), Route("tools")],
)


async def test_an_analysis_without_history(turns: Turns) -> None:
    found = await analyse(
        "How many employees are in Sales?",
        router=ROUTER,
        estimates=Estimates(turns.engine),
        sees="ann",
        model="demo",
        tools=["count_employees"],
    )
    assert found == {
        "complexity": "low",
        "score": 3,
        "route": "tools",
        "model": "demo",
        "toolsNeeded": ["count_employees"],
        "estimatedTime": {"deep": NO_HISTORY, "tools": NO_HISTORY},
        "reasons": [
            "is about what a tool knows (+1)",
            "asks for a number (+1)",
            "route tools: nothing in it asks for another route",
        ],
        "recommendation": "Ask demo, by the route tools. How long that takes is not known: "
        "there is no history yet.",
    }


async def test_an_analysis_with_history(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = Estimates(turns.engine)
    await turns.whole(1)
    await runs(estimates)
    estimates._own["ann"]["deep"] = estimates._own["ann"].pop("tools")
    estimates._own["ann"]["deep"].clear()
    estimates._own["ann"]["deep"].extend([1.0, 2.0, 4.0])
    given: dict[str, Any] = {"router": ROUTER, "estimates": estimates, "model": "demo"}
    text = "Analyse and compare the averages, step by step, and draw a chart."
    found = await analyse(text, sees="ann", **given)
    assert (found["route"], found["model"]) == ("deep", "big")
    assert found["estimatedTime"] == {
        "deep": {"p50Seconds": 2.0, "p90Seconds": 4.0, "runs": 3},
        "tools": NO_HISTORY,
    }
    assert found["recommendation"] == (
        "Ask big, by the route deep. Of 3 turns like it, half took at most 2 s, and nine of ten at "
        "most 4 s. Take a coffee."
    )
    assert (await analyse(text, sees="eve", **given))["estimatedTime"]["deep"] == NO_HISTORY
    estimates._own["ann"]["deep"].popleft()
    estimates._own["ann"]["deep"].popleft()
    found = await analyse(text, sees="ann", **given)
    assert "The one turn like it took 4 s." in found["recommendation"]
