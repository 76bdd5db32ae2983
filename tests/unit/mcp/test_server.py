import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    Completion,
    EmptyResult,
    ListToolsResult,
    PromptReference,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    Tool,
)

from tailrace import Access, Tailrace
from tailrace.mcp.face import McpFace
from tailrace.mcp.server import RunServer, lowlevel
from tailrace.mcp.tasks import NAME
from tailrace.protocol.access import RUN, WATCH
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

    @guest.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(*_: object) -> Completion:
        return Completion(values=["it"])

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


@eras
async def test_what_a_host_has_takes_the_scopes_that_ours_takes(era: str) -> None:
    runs, told = Tailrace("memory:"), []
    face = McpFace(runs, guest=host(), note=lambda *one: told.append(one))
    keys = {"runner": Access.of("runner", [RUN]), "watcher": Access.of("watcher", [WATCH])}
    async with served(runs, face, **keys) as port:
        async with client(port, era, "runner") as mcp:
            assert [one.name for one in (await mcp.list_tools()).tools] == ["greet", "work"]
            assert text(await mcp.call_tool("greet", {"name": "Ann"})) == "Hello, Ann!"
            assert (await mcp.list_resources()).resources == []
            assert (await mcp.list_prompts()).prompts == []
            [template] = (await mcp.list_resource_templates()).resource_templates
            assert template.uri_template == "run://{id}"
            about = PromptReference(name="ask")
            for refused in (
                mcp.read_resource("test://it"),
                mcp.get_prompt("ask", {"about": "it"}),
                mcp.complete(about, {"name": "about", "value": "i"}),
            ):
                with pytest.raises(MCPError, match="not the scope 'watch'"):
                    await refused
        async with client(port, era, "watcher") as mcp:
            assert "greet" not in [one.name for one in (await mcp.list_tools()).tools]
            assert [one.name for one in (await mcp.list_prompts()).prompts] == ["ask"]
            await mcp.read_resource("test://it")
            await mcp.get_prompt("ask", {"about": "it"})
            completed = await mcp.complete(about, {"name": "about", "value": "i"})
            assert completed.completion.values == ["it"]
            with pytest.raises(MCPError, match="not the scope 'run'"):
                await mcp.call_tool("greet", {"name": "Ann"})
    calls = [one for one in told if one[2] == "tools/call greet"]
    assert [(who.principal, status) for who, _, _, _, status, _ in calls] == [
        ("runner", 200),
        ("watcher", 403),
    ]


@eras
async def test_what_a_host_has_counts(era: str) -> None:
    runs, face = app(host())
    counted: list[str] = []

    class Rates:
        async def admit(self, scope: Any, need: str) -> None:
            counted.append(need)

    runs.rates = Rates()
    async with served(runs, face) as port, client(port, era) as mcp:
        began = len(counted)
        # It begins a session, which is kept.
        assert counted == ([WATCH] if era == LEGACY else [])
        await mcp.list_tools()
        await mcp.list_resources()
        await mcp.list_prompts()
        await mcp.read_resource("test://it")
        await mcp.get_prompt("ask", {"about": "it"})
        assert counted[began:] == [WATCH] * 5
        await mcp.call_tool("greet", {"name": "Ann"})
        assert counted[began + 5 :] == [RUN]


async def test_a_subscription_to_what_a_host_has_takes_a_scope() -> None:
    runs, face = app(host())
    async with (
        served(runs, face, ann=Access.of("ann", [RUN])) as port,
        client(port, LEGACY, "ann") as mcp,
    ):
        with pytest.raises(MCPError, match="not the scope 'watch'"):
            await mcp.subscribe_resource("test://it")


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
    asking = cast("ServerRequestContext", SimpleNamespace(request=None, method="com.example/odd"))
    for scope, refused in ((RUN, False), (WATCH, True)):
        guarded = RunServer(runs, guest=guest, local=Access.of("ann", [scope]))
        entry = guarded.get_request_handler("com.example/odd")
        assert entry is not None
        with pytest.raises(MCPError) if refused else contextlib.nullcontext():
            await entry.handler(asking, RequestParams())


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
