from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic_ai import Agent, ModelAPIError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model

from tailrace.agent.faults import IterationLimit, ModelFailed
from tailrace.agent.history import Said, messages
from tailrace.agent.parts import MAX_TEXT_BYTES
from tailrace.agent.teller import STOPPED
from tailrace.agent.tools import of_functions
from tailrace.agent.turn import Wish, turn
from tailrace.protocol.events import MAX_EVENT_BYTES, to_json
from tailrace.run import RunContext, current
from tests.nesting import check
from tests.speaking import Asks, Listened, Thinks, model
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


def wish(asked: Model, *tools: Any, **more: Any) -> Wish:
    given: dict[str, Any] = {
        "message": "hi", "past": [], "model": asked, "name": "spoken",
        "tools": of_functions(tools), "iterations": 5,
    }  # fmt: skip
    return Wish(**(given | more))


async def taken(run: Listened, *answers: Any, tools: Any = (), **more: Any) -> dict[str, Any]:
    asked = answers[0] if isinstance(answers[0], Model) else model(*answers)
    agent = more.pop("agent", None) or Agent()
    return await soon(turn(run, agent, wish(asked, *tools, **more)))


def told(run: Listened, *, ends: bool = False) -> Any:
    session = {"thread": "t", "model": "m", "tools": [], "max_iterations": 5}
    return check([("session_start", session), *run.told], ends=ends)


async def double(run: RunContext, x: int) -> int:
    run.progress(x, 10)
    return 2 * x


async def test_a_turn_without_tools() -> None:
    run = Listened()
    result = await taken(run, [Thinks("hm"), "Hel", "lo"], route="direct")
    told(run)
    assert result == {
        "text": "Hello",
        "parts": [
            {"type": "thinking", "part": "1.0", "text": "hm"},
            {"type": "text", "part": "1.1", "text": "Hello"},
        ],
        "iterations": 1,
        "usage": {"input_tokens": 50, "output_tokens": result["usage"]["output_tokens"]},
        "model": "spoken",
        "route": "direct",
        "thread": "t",
    }


async def test_calls_are_made_together_and_told_as_they_end() -> None:
    free = asyncio.Event()

    async def slow() -> str:
        await free.wait()
        return "slow"

    async def quick() -> str:
        return "quick"

    def heard(type: str) -> None:
        if any(said.get("result") == "quick" for said in run.of("tool_progress")):
            free.set()

    run = Listened(heard)
    calls = ["Let me look.", Asks("slow", id="a"), Asks("quick", id="b")]
    result = await taken(run, calls, ["Done."], tools=[slow, quick])
    told(run)
    over = [said for said in run.of("tool_progress") if said["status"] == "completed"]
    assert [(said["result"], said["index"], said["finished"]) for said in over] == [
        ("quick", 2, 1), ("slow", 1, 2),
    ]  # fmt: skip
    assert [part["type"] for part in result["parts"]] == ["text", "tool", "tool", "text"]
    assert result["text"] == "Done."
    assert result["iterations"] == 2


async def test_progress_belongs_to_its_call() -> None:
    def plainly(run: RunContext, x: int) -> int:
        run.progress(x, 10)
        return x

    run = Listened()
    calls = [
        Asks("double", ('{"x":1}',), id="a"), Asks("double", ('{"x":2}',), id="b"),
        Asks("plainly", ('{"x":3}',), id="c"),
    ]  # fmt: skip
    await taken(run, calls, ["Done."], tools=[double, plainly])
    told(run)
    steps = {
        (said["id"], said["current"], said["percent"])
        for said in run.of("tool_progress")
        if said["status"] == "progressing"
    }
    assert steps == {("a", 1, 10.0), ("b", 2, 20.0), ("c", 3, 30.0)}
    assert len(run.threads) == 2


async def test_what_fails_is_a_result_that_says_so() -> None:
    heard: list[Any] = []

    async def breaks() -> None:
        raise ValueError("boom")

    async def gives_up() -> None:
        raise asyncio.CancelledError

    def stops(run: RunContext) -> None:
        run.request_stop()
        run.check()

    run = Listened()
    calls = [
        Asks("breaks", id="a"), Asks("double", ('{"y":1}',), id="b"), Asks("none", id="c"),
        Asks("double", ('{"x":',), id="d"), Asks("double", ('{"x":1}',), id="e"),
        Asks("gives_up", id="f"), Asks("stops", id="g"),
    ]  # fmt: skip

    def reads(messages: list[ModelMessage]) -> None:
        heard.extend(p for m in messages for p in m.parts if p.part_kind == "tool-return")

    asked = model(calls, ["Done."])
    result = await taken(run, Reading(asked, reads), tools=[breaks, double, gives_up, stops])
    told(run)
    errors = {part["id"]: part.get("error") for part in result["parts"] if part["type"] == "tool"}
    assert errors.pop("e") is None
    assert errors.pop("a") == "boom"
    assert errors.pop("b").startswith("double does not take this input: x: Field required")
    assert errors.pop("c").startswith("There is no tool 'none'. There are: breaks, double, ")
    assert "JSON" in errors.pop("d")
    assert set(errors.values()) == {"It was cancelled."}
    assert {part.tool_call_id: part.outcome for part in heard}["a"] == "failed"
    assert result["text"] == "Done."


class Reading(Model):
    """Looks at what a model is asked."""

    def __init__(self, wrapped: Model, read: Any) -> None:
        super().__init__()
        self.wrapped, self.read = wrapped, read

    async def request(self, *_: Any) -> Any:
        raise NotImplementedError

    def request_stream(self, messages: Any, *more: Any) -> Any:
        self.read(messages)
        return self.wrapped.request_stream(messages, *more)

    @property
    def model_name(self) -> str:
        return "reading"

    @property
    def system(self) -> str:
        return "reading"


async def test_a_model_that_invents_tools_for_ever_is_stopped() -> None:
    run = Listened()
    with pytest.raises(IterationLimit, match="had its 5 iterations"):
        await taken(run, [Asks("none")])
    told(run)
    assert len(run.of("iteration_start")) == 5
    assert len({said["id"] for said in run.of("tool_ready")}) == 5


async def test_the_number_of_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.agent.witness.MAX_CALLS", 2)
    run = Listened()
    calls = [Asks("double", ('{"x":1}',), id=f"c{n}") for n in range(4)]
    result = await taken(run, calls, ["Done."], tools=[double])
    errors = [part.get("error") for part in result["parts"] if part["type"] == "tool"]
    assert errors == [None, None] + 2 * ["This turn has made the 2 calls that it may."]


async def test_a_model_that_fails_in_its_text() -> None:
    run = Listened()
    error = ModelAPIError("m", "The wire broke.")
    with pytest.raises(ModelFailed, match=r"The provider of spoken failed: The wire broke\."):
        await taken(run, ["Hel", "lo", error])
    told(run)
    assert [type_ for type_, _ in run.told][-2:] == ["text_end", "iteration_end"]


async def test_a_bug_is_told_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    run = Listened()
    with pytest.raises(ModelFailed, match=r"The turn failed: no sk .*\.") as caught:
        await taken(run, [ValueError("no sk sk-live-12345678 and hunter22")], secrets=["hunter22"])
    assert "12345678" not in str(caught.value)
    assert "hunter22" not in str(caught.value)
    told(run)


async def test_what_was_said_before_is_read() -> None:
    heard: list[Any] = []
    past = messages([Said("Who?", [{"type": "text", "part": "1.0", "text": "Me."}])])
    asked = Reading(model(["x"]), lambda said: heard.extend(p for m in said for p in m.parts))
    await taken(Listened(), asked, past=past)
    assert [part.content for part in heard] == ["Who?", "Me.", "hi"]


async def test_an_agent_of_ones_own_brings_its_tools() -> None:
    agent = Agent(instructions="Be brief.")

    @agent.tool_plain
    def own(x: int) -> str:
        return f"own {x}"

    run = Listened()
    calls = [Asks("own", ('{"x":1}',), id="a"), Asks("double", ('{"x":1}',), id="b")]
    result = await taken(run, calls, ["Done."], tools=[double], agent=agent)
    told(run)
    results = {part.get("result") for part in result["parts"] if part["type"] == "tool"}
    assert results == {"own 1", 2}


async def test_an_agent_whose_output_is_a_call() -> None:
    agent = Agent(output_type=int)
    run = Listened()
    result = await taken(run, [Asks("final_result", ('{"response":3}',))], agent=agent)
    told(run)
    assert result["parts"][0]["status"] == "completed"
    assert run.of("tools_completed")


async def test_a_result_is_one_event_however_long_the_answer() -> None:
    run = Listened()
    result = await taken(run, ["x" * 100_000, "y" * 100_000])
    told(run)
    assert len(to_json(result)) < MAX_EVENT_BYTES
    assert result["truncated"]
    assert len(result["text"]) == MAX_TEXT_BYTES


@pytest.mark.parametrize(("first", "last"), [(110_000, 79_000), (150_000, 81_000), (10, 60_000)])
@pytest.mark.parametrize("letter", ["y", "\x01", "ü", "😀"])
async def test_it_fits_whatever_the_letters(first: int, last: int, letter: str) -> None:
    run = Listened()
    result = await taken(run, ["x" * first, letter * (last // len(letter.encode()))])
    assert len(to_json({"result": result})) < MAX_EVENT_BYTES - 1024


# --- stopping ----------------------------------------------------------------------------------


async def stopped(run: Listened, *answers: Any, when: Any, tools: Any = ()) -> None:
    task = asyncio.create_task(turn(run, Agent(), wish(model(*answers), *tools)))
    await until(when, "there")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


async def test_a_turn_that_is_stopped_in_its_tools_closes_them_at_once() -> None:
    stubborn = threading.Event()

    def slow() -> None:
        stubborn.wait(10)

    run = Listened()
    task = asyncio.create_task(turn(run, Agent(), wish(model([Asks("slow")]), slow)))
    await until(lambda: "executing" in str(run.told), "executing")
    task.cancel()
    await until(lambda: run.of("iteration_end"), "closed")
    assert not task.done()
    nesting = told(run)
    assert nesting.ends == ["failed"]
    assert run.of("tool_progress")[-1]["error"] == STOPPED
    stubborn.set()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    told(run)


async def test_a_thread_that_does_not_stop_is_given_up_at_the_second_cancel() -> None:
    stubborn = threading.Event()

    def slow() -> None:
        stubborn.wait(30)

    run = Listened()
    task = asyncio.create_task(turn(run, Agent(), wish(model([Asks("slow")]), slow)))
    await until(lambda: "executing" in str(run.told), "executing")
    task.cancel()
    await until(lambda: run.of("iteration_end"), "closed")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    stubborn.set()


async def test_a_thread_of_ones_own_agent_is_asked_to_stop_as_well() -> None:
    agent = Agent()

    @agent.tool_plain
    def endless() -> None:
        run = current()
        assert not run.cancelled
        while True:
            run.progress(message="on")
            run.wait_cancelled(0.001)

    run = Listened()
    task = asyncio.create_task(turn(run, agent, wish(model([Asks("endless")]))))
    await until(lambda: "progressing" in str(run.told[-1:]), "there")
    # As the supervisor does it.
    run.request_stop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    told(run)
    assert len(run.threads) == 2


async def test_a_turn_that_is_stopped_while_the_model_thinks() -> None:
    held = asyncio.Event()
    run = Listened()
    task = asyncio.create_task(turn(run, Agent(), wish(model(["x"], before=held.wait))))
    await until(lambda: run.of("iteration_start"), "asked")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    told(run)
    assert [type_ for type_, _ in run.told] == ["iteration_start", "iteration_end"]
