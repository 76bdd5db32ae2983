"""The way to another server: with the SDK's own server at its other end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
import pytest
from mcp import Client, ClientSession, MCPError
from mcp.client.streamable_http import StreamableHTTPTransport
from mcp_types import CallToolResult, ListToolsResult, Tool

from tailrace.engine import Engine
from tailrace.errors import BufferFull, RunFailed, ServerUnreachable
from tailrace.mcp import line as line_module
from tailrace.mcp.address import Address, address
from tailrace.mcp.faults import ToolFailed, fault, is_unsent, leaves
from tailrace.mcp.feed import Feed
from tailrace.mcp.line import Line
from tailrace.run import RunContext
from tests.markets import APP, ERAS, Market, market
from tests.processes import eventually, free_port
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=ERAS)
def shop(request: pytest.FixtureRequest) -> Iterator[Market]:
    with market(request.param) as one:
        yield one


def line(where: Market | Address, **headers: str) -> Line:
    it = where if isinstance(where, Address) else address("market", {"url": where.url})
    return Line(it, headers, {})


async def in_run(line: Line, tool: str, **arguments: Any) -> CallToolResult:
    """A call whose feed is that of a run which is going on."""
    wanted = Tool(name=tool, input_schema={"type": "object"})
    answers: list[CallToolResult] = []
    async with Engine("memory:") as engine:

        async def work(run: RunContext) -> None:
            try:
                answers.append(await line.call(wanted, arguments, Feed(run)))
            except (Exception, BaseExceptionGroup) as error:
                raise fault(error, line._address, tool) from error

        operation = engine.offer(work)
        await (await operation.start()).result()
    return answers[0]


async def test_the_first_client_finds_out_the_era_for_all(shop: Market) -> None:
    one = line(shop)
    assert one.era == "auto"
    async with one.client() as client:
        spoken = client.protocol_version
    assert one.era == ("legacy" if shop.era == "legacy" else spoken == "2026-07-28" and spoken)
    asked = shop.seen("http 2026-07-28")
    async with one.client() as client:
        assert client.protocol_version == spoken
        assert {"count", "pair"} <= {tool.name for tool in await one.tools(client)}
    if shop.era == "legacy":
        assert shop.seen("http 2026-07-28") == asked, "it is not tried again"
    one.forget()
    assert one.era == "auto"
    await one.close()


async def test_a_call(shop: Market) -> None:
    one = line(shop, authorization="Bearer hunter2", **{"x-api-key": "other"})
    answer = await in_run(one, "pair", a=1, b=2)
    assert answer.structured_content == {"sum": 3}
    answer = await in_run(one, "key")
    assert answer.structured_content == {"result": "Bearer hunter2 other"}
    assert (await in_run(one, "fail")).is_error
    await one.close()


async def test_a_call_asks_for_no_list_of_tools(shop: Market) -> None:
    one = line(shop)
    asked: list[str] = []

    async def note(request: httpx2.Request) -> None:
        if request.method == "POST":
            asked.append(json.loads(request.content)["method"])

    assert one._http is not None
    one._http.event_hooks = {"request": [note]}
    await in_run(one, "pair", a=1, b=2)
    await in_run(one, "pair", a=1, b=2)
    await one.close()
    hello = ["initialize", "notifications/initialized"] if shop.era == "legacy" else []
    assert asked == ["server/discover", *hello, "tools/call", *hello, "tools/call"]


async def test_calls_of_an_end_go_on_and_the_last_closes(shop: Market) -> None:
    one = line(shop)
    ended = shop.seen("ended")
    going = asyncio.create_task(in_run(one, "count", n=5, every=0.05))
    await eventually(lambda: shop.seen("began") > ended, "the tool works")
    await one.close()
    assert one._http is not None
    assert not one._http.is_closed
    assert (await soon(going)).structured_content == {"result": "counted 5"}
    assert one._http.is_closed


async def test_a_feed_that_is_full_stops_the_tool(shop: Market) -> None:
    one = line(shop)
    full = BufferFull("Too much.")
    cancelled = shop.seen("cancelled")

    class Full(Feed):
        async def progress(
            self, progress: float, total: float | None = None, message: str | None = None
        ) -> None:
            self.fault = full
            self.scope.cancel()

    async with Engine("memory:") as engine:

        async def work(run: RunContext) -> None:
            hold = Tool(name="hold", input_schema={})
            with pytest.raises(BufferFull):
                await one.call(hold, {}, Full(run))

        await soon((await engine.offer(work).start()).result())
    await eventually(lambda: shop.seen("cancelled") == cancelled + 1, "the tool is cancelled")
    await one.close()


async def test_what_hangs_after_the_answer_costs_only_time(
    shop: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(line_module, "HANG_UP_SECONDS", 0.1)
    monkeypatch.setattr(StreamableHTTPTransport, "terminate_session", hang)
    one = line(shop)
    answer = await soon(in_run(one, "pair", a=1, b=2))
    assert answer.structured_content == {"sum": 3}
    monkeypatch.setattr(ClientSession, "call_tool", refused)
    with pytest.raises(RunFailed, match="as the server says"):
        await soon(in_run(one, "pair", a=1, b=2))
    await one.close()


async def refused(*_: object, **__: object) -> None:
    raise MCPError(-32602, "as the server says")


async def test_nobody_there() -> None:
    one = line(address("market", {"url": f"http://127.0.0.1:{free_port()}/mcp"}))
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a group of groups
        async with one.client():
            pass
    assert is_unsent(raised.value)
    await one.close()


async def test_a_cancel_is_not_hidden_by_what_fails_at_the_same_time() -> None:
    """Else whoever tries again after a fault would never stop."""
    one = line(address("market", {"url": f"http://127.0.0.1:{free_port()}/mcp"}))

    async def call() -> None:
        while True:
            try:
                async with one.client():
                    pass
            except BaseExceptionGroup:
                await asyncio.sleep(0)

    for turns in range(1, 40):
        task = asyncio.create_task(call())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,), timeout=5)
        assert task.cancelled()
    await one.close()


@asynccontextmanager
async def talker(size: int, *heads: str) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers everything with `size` bytes; its URL, and how many it could send."""
    sent = [0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            lines = ["HTTP/1.1 200 OK", *heads, f"content-length: {size}", "connection: close"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            for _ in range(0, size, 65536):
                writer.write(b" " * 65536)
                await writer.drain()
                sent[0] += 65536
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", sent


BIG = 64 * 1024 * 1024


async def test_an_answer_of_any_size_is_not_taken() -> None:
    async with talker(BIG, "content-type: application/json") as (url, sent):
        one = line(address("market", {"url": url}))
        with pytest.raises(BaseException) as raised:  # noqa: PT011 - a group of groups
            await soon(in_run(one, "pair"))
        assert "more than 8 MiB" in str(raised.value)
        await one.close()
        assert sent[0] < BIG, "it is left where the bound is"


@pytest.mark.parametrize("kind", ["application/json", "text/plain; x=text/event-stream", ""])
async def test_what_is_no_stream_has_a_bound(kind: str) -> None:
    async with talker(BIG, f"content-type: {kind}") as (url, _):
        one = line(address("market", {"url": url}))
        assert one._http is not None
        with pytest.raises(ToolFailed, match="more than 8 MiB"):
            await soon(one._http.get(url))
        await one.close()


async def test_a_stream_has_none() -> None:
    size = 10 * 1024 * 1024
    async with talker(size, "content-type: text/event-stream; charset=utf-8") as (url, _):
        one = line(address("market", {"url": url}))
        assert one._http is not None
        assert len((await soon(one._http.get(url))).content) == size
        await one.close()


async def test_what_is_packed_is_not_unpacked() -> None:
    heads = ("content-type: application/json", "content-encoding: gzip")
    async with talker(65536, *heads) as (url, _):
        one = line(address("market", {"url": url}), **{"Accept-Encoding": "gzip"})
        assert one._http is not None
        assert one._http.headers.get_list("accept-encoding") == ["identity"]
        with pytest.raises(ToolFailed, match="packs its answers"):
            await soon(one._http.get(url))
        await one.close()


async def test_a_list_without_end() -> None:
    class Endless:
        asked = 0

        async def list_tools(self, **_: Any) -> ListToolsResult:
            self.asked += 1
            some = [Tool(name=f"t{n}", input_schema={}) for n in range(300)]
            return ListToolsResult(tools=some, next_cursor="more")

    client = Endless()
    assert len(await Line.tools(cast("Client", client))) == line_module.MAX_TOOLS
    assert client.asked == 4


async def test_other_tools_are_heard_of() -> None:
    with market() as shop:
        one = line(shop)
        changes: list[int] = []
        async with one.client() as client:
            listening = asyncio.create_task(one.changes(client, lambda: changes.append(1)))
            await eventually(lambda: shop.seen("http ") >= 0, "it listens")
            while not changes:
                await client.call_tool("grow")
            assert "grown" in {tool.name for tool in await one.tools(client)}
            assert not listening.done()
            shop.kill()
            await until(listening.done)
            assert any(isinstance(e, ServerUnreachable) for e in leaves(listening.exception()))  # type: ignore[arg-type]
        await one.close()


async def test_a_program() -> None:
    command = [sys.executable, APP]
    one = Line(address("local", {"command": command}), {}, {"MARKET_TEST": "there"})
    answer = await in_run(one, "environment", name="MARKET_TEST")
    assert answer.structured_content == {"result": "there"}
    await one.close()
