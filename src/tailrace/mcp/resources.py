"""Runs as resources: `run://{id}` is a run's snapshot, and who subscribes hears of its changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import mcp_types as types
import orjson
from mcp.shared.exceptions import MCPError

from tailrace.engine import Engine
from tailrace.errors import RunUnknown, TailraceError
from tailrace.mcp import answers
from tailrace.mcp.answers import Link
from tailrace.mcp.asker import Asker, Context, connection, refuse
from tailrace.protocol.access import WATCH
from tailrace.protocol.events import PROGRESS, RESULT, STATUS
from tailrace.protocol.runs import RunQuery, RunRecord

SCHEME: Final = "run://"

MOST_SUBSCRIPTIONS: Final = 100
"""How many resources one session may be subscribed to."""

_PAGE: Final = 50
_PAUSE_SECONDS: Final = 1.0
_JSON: Final = "application/json"
_SUBSCRIBED: Final = "tailrace.subscribed"
# What can be seen in a snapshot.
_CHANGES: Final = frozenset({STATUS, PROGRESS, RESULT})

TEMPLATE: Final = types.ResourceTemplate(
    name="run",
    uri_template=f"{SCHEME}{{id}}",
    title="A run",
    description="What a run does now: its state, input, progress, result or error.",
    mime_type=_JSON,
)


class Runs:
    """One engine's runs as resources."""

    def __init__(self, engine: Engine, asker: Asker, link: Link | None) -> None:
        self._engine = engine
        self._asker = asker
        self._link = link

    async def list(
        self, ctx: Context, cursor: str | None
    ) -> tuple[Sequence[types.Resource], str | None]:
        """A page of the runs of whoever asks, newest first, and the cursor of the next."""
        access = self._asker.who(ctx)
        if not access.may(WATCH):
            return (), None
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise MCPError(code=types.INVALID_PARAMS, message="This is no cursor of ours.")
        query = RunQuery(
            principal=access.sees, before=None if cursor is None else int(cursor[:18]), limit=_PAGE
        )
        found = await self._engine.find(query)
        return [resource(run) for run in found], (
            str(found[-1].ordinal) if len(found) == _PAGE else None
        )

    async def read(self, ctx: Context, uri: str) -> types.ReadResourceResult:
        """A run's snapshot. Raises MCPError."""
        record = await self.known(ctx, uri)
        text = orjson.dumps(answers.shown(record, self._link)).decode()
        content = types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)
        return types.ReadResourceResult(contents=[content])

    async def known(self, ctx: Context, uri: str) -> RunRecord:
        """The run that a URI names. Raises MCPError, also for a run of somebody else."""
        try:
            return await self._asker.theirs(ctx, uri.removeprefix(SCHEME), WATCH)
        except RunUnknown as error:
            raise unknown(uri) from error
        except TailraceError as error:
            refuse(error)

    async def others(self, ctx: Context, uris: Sequence[str]) -> Sequence[str]:
        """Which URIs are those of somebody else's resources, for whoever may see them."""
        access = await self._asker.listing(ctx)
        return [uri for uri in uris if access.may(WATCH) and not uri.startswith(SCHEME)]

    # --- subscriptions ---------------------------------------------------------------

    async def subscribe(self, ctx: Context, uri: str) -> None:
        """Tell a session of a run's changes from now on, as versions up to 2025-11-25 have it.
        Raises MCPError.
        """
        record = await self.known(ctx, uri)
        session = ctx.session

        async def tell() -> None:
            await session.send_resource_updated(uri)

        subscribe(ctx, uri, lambda: self.follow(record.id, tell))

    async def follow(self, run: str, tell: Callable[[], Awaitable[None]]) -> None:
        """Call `tell` for a run's changes, up to its end: at once, and then once a second at
        the most.
        """
        with contextlib.suppress(TailraceError):
            async for _ in self._changes(run):
                await tell()

    async def _changes(self, run: str) -> AsyncIterator[None]:
        changed, over = asyncio.Event(), False

        async def look() -> None:
            nonlocal over
            try:
                events = self._engine.run(run).events("latest")
                async with contextlib.aclosing(events):  # type: ignore[type-var]
                    async for event in events:
                        if event.terminal or event.type in _CHANGES:
                            changed.set()
            finally:
                over = True
                changed.set()

        looking = asyncio.create_task(look())
        try:
            while not over:
                await changed.wait()
                changed.clear()
                yield
                with contextlib.suppress(TimeoutError):
                    # Its end is told at once.
                    await asyncio.wait_for(asyncio.shield(looking), _PAUSE_SECONDS)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


def resource(record: RunRecord) -> types.Resource:
    """A run, as it is listed."""
    return types.Resource(
        uri=f"{SCHEME}{record.id}",
        name=record.operation,
        title=f"{record.operation}, {record.state}",
        mime_type=_JSON,
    )


def unknown(uri: str) -> MCPError:
    """There is no such resource."""
    said: dict[str, Any] = {"uri": uri}
    return MCPError(code=types.INVALID_PARAMS, message=f"There is no {uri[:200]}.", data=said)


def subscribe(ctx: Context, uri: str, follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have a session follow something as long as it lasts. Raises MCPError."""
    here = connection(ctx)
    following: dict[str, asyncio.Task[None]] = here.state.setdefault(_SUBSCRIBED, {})
    if uri in following:
        return
    if len(following) >= MOST_SUBSCRIPTIONS:
        raise MCPError(
            code=types.INVALID_REQUEST,
            message=f"A session may be subscribed to {MOST_SUBSCRIPTIONS} resources, and is.",
        )
    if not following:
        here.exit_stack.callback(_forget, following)
    task = following[uri] = asyncio.create_task(follow())

    def forget(_: asyncio.Task[None]) -> None:
        if following.get(uri) is task:
            del following[uri]

    task.add_done_callback(forget)


def unsubscribe(ctx: Context, uri: str) -> None:
    """Undo `subscribe`."""
    following: dict[str, asyncio.Task[None]] = connection(ctx).state.get(_SUBSCRIBED, {})
    task = following.pop(uri, None)
    if task is not None:
        task.cancel()


def _forget(following: dict[str, asyncio.Task[None]]) -> None:
    for task in tuple(following.values()):
        task.cancel()
