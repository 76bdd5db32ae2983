"""A tool's call as an attached run, and the tools that look after runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import anyio
import mcp_types as types

from tailrace.engine import Engine
from tailrace.errors import (
    BodyTooLarge,
    CursorFromFuture,
    CursorMalformed,
    InputInvalid,
    LogClosed,
    PathForbidden,
    RunUnknown,
    TailraceError,
)
from tailrace.mcp import answers, catalogue
from tailrace.mcp.answers import Link
from tailrace.mcp.asker import Asker, Context, refuse
from tailrace.mcp.asks import ANSWER, ASK, Asks
from tailrace.mcp.questioning import Questioning, responses
from tailrace.mcp.relay import Relay
from tailrace.operations import Operation
from tailrace.projections.json import page
from tailrace.protocol.access import RUN, Access
from tailrace.protocol.cursor import parse, resume
from tailrace.protocol.events import loads
from tailrace.protocol.runs import RunRecord

# The model chose the arguments: it can choose others, if it is told what is wrong with these.
_ITS_FAULT: Final = (
    BodyTooLarge,
    CursorFromFuture,
    CursorMalformed,
    InputInvalid,
    PathForbidden,
    RunUnknown,
)

_GOING: Final = "The server goes away; what became of the run, run_get tells"


class Calls:
    """Calls of tools, for one engine. `leaving` is set once the server goes away."""

    def __init__(self, engine: Engine, asker: Asker, asks: Asks, link: Link | None) -> None:
        self._engine = engine
        self._asker = asker
        self.asks = asks
        self.link = link
        self.leaving = asyncio.Event()
        self._known: tuple[Operation[Any, Any], ...] = ()
        self._named: dict[str, Operation[Any, Any]] = {}

    @property
    def operations(self) -> dict[str, Operation[Any, Any]]:
        """By the names of their tools."""
        known = tuple(self._engine.operations)
        # Every request asks for them, and to name hundreds takes longer than to look for changes.
        if known != self._known:
            self._known, self._named = known, catalogue.named(known)
        return self._named

    def list(self, access: Access) -> list[types.Tool]:
        """The tools for whoever asks."""
        return catalogue.offered(self.operations, access)

    async def call(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult | None:
        """Call a tool; None if there is none of that name. Raises MCPError."""
        operation = self.operations.get(params.name)
        if operation is not None:
            found = await self.attached(ctx, params, operation)
            assert not isinstance(found, str)  # noqa: S101 - it had all the time there is
            return found
        if params.name in catalogue.OWN:
            try:
                return await self._own(ctx, params.name, params.arguments or {})
            except TailraceError as error:
                return fault(error)
        return None

    async def attached(
        self,
        ctx: Context,
        params: types.CallToolRequestParams,
        operation: Operation[Any, Any],
        seconds: float | None = None,
    ) -> types.CallToolResult | types.InputRequiredResult | str:
        """Start a run and tell the client of it, up to its end, or for so many seconds: its
        result, what it asks, or its id, if it goes on. A client that goes away meanwhile cancels
        it, unless the operation is to go on. Raises MCPError.
        """
        try:
            record = await self._began(ctx, params, operation)
            try:
                return await self._attended(ctx, record, seconds)
            except TailraceError:
                raise
            except BaseException:
                # The client has gone, or cannot be told anything any more.
                await self._leave(record.id, operation)
                raise
        except TailraceError as error:
            return fault(error)

    async def _began(
        self, ctx: Context, params: types.CallToolRequestParams, operation: Operation[Any, Any]
    ) -> RunRecord:
        access = await self._asker.admitted(ctx, RUN, operation.name)
        if params.request_state is not None:
            return await self._again(params, operation, access)
        submitting = asyncio.ensure_future(
            self._engine.submit(operation, params.arguments or {}, principal=access.principal)
        )
        try:
            record, _ = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            # Nobody is left with a run that they do not know of.
            with anyio.CancelScope(shield=True), contextlib.suppress(TailraceError):
                record, _ = await submitting
                await self._leave(record.id, operation)
            raise
        self._asker.note(ctx, record.id, tool=operation.name)
        return record

    async def _again(
        self, params: types.CallToolRequestParams, operation: Operation[Any, Any], access: Access
    ) -> RunRecord:
        """Go on with a run that has asked something: its answers have come."""
        run, _, key = str(params.request_state).partition(":")
        # Whose run it is not has no use for its id.
        record = await self._engine.record(run, access.principal)
        # Nor has whoever may only start runs: what it was asked by a run is known to it alone.
        if not await self.asks.has_asked(record.id, key):
            raise RunUnknown(
                f"There is no run {run}.", fix="It may have been forgotten; GET /runs lists yours."
            )
        if record.operation != operation.name:
            raise RunUnknown(f"{record.id} is a run of {record.operation}.", fix="Call that one.")
        waiting = await self.asks.waiting(record.id)
        await self.asks.answer(record.id, responses(params.input_responses or {}, waiting))
        return record

    async def _leave(self, run: str, operation: Operation[Any, Any]) -> None:
        # A server that goes away ends its runs itself, or lets them be taken up by the next.
        if not operation.detach and not self.leaving.is_set():
            with anyio.CancelScope(shield=True), contextlib.suppress(TailraceError):
                await self._engine.cancel(run, "client-gone")

    async def _attended(
        self, ctx: Context, record: RunRecord, seconds: float | None
    ) -> types.CallToolResult | types.InputRequiredResult | str:
        run = record.id
        relay = Relay(ctx) if seconds is None else None
        questions = Questioning(ctx, self.asks, run)
        if relay is not None:
            await relay.begin(answers.watched(run, self.link))
        if record.last_seq and await self.asks.waiting(run):
            # It has asked before, and not all of it was answered.
            questions.asked.set()
        telling = asyncio.ensure_future(self._told(record, relay, questions))
        leaving = asyncio.ensure_future(self.leaving.wait())
        ends = None if seconds is None else time.monotonic() + seconds
        asked: asyncio.Future[Any] | None = None
        try:
            while True:
                asked = asyncio.ensure_future(questions.asked.wait())
                left = None if ends is None else max(ends - time.monotonic(), 0)
                done, _ = await asyncio.wait(
                    (telling, leaving, asked), timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if telling in done:
                    await telling
                    return await self.result(await self._engine.record(run))
                if leaving in done:
                    return self._unfinished(run)
                if asked not in done:
                    return run
                found = await questions.round()
                if found is not None:
                    return found
        except LogClosed:
            return self._unfinished(run)
        finally:
            tasks = [task for task in (telling, leaving, asked) if task is not None]
            for task in tasks:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*tasks, return_exceptions=True)
                await questions.close()

    async def result(self, record: RunRecord) -> types.CallToolResult:
        """The result of a run that has ended."""
        return answers.ended(record, self.link, await answers.written(self._engine.log, record))

    def _unfinished(self, run: str) -> types.CallToolResult:
        where = answers.watched(run, self.link)
        return answers.failed(f"{_GOING}: {where}", answers.meta(run, self.link))

    async def _told(self, record: RunRecord, relay: Relay | None, questions: Questioning) -> None:
        events = self._engine.run(record.id).events(record.last_seq)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if event.type in (ASK, ANSWER):
                    questions.take(event)
                elif relay is not None:
                    await relay.tell(event)

    # --- the tools that look after them ----------------------------------------------

    async def _own(
        self, ctx: Context, name: str, arguments: dict[str, Any]
    ) -> types.CallToolResult:
        run = arguments.get("run")
        if not isinstance(run, str):
            raise RunUnknown("`run` is missing.", fix="Give the id of a run as text.")
        scope, _ = catalogue.OWN[name]
        record = await self._asker.theirs(ctx, run, scope, name)
        if name == catalogue.EVENTS:
            return await self._events(record, arguments)
        if name == catalogue.STOP:
            record = await self._engine.cancel(run)
        return answers.value(answers.shown(record, self.link), answers.meta(record.id, self.link))

    async def _events(self, record: RunRecord, arguments: dict[str, Any]) -> types.CallToolResult:
        limit = arguments.get("limit", 50)
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise InputInvalid("`limit` is no number.", fix="Leave it out for 50.")
        limit = min(max(limit, 1), catalogue.MOST_EVENTS)
        start = resume(parse(str(arguments.get("after", "0"))), record.extent)
        blocks = await self._engine.log.read(record.id, start.after)
        told = loads(page(blocks, start, None, limit, record.extent))
        if not told["finished"]:
            told["how_to_go_on"] = f"{catalogue.EVENTS} with after={told['next']!r}"
        return answers.value(told, answers.meta(record.id, self.link))


def fault(error: TailraceError) -> types.CallToolResult:
    """What is wrong with a call's arguments, for the model. Raises MCPError for all else."""
    if isinstance(error, _ITS_FAULT):
        return answers.refused(error)
    return refuse(error)
