"""Streamable HTTP, by the SDK, for one life of an engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from tailrace.engine import Engine
from tailrace.errors import LogClosed
from tailrace.mcp.server import RunServer
from tailrace.protocol.access import OPEN, WHO, Access

_LEAVE_SECONDS: Final = 0.5
"""How long what is going on has for its last words."""

# Whoever is in front has checked them by the names that this server really has.
_UNCHECKED: Final = TransportSecuritySettings(enable_dns_rebinding_protection=False)


class Sessions:
    """The sessions of handshake-era clients, and the requests of all others. No event store: the
    SDK's lets one session read what another was sent, and the runs' log keeps more.
    """

    def __init__(self, engine: Engine, *, idle_seconds: float, most: int, **options: Any) -> None:
        self._engine = engine
        self.server = RunServer(engine, **options)
        self._http = StreamableHTTPSessionManager(
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
