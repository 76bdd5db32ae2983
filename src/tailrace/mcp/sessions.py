"""Streamable HTTP, by the SDK, for one life of an engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from tailrace.engine import Engine
from tailrace.errors import LogClosed, TooManyRequests
from tailrace.mcp.server import RunServer
from tailrace.protocol.access import OPEN, WATCH, WHO, Access

MOST_FOR_ONE: Final = 50
"""How many sessions one principal may have."""

_LEAVE_SECONDS: Final = 0.5
"""How long what is going on has for its last words."""

# Whoever is in front has checked them by the names that this server really has.
_UNCHECKED: Final = TransportSecuritySettings(enable_dns_rebinding_protection=False)


class _Counted(StreamableHTTPSessionManager):
    """Does not let one key take all the sessions there may be: no others could come in."""

    def _admit_session(
        self, requestor: AuthorizationContext | None
    ) -> StreamableHTTPServerTransport | None:
        # Where nobody is told apart, they all are one, and there is one bound for all.
        name = OPEN.principal if requestor is None else requestor["client_id"]
        if name != OPEN.principal:
            owners = self._session_owners.values()
            if sum(owner == requestor for owner in owners) >= MOST_FOR_ONE:
                raise TooManyRequests(
                    f"There are {MOST_FOR_ONE} MCP sessions of {name} already.",
                    fix="End those that are not needed (DELETE with Mcp-Session-Id), or wait: one "
                    "in which nothing is asked ends by itself.",
                    retry_after=60,
                )
        return super()._admit_session(requestor)


class Sessions:
    """The sessions of handshake-era clients, and the requests of all others. No event store: the
    SDK's lets one session read what another was sent, and the runs' log keeps more.
    """

    def __init__(self, engine: Engine, *, idle_seconds: float, most: int, **options: Any) -> None:
        self._engine = engine
        self.server = RunServer(engine, **options)
        self._http = _Counted(
            self.server,
            security_settings=_UNCHECKED,
            session_idle_timeout=idle_seconds,
            max_sessions=most,
        )
        self._serving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Be ready. What is entered here must be left in the same task, so it has one."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            try:
                news = self.server.news.following(self._engine.operations)
                async with self._http.run():
                    with news:
                        opened.set_result(None)
                        await self._closing.wait()
            except BaseException as error:
                if opened.done():
                    raise
                opened.set_exception(error)

        self._serving = asyncio.create_task(serve(), name="tailrace-mcp")
        await opened

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """ASGI."""
        if self._ending is not None or self._closing.is_set():
            raise LogClosed("The server goes away.", fix="Try again in a moment.")
        access = scope.get(WHO)
        name = access.principal if isinstance(access, Access) else OPEN.principal
        # The SDK compares it with whoever opened the session, and knows no session otherwise.
        user = AuthenticatedUser(AccessToken(token="", client_id=name, scopes=[]))
        if is_opening(scope) and self._engine.rates is not None:
            await self._engine.rates.admit(scope, WATCH)
        # Not every server has done it, and these are compared with what the body says.
        headers = [(field, text.strip(b" \t")) for field, text in scope["headers"]]
        inner = {**scope, "headers": headers, "user": user}
        await self._http.handle_request(inner, receive, send)

    def leave(self) -> None:
        """The server goes away. Idempotent."""
        if self._ending is None:
            self.server.leave()
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(_LEAVE_SECONDS, self._closing.set)

    async def close(self) -> None:
        """End all sessions."""
        self.server.leave()
        if self._ending is not None:
            self._ending.cancel()
        self._closing.set()
        if self._serving is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving


def is_opening(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request is to begin a session, as only `initialize` of the versions up to
    2025-11-25 can.
    """
    headers = dict(scope["headers"])
    told = headers.get(MCP_PROTOCOL_VERSION_HEADER.encode(), b"").decode("latin-1").strip(" \t")
    return MCP_SESSION_ID_HEADER.encode() not in headers and (
        not told or told in HANDSHAKE_PROTOCOL_VERSIONS
    )
