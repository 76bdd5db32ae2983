"""The engine: one event log, its hub, its operations; their lifetime and their shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, overload

from tailrace import builtin
from tailrace.dispatch.contract import Dispatcher
from tailrace.dispatch.local import LocalDispatcher
from tailrace.errors import InputInvalid, KeyReused, LogClosed, RunUnknown, TailraceError
from tailrace.eventlog.contract import Append, Commit, EventLog, Retention
from tailrace.eventlog.places import open_log
from tailrace.farewell import chained, signs
from tailrace.hub import Hub
from tailrace.operations import Operation, Operations
from tailrace.outcome import Outcome, settle
from tailrace.protocol.blocks import Block
from tailrace.protocol.lifecycle import Signal
from tailrace.protocol.runs import RunQuery, RunRecord, check_run_id, run_id
from tailrace.run import Run, RunContext
from tailrace.supervisor import GRACE_SECONDS, Supervisor
from tailrace.upkeep import Upkeep

P = ParamSpec("P")

LOCAL: Final = "local"
"""The principal of whoever is not told apart: this process, or an open server's callers."""

_MAX_SECONDS: Final = 366 * 86_400.0


class Engine:
    """Runs operations and keeps what they tell.

    `log`: see `open_log`. `retention`: how long runs are kept. `grace`: seconds that work
    which is asked to stop may take. The engine starts with the first thing asked of it, or
    with `async with engine`, and belongs to that event loop.
    """

    def __init__(
        self,
        log: str | Path | EventLog | None = None,
        *,
        retention: Retention | None = None,
        grace: float = GRACE_SECONDS,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        self.log = open_log(log, retention)
        self.operations = Operations()
        self._hub = Hub(self.log, self.start)
        self._supervisor = Supervisor(self.log, self._hub, self.operations, grace=grace)
        self._dispatcher = dispatcher or LocalDispatcher()
        self._upkeep = Upkeep(self.log, self._hub)
        self._changing: asyncio.Lock | None = None
        self._lifetime: contextlib.AsyncExitStack | None = None
        self._is_owned = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def hub(self) -> Hub:
        """Live fan-out."""
        return self._hub

    @property
    def executing(self) -> int:
        """How many runs execute in this process."""
        return self._supervisor.going

    @staticmethod
    def now() -> float:
        """The clock that events are stamped with: seconds since 1970."""
        return time.time()

    # --- lifetime --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the log, end what a dead process left behind, and be ready. Idempotent.

        Raises LogError (and its kinds) if the log cannot be opened, LogClosed if the engine
        works in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move(loop)
        if self._lifetime is not None:
            return
        self._changing = self._changing or asyncio.Lock()
        async with self._changing:
            if self._lifetime is None:
                async with contextlib.AsyncExitStack() as stack:
                    await self._start(stack)
                    self._lifetime = stack.pop_all()

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to `loop`. A test client makes one for each request, and ends it with the
        engine still in it; whatever ran there can only be found lost by the next start.
        """
        if self._loop is not None and not self._loop.is_closed() and self._lifetime is not None:
            raise LogClosed(
                "This engine works in another event loop.",
                fix="Use an engine of its own for each event loop, or its HTTP face.",
            )
        if self._lifetime is not None:
            self._lifetime.pop_all()
            self._lifetime = None
            self._hub.abandon()
        self._changing = None
        self._loop = loop

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        await self.log.open()
        stack.push_async_callback(self.log.close)
        stack.callback(self._hub.end)
        self.log.listen(self._arrived)
        await self._upkeep.reap()
        keeping = asyncio.create_task(self._upkeep.keep(), name="tailrace-upkeep")
        stack.push_async_callback(_ended, keeping)
        self._supervisor.begin()
        self._dispatcher.bind(self._supervisor.execute)
        stack.push_async_callback(self._dispatcher.close)
        stack.callback(self._supervisor.stop_all)
        stack.push_async_callback(self._farewell)
        self._hub.begin(signs())
        stack.enter_context(chained(self._leave, self.close))

    async def close(self) -> None:
        """End the streams, then the runs, then the log. Idempotent."""
        self._is_owned = False
        # Until it is over the engine counts as started: what its runs ask of it in their
        # grace must not start it again.
        if self._changing is None:
            return
        async with self._changing:
            if self._lifetime is not None:
                try:
                    await self._lifetime.aclose()
                finally:
                    self._lifetime = None
        # The next start may be in another event loop.
        self._changing = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        self._is_owned = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """The engine's lifetime as an ASGI lifespan: `FastAPI(lifespan=runs.lifespan)`."""
        del app
        async with self:
            yield

    def _leave(self) -> None:
        """The server was asked to stop, and still answers."""
        self._hub.drain()
        if not self._is_owned:
            # Mounted, and the host has not wired the lifespan: nobody will close this engine.
            self._supervisor.stop_all()

    async def _farewell(self) -> None:
        """Give the open streams a moment to say goodbye."""
        self._hub.drain()
        for _ in range(100):
            if self._hub.is_idle:
                return
            await asyncio.sleep(0.01)

    def _arrived(self, block: Block) -> None:
        self._hub.publish(block)
        self._supervisor.notice(block)

    # --- operations ------------------------------------------------------------------

    @overload
    def operation(
        self, function: Callable[Concatenate[RunContext, P], Any], /
    ) -> Operation[P, Run]: ...
    @overload
    def operation(self, function: Callable[P, Any], /) -> Operation[P, Run]: ...
    @overload
    def operation(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        abandon_after: float | None = None,
        grace: float | None = None,
        process: bool = False,
    ) -> _Decorator: ...
    def operation(
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Operation[..., Run] | _Decorator:
        """Make a function something that can be run: `@runs.operation`, with or without
        options (`name`; `timeout`, `abandon_after`, `grace` in seconds; `process`).

        `process=True` gives each run a process of its own, for work that keeps the CPU busy:
        in a thread it would slow down every stream of this process. Everything works as it
        does here, but the function's module is imported anew, so the program that starts the
        server needs its `if __name__ == "__main__":`, and the function a name at module level.
        Starting takes a new interpreter, and what the module's imports take. Not on Windows.

        Raises TypeError for type hints that make no schema, or a function that another
        process could not find; ValueError for a taken name.
        """
        if function is None:
            return _Decorator(self, options)
        return _Decorator(self, options)(function)

    def allow_scripts(self, *roots: Path | str) -> None:
        """Offer the operation `script` for files below these folders.

        Raises NotADirectoryError for something that is none.
        """
        folders = [Path(root).resolve() for root in roots]
        for folder in folders:
            if not folder.is_dir():
                raise NotADirectoryError(f"{folder} is not a folder scripts could be in.")
        self.operation(name="script")(builtin.script(folders))

    # --- runs ------------------------------------------------------------------------

    async def submit(
        self,
        operation: str | Operation[Any, Any],
        input: Mapping[str, Any],
        *,
        principal: str = LOCAL,
        timeout: float | None = None,
        abandon_after: float | None = None,
        key: str | None = None,
    ) -> tuple[RunRecord, bool]:
        """Start a run; its snapshot, and whether it is new (not when `key` was known).

        Raises OperationUnknown, InputInvalid, KeyReused, LogFull.
        """
        await self.start()
        known = self.operations.get(operation) if isinstance(operation, str) else operation
        record = RunRecord(
            id=run_id(secrets.token_bytes(16)),
            operation=known.name,
            principal=principal,
            created_at=time.time(),
            input=known.check(input),
            timeout=_seconds("timeout", timeout, known.timeout),
            abandon_after=_seconds("abandon_after", abandon_after, known.abandon_after),
            worker=self.log.worker,
            key=key,
        )
        # Shielded: a caller that gives up in the middle must not leave a run that is kept
        # and that nobody ever starts.
        kept = await asyncio.shield(asyncio.create_task(self._accept(record)))
        if kept.id == record.id:
            return kept, True
        if _wish(kept) != _wish(record):
            raise KeyReused(
                f"The idempotency key {str(key)[:80]!r} already names {kept.id}, "
                "which was asked for with another operation, input, timeout or abandon_after.",
                fix="Use a new key for a new request.",
            )
        return kept, False

    async def _accept(self, record: RunRecord) -> RunRecord:
        kept = await self.log.create(record)
        if kept.id == record.id:
            await self._dispatcher.submit(record.id)
        return kept

    async def start_operation(
        self, operation: Operation[Any, Any], input: Mapping[str, Any]
    ) -> Run:
        """What `Operation.start` calls."""
        record, _ = await self.submit(operation, input)
        return Run(record.id, self)

    async def record(self, run: str, principal: str | None = None) -> RunRecord:
        """A run's snapshot. Raises RunUnknown, also for a run of another principal."""
        await self.start()
        record = await self.log.get(check_run_id(run))
        if record is None or (principal is not None and record.principal != principal):
            raise RunUnknown(
                f"There is no run {run}.", fix="It may have been forgotten; GET /runs lists yours."
            )
        return record

    async def watchable(self, run: str, principal: str) -> RunRecord:
        """`record`, for those who only want to watch: where the run is watched already, the
        snapshot may be a second old.
        """
        known = self._hub.known(run)
        if known is not None and known.principal == principal:
            return known
        return await self.record(run, principal)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Runs, newest first."""
        await self.start()
        return await self.log.find(query)

    async def cancel(self, run: str, reason: str = "requested") -> RunRecord:
        """Ask a run to stop, wherever it executes. Harmless for one that has ended.

        Raises RunUnknown; LogFull, if the wish cannot be kept.
        """
        record = await self.record(run)
        await settle(self.log, record, Outcome(Signal.CANCEL, reason=reason), patient=False)
        return await self.record(run)

    async def forget(self, run: str) -> None:
        """Delete a finished run and its events. Raises RunUnknown, RunActive."""
        await self.start()
        await self.log.forget(check_run_id(run))

    async def append(self, append: Append) -> Commit:
        """Add a remote producer's events. Raises as `EventLog.append` does."""
        await self.start()
        return await self.log.append(append)

    def run(self, run: str) -> Run:
        """The handle of a run that was started before. Raises RunUnknown for a malformed id."""
        return Run(check_run_id(run), self)

    def respond(self, run: str, request: Any) -> Any:
        """An HTTP response that streams a run; the faces above know how."""
        raise TailraceError(
            "An engine alone has no HTTP face.", fix="Use tailrace.Tailrace instead of Engine."
        )


class _Decorator:
    """`@runs.operation(timeout=60)`: waits for its function."""

    def __init__(self, engine: Engine, options: Mapping[str, Any]) -> None:
        self._engine = engine
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[RunContext, P], Any], /
    ) -> Operation[P, Run]: ...
    @overload
    def __call__(self, function: Callable[P, Any], /) -> Operation[P, Run]: ...
    def __call__(self, function: Callable[..., Any], /) -> Operation[..., Run]:
        made: Operation[..., Run] = Operation(
            function, self._engine.start_operation, **self._options
        )
        self._engine.operations.add(made)
        return made


def _wish(run: RunRecord) -> tuple[object, ...]:
    return run.operation, run.input, run.timeout, run.abandon_after


def _seconds(name: str, asked: float | None, default: float | None) -> float | None:
    """A duration as asked for. Raises InputInvalid unless it is positive and finite."""
    chosen = default if asked is None else asked
    if chosen is not None and not 0 < chosen <= _MAX_SECONDS:
        raise InputInvalid(
            f"{name} must be a positive number of seconds, at most a year, not {chosen!r}.",
            fix=f"Leave {name} out for the operation's own, or give seconds like 30 or 0.5.",
        )
    return chosen


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


__all__ = ["LOCAL", "Engine"]
