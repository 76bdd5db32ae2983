"""What a model may call: functions, and the operations of this server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar, overload

from tailrace.agent.patience import within
from tailrace.engine import Engine
from tailrace.errors import EventInvalid, EventTooLarge, RunFailed
from tailrace.operations import Operation
from tailrace.protocol import events
from tailrace.protocol.agent import CHAT
from tailrace.run import RunContext
from tailrace.runners import function as runner
from tailrace.runners.contract import Sink

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_MESSAGE: Final = 2000
"""How many characters of what a tool says of its progress are told."""

MAX_OUTPUT: Final = 16 * 1024
"""How many characters of a program's output a model gets: the last ones."""

# What every provider takes.
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_OTHER: Final = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)
_MOST_NAME: Final = 64
_MARK: Final = "__tailrace_tool__"

# They tell how far a call is.
_FAR: Final = (events.PROGRESS, events.LOG, events.MESSAGE)


@overload
def tool(function: Function, /) -> Function: ...
@overload
def tool(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Callable[[Function], Function]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Any:
    """Mark a function as a tool of a chat: `@tailrace.tool`, with or without options (`name`, of
    letters, digits, `_` and `-`, at most 64; `description`: what the model reads, the docstring
    unless given; `timeout` in seconds). It stays the function it is.

    A parameter annotated `RunContext`, and `tailrace.current()`, is the turn as the call sees it:
    `progress` and `log` tell how far this very call is. A plain function has a thread of its own.

    Raises ValueError for a name or a timeout that cannot be.
    """
    if name is not None and _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no tool's name: at most 64 letters, digits, _ and -.")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"A tool cannot have a timeout of {timeout!r}: give seconds above 0.")

    def mark(function: Function) -> Function:
        setattr(function, _MARK, _Marks(name, description, timeout))
        return function

    return mark if function is None else mark(function)


@dataclass(frozen=True, slots=True)
class _Marks:
    name: str | None = None
    description: str | None = None
    timeout: float | None = None


class CallContext(RunContext):
    """A turn as one call sees it: its progress is that of the call. `tell` is told the progress,
    `begun` the id of the run that makes the call, where there is one.
    """

    def __init__(
        self,
        run: RunContext,
        tell: Callable[[dict[str, Any]], None],
        begun: Callable[[str], None],
    ) -> None:
        Sink.__init__(self)
        self.id = run.id
        self.operation = run.operation
        self.principal = run.principal
        self.thread = run.thread
        self.attempt = run.attempt
        self.begun = begun
        self._turn = run
        self._tell = tell
        self._home = threading.get_ident()

    @property
    def cancelled(self) -> bool:
        """Whether the call is asked to stop, or the turn is."""
        return super().cancelled or self._turn.cancelled

    def check(self) -> None:
        """Raise RunCancelled if the call is asked to stop, or the turn is."""
        self._hear()
        super().check()

    def _hear(self) -> None:
        """A thread of which only its turn knows is asked to stop when that is."""
        if self._turn.cancelled:
            self.request_stop()

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        """Record an event of the turn; progress, what is logged, and what a generator yields become
        the call's.
        """
        if threading.get_ident() != self._home:
            self._hear()
            self._tell_once()
        if type in _FAR:
            told = payload if isinstance(payload, Mapping) else {"message": payload}
            self._tell(how_far({**told, **fields}))
        else:
            self._turn.emit(type, payload, **fields)

    async def ebb(self) -> None:
        """Wait only while too much is pending."""
        await self._turn.ebb()

    async def drain(self) -> None:
        """Wait until every event emitted so far is durable."""
        await self._turn.drain()


def how_far(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a call, from the payload of a `progress` or `log` event."""
    known = {key: told[key] for key in ("current", "total", "percent") if told.get(key) is not None}
    words = [str(told[key]) for key in ("step", "message") if told.get(key) is not None]
    return {**known, "message": ": ".join(words)[:MAX_MESSAGE]} if words else known


@dataclass(frozen=True, slots=True)
class Tool:
    """Something a model may call. `parameters` is the JSON Schema of its input; `call` answers
    what the model gets, or raises why not. `runs`: the operation that a run is started of.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[[dict[str, Any], CallContext], Awaitable[Any]]
    runs: str | None = None


# --- functions -----------------------------------------------------------------------------


def of_functions(functions: Sequence[Callable[..., Any]]) -> list[Tool]:
    """The tools that functions are.

    Raises TypeError for type hints that make no schema, ValueError for a name that is there twice
    or that providers do not take.
    """
    made = [_of_function(function) for function in functions]
    for at, one in enumerate(made):
        if _NAME.fullmatch(one.name) is None:
            raise ValueError(
                f"{one.name!r} is no tool's name: give the function one with @tool(name=…)."
            )
        if one.name in {other.name for other in made[:at]}:
            raise ValueError(f"There are two tools {one.name!r}: give one of them a name=.")
    return made


def _of_function(function: Callable[..., Any]) -> Tool:
    marks: _Marks = getattr(function, _MARK, _Marks())
    operation: Operation[..., Any] = Operation(
        function, _never, name=marks.name, description=marks.description
    )

    async def call(given: dict[str, Any], context: CallContext) -> Any:
        bound = operation.bind(operation.check(given), context)
        work = runner.run(operation.kind, bound, context, f"tailrace-tool-{operation.name}")
        return await within(work, marks.timeout)

    return Tool(operation.name, operation.description, operation.parameters, call)


async def _never(*_: object) -> None:
    raise NotImplementedError


# --- operations ----------------------------------------------------------------------------


def of_operations(engine: Engine, patterns: Sequence[str], taken: Iterable[str]) -> list[Tool]:
    """The operations that are there now, and whose names match one of the patterns, as tools: a
    call is a run. A chat is none of them: it would call itself. `taken`: names that are used.
    """
    names = set(taken)
    made = []
    for operation in engine.operations:
        chosen = any(fnmatchcase(operation.name, pattern) for pattern in patterns)
        if chosen and operation.name != CHAT:
            made.append(_of_operation(engine, operation, _named(operation.name, names)))
    return made


def _named(name: str, names: set[str]) -> str:
    """A name that providers take, and that is not among `names`: from there on it is."""
    plain = wanted = _OTHER.sub("_", name)[:_MOST_NAME]
    count = 1
    while wanted in names:
        count += 1
        ending = f"_{count}"
        wanted = plain[: _MOST_NAME - len(ending)] + ending
    names.add(wanted)
    return wanted


def _of_operation(engine: Engine, operation: Operation[Any, Any], name: str) -> Tool:
    async def call(given: dict[str, Any], context: CallContext) -> Any:
        run = await _started(engine, operation, given, context.principal)
        context.begun(run)
        try:
            return await _watched(engine, run, context)
        except RunFailed:
            raise
        except BaseException:
            # Whatever it is: nobody waits for the run any more.
            await _stopped(engine, run)
            raise

    return Tool(name, operation.description, operation.parameters, call, operation.name)


async def _started(
    engine: Engine, operation: Operation[Any, Any], given: dict[str, Any], principal: str
) -> str:
    """The id of a new run. A turn that is stopped meanwhile must not leave one behind."""
    starting = asyncio.create_task(engine.submit(operation, given, principal=principal))
    try:
        record, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        if not starting.done() or starting.exception() is None:
            record, _ = await starting
            await _stopped(engine, record.id)
        raise
    return record.id


async def _watched(engine: Engine, run: str, context: CallContext) -> Any:
    """What a run answers, and its progress meanwhile. Raises RunFailed."""
    output = ""
    async for event in engine.run(run).events():
        match event.type:
            case events.PROGRESS | events.LOG:
                # What another run says of itself may be more than an event of this one can carry.
                with contextlib.suppress(EventInvalid, EventTooLarge):
                    context.emit(event.type, event.payload)
            case events.OUTPUT:
                output = (output + str(event.payload.get("text", "")))[-MAX_OUTPUT:]
            case events.COMPLETE:
                result = event.payload.get("result")
                return {"result": result, "output": output} if output else result
            case events.ERROR | events.CANCELLED:
                said = event.payload.get("error") or "The run was cancelled."
                ending = f"\n\nIts output ends with:\n{output[-MAX_MESSAGE:]}" if output else ""
                raise RunFailed(f"{said}{ending}", run=run)
    raise RunFailed(f"{run} has no end.", run=run)


async def _stopped(engine: Engine, run: str) -> None:
    """Ask a run to stop, for a turn that was."""
    asking = asyncio.create_task(engine.cancel(run, "the turn was stopped"))
    # It may have ended, or been forgotten, or the server ends and stops it by itself.
    with contextlib.suppress(Exception):
        await asyncio.shield(asking)


__all__ = ["CallContext", "Tool", "how_far", "of_functions", "of_operations", "tool"]
