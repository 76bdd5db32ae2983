"""Tools of another server as operations."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp_types import CallToolResult, TextContent, Tool

from tailrace.engine import Engine
from tailrace.errors import InputInvalid, RunFailed
from tailrace.mcp import toolbox
from tailrace.mcp.address import address
from tailrace.mcp.feed import Feed
from tailrace.mcp.line import Line
from tailrace.mcp.toolbox import Harmless, Toolbox
from tailrace.protocol.lifecycle import State
from tailrace.run import Run
from tests.waiting import soon

pytestmark = pytest.mark.anyio

MARKET = address("market", {"url": "http://127.0.0.1:4100/mcp", "timeout": 60, "at_once": 2})
TEXT = {"type": "object", "properties": {"symbol": {"type": "string"}}, "required": ["symbol"]}


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


def tool(name: str = "news", **more: Any) -> Tool:
    return Tool(name=name, input_schema=more.pop("schema", TEXT), **more)


class Scripted:
    """A line that answers by a script."""

    def __init__(self, *answers: CallToolResult | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.tells = False

    async def call(self, tool: Tool, arguments: dict[str, Any], feed: Feed) -> CallToolResult:
        self.asked.append((tool.name, arguments))
        if self.tells:
            await feed.progress(1)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:") as engine:
        yield engine


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "PAUSES", (0.0, 0.0, 0.0, 0.0))


def box(engine: Engine, line: Scripted | None = None) -> Toolbox:
    return Toolbox(engine, MARKET, cast("Line", line or Scripted()))


def offered(engine: Engine) -> list[str]:
    return [operation.name for operation in engine.operations]


async def ran(engine: Engine, *answers: CallToolResult | BaseException, **given: Any) -> Run:
    line = Scripted(*answers)
    box(engine, line)._offer([tool()])
    record, _ = await engine.submit("market.news", {"symbol": "ABC", **given})
    run = engine.run(record.id)
    await soon(run.wait())
    assert line.asked == [("news", {"symbol": "ABC", **given})] * len(line.asked)
    return run


async def test_a_tool_is_an_operation(engine: Engine) -> None:
    box(engine)._offer([tool(description="What there is."), tool("plain", title="Plain")])
    assert offered(engine) == ["market.news", "market.plain"]
    news = engine.operations.get("market.news")
    assert (news.description, news.parameters) == ("What there is.", TEXT)
    assert (news.timeout, news.concurrency) == (60, 2)
    assert engine.operations.get("market.plain").description == "Plain"


async def test_input_is_checked_before_anything_is_kept(engine: Engine) -> None:
    box(engine)._offer([tool()])
    with pytest.raises(InputInvalid, match=r"market\.news does not take this input: symbol"):
        await engine.submit("market.news", {"symbol": 4})


async def test_what_changes_is_replaced_and_what_goes_is_gone(engine: Engine) -> None:
    one = box(engine)
    one._offer([tool(), tool("same"), tool("gone")])
    before = {operation.name: operation for operation in engine.operations}
    one._offer([tool(description="New."), tool("same"), tool("more")])
    after = {operation.name: operation for operation in engine.operations}
    assert set(after) == {"market.news", "market.same", "market.more"}
    assert after["market.same"] is before["market.same"]
    assert after["market.news"].description == "New."
    one._offer(())
    assert offered(engine) == []


async def test_what_stands_already_stays(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def mine() -> None: ...

    mine_too = engine.offer(mine, name="market.news")
    one = box(engine)
    one._offer([tool(), tool("other")])
    assert offered(engine) == ["market.news", "market.other"]
    one._offer(())
    assert list(engine.operations) == [mine_too]
    assert "market.news is not offered" in caplog.text


@pytest.mark.parametrize("name", ["", "a b", "a\nINFO forged", "é", "x" * 129])
async def test_a_name_that_cannot_be_told(
    name: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    box(engine)._offer([tool(name)])
    assert offered(engine) == []
    assert "forged" not in caplog.text


async def test_a_server_with_endless_tools(engine: Engine) -> None:
    many = [tool(f"t{number}", description="x" * 10**5) for number in range(1200)]
    box(engine)._offer(many)
    assert len(offered(engine)) == 1000
    assert len(engine.operations.get("market.t1").description) == 8000


async def test_a_schema_that_is_too_large(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    large = {"type": "object", "description": "x" * 70_000, "maximum": 10**30}
    box(engine)._offer([tool("large", schema=large), tool()])
    assert offered(engine) == ["market.news"]
    assert "market.large is not offered: its schema is larger than 64 KiB" in caplog.text


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (CallToolResult(content=[text("a")], structured_content={"n": 1}), {"n": 1}),
        (CallToolResult(content=[text("a")], structured_content={}), {}),
        (CallToolResult(content=[text("a")]), [{"type": "text", "text": "a"}]),
        (CallToolResult(content=[]), []),
    ],
)
async def test_a_result(answer: CallToolResult, result: Any, engine: Engine) -> None:
    run = await ran(engine, answer, more=1)
    assert await run.result() == result


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([text("It is"), text("closed.")], "It is\nclosed."),
        ([], "news of market failed, and says no more."),
        ([text("x" * 10**6)], "x" * 8000),
    ],
)
async def test_an_error_of_the_tool(content: list[Any], said: str, engine: Engine) -> None:
    run = await ran(engine, CallToolResult(content=content, is_error=True))
    told = (await run.snapshot())["error"]
    assert (told["error"], told["type"]) == (said, "ToolFailed")


REFUSED = BaseExceptionGroup("unhandled", [httpx2.ConnectError("refused")])
BROKEN = BaseExceptionGroup("unhandled", [httpx2.ReadError("cut")])


async def test_what_could_not_be_sent_is_tried_again(engine: Engine) -> None:
    run = await ran(engine, REFUSED, REFUSED, CallToolResult(content=[]))
    assert await run.result() == []
    logs = [event.payload["message"] async for event in run.events() if event.type == "log"]
    assert logs == ["market does not answer; trying again."]


async def test_but_not_for_ever(engine: Engine) -> None:
    run = await ran(engine, *[REFUSED] * 5)
    with pytest.raises(RunFailed, match=r"does not answer at http://127\.0\.0\.1:4100/mcp"):
        await run.result()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BROKEN, "was gone before news had answered"),
        (MCPError(-32602, "Unknown tool"), "refused news: Unknown tool"),
        (RuntimeError("no"), "answered news with no"),
    ],
)
async def test_what_was_sent_is_not_sent_again(
    error: BaseException, said: str, engine: Engine
) -> None:
    run = await ran(engine, error)
    with pytest.raises(RunFailed, match=said):
        await run.result()


async def test_nor_what_has_begun_to_answer(engine: Engine) -> None:
    line = Scripted(REFUSED)
    line.tells = True
    box(engine, line)._offer([tool()])
    record, _ = await engine.submit("market.news", {"symbol": "ABC"})
    assert (await soon(engine.run(record.id).wait())).state is State.FAILED
    assert len(line.asked) == 1


async def test_a_state_is_told_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailrace.mcp")
    one = box(engine)
    for _ in range(3):
        one._report(REFUSED)
    one._offer([tool()])
    one._offer([tool()])
    one._report(REFUSED)
    told = [record.getMessage().split(" at ")[0] for record in caplog.records]
    assert told == [
        "The upstream market does not answer",
        "The upstream market offers 1 tools.",
        "The upstream market does not answer",
    ]


@pytest.mark.parametrize(
    ("error", "passes"),
    [(anyio.ClosedResourceError(), False), (anyio.BrokenResourceError(), False),
     (ValueError(), True), (None, True)],
)  # fmt: skip
def test_our_hanging_up_is_no_news(error: Exception | None, passes: bool) -> None:
    info = None if error is None else (type(error), error, None)
    record = logging.LogRecord("mcp", logging.ERROR, "", 0, "Error parsing SSE message", (), info)
    assert bool(Harmless().filter(record)) is passes
