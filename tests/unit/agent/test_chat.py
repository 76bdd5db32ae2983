from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import FunctionModel

from tailrace.agent import chat as module
from tailrace.agent.chat import Chat
from tailrace.agent.demo import NOTE
from tailrace.agent.models import Endpoint
from tailrace.agent.router import Route, Router, When
from tailrace.engine import Engine
from tailrace.errors import InputInvalid, RunUnknown, SettingsInvalid
from tailrace.mcp.address import address
from tailrace.mcp.upstream import Upstream
from tailrace.protocol import agent as words
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.run import RunContext
from tests.markets import APP, market
from tests.nesting import check
from tests.processes import free_port
from tests.speaking import Asks, model
from tests.talking import DONE, call, chunk, talking
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.2) as engine:
        yield engine


async def asked(engine: Engine, message: str = "hi", **more: Any) -> RunRecord:
    thread = more.pop("thread", None)
    timeout = more.pop("timeout", None)
    given = {"message": message, **more}
    record, _ = await engine.submit("chat", given, thread=thread, principal="p", timeout=timeout)
    return await soon(engine.run(record.id).wait(), 30)


async def told(engine: Engine, record: RunRecord) -> Events:
    """The events of a turn, which are well nested."""
    events = [(event.type, event.payload) async for event in engine.run(record.id).events()]
    check(events)
    return events


def of(events: Events, *types: str) -> list[dict[str, Any]]:
    return [said for type_, said in events if type_ in types]


def result(record: RunRecord) -> Any:
    assert record.state is State.COMPLETED, record.error
    return loads(record.result)


def failed(record: RunRecord) -> str:
    assert record.state is State.FAILED
    return str(loads(record.error))


def double(x: int) -> int:
    """Doubles a number."""
    return 2 * x


# --- a turn ------------------------------------------------------------------------------------


async def test_a_turn_is_a_run(engine: Engine) -> None:
    chat = Chat(engine, model=model(["Hello."]), tools=[double], iterations=3)
    record = await asked(engine, "  What\nis it?", thread="t")
    events = await told(engine, record)
    assert events[0][1]["title"] == "What is it?"
    assert events[1][0] == words.SESSION_START
    session = {key: value for key, value in events[1][1].items() if key != "timestamp"}
    assert session == {
        "thread": "t", "model": "function:spoken", "tools": ["double"], "max_iterations": 3,
    }  # fmt: skip
    assert result(record)["text"] == "Hello."
    assert result(record)["route"] is None
    assert record.timeout == 600
    assert chat.tool_names == ["double"]
    assert chat.note is None


async def test_the_built_in_model_says_what_it_is(engine: Engine) -> None:
    chat = Chat(engine)
    record = await asked(engine, "How many employees are in Sales?")
    events = await told(engine, record)
    assert chat.model == "demo"
    assert events[1][1]["note"] == chat.note == NOTE
    assert events[1][1]["tools"] == chat.tool_names
    assert of(events, words.TOOLS_COMPLETED)
    assert result(record)["model"] == "demo"


async def test_what_a_turn_cannot_be_is_refused_before_it_begins(engine: Engine) -> None:
    Chat(engine, model=model(["x"]), models=["openai:*"])
    with pytest.raises(InputInvalid, match="must have some text"):
        await asked(engine, " \n")
    with pytest.raises(InputInvalid, match="keeps the history itself"):
        await asked(engine, history=[{"role": "user", "content": "x"}])
    with pytest.raises(InputInvalid, match="does not ask the model 'http://evil'"):
        await asked(engine, model="http://evil")
    with pytest.raises(RunUnknown):
        await asked(engine, regenerates="x")
    with pytest.raises(InputInvalid):
        await asked(engine, history=[{"role": "system", "content": "x"}])
    assert await engine.find(RunQuery()) == []


def test_settings_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("memory:")
    with pytest.raises(SettingsInvalid, match="cannot have 0 iterations"):
        Chat(engine, iterations=0)
    with pytest.raises(SettingsInvalid, match="must be a list of patterns"):
        Chat(engine, operations="market.*")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SettingsInvalid, match="needs pydantic-ai") as caught:
        Chat(engine)
    assert "tailrace[agent]" in caught.value.fix
    assert list(engine.operations) == []


def test_a_chat_that_nobody_asks_imports_no_model() -> None:
    code = (
        "import sys; from tailrace.engine import Engine; from tailrace.agent.chat import Chat\n"
        "Chat(Engine('memory:')).tool_names\n"
        "print(*(name for name in sys.modules if name.split('.')[0] in ('pydantic_ai', 'openai')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


async def test_what_a_turn_needs_is_there_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("memory:")
    chat = Chat(engine)
    async with engine:
        await until(lambda: chat.models.known("demo"), "made")
    broken = Engine("memory:")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Chat(broken, model="openai:gpt-5")
    async with broken:
        record = await asked(broken)
        assert "OPENAI_API_KEY" in failed(record)
        await told(broken, record)


# --- what was said before ----------------------------------------------------------------------


def echo() -> Any:
    """Says what it has read."""

    async def speak(messages: list[ModelMessage], info: Any) -> AsyncIterator[str]:
        said = [str(getattr(p, "content", "?")) for m in messages for p in m.parts]
        yield "|".join(said)

    return FunctionModel(stream_function=speak)


async def test_a_thread_remembers(engine: Engine) -> None:
    Chat(engine, model=echo())
    assert result(await asked(engine, "a", thread="t"))["text"] == "a"
    second = await asked(engine, "b", thread="t")
    assert result(second)["text"] == "a|a|b"
    assert result(await asked(engine, "c", thread="other"))["text"] == "c"
    assert result(await asked(engine, "d"))["text"] == "d"
    again = await asked(engine, "B", thread="t", regenerates=second.id)
    assert result(again)["text"] == "a|a|B"
    assert result(await asked(engine, "e", thread="t"))["text"] == "a|a|B|a|a|B|e"


async def test_a_client_may_remember_where_it_is_allowed(engine: Engine) -> None:
    Chat(engine, model=echo(), client_history=True)
    await asked(engine, "a", thread="t")
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    assert result(await asked(engine, "b", thread="t", history=said))["text"] == "q|r|b"
    assert result(await asked(engine, "c", thread="t"))["text"].startswith("a|a|b")


# --- which model -------------------------------------------------------------------------------


async def test_a_router_chooses_the_model(engine: Engine) -> None:
    deep = Route("deep", "demo", When(min_words=3))
    Chat(engine, model=model(["x"]), router=Router(routes=[deep, Route("direct", None, When())]))
    record = await asked(engine, "a long question")
    events = await told(engine, record)
    assert events[1][1]["model"] == "demo"
    assert events[1][1]["note"] == NOTE
    (routed,) = of(events, words.ROUTED)
    assert (routed["route"], routed["model"]) == ("deep", "demo")
    assert {"reason", "score", "complexity"} <= routed.keys()
    assert (result(record)["route"], result(record)["model"]) == ("deep", "demo")
    assert result(await asked(engine, "short"))["route"] == "direct"
    named = await asked(engine, "a long question", model="function:spoken")
    assert result(named)["route"] is None
    assert not of(await told(engine, named), words.ROUTED)


async def test_an_agent_of_ones_own(engine: Engine) -> None:
    agent = Agent(model([Asks("own", ('{"x":1}',)), Asks("double", ('{"x":2}',), "b")], ["Done."]))

    @agent.tool_plain
    def own(x: int) -> int:
        return -x

    chat = Chat(engine, agent=agent, tools=[double])
    record = await asked(engine)
    events = await told(engine, record)
    assert sorted(events[1][1]["tools"]) == sorted(chat.tool_names) == ["double", "own"]
    over = {said["name"]: said["result"] for said in of(events, words.TOOL_PROGRESS)
            if said["status"] == "completed"}  # fmt: skip
    assert over == {"own": -1, "double": 4}
    assert chat.model == "function:spoken"


# --- stopping ----------------------------------------------------------------------------------


async def test_a_turn_that_is_cancelled(engine: Engine) -> None:
    held, pieces = asyncio.Event(), itertools.count()

    async def before() -> None:
        if next(pieces):
            await held.wait()

    Chat(engine, model=model(["x"] * 3, before=before))
    seen: list[str] = []
    record, _ = await engine.submit("chat", {"message": "hi"}, principal="p", thread="t")
    async for event in engine.run(record.id).events():
        if event.type == words.TEXT_CHUNK and not seen:
            seen.append(event.type)
            await engine.cancel(record.id)
    record = await soon(engine.run(record.id).wait())
    assert record.state is State.CANCELLED
    events = await told(engine, record)
    assert [type_ for type_, _ in events][-3:] == ["text_end", "iteration_end", "cancelled"]


async def test_a_turn_that_takes_too_long(engine: Engine) -> None:
    async def slow() -> None:
        await asyncio.Event().wait()

    Chat(engine, model=model([Asks("slow")]), tools=[slow], timeout=0.3)
    record = await asked(engine)
    assert record.state is State.TIMED_OUT
    assert of(await told(engine, record), words.TOOLS_COMPLETED)


# --- operations --------------------------------------------------------------------------------


async def test_operations_are_tools_whose_calls_are_runs(engine: Engine) -> None:
    async def slow(run: RunContext, n: int) -> int:
        run.progress(n, 10)
        await asyncio.sleep(0)
        return n

    engine.offer(slow, name="lab.slow")
    calls = [Asks("lab_slow", ('{"n":1}',), "a"), Asks("lab_slow", ('{"n":"x"}',), "b")]
    chat = Chat(engine, model=model(calls, ["Done."]), operations=["lab.*"])
    record = await asked(engine)
    events = await told(engine, record)
    (run,) = await engine.find(RunQuery(operation="lab.slow"))
    steps = [said for said in of(events, words.TOOL_PROGRESS) if said["id"] == "a"]
    assert [(said["status"], said.get("run")) for said in steps] == [
        ("executing", run.id), ("progressing", None), ("completed", None),
    ]  # fmt: skip
    (refused,) = [said for said in of(events, words.TOOL_PROGRESS) if said["id"] == "b"]
    assert "lab.slow does not take this input: n:" in refused["error"]
    assert run.principal == "p"
    engine.operations.remove(engine.operations.get("lab.slow"))
    assert chat.tool_names == []


async def test_runs_of_a_turn_are_stopped_with_it(engine: Engine) -> None:
    async def hold(run: RunContext) -> None:
        run.progress(1)
        await asyncio.Event().wait()

    engine.offer(hold, name="hold")
    Chat(engine, model=model([Asks("hold")]), operations=["hold"])
    record, _ = await engine.submit("chat", {"message": "hi"}, principal="p")
    async for event in engine.run(record.id).events():
        if event.type == words.TOOL_PROGRESS and event.payload["status"] == words.PROGRESSING:
            await engine.cancel(record.id)
    (held,) = await engine.find(RunQuery(operation="hold"))
    assert (await soon(engine.run(held.id).wait())).state is State.CANCELLED
    await told(engine, await engine.record(record.id))


@pytest.mark.parametrize("way", ["http", "stdio"])
async def test_tools_of_another_server_tell_their_own_calls(way: str) -> None:
    calls = [Asks("market_count", ('{"n":3}',), "a"), Asks("market_count", ('{"n":5}',), "b")]
    engine = Engine("memory:")
    Chat(engine, model=model(calls, ["Done."]), operations=["market.*"])
    with market() as shop:
        where = {"url": shop.url} if way == "http" else {"command": [sys.executable, APP]}
        engine.companions.append(Upstream(engine, address("market", where)).life)
        async with engine:
            await until(lambda: engine.operations.find("market.count"), "listed", 30)
            record = await asked(engine)
            events = await told(engine, record)
    assert "market_count" in events[1][1]["tools"]
    for id_, n in (("a", 3), ("b", 5)):
        steps = [said for said in of(events, words.TOOL_PROGRESS) if said["id"] == id_]
        assert steps[0]["run"].startswith("run_")
        assert [said["status"] for said in steps][-1] == "completed"
        far = [said for said in steps if said["status"] == "progressing"]
        assert far
        assert {said["total"] for said in far} == {n}
        assert far[-1]["current"] == n


# --- real ways to a model ----------------------------------------------------------------------


def there(engine: Engine, url: str) -> Chat:
    return Chat(
        engine, model="there", endpoints={"there": Endpoint("qwen", url, "key-12345678")},
        tools=[double],
    )  # fmt: skip


async def test_a_model_behind_an_address(engine: Engine) -> None:
    first = [chunk("Let me "), chunk("look."), call("double", '{"x":'), call("", "4}", ""),
             chunk(finish="tool_calls"), DONE]  # fmt: skip
    second = [chunk("It is 8."), chunk(finish="stop"), DONE]
    async with talking(first, second) as server:
        there(engine, server.url)
        record = await asked(engine)
        events = await told(engine, record)
    assert result(record)["text"] == "It is 8."
    assert [said["chunk"] for said in of(events, words.TOOL_ARGS)] == ['{"x":', "4}"]
    assert server.keys == ["Bearer key-12345678"] * 2
    assert server.asked[0]["tools"][0]["function"]["name"] == "double"
    assert server.asked[1]["messages"][-1]["content"] == "8"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "Incorrect key: key-12345678"), "refuses the key that this server has."),
        ((404, "no model qwen"), "There is no there where this server asks for it: no model qwen."),
        ((400, "bad key-12345678 request"), "refuses the request: bad *** request."),
        ([chunk("It is "), chunk("cut")], "ended without a `finish_reason`"),
    ],
)
async def test_what_a_provider_answers_is_said(engine: Engine, answer: Any, says: str) -> None:
    async with talking(answer) as server:
        there(engine, server.url)
        record = await asked(engine)
        events = await told(engine, record)
    assert says in failed(record)
    assert "12345678" not in str(events)
    assert "Traceback" not in str(events)


async def test_a_provider_that_is_not_there(engine: Engine) -> None:
    there(engine, f"http://127.0.0.1:{free_port()}/v1")
    assert "cannot be reached, or hung up" in failed(await asked(engine))


async def test_a_model_that_cannot_be_asked_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with Engine("memory:") as engine:
        Chat(engine, model="nosuch:model")
        await engine.close()
        await engine.start()
        await until(lambda: "The chat cannot ask nosuch:model" in caplog.text)


async def test_a_tool_that_the_agent_has_already() -> None:
    def weather(city: str) -> str:
        return city

    async with Engine("memory:") as engine:
        with pytest.raises(ValueError, match="a tool 'weather' already"):
            Chat(engine, agent=Agent(model("x"), tools=[weather]), tools=[weather])
