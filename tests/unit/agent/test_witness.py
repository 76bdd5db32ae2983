from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelRetry, SkipToolExecution, UserError
from pydantic_ai.messages import ToolCallPart, ToolReturn
from pydantic_ai.models import Model
from pydantic_ai.tools import RunContext as LoopContext
from pydantic_ai.tools import ToolDefinition

from tailrace.agent.teller import Teller
from tailrace.agent.telling import Telling
from tailrace.agent.tools import CallContext, of_functions
from tailrace.agent.witness import Toolset, Witness
from tailrace.errors import TailraceError
from tailrace.run import RunContext, current
from tests.nesting import check
from tests.speaking import Asks, Listened, model
from tests.waiting import soon

pytestmark = pytest.mark.anyio

SESSION: dict[str, Any] = {"thread": "t", "model": "m", "tools": [], "max_iterations": 5}


async def witnessed(
    run: Listened, said: Model, *tools: Any, agent: Agent[Any, Any] | None = None
) -> Any:
    teller = Teller(run.emit)
    result = await soon(
        (agent or Agent()).run(
            "hi",
            model=Telling(said, teller, run.ebb),
            toolsets=[Toolset(of_functions(tools))],
            capabilities=[Witness(teller, run)],
            retries={"tools": 5},
        )
    )
    teller.settle(result.all_messages())
    check([("session_start", SESSION), *run.told], ends=False)
    return result


def over(run: Listened) -> list[Any]:
    ends = [said for said in run.of("tool_progress") if "finished" in said]
    return [said.get("result", said.get("error")) for said in ends]


async def test_a_call_has_a_context_of_its_own() -> None:
    seen: list[RunContext] = []

    async def here(run: RunContext) -> None:
        seen.extend([run, current()])

    run = Listened()
    await witnessed(run, model([Asks("here", id="a"), Asks("here", id="b")], ["x"]), here)
    assert all(isinstance(one, CallContext) for one in seen)
    assert seen[0] is seen[1]
    assert len(set(seen)) == 2
    with pytest.raises(LookupError):
        current()


async def test_what_a_tool_says_besides_its_result_is_not_told() -> None:
    agent = Agent()

    @agent.tool_plain
    def shows() -> ToolReturn:
        return ToolReturn(return_value={"x": 1}, content="a picture")

    run = Listened()
    await witnessed(run, model([Asks("shows")], ["x"]), agent=agent)
    assert over(run) == [{"x": 1}]


async def test_a_tool_that_asks_for_another_try_has_failed() -> None:
    agent = Agent()

    @agent.tool_plain(retries=0)
    def tries() -> None:
        raise ModelRetry("Give me a name.")

    run = Listened()
    result = await witnessed(run, model([Asks("tries")], [Asks("tries")], ["x"]), agent=agent)
    assert all("Give me a name." in said or "max retries" in said for said in over(run))
    assert len(over(run)) == 2
    assert result.output == "x"


async def test_a_failure_of_ours_is_told_without_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuses() -> None:
        raise TailraceError("Not now.", fix="Later.")

    async def breaks() -> None:
        raise KeyError("x")

    run = Listened()
    await witnessed(
        run, model([Asks("refuses", id="a"), Asks("breaks", id="b")], ["x"]), refuses, breaks
    )
    assert sorted(over(run)) == ["'x'", "Not now."]
    assert [record.getMessage() for record in caplog.records] == ["The tool breaks failed"]


class Skips(Witness):
    async def before_tool_execute(self, ctx: Any, **given: Any) -> Any:
        raise SkipToolExecution("known already")


async def test_a_call_that_another_has_answered_is_told() -> None:
    async def never() -> None:
        raise NotImplementedError

    run = Listened()
    teller = Teller(run.emit)
    said = model([Asks("never")], ["x"])
    await soon(
        Agent().run(
            "hi", model=Telling(said, teller, run.ebb), toolsets=[Toolset(of_functions([never]))],
            capabilities=[Skips(teller, run)],
        )
    )  # fmt: skip
    assert over(run) == ["known already"]


async def test_a_call_that_waits_for_a_person_ends_the_turn() -> None:
    agent = Agent()

    @agent.tool_plain(requires_approval=True)
    def dangerous() -> None: ...

    with pytest.raises(UserError):
        await witnessed(Listened(), model([Asks("dangerous")], ["x"]), agent=agent)


async def test_a_call_that_is_not_the_turns_is_made_and_not_told() -> None:
    run = Listened()
    witness = Witness(Teller(run.emit), run)
    seen: list[RunContext] = []

    async def handler(args: dict[str, Any]) -> int:
        current().progress(1)
        seen.append(current())
        return 3

    answer = await witness.wrap_tool_execute(
        cast("LoopContext[Any]", None), call=ToolCallPart("n", {}, "other"),
        tool_def=ToolDefinition(name="n"), args={}, handler=handler,
    )  # fmt: skip
    assert answer == 3
    assert isinstance(seen[0], CallContext)
    assert run.told == []
    assert witness.making == set()


async def test_only_a_turn_makes_calls() -> None:
    async def n() -> None: ...

    toolset = Toolset(of_functions([n]))
    assert toolset.id == "tailrace"
    (found,) = (await toolset.get_tools(cast("LoopContext[Any]", None))).values()
    with pytest.raises(TypeError, match="something other than its turn"), Listened().entered():
        await toolset.call_tool("n", {}, cast("LoopContext[Any]", None), found)
