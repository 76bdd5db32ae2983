"""The MCP server: two tools over the feeds, by Streamable HTTP or standard input and output.

It speaks every version of the protocol that its SDK does.
"""

from __future__ import annotations

import contextlib
import hmac
import inspect
import ipaddress
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Final, TypeAlias

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.farewell import stopped
from tailrace.market_news.newsroom import Newsroom
from tailrace.market_news.selection import Selection, symbol_of
from tailrace.market_news.settings import Settings
from tailrace.market_news.stream import (
    MAX_DURATION,
    MAX_INTERVAL,
    MAX_LIMIT,
    MIN_INTERVAL,
    Clock,
    Update,
    snapshot,
    steps,
)

MAX_STREAMS: Final = 1000
"""At the same time, of all callers."""

_PATIENCE_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2

_INSTRUCTIONS: Final = (
    "News of the markets from RSS and Atom feeds. stream_market_news follows them for a while and "
    "tells the articles as progress; get_market_news answers what there is now. All times are "
    "seconds."
)

Symbol: TypeAlias = Annotated[
    str | None,
    Field(
        description="A ticker symbol, like AAPL: only articles that name it, or its company. "
        "None or empty: all."
    ),
]
Category: TypeAlias = Annotated[
    str | None,
    Field(description="Only feeds of this category, like markets. None or empty: all."),
]
Limit: TypeAlias = Annotated[
    int, Field(ge=1, le=MAX_LIMIT, description="How many articles at once, at most.")
]
Interval: TypeAlias = Annotated[
    float,
    Field(
        ge=MIN_INTERVAL,
        le=MAX_INTERVAL,
        allow_inf_nan=False,
        description="Seconds from one update to the next.",
    ),
]
Duration: TypeAlias = Annotated[
    float,
    Field(gt=0, le=MAX_DURATION, allow_inf_nan=False, description="Seconds for which to follow."),
]


class News:
    """A news server, before it is served. `mcp` is the SDK's server."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._streams: set[anyio.CancelScope] = set()
        self._is_closing = False
        self.mcp: MCPServer[Newsroom] = MCPServer(
            "market-news",
            title="Market news",
            instructions=_INSTRUCTIONS,
            version=version("tailrace"),
            lifespan=self._open,
            log_level="WARNING",
        )
        for tool, is_structured in ((self.stream_market_news, False), (self.get_market_news, True)):
            described = inspect.cleandoc(tool.__doc__ or "")
            self.mcp.tool(description=described, structured_output=is_structured)(tool)

    @contextlib.asynccontextmanager
    async def _open(self, _: MCPServer[Any]) -> AsyncIterator[Newsroom]:
        async with Newsroom(self._settings, self._clock.now) as room:
            yield room

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def close(self) -> None:
        """End the streams there are, and have no further ones."""
        self._is_closing = True
        for scope in self._streams:
            scope.cancel()

    async def stream_market_news(
        self,
        context: Context[Newsroom, Any],
        *,
        symbol: Symbol = None,
        interval: Interval = 10.0,
        duration: Duration = 60.0,
        limit: Limit = 10,
        category: Category = None,
    ) -> str:
        """Follow the news for `duration` seconds, and tell what is new every `interval` seconds.

        Each progress notification has the share of the time that is over, from 0 to 1, and as its
        message a JSON object: {"timestamp", "status", "news": {"category", "count", "articles":
        [{"source", "title", "url", "time", "category"}]}, "more", "problems": [{"source",
        "what"}], "sample", "notice"}. The first is there at once. Every article is told once, the
        newest first; what is beyond `limit` follows with the next update. The result says how
        many there were. A feed that cannot be read is a problem that is told, and ends nothing.
        """
        room, selection, category = _asked(context, symbol, category)
        if self.streams >= MAX_STREAMS:
            raise ToolError(f"There are {MAX_STREAMS} streams already. Come back later.")
        updates = articles = 0
        scope = anyio.CancelScope()
        self._streams.add(scope)
        if self._is_closing:
            scope.cancel()
        try:
            with scope:
                told = steps(
                    room,
                    selection,
                    interval=interval,
                    duration=duration,
                    limit=limit,
                    category=category,
                    clock=self._clock,
                )
                async with contextlib.aclosing(told):
                    async for step in told:
                        await context.report_progress(step.progress, 1.0, step.message)
                        updates += step.update["status"] == "news"
                        articles += step.update["news"]["count"]
        finally:
            self._streams.discard(scope)
        if scope.cancelled_caught:
            raise ToolError(
                f"The news server is shutting down, after {updates} updates with {articles} "
                "articles. Start the stream again later."
            )
        return f"Stream complete: {updates} updates with {articles} articles in {duration:g} s."

    async def get_market_news(
        self,
        context: Context[Newsroom, Any],
        *,
        symbol: Symbol = None,
        limit: Limit = 10,
        category: Category = None,
    ) -> Update:
        """The newest articles there are now, at most `limit`, as one update of a stream."""
        room, selection, category = _asked(context, symbol, category)
        issue = await room.latest(category=category, patience=_PATIENCE_SECONDS)
        at = self._clock.wall()
        return snapshot(issue, selection, limit=limit, category=category, at=at)


def _asked(
    context: Context[Newsroom, Any], symbol: str | None, category: str | None
) -> tuple[Newsroom, Selection, str | None]:
    """What is asked for. Raises ToolError, which the model reads and corrects."""
    room = context.request_context.lifespan_context
    wanted = None
    if symbol is not None and symbol.strip():
        wanted = symbol_of(symbol)
        if wanted is None:
            raise ToolError(f"{symbol[:40]!r} is no ticker symbol. Give one like AAPL or BRK.B.")
    category = (category or "").strip().lower() or None
    if category is not None and category not in room.categories:
        raise ToolError(
            f"There is no category {category[:40]!r}. There are {', '.join(room.categories)}."
        )
    return room, Selection(wanted, category, room.settings.companies), category


# ------------------------------------------------------------------ its life


class Keyed:
    """Lets in who has the key: `Authorization: Bearer …`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._knows(scope):
            said = {"error": "unauthorized", "error_description": "Authorization: Bearer KEY."}
            # RFC 6750 §3.
            headers = {"www-authenticate": 'Bearer realm="market-news"'}
            await JSONResponse(said, 401, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        # Whoever measures the time could otherwise guess it letter by letter.
        return hmac.compare_digest(scheme.lower() + b" " + key.strip(), self._expected)


def asgi(news: News, *, key: str | None = None, is_local: bool = True) -> ASGIApp:
    """The app, at /mcp. `is_local`: it answers to names of this machine only, so that no page of
    another site can call it by a name of its own.
    """
    app = news.mcp.streamable_http_app(host="127.0.0.1" if is_local else "")
    return app if key is None else Keyed(app, key)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, news: News, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._news = news
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before the connections are waited for: streams would go on until they are over.
        self._news.close()
        await super().shutdown(sockets=sockets)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def serve(
    listener: socket.socket,
    settings: Settings,
    *,
    key: str | None = None,
    say: Callable[[str], None] = _say,
) -> None:
    """Serve what comes to `listener` until SIGINT, SIGTERM or SIGHUP; then end the streams, and
    return. `say` gets the URL once requests are answered.
    """
    news = News(settings)
    host, port = listener.getsockname()[:2]
    is_local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        asgi(news, key=key, is_local=is_local),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = _Server(config, news, lambda: say(f"Market news at http://{shown}:{port}/mcp"))
    with stopped(partial(setattr, server, "should_exit", True)):
        server.run(sockets=[listener])


def talk(settings: Settings) -> None:
    """Serve one client by standard input and output, until it closes them."""
    News(settings).mcp.run("stdio")
