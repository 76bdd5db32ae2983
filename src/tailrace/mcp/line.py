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
        """All that the upstream offers."""
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            async with asyncio.timeout(CONNECT_SECONDS):
                page = await client.list_tools(cursor=cursor, cache_mode="bypass")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

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


def _pool(address: Address, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    parts = urlsplit(str(address.url))
    return httpx2.AsyncClient(
        headers=dict(headers),
        # By default 100: the next call waits until another has ended, and then all of them fail.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=address.silence, pool=None),
        # Loading the certificates costs 60 ms, and plain http has no use for them.
        verify=True if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=parts.hostname not in _LOOPBACK,
    )
