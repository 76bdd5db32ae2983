"""The MCP server of an engine: what it answers to each method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import mcp_types as types
from mcp.server.extension import Extension, compose_tool_call_handler
from mcp.server.lowlevel.server import HandlerEntry, NotificationOptions, Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types.methods import SPEC_CLIENT_METHODS

from tailrace.engine import Engine
from tailrace.mcp import catalogue, relay
from tailrace.mcp.answers import Link
from tailrace.mcp.asker import Asker, Context, Note
from tailrace.mcp.asks import Asks
from tailrace.mcp.calls import Calls
from tailrace.mcp.news import News
from tailrace.mcp.resources import SCHEME, TEMPLATE, Runs, subscribe, unknown, unsubscribe
from tailrace.mcp.tasks import TASK_SECONDS, Tasks
from tailrace.protocol.access import OPEN, RUN, WATCH, Access

Guest = MCPServer[Any] | Server[Any]
"""A host's own server, whose tools, prompts and resources stand next to ours."""

_INSTRUCTIONS: Final = (
    "Each tool starts a run, whose events are kept. A run that was left can be looked after with "
    f"{catalogue.GET}, {catalogue.EVENTS} and {catalogue.STOP}; its id is in each result, "
    "under _meta as tailrace/run."
)

_NOT_COPIED: Final = frozenset({"initialize", "server/discover"})
_WATCHING: Final = frozenset({"prompts/get", "completion/complete"})

Answer = Callable[[Context, Any], Awaitable[Any]]


class RunServer(Server[Any]):
    """An MCP server whose tools are the operations of an engine. `link`: where a person watches
    a run. `local`: who asks where there is no HTTP. `tasks_only`: the operations that only those
    clients may call that know tasks. `task_seconds`: how long a task is kept at the least, from
    its creation.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        link: Link | None = None,
        guest: Guest | None = None,
        local: Access = OPEN,
        tasks_only: frozenset[str] = frozenset(),
        task_seconds: float = TASK_SECONDS,
        asks: Asks | None = None,
        note: Note | None = None,
    ) -> None:
        self._guest = lowlevel(guest)
        asker = self._asker = Asker(engine, local, note)
        self.calls = Calls(engine, asker, asks or Asks(engine), link)
        self.runs = Runs(engine, asker, link)
        listen = self._theirs("subscriptions/listen")
        self.news = News(self.runs, listen)
        super().__init__(
            self._guest.name if self._guest else "tailrace",
            version=(self._guest.version if self._guest else "") or _version(),
            title=self._guest.title if self._guest else None,
            instructions=(self._guest.instructions if self._guest else None) or _INSTRUCTIONS,
            get_tool_input_schema=self._schema,
        )
        if self._guest is not None:
            self._welcome(self._guest)
            if self._theirs("prompts/list") is not None:
                params = types.PaginatedRequestParams
                self.add_request_handler("prompts/list", params, self._list_prompts)
        own: list[tuple[str, type[Any], Answer]] = [
            ("tools/list", types.PaginatedRequestParams, self._list_tools),
            ("resources/list", types.PaginatedRequestParams, self._list_resources),
            ("resources/templates/list", types.PaginatedRequestParams, self._list_templates),
            ("resources/read", types.ReadResourceRequestParams, self._read),
            ("resources/subscribe", types.SubscribeRequestParams, self._subscribe),
            ("resources/unsubscribe", types.UnsubscribeRequestParams, self._unsubscribe),
            ("subscriptions/listen", types.SubscriptionsListenRequestParams, self.news.listen),
            ("logging/setLevel", types.SetLevelRequestParams, self._set_level),
        ]
        for method, params, handler in own:
            self.add_request_handler(method, params, handler)
        self.add_notification_handler(
            "notifications/initialized", types.NotificationParams, self._begun
        )
        tasks = Tasks(engine, asker, self.calls, only=tasks_only, seconds=task_seconds)
        self.add_request_handler(
            "tools/call",
            types.CallToolRequestParams,
            compose_tool_call_handler([tasks], self._call),
        )
        self._extend(tasks)

    def _welcome(self, guest: Server[Any]) -> None:
        self.lifespan = guest.lifespan
        self.middleware = guest.middleware
        self.cache_hints = guest.cache_hints
        self.extensions = dict(guest.extensions)
        for method in SPEC_CLIENT_METHODS - _NOT_COPIED:
            entry = guest.get_request_handler(method)
            if entry is not None:
                answer = entry.handler
                if method in _WATCHING:
                    answer = self._guarded(answer, WATCH)
                self.add_request_handler(method, entry.params_type, answer)

    def _guarded(self, answer: Answer, scope: str) -> Answer:
        # The guest knows nothing of keys: whoever comes to it through our door must not do more
        # there than with what is ours.

        async def guarded(ctx: Context, params: Any) -> Any:
            await self._asker.admitted(ctx, scope)
            return await answer(ctx, params)

        return guarded

    def _extend(self, extension: Extension) -> None:
        for method in extension.methods():
            self.add_request_handler(method.method, method.params_type, method.handler)
        self.extensions[extension.identifier] = extension.settings()

    def get_request_handler(self, method: str) -> HandlerEntry[Any] | None:
        """Ours, or what the guest's own extensions have brought."""
        found = super().get_request_handler(method)
        if found is None and self._guest is not None:
            entry = self._guest.get_request_handler(method)
            if entry is not None:
                # Nobody knows what it does: it is held for the most that a method may do.
                found = HandlerEntry(entry.params_type, self._guarded(entry.handler, RUN))
        return found

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> Any:
        """Says that the tools may change."""
        options = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)

    def leave(self) -> None:
        """The server goes away: answer what is asked, and end what listens."""
        self.calls.leaving.set()
        self.news.close()

    # --- tools -----------------------------------------------------------------------

    async def _list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        # All of ours come first, in one page; further pages are the guest's.
        access = await self._asker.listing(ctx)
        cursor = params.cursor if params else None
        ours = [] if cursor else self.calls.list(access)
        theirs = self._theirs("tools/list")
        if theirs is None or not access.may(RUN):
            return types.ListToolsResult(tools=ours)
        found: types.ListToolsResult = await theirs(ctx, params)
        # Those that whoever asks may not call hide the guest's as well.
        names = self.calls.operations.keys() | catalogue.OWN.keys()
        tools = ours + [tool for tool in found.tools if tool.name not in names]
        return found.model_copy(update={"tools": tools})

    async def _call(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        result = await self.calls.call(ctx, params)
        if result is not None:
            return result
        theirs = self._theirs("tools/call")
        if theirs is None:
            raise MCPError(
                code=types.INVALID_PARAMS,
                message=f"There is no tool {params.name[:80]!r}; tools/list has those there are.",
            )
        # Whatever it is called: a name is told to whoever reads the notes.
        name = params.name[:80]
        await self._asker.admitted(ctx, RUN, name)
        self._asker.note(ctx, None, tool=name)
        answer: types.CallToolResult | types.InputRequiredResult = await theirs(ctx, params)
        return answer

    def _schema(self, name: str) -> Any:
        operation = self.calls.operations.get(name)
        if operation is not None:
            return operation.parameters
        if name in catalogue.OWN:
            return catalogue.OWN[name][1].input_schema
        look = self._guest.get_tool_input_schema if self._guest else None
        return look(name) if look else None

    # --- resources -------------------------------------------------------------------

    async def _list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        cursor = params.cursor if params else None
        access = await self._asker.listing(ctx)
        theirs = self._theirs("resources/list")
        guests: list[types.Resource] = []
        if cursor is None and theirs is not None and access.may(WATCH):
            guests = (await theirs(ctx, None)).resources
        runs, after = await self.runs.list(ctx, cursor)
        return types.ListResourcesResult(resources=[*guests, *runs], next_cursor=after)

    async def _list_templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        access = await self._asker.listing(ctx)
        theirs = self._theirs("resources/templates/list")
        guests: list[types.ResourceTemplate] = []
        if theirs is not None and access.may(WATCH):
            guests = (await theirs(ctx, params)).resource_templates
        return types.ListResourceTemplatesResult(resource_templates=[TEMPLATE, *guests])

    async def _list_prompts(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        access = await self._asker.listing(ctx)
        theirs = self._theirs("prompts/list")
        if theirs is None or not access.may(WATCH):
            return types.ListPromptsResult(prompts=[])
        found: types.ListPromptsResult = await theirs(ctx, params)
        return found

    async def _read(self, ctx: Context, params: types.ReadResourceRequestParams) -> Any:
        if params.uri.startswith(SCHEME):
            return await self.runs.read(ctx, params.uri)
        theirs = self._theirs("resources/read")
        if theirs is None:
            raise unknown(params.uri)
        await self._asker.admitted(ctx, WATCH)
        return await theirs(ctx, params)

    async def _subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        theirs = self._theirs("resources/subscribe")
        if params.uri.startswith(SCHEME):
            await self.runs.subscribe(ctx, params.uri)
            return types.EmptyResult()
        if theirs is None and not self.news.has_guest:
            raise unknown(params.uri)
        await self._asker.admitted(ctx, WATCH)
        if theirs is not None:
            await theirs(ctx, params)
        else:
            subscribe(ctx, params.uri, lambda: self.news.relayed(ctx, params.uri))
        return types.EmptyResult()

    async def _unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        theirs = self._theirs("resources/unsubscribe")
        if theirs is not None and not params.uri.startswith(SCHEME):
            await theirs(ctx, params)
        else:
            unsubscribe(ctx, params.uri)
        return types.EmptyResult()

    # --- sessions --------------------------------------------------------------------

    async def _set_level(
        self, ctx: Context, params: types.SetLevelRequestParams
    ) -> types.EmptyResult:
        theirs = self._theirs("logging/setLevel")
        if theirs is not None:
            await theirs(ctx, params)
        return await relay.set_level(ctx, params)

    async def _begun(self, ctx: Context, params: Any) -> None:
        self.news.greet(ctx)
        entry = (
            self._guest.get_notification_handler("notifications/initialized")
            if self._guest
            else None
        )
        if entry is not None:
            await entry.handler(ctx, params)

    def _theirs(self, method: str) -> Answer | None:
        entry = self._guest.get_request_handler(method) if self._guest else None
        return None if entry is None else entry.handler


def lowlevel(guest: Guest | None) -> Server[Any] | None:
    """The server within, of the SDK's two kinds."""
    if not isinstance(guest, MCPServer):
        return guest
    # The one way to it that is public.
    guest.streamable_http_app()
    return guest.session_manager.app


def _version() -> str:
    try:
        return version("tailrace")
    except PackageNotFoundError:
        return ""
