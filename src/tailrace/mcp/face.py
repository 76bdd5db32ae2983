"""The MCP face of an engine: an ASGI app at any path, which costs nothing until it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    MutableMapping,
)
from typing import TYPE_CHECKING, Any, Final

from tailrace.engine import Engine
from tailrace.errors import LogClosed, TailraceError, TooManyRequests
from tailrace.mcp.asks import Asks
from tailrace.protocol.access import caller
from tailrace.protocol.events import to_json

if TYPE_CHECKING:
    from tailrace.mcp.asker import Note
    from tailrace.mcp.server import Guest
    from tailrace.mcp.sessions import Sessions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

IDLE_SECONDS: Final = 30 * 60.0
"""How long a session of a handshake-era client is kept that nothing is asked in."""

MOST_SESSIONS: Final = 1000
"""How many sessions of handshake-era clients there may be."""


class McpFace:
    """Streamable HTTP of the Model Context Protocol, in all versions the SDK speaks, for one
    engine: an ASGI app, to be mounted anywhere.

    Who asks is what the scope has under `tailrace.protocol.access.WHO`. Host and Origin are for
    whoever is in front to check. `link`: where a person watches a run, from its id. `guest`: an
    `MCPServer` (or `Server`) of the SDK whose tools, prompts and resources are offered next to
    the operations. `tasks_only`: operations for clients that know tasks, and no others.
    `task_seconds`: how long a task is kept at the least; the log's retention must allow it.
    `note`: writes down who did what, as `tailrace.http.audit.audited` does.
    `idle_seconds` and `most_sessions` are bounds of the sessions that handshake-era clients have.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        link: Callable[[str], str] | None = None,
        guest: Guest | None = None,
        tasks_only: Collection[str] = (),
        task_seconds: float = 3600.0,
        idle_seconds: float = IDLE_SECONDS,
        most_sessions: int = MOST_SESSIONS,
        note: Note | None = None,
    ) -> None:
        self._engine = engine
        self._options = {
            "link": link,
            "guest": guest,
            "tasks_only": frozenset(tasks_only),
            "task_seconds": task_seconds,
            "note": note,
        }
        self._bounds = {"idle_seconds": idle_seconds, "most": most_sessions}
        self._sessions: Sessions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None
        self.asks = Asks(engine)
        """Questions of runs to whoever called them: `await runs.mcp.asks.ask(run, "Really?")`."""

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """For `engine.companions`: what was opened by requests ends with the engine."""
        try:
            yield
        finally:
            sessions, self._sessions = self._sessions, None
            if sessions is not None and self._loop is asyncio.get_running_loop():
                await sessions.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            raise RuntimeError(f"MCP is spoken over HTTP, not over {scope['type']!r}.")
        try:
            await self._engine.start()
            sessions = await self._opened()
        except TailraceError as error:
            await refuse(error, send)
            return
        exchange = _Exchange(sessions)
        try:
            with seat(self._engine, scope):
                self._engine.hub.connect(exchange)
                try:
                    await sessions(scope, receive, send)
                finally:
                    self._engine.hub.disconnect(exchange)
        except (LogClosed, TooManyRequests) as error:
            await refuse(error, send)

    async def _opened(self) -> Sessions:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A test client makes a loop for each request; what was in the last one is gone.
            self._loop, self._opening, self._sessions = loop, asyncio.Lock(), None
        if self._sessions is None:
            assert self._opening is not None  # noqa: S101
            async with self._opening:
                if self._sessions is None:
                    # Half a second, in which everybody else goes on.
                    module = await asyncio.to_thread(importlib.import_module, _SESSIONS)
                    build = functools.partial(module.Sessions, self._engine, asks=self.asks)
                    sessions: Sessions = build(**self._options, **self._bounds)
                    await sessions.open()
                    self._sessions = sessions
        return self._sessions


_SESSIONS: Final = "tailrace.mcp.sessions"


class _Exchange:
    """A request that the clock knows of, so that it ends when the server goes away."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def beat(self, now: float) -> float | None:
        """The SDK has its own signs of life; see `rounds.Timed`."""
        return now + 3600.0

    def leave(self) -> None:
        """The server goes away."""
        self._sessions.leave()


@contextlib.contextmanager
def seat(engine: Engine, scope: Scope) -> Iterator[None]:
    """What may be a stream takes a seat like the others. Raises TooManyRequests."""
    with engine.hub.seats.sitting(caller(scope).name):
        yield


async def refuse(error: TailraceError, send: Send) -> None:
    """Answer a request that never came to the protocol."""
    told = {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32603 if error.status >= 500 else -32600,
            "message": str(error),
            "data": {"code": error.code, "fix": error.fix},
        },
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    head = {"type": "http.response.start", "status": error.status}
    await send(head | {"headers": [(b"content-type", b"application/json"), *headers]})
    await send({"type": "http.response.body", "body": to_json(told)})
