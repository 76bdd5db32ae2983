"""What clients hear of unasked: that there are other tools, and that a run has changed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import mcp_types as types
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    InMemorySubscriptionBus,
    ListenHandler,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError

from tailrace.mcp.asker import Context, connection
from tailrace.mcp.resources import MOST_SUBSCRIPTIONS, SCHEME, Runs
from tailrace.registry import Operations

MOST_LISTENING: Final = 1024
"""How many streams of news there may be."""

_TOGETHER_SECONDS: Final = 0.05

Listen = Callable[[Context, types.SubscriptionsListenRequestParams], Awaitable[Any]]


class News:
    """Who is to be told, of one engine. `guest`: what a host's own server does for those who
    listen.
    """

    def __init__(self, runs: Runs, guest: Listen | None = None) -> None:
        self._runs = runs
        self._guest = guest
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus, max_subscriptions=MOST_LISTENING)
        self._sessions: set[ServerSession] = set()
        self._telling: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def following(self, operations: Operations) -> Iterator[None]:
        """Tell of other tools while the block lasts, in the loop that it is entered in."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tools_changed)

        operations.listeners.add(changed)
        try:
            yield
        finally:
            operations.listeners.discard(changed)
            if self._telling is not None:
                self._telling.cancel()

    def _tools_changed(self) -> None:
        # Often there are several at once.
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._soon())

    async def _soon(self) -> None:
        await asyncio.sleep(_TOGETHER_SECONDS)
        self._telling = None
        await self.tools_changed()

    def greet(self, ctx: Context) -> None:
        """A session of the versions up to 2025-11-25 has begun."""
        session = ctx.session
        self._sessions.add(session)
        connection(ctx).exit_stack.callback(self._sessions.discard, session)

    async def tools_changed(self) -> None:
        """There are other tools than there were."""
        for session in tuple(self._sessions):
            # One that does not read must not keep the others waiting, nor end them.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await session.send_tool_list_changed()
        await self._bus.publish(ToolsListChanged())

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """`subscriptions/listen`, of 2026-07-28: what is asked for, until the client goes."""
        wanted = params.notifications
        runs: list[tuple[str, str]] = []
        others: list[str] = []
        # One task for each: a body has room for a million of them.
        named = tuple(dict.fromkeys(wanted.resource_subscriptions or ()))
        if len(named) > MOST_SUBSCRIPTIONS:
            raise MCPError(
                code=types.INVALID_PARAMS,
                message=f"One may listen to {MOST_SUBSCRIPTIONS} resources at the most.",
            )
        if self._guest is not None and any(not uri.startswith(SCHEME) for uri in named):
            others += await self._runs.others(ctx, named)
        for uri in named:
            if not uri.startswith(SCHEME):
                continue
            # Whose run it is not does not learn that there is one.
            with contextlib.suppress(MCPError):
                runs.append((uri, (await self._runs.known(ctx, uri)).id))
        uris = [uri for uri, _ in runs] + others
        honoured = wanted.model_copy(update={"resource_subscriptions": uris or None})
        tasks = [
            asyncio.create_task(self._runs.follow(run, _telling(ctx, uri))) for uri, run in runs
        ]
        if self._guest is not None:
            heard = dataclasses.replace(ctx, session=_Quiet(ctx.session))
            theirs = wanted.model_copy(update={"resource_subscriptions": others or None})
            asking = self._guest(heard, params.model_copy(update={"notifications": theirs}))
            tasks.append(asyncio.create_task(_asked(asking)))
        try:
            return await self._listening(ctx, params.model_copy(update={"notifications": honoured}))
        finally:
            for task in tasks:
                task.cancel()

    @property
    def has_guest(self) -> bool:
        """Whether a host's own server tells who listens."""
        return self._guest is not None

    async def relayed(self, ctx: Context, uri: str) -> None:
        """Tell a session of the versions up to 2025-11-25 of what the guest tells those who
        listen: that a resource of its has changed.
        """
        assert self._guest is not None  # noqa: S101
        wanted = types.SubscriptionFilter(resource_subscriptions=[uri])
        heard = dataclasses.replace(ctx, session=_Relayed(ctx.session, uri))
        params = types.SubscriptionsListenRequestParams(notifications=wanted)
        await _asked(self._guest(heard, params))

    def close(self) -> None:
        """End all streams properly."""
        self._listening.close()


def _telling(ctx: Context, uri: str) -> Callable[[], Awaitable[None]]:
    meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}

    async def tell() -> None:
        told = types.ResourceUpdatedNotificationParams(uri=uri, _meta=meta)
        await ctx.session.send_notification(
            types.ResourceUpdatedNotification(params=told), related_request_id=ctx.request_id
        )

    return tell


async def _asked(answer: Awaitable[Any]) -> None:
    with contextlib.suppress(MCPError):
        await answer


class _Quiet(ServerSession):
    """A session in which the guest does not acknowledge what we have acknowledged."""

    def __init__(self, session: ServerSession) -> None:
        # Whatever it is asked for, the other one has.
        self.__dict__.update(session.__dict__)

    async def send_notification(
        self,
        notification: types.ServerNotification,
        related_request_id: types.RequestId | None = None,
    ) -> None:
        if not isinstance(notification, types.SubscriptionsAcknowledgedNotification):
            await super().send_notification(notification, related_request_id)


class _Relayed(_Quiet):
    """A session that hears of one resource as its own version has it."""

    def __init__(self, session: ServerSession, uri: str) -> None:
        super().__init__(session)
        self._told, self._uri = session, uri

    async def send_notification(
        self,
        notification: types.ServerNotification,
        related_request_id: types.RequestId | None = None,
    ) -> None:
        if isinstance(notification, types.ResourceUpdatedNotification):
            await self._told.send_resource_updated(self._uri)
