"""The connections to one upstream: a pool that all calls share, and a client for each of them.

A client of its own for each call, because in the SDK one fault of the transport ends a client
with all that goes on in it. Over a shared pool, a new one costs a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp_types import (
    CallToolResult,
    DiscoverResult,
    Implementation,
    ListToolsResult,
    Tool,
    ToolListChangedNotification,
)

from tailrace.errors import ServerUnreachable
from tailrace.mcp.address import Address
from tailrace.mcp.faults import ToolFailed
from tailrace.mcp.feed import Feed

CONNECT_SECONDS: Final = 30.0
"""What connecting may take, with all that is said before the first call."""

HANG_UP_SECONDS: Final = 10.0
"""What taking leave may take. A program that does not end by itself is killed within 4 s."""

_LOG_LEVEL: Final = "info"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

# A server could answer with pages for ever.
_MAX_PAGES: Final = 100

MAX_TOOLS: Final = 1000
"""Of one upstream; those it names first."""

MAX_ANSWER: Final = 8 * 1024 * 1024
"""Bytes of an answer that is no stream of events: it is held as a whole, several times over."""

_STREAM: Final = "text/event-stream"


class Line:
    """The way to one upstream, for one event loop.

    `headers`: those of every request; `environment`: what its program gets. `close` lets calls
    go on that still do, and the last of them closes the pool.
    """

    def __init__(
        self, address: Address, headers: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self._address = address
        self._environment = dict(environment)
        self._http = None if address.url is None else _pool(address, headers)
        self._users = 0
        self._is_closing = False
        self._mode: str = "auto"
        self._discovered: DiscoverResult | None = None

    @property
    def era(self) -> str:
        """What the next client takes for granted: `auto` before there was any."""
        return self._mode

    def forget(self) -> None:
        """Find out anew what the upstream speaks: it may be another by now."""
        self._mode, self._discovered = "auto", None

    async def close(self) -> None:
        """Close the pool, now or with the last call."""
        self._is_closing = True
        await self._left()

    async def _left(self) -> None:
        if self._is_closing and not self._users and self._http is not None:
            await self._http.aclose()

    @contextlib.asynccontextmanager
    async def client(self, **callbacks: Any) -> AsyncIterator[Client]:
        """A client that is connected. Raises TimeoutError, and whatever the SDK does."""
        client = Client(
            self._transport(),
            mode=self._mode,
            prior_discover=self._discovered,
            log_level=_LOG_LEVEL,
            client_info=Implementation(name="tailrace", version=version("tailrace")),
            # A client for one call has nothing to remember.
            cache=None,
            **callbacks,
        )
        self._users += 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as bound, client:
                bound.reschedule(None)
                if self._mode == "auto":
                    self._learn(client)
                try:
                    yield client
                finally:
                    bound.reschedule(asyncio.get_running_loop().time() + HANG_UP_SECONDS)
        except BaseExceptionGroup as error:
            # A group of faults hides a cancel that came with them, and whoever catches faults to
            # try again would never stop.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from error
            raise
        finally:
            self._users -= 1
            await self._left()

    def _transport(self) -> Any:
        address = self._address
        if address.url is not None:
            return streamable_http_client(address.url, http_client=self._http)
        program, *arguments = address.command
        return StdioServerParameters(
            command=program, args=arguments, env=self._environment, cwd=address.cwd
        )

    def _learn(self, client: Client) -> None:
        discovered = client.session.discover_result
        self._mode = "legacy" if discovered is None else client.protocol_version
        self._discovered = discovered

    async def call(self, tool: Tool, arguments: dict[str, Any], feed: Feed) -> CallToolResult:
        """The answer of a tool. Raises what `faults.fault` makes sense of."""
        answer: CallToolResult | None = None
        failure: Exception | None = None
        try:
            async with self.client(logging_callback=feed.log) as client:
                _introduce(client, tool)
                try:
                    with feed.scope:
                        answer = await client.call_tool(
                            tool.name, arguments, progress_callback=feed.progress
                        )
                        feed.close()
                except Exception as error:
                    failure = error
                    raise
        except (Exception, BaseExceptionGroup) as error:
            # What fails after the answer is the hanging up, and harms nobody.
            if answer is None:
                if failure is not None and isinstance(error, TimeoutError):
                    raise failure from None
                raise
        if answer is None:
            # Nothing else leaves the scope early.
            raise feed.fault or ToolFailed(f"{tool.name} was left without an answer.")
        return answer

    @staticmethod
    async def tools(client: Client) -> list[Tool]:
        """What the upstream offers, at most MAX_TOOLS."""
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            async with asyncio.timeout(CONNECT_SECONDS):
                page = await client.list_tools(cursor=cursor, cache_mode="bypass")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None or len(found) >= MAX_TOOLS:
                break
        return found[:MAX_TOOLS]

    async def changes(self, client: Client, changed: Callable[[], None]) -> None:
        """Call `changed` whenever other tools are offered. Returns where nobody tells so in this
        way; raises ServerUnreachable when it is over.
        """
        offered = client.server_capabilities.tools
        if client.session.discover_result is None or offered is None or not offered.list_changed:
            return
        with contextlib.suppress(SubscriptionLost):
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    changed()
        raise ServerUnreachable(
            f"The upstream {self._address.name} at {self._address.shown} has gone.",
            fix="It is asked again until it answers.",
        )


def heard(changed: Callable[[], None]) -> Callable[[Any], Any]:
    """What hears of other tools in the way of the protocol's older revisions."""

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            changed()

    return hear


def _introduce(client: Client, tool: Tool) -> None:
    """Tell a client of a tool that another has listed. It wants to know the schema of its
    answer, and would ask for all tools once more after every call.
    """
    # Private, as long as there is no other way; without it there is one request more.
    absorb = getattr(client.session, "_absorb_tool_listing", None)
    if absorb is not None:
        absorb(ListToolsResult(tools=[tool]), complete=False)


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends with an error where it becomes too large."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._body:
            size += len(piece)
            if size > MAX_ANSWER:
                raise ToolFailed(
                    f"The upstream answers with more than {MAX_ANSWER // 1024 // 1024} MiB.",
                    fix="Have it answer in parts, or with less.",
                )
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        # A KiB of it may hold a MiB.
        raise ToolFailed(
            "The upstream packs its answers, and was asked not to.",
            fix="Switch off the compression for its MCP endpoint.",
        )
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _STREAM and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


def _pool(address: Address, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    parts = urlsplit(str(address.url))
    asked = httpx2.Headers(dict(headers))
    asked["accept-encoding"] = "identity"
    return httpx2.AsyncClient(
        headers=asked,
        event_hooks={"response": [_bound]},
        # By default 100: the next call waits until another has ended, and then all of them fail.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=address.silence, pool=None),
        # Loading the certificates costs 60 ms, and plain http has no use for them.
        verify=True if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=parts.hostname not in _LOOPBACK,
    )
