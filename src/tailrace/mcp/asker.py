"""Who asks over MCP, what they may, and how they are told that they may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from tailrace.engine import Engine
from tailrace.errors import (
    LogError,
    RequestError,
    RunUnknown,
    ScopeMissing,
    TailraceError,
    TooManyRequests,
    Unauthorized,
)
from tailrace.protocol.access import OPEN, WATCH, WHO, Access
from tailrace.protocol.runs import RunRecord

Context = ServerRequestContext[Any, Any]

Note = Callable[[Access | None, str, str, str | None, int, Any], None]
"""Writes down who did what: who asked, `MCP`, the method (and the tool), the run, a status as of
HTTP, and where the request came from.
"""

# What is wrong with who asks, and not with what is asked (JSON-RPC has no codes of its own).
_REFUSALS: Final = (ScopeMissing, TooManyRequests, Unauthorized)


class Asker:
    """Finds out who asks, for one engine. `local`: who asks where there is no HTTP, as over a
    process's own stdin. `note`: writes down who did what.
    """

    def __init__(self, engine: Engine, local: Access = OPEN, note: Note | None = None) -> None:
        self._engine = engine
        self._local = local
        self._note = note

    def note(
        self, ctx: Context, run: str | None, status: int = 200, tool: str | None = None
    ) -> None:
        """Write down what was asked of a run, and what came of it."""
        if self._note is None:
            return
        method = ctx.method if tool is None else f"{ctx.method} {tool}"
        client = None if ctx.request is None else ctx.request.client
        self._note(self.who(ctx), "MCP", method, run, status, client)

    async def theirs(
        self, ctx: Context, run: str, scope: str, tool: str | None = None
    ) -> RunRecord:
        """A run's snapshot, for whoever asks and has the scope. Raises MCPError, and as
        `Engine.record` does.
        """
        access = await self.admitted(ctx, scope, tool)
        try:
            record = await self._engine.record(run, access.sees)
        except RunUnknown:
            self.note(ctx, run, RunUnknown.status, tool)
            raise
        self.note(ctx, run, tool=tool)
        return record

    def who(self, ctx: Context) -> Access:
        """Who sent a request. Raises MCPError where nobody has found out."""
        if ctx.request is None:
            return self._local
        access = ctx.request.scope.get(WHO)
        if isinstance(access, Access):
            return access
        if self._engine.identify is not None:
            refuse(Unauthorized("Nobody has found out who asks.", fix="Mount runs.mcp as it is."))
        return OPEN

    async def admitted(self, ctx: Context, scope: str, tool: str | None = None) -> Access:
        """Who sent a request that needs a scope; it is counted. Raises MCPError for who has not
        the scope, or asks too often.
        """
        access = self.who(ctx)
        try:
            access.check(scope)
        except ScopeMissing as error:
            self.note(ctx, None, error.status, tool)
            refuse(error)
        await self._count(ctx, scope, tool)
        return access

    async def listing(self, ctx: Context) -> Access:
        """Who asks what there is. That takes no scope, for each sees what it may use, but it is
        counted as watching. Raises MCPError for who asks too often.
        """
        access = self.who(ctx)
        await self._count(ctx, WATCH, None)
        return access

    async def _count(self, ctx: Context, scope: str, tool: str | None) -> None:
        if self._engine.rates is None or ctx.request is None:
            return
        try:
            await self._engine.rates.admit(ctx.request.scope, scope)
        except TooManyRequests as error:
            self.note(ctx, None, error.status, tool)
            refuse(error)


def refuse(error: TailraceError) -> NoReturn:
    """Raise it as what the SDK answers with."""
    raise told(error) from error


def told(error: TailraceError) -> MCPError:
    """One of our errors, as JSON-RPC tells it: with its code, and what to do."""
    if isinstance(error, _REFUSALS):
        code = types.INVALID_REQUEST
    elif isinstance(error, RequestError):
        code = types.INVALID_PARAMS
    else:
        code = types.INTERNAL_ERROR
    details: Mapping[str, Any] = {} if isinstance(error, LogError) else error.details
    return MCPError(
        code=code,
        message=str(error),
        data={**details, "code": error.code, "fix": error.fix},
    )


def connection(ctx: Context) -> Connection:
    """Whom a request came over. It has what lasts as long as a session does, and its end; the
    SDK shows it to its own handlers alone.
    """
    return ctx.session._connection  # noqa: SLF001


def extensions(ctx: Context) -> Mapping[str, Any]:
    """Which extensions the client knows."""
    capabilities = ctx.session.client_capabilities
    return (capabilities.extensions if capabilities else None) or {}


__all__ = ["Asker", "Context", "Note", "connection", "extensions", "refuse", "told"]
