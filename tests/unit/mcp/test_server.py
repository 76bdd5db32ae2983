import pytest
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    EmptyResult,
    ListToolsResult,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    Tool,
)

from tailrace import Tailrace
from tailrace.mcp.face import McpFace
from tailrace.mcp.server import RunServer, lowlevel
from tailrace.mcp.tasks import NAME
from tests.callers import LEGACY, MODERN, client, served, text

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

# The pinned one does not ask for what the server is.
eras = pytest.mark.parametrize("era", [LEGACY, "auto"])


def host() -> MCPServer:
    guest = MCPServer("host", instructions="Ask nicely.", version="7", log_level="WARNING")

    @guest.tool()
    def greet(name: str) -> str:
        """Greets."""
        return f"Hello, {name}!"

    @guest.tool()
    def run_get() -> str:
        """Hidden by ours."""
        raise AssertionError

    @guest.tool()
    def work() -> str:
        """Hidden by the operation."""
        raise AssertionError

    @guest.resource("test://it")
    def it() -> str:
        return "it"

    @guest.resource("test://its/{id}")
    def its(id: str) -> str:
        return id

    @guest.prompt()
    def ask(about: str) -> str:
        return f"What about {about}?"

    return guest


def app(guest: MCPServer | Server | None = None) -> tuple[Tailrace, McpFace]:
    runs = Tailrace("memory:")

    @runs.operation
    async def work() -> str:
        """Works."""
        return "done"

    return runs, McpFace(runs, guest=guest)


@eras
async def test_alone_it_has_what_the_engine_has(era: str) -> None:
    runs, face = app()
    async with served(runs, face) as port, client(port, era) as mcp:
        assert mcp.server_info is not None
        assert mcp.server_info.name == "tailrace"
        assert "run_get" in (mcp.instructions or "")
        assert mcp.server_capabilities.prompts is None
        known: dict[str, object] = {} if era == LEGACY else {NAME: {}}
        assert (mcp.server_capabilities.extensions or {}) == known
        with pytest.raises(MCPError, match="no test://it"):
            await mcp.read_resource("test://it")
        with pytest.raises(MCPError, match="Method not found"):
            await mcp.list_prompts()


@eras
async def test_a_host_has_its_own_things_next_to_it(era: str) -> None:
    runs, face = app(host())
    async with served(runs, face) as port, client(port, era) as mcp:
        assert mcp.server_info is not None
        assert (mcp.server_info.name, mcp.server_info.version) == ("host", "7")
        assert mcp.instructions == "Ask nicely."
        tools = {tool.name: tool.description for tool in (await mcp.list_tools()).tools}
        assert list(tools) == ["work", "run_get", "run_events", "run_cancel", "greet"]
        assert tools["work"] == "Works."
        assert text(await mcp.call_tool("work")) == "done"
        assert text(await mcp.call_tool("greet", {"name": "Ann"})) == "Hello, Ann!"
        assert (await mcp.call_tool("run_get", {"run": "x"})).is_error
        uris = [one.uri for one in (await mcp.list_resources()).resources]
        assert uris[0] == "test://it"
        assert uris[1].startswith("run://")
        templates = (await mcp.list_resource_templates()).resource_templates
        assert [one.uri_template for one in templates] == ["run://{id}", "test://its/{id}"]
        [content] = (await mcp.read_resource("test://its/7")).contents
        assert content.text == "7"  # type: ignore[union-attr]
        prompt = await mcp.get_prompt("ask", {"about": "it"})
        assert prompt.messages[0].content.text == "What about it?"  # type: ignore[union-attr]


async def test_a_host_may_know_more_methods() -> None:
    seen: list[str] = []
    guest: Server = Server("host")

    async def list_tools(*_: object) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="theirs", input_schema={"type": "object"})])

    async def subscribe(_: object, params: SubscribeRequestParams) -> EmptyResult:
        seen.append(params.uri)
        return EmptyResult()

    async def level(_: object, params: SetLevelRequestParams) -> EmptyResult:
        seen.append(params.level)
        return EmptyResult()

    async def begun(*_: object) -> None:
        seen.append("begun")

    async def odd(*_: object) -> EmptyResult:
        return EmptyResult()

    guest.add_request_handler("tools/list", RequestParams, list_tools)
    guest.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    guest.add_request_handler("resources/unsubscribe", SubscribeRequestParams, subscribe)
    guest.add_request_handler("logging/setLevel", SetLevelRequestParams, level)
    guest.add_request_handler("com.example/odd", RequestParams, odd)
    guest.add_notification_handler("notifications/initialized", RequestParams, begun)
    runs, face = app(guest)
    async with served(runs, face) as port, client(port, LEGACY) as mcp:
        assert [tool.name for tool in (await mcp.list_tools()).tools][-1] == "theirs"
        await mcp.subscribe_resource("test://it")
        await mcp.unsubscribe_resource("test://it")
        await mcp.set_logging_level("error")
    assert seen == ["begun", "test://it", "test://it", "error"]
    server = RunServer(runs, guest=guest)
    assert server.get_request_handler("com.example/odd") is not None
    assert server.get_request_handler("com.example/even") is None


async def test_headers_are_compared_with_the_right_schema() -> None:
    guest = MCPServer("host", log_level="WARNING")

    @guest.tool()
    def greet(ctx: Context, name: str) -> str:
        return name

    runs, _ = app()
    server = RunServer(runs, guest=guest)
    look = server.get_tool_input_schema
    assert look is not None
    assert look("work") == {"properties": {}, "title": "work", "type": "object"} | dict(
        look("work") or {}
    )
    assert "run" in (look("run_get") or {})["properties"]
    assert "name" in (look("greet") or {})["properties"]
    assert look("nonsense") is None
    assert RunServer(runs).get_tool_input_schema("nonsense") is None  # type: ignore[misc]


def test_both_kinds_of_server_are_taken() -> None:
    inner: Server = Server("inner")
    assert lowlevel(inner) is inner
    assert lowlevel(None) is None
    found = lowlevel(MCPServer("outer", log_level="WARNING"))
    assert found is not None
    assert found.name == "outer"


async def test_what_one_sees_is_not_cached_for_others() -> None:
    runs, face = app()
    async with served(runs, face) as port, client(port, MODERN) as mcp:
        assert (await mcp.list_tools()).cache_scope == "private"
