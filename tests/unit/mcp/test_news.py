import asyncio
from typing import Any

import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceUpdatedNotification, ToolListChangedNotification

from tailrace import Access, Tailrace
from tailrace.mcp.face import McpFace
from tailrace.mcp.resources import MOST_SUBSCRIPTIONS
from tailrace.protocol.access import RUN
from tests.callers import ERAS, LEGACY, MODERN, client, served
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


def app() -> tuple[Tailrace, McpFace]:
    guest = MCPServer("guest", log_level="WARNING")

    @guest.tool()
    async def touch(ctx: Context) -> str:
        await ctx.notify_resource_updated("test://it")
        return "done"

    @guest.resource("test://it")
    def it() -> str:
        return "it"

    runs = Tailrace("memory:")
    return runs, McpFace(runs, guest=guest)


def more(runs: Tailrace, name: str) -> None:
    async def work() -> None:
        pass

    runs.offer(work, name=name)


async def test_sessions_hear_of_new_tools() -> None:
    runs, face = app()
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.append(message)

    async with served(runs, face) as port, client(port, LEGACY, message_handler=hear) as mcp:
        assert mcp.server_capabilities.tools is not None
        assert mcp.server_capabilities.tools.list_changed
        await mcp.list_tools()
        # The stream on which they come is opened beside.
        await until(lambda: runs.hub.connections)
        for number in range(3):
            more(runs, f"more{number}")
        await until(lambda: heard)
        assert len(heard) == 1
        runs.operations.remove(runs.operations.get("more0"))
        await until(lambda: len(heard) == 2)


async def test_who_listens_hears_of_new_tools() -> None:
    runs, face = app()
    async with (
        served(runs, face) as port,
        client(port, MODERN) as mcp,
        mcp.listen(tools_list_changed=True) as heard,
    ):
        await asyncio.to_thread(more, runs, "more")
        async with asyncio.timeout(5):
            assert isinstance(await anext(aiter(heard)), ToolsListChanged)


async def test_who_listens_hears_the_guest() -> None:
    runs, face = app()
    async with (
        served(runs, face) as port,
        client(port, MODERN) as mcp,
        mcp.listen(resource_subscriptions=["test://it"]) as heard,
    ):
        await mcp.call_tool("touch")
        async with asyncio.timeout(5):
            assert (await anext(aiter(heard))).uri == "test://it"  # type: ignore[union-attr]


async def test_who_listens_names_each_resource_once_and_not_too_many() -> None:
    runs, face = app()
    async with served(runs, face) as port, client(port, MODERN) as mcp:
        twice = ["test://it"] * (MOST_SUBSCRIPTIONS + 1)
        async with mcp.listen(resource_subscriptions=twice) as heard:
            assert heard.honored.resource_subscriptions == ["test://it"]
        many = [f"run://{number}" for number in range(MOST_SUBSCRIPTIONS + 1)]
        with pytest.raises(MCPError, match="100 resources at the most"):
            async with mcp.listen(resource_subscriptions=many):
                raise AssertionError


async def test_who_may_not_watch_does_not_hear_the_guest() -> None:
    runs, face = app()
    async with (
        served(runs, face, ann=Access.of("ann", [RUN])) as port,
        client(port, MODERN, "ann") as mcp,
        mcp.listen(tools_list_changed=True, resource_subscriptions=["test://it"]) as heard,
    ):
        assert not heard.honored.resource_subscriptions


async def test_sessions_hear_the_guest() -> None:
    runs, face = app()
    heard: list[str] = []

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.append(str(message.params.uri))

    async with served(runs, face) as port, client(port, LEGACY, message_handler=hear) as mcp:
        await mcp.subscribe_resource("test://it")
        async with asyncio.timeout(5):
            while not heard:
                await mcp.call_tool("touch")
                await asyncio.sleep(0.01)
        await mcp.unsubscribe_resource("test://it")
        assert set(heard) == {"test://it"}


@pytest.mark.parametrize("era", ERAS)
async def test_streams_of_news_end_with_the_server(era: str) -> None:
    runs, face = app()
    async with served(runs, face) as port, client(port, era) as mcp:
        await mcp.list_tools()
        if era == MODERN:
            async with mcp.listen(tools_list_changed=True) as heard:
                runs.hub.drain()
                async with asyncio.timeout(5):
                    assert [event async for event in heard] == []
        else:
            await until(lambda: runs.hub.connections)
            runs.hub.drain()
        await until(lambda: not runs.hub.connections, within=3)
