"""Runs as tasks: the extension `io.modelcontextprotocol/tasks` (SEP-2663) over the event log.

A task's id is the run's id. So it is kept before it is told, survives the server, and every
process of the same log answers for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from pydantic import Field

from tailrace.engine import Engine
from tailrace.errors import RunUnknown, TailraceError
from tailrace.mcp import answers
from tailrace.mcp.asker import Asker, Context, extensions, refuse
from tailrace.mcp.calls import Calls
from tailrace.mcp.questioning import asked, dumped, responses
from tailrace.protocol.access import CANCEL, RUN, WATCH
from tailrace.protocol.events import loads, stamp
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord

NAME: Final = "io.modelcontextprotocol/tasks"

TASK_SECONDS: Final = 3600.0
"""How long a task is kept at the least, from its creation, unless said otherwise."""

QUICK_SECONDS: Final = 0.3
"""A call that ends within this time needs no task."""

_POLL_MS: Final = 1000
_VERSIONS: Final = frozenset({"2026-07-28"})
# A fault of the server's, or one the work itself declares to be of the protocol's kind.
_PROTOCOL_FAULTS: Final = frozenset({"MCPError"})

_STATUS: Final = {
    State.COMPLETED: "completed",
    State.FAILED: "completed",
    State.TIMED_OUT: "completed",
    State.LOST: "failed",
    State.CANCELLED: "cancelled",
}


class TaskParams(types.RequestParams):
    """Which task."""

    task_id: str


class UpdateParams(TaskParams):
    """Answers, by the keys of the questions."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


class Tasks(Extension):
    """Tasks of one engine. `only`: operations that are for clients alone that know tasks.
    `seconds`: how long a task is kept at the least.
    """

    identifier = NAME

    def __init__(
        self, engine: Engine, asker: Asker, calls: Calls, *, only: frozenset[str], seconds: float
    ) -> None:
        self._engine = engine
        self._asker = asker
        self._calls = calls
        self._only = only
        self._ttl_ms = max(int(seconds * 1000), 1)

    def methods(self) -> Sequence[MethodBinding]:
        """`tasks/get`, `tasks/update` and `tasks/cancel`."""
        return (
            MethodBinding("tasks/get", TaskParams, self._get),
            MethodBinding("tasks/update", UpdateParams, self._update),
            MethodBinding("tasks/cancel", TaskParams, self._cancel),
        )

    async def intercept_tool_call(
        self, params: types.CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """Make a task of a call that takes a while, for clients that know what that is."""
        operation = self._calls.operations.get(params.name)
        if operation is None:
            return await call_next(ctx)
        if not _knows(ctx):
            if operation.name in self._only:
                raise _missing()
            return await call_next(ctx)
        found = await self._calls.attached(ctx, params, operation, QUICK_SECONDS)
        if not isinstance(found, str):
            return found
        record = await self._engine.record(found)
        return {"resultType": "task", **self._told(record, {}), "_meta": self._meta(found)}

    # --- its methods -----------------------------------------------------------------

    async def _get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        record = await self._known(ctx, params, WATCH)
        waiting = {} if record.ended else await asked(self._calls.asks, record.id, ctx)
        told = {"resultType": "complete", **self._told(record, waiting)}
        match told["status"]:
            case "input_required":
                told["inputRequests"] = waiting
            case "completed":
                told["result"] = dumped(await self._calls.result(record))
            case "failed":
                told["error"] = {"code": types.INTERNAL_ERROR, "message": answers.said(record)}
        return told

    async def _update(self, ctx: Context, params: UpdateParams) -> dict[str, Any]:
        record = await self._known(ctx, params, RUN)
        try:
            waiting = await self._calls.asks.waiting(record.id)
            given = responses(params.input_responses, waiting)
            await self._calls.asks.answer(record.id, given)
        except TailraceError as error:
            refuse(error)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        record = await self._known(ctx, params, CANCEL)
        try:
            await self._engine.cancel(record.id)
        except TailraceError as error:
            refuse(error)
        return {"resultType": "complete"}

    async def _known(self, ctx: Context, params: TaskParams, scope: str) -> RunRecord:
        if ctx.protocol_version not in _VERSIONS:
            raise MCPError(code=types.METHOD_NOT_FOUND, message="Method not found", data=ctx.method)
        if not _knows(ctx):
            raise _missing()
        # SEP-2663: what routes by the header must not be led elsewhere by the body.
        named = ctx.request.headers.get("mcp-name") if ctx.request is not None else None
        if named is not None and named != params.task_id:
            raise MCPError(
                code=types.HEADER_MISMATCH,
                message="The header Mcp-Name is not the taskId of the body.",
            )
        try:
            return await self._asker.theirs(ctx, params.task_id, scope)
        except RunUnknown as error:
            raise MCPError(
                code=types.INVALID_PARAMS, message=f"There is no task {params.task_id[:80]!r}."
            ) from error
        except TailraceError as error:
            refuse(error)

    # --- how a task is told ----------------------------------------------------------

    def _told(self, record: RunRecord, waiting: Mapping[str, Any]) -> dict[str, Any]:
        progress = loads(record.progress) or {}
        updated = progress.get("timestamp") or stamp(record.started_at or record.created_at)
        told: dict[str, Any] = {
            "taskId": record.id,
            "status": status(record, waiting),
            "createdAt": stamp(record.created_at),
            "lastUpdatedAt": stamp(record.ended_at) if record.ended_at else updated,
            "ttlMs": self._ttl_ms,
            "pollIntervalMs": _POLL_MS,
        }
        message = answers.said(record) if record.ended else progress.get("message")
        if message and record.state is not State.COMPLETED:
            told["statusMessage"] = str(message)
        return told

    def _meta(self, run: str) -> dict[str, Any]:
        return answers.meta(run, self._calls.link)


def status(record: RunRecord, waiting: Mapping[str, Any]) -> str:
    """A run's state, in the words of tasks."""
    if not record.ended:
        return "input_required" if waiting else "working"
    if record.state is State.FAILED and (loads(record.error) or {}).get("type") in _PROTOCOL_FAULTS:
        return "failed"
    return _STATUS[record.state]


def _knows(ctx: Context) -> bool:
    return ctx.protocol_version in _VERSIONS and NAME in extensions(ctx)


def _missing() -> MCPError:
    needed = types.MissingRequiredClientCapabilityErrorData(
        required_capabilities=types.ClientCapabilities(extensions={NAME: {}})
    )
    return MCPError(
        code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=f"This takes a client that knows {NAME}.",
        data=needed.model_dump(by_alias=True, mode="json", exclude_none=True),
    )
