"""The engine: one event log, its hub, its operations; their lifetime and their shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, overload

from tailrace import builtin, time
from tailrace.decorator import Decorator
from tailrace.dispatch.contract import Dispatcher
from tailrace.dispatch.local import LocalDispatcher
from tailrace.errors import RunUnknown, TailraceError
from tailrace.eventlog.contract import Append, Commit, EventLog, Retention
from tailrace.eventlog.places import open_log
from tailrace.farewell import chained, signs
from tailrace.hub import Hub
from tailrace.lifetime import Lifetime, beside
from tailrace.operations import Operation
from tailrace.outcome import Outcome, settle
from tailrace.protocol.access import LOCAL, Access
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import Signal
from tailrace.protocol.masking import Masks
from tailrace.protocol.runs import RunQuery, RunRecord, check_run_id, run_id
from tailrace.registry import Operations
from tailrace.run import Run, RunContext
from tailrace.runners.spools import Spools
from tailrace.supervisor import GRACE_SECONDS, Supervisor
from tailrace.upkeep import Upkeep
from tailrace.wish import check_same, wished

if TYPE_CHECKING:
    from starlette.responses import Response

P = ParamSpec("P")


class Engine:
    """Runs operations and keeps what they tell.

    `log`: see `open_log`. `retention`: how long runs are kept. `grace`: seconds that work
    which is asked to stop may take. `secrets`: texts of at least 8 characters that are told as
    `***` whoever says them; not in a run's input, which the work needs as it is. The engine
    starts with the first thing asked of it, or with `async with engine`, and belongs to that
    event loop. Raises SettingsInvalid for a secret that is too short.
    """

    def __init__(
        self,
        log: str | Path | EventLog | None = None,
        *,
        retention: Retention | None = None,
        grace: float = GRACE_SECONDS,
        dispatcher: Dispatcher | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        self.masks = Masks(secrets)
        """What hides the secrets."""
        self.log = open_log(log, retention, self.masks)
        self.identify: Callable[[Any], Any] | None = None
        """Finds out who asks for something over HTTP; see `Tailrace`."""
        self.rates: Any = None
        """Counts how often; see `Tailrace`."""
        self.companions: list[Callable[[], contextlib.AbstractAsyncContextManager[Any]]] = []
        """What is entered when the engine starts, each in a task of its own, and left first."""
        self.operations = Operations()
        self._hub = Hub(self.log, self.start)
        self._supervisor = Supervisor(
            self.log, self._hub, self.operations, grace=grace, clock=self.now
        )
        self._dispatcher = dispatcher or LocalDispatcher()
        self._upkeep = Upkeep(self.log, self._hub, self.operations, self._dispatcher.submit)
        self._lifetime = Lifetime(self._start, self._hub.abandon)

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
        """Open the log, take up or end what a dead process left behind, and be ready.
        Idempotent.

        Raises LogError (and its kinds) if the log cannot be opened, LogClosed if the engine
        works in another event loop.
        """
        await self._lifetime.start()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        await self.log.open()
        stack.push_async_callback(self.log.close)
        stack.callback(self._hub.end)
        self.log.listen(self._arrived)
        self._supervisor.begin()
        self._dispatcher.bind(self._supervisor.execute)
        builtin.inherit(self.log, self.operations, self.masks)
        stack.push_async_callback(self._dispatcher.close)
        stack.callback(self._supervisor.stop_all)
        await self._upkeep.reap()
        await builtin.tidy(self.log)
        keeping = asyncio.create_task(self._upkeep.keep(), name="tailrace-upkeep")
        # Ended first: it must not take up what nobody here executes any more.
        stack.push_async_callback(_ended, keeping)
        stack.push_async_callback(self._farewell)
        self._hub.begin(signs())
        for companion in self.companions:
            await beside(stack, companion())
        stack.enter_context(chained(self._leave, self.close))

    async def close(self) -> None:
        """End the streams, then the runs, then the log. Idempotent."""
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        self._lifetime.is_owned = True
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
        if not self._lifetime.is_owned:
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
        concurrency: int | None = None,
        process: bool = False,
        detach: bool = False,
    ) -> Decorator: ...
    def operation(
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Operation[..., Run] | Decorator:
        """Make a function something that can be run: `@runs.operation`, with or without
        options (`name`; `timeout`, `abandon_after`, `grace` in seconds; `concurrency`: how many
        runs execute at once here, the others are queued; `process`; `detach`: an MCP call that
        breaks off leaves the run going, where it would cancel others).

        `process=True` gives each run a process of its own, for work that keeps the CPU busy:
        in a thread it would slow down every stream of this process. Everything works as it
        does here, but the function's module is imported anew, so the program that starts the
        server needs its `if __name__ == "__main__":`, and the function a name at module level.
        Starting takes a new interpreter, and what the module's imports take. Not on Windows.

        Raises TypeError for type hints that make no schema, or a function that another
        process could not find; ValueError for a taken name.
        """
        if function is None:
            return Decorator(self.offer, options)
        return self.offer(function, **options)

    def offer(self, function: Callable[..., Any], /, **options: Any) -> Operation[..., Run]:
        """`operation`, also with the option `traits` of those that come with Tailrace."""
        made: Operation[..., Run] = Operation(function, self.start_operation, **options)
        self.operations.add(made)
        return made

    def allow_scripts(
        self,
        *roots: Path | str,
        concurrency: int = 10,
        timeout: float | None = None,
        **rules: Any,
    ) -> None:
        """Offer the operation `script` for files below these folders.

        `concurrency`: how many run at once here, the others are queued. `timeout`, in seconds: for
        requests that give none. The rules are those of
        `builtin.scripts`: `survives` (they go on when this process ends, and the next one takes
        them up), `profiles` (how they are run: tables as in a settings file), and the limits
        `output_bytes`, `cpu_seconds`, `file_bytes`, `processes`.

        Raises NotADirectoryError for something that is no folder, SettingsInvalid for a rule
        that makes no sense.
        """
        scripts = builtin.scripts(self.log, self.spools, roots, masks=self.masks, **rules)
        self.offer(
            scripts.operation,
            name=builtin.SCRIPT,
            concurrency=concurrency,
            timeout=timeout,
            traits=scripts.traits,
        )

    @cached_property
    def spools(self) -> Spools:
        """What programs write, on its way into the log."""
        return builtin.spools(self.log)

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
        thread: str | None = None,
    ) -> tuple[RunRecord, bool]:
        """Start a run; its snapshot, and whether it is new (not when `key` was known).

        An `Operation` that is not registered is executed here, and by nobody else. `thread`: a
        text of 1 to 200 characters, without control characters; of the principal's runs with the
        same one, only one goes on at a time.

        Raises OperationUnknown, InputInvalid, KeyReused, ThreadBusy, LogFull, and what the
        operation's guard does.
        """
        await self.start()
        known = self.operations.get(operation) if isinstance(operation, str) else operation
        record = await wished(
            known,
            input,
            timeout=timeout,
            abandon_after=abandon_after,
            id=run_id(secrets.token_bytes(16)),
            principal=principal,
            created_at=time.time(),
            worker=self.log.worker,
            key=key,
            thread=thread,
        )
        # Shielded: a caller that gives up in the middle must not leave a run that is kept
        # and that nobody ever starts.
        kept = await asyncio.shield(asyncio.create_task(self._accept(record, known)))
        if kept.id == record.id:
            return kept, True
        check_same(kept, record)
        return kept, False

    async def _accept(self, record: RunRecord, operation: Operation[Any, Any]) -> RunRecord:
        kept = await self.log.create(record)
        if kept.id == record.id:
            self.operations.lend(record.id, operation)
            await self._dispatcher.submit(record.id)
        return kept

    async def start_operation(
        self, operation: Operation[Any, Any], input: Mapping[str, Any], principal: str = LOCAL
    ) -> Run:
        """What `Operation.start` calls."""
        record, _ = await self.submit(operation, input, principal=principal)
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

    async def watchable(self, run: str, principal: str | None) -> RunRecord:
        """`record`, for those who only want to watch: where the run is watched already, the
        snapshot may be a second old.
        """
        known = self._hub.known(run)
        if known is not None and principal in (None, known.principal):
            return known
        return await self.record(run, principal)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Runs, newest first."""
        await self.start()
        return await self.log.find(query)

    async def newest(self, thread: str, principal: str | None = None) -> Run | None:
        """The last run that was started in a thread, by `principal` if it is named."""
        found = await self.find(RunQuery(thread=thread, principal=principal, limit=1))
        return Run(found[0].id, self, principal) if found else None

    async def cancel(
        self, run: str, reason: str = "requested", principal: str | None = None
    ) -> RunRecord:
        """Ask a run to stop, wherever it executes. Harmless for one that has ended.

        Raises RunUnknown, also for a run of another principal; LogFull, if the wish cannot be kept.
        """
        record = await self.record(run, principal)
        wish = Outcome(Signal.CANCEL, reason=reason)
        await settle(self.log, record, wish, clock=self.now, patient=False)
        return await self.record(run)

    async def rerun(
        self, run: str, principal: str | None = None, owner: str | None = None
    ) -> RunRecord:
        """Start another run with the operation, input, timeout, abandon_after and thread of this
        one, for `owner` or this one's; its snapshot. Raises RunUnknown, also for a run of another
        principal, and as `submit` does.
        """
        old = await self.record(run, principal)
        new, _ = await self.submit(
            old.operation,
            loads(old.input),
            principal=owner or old.principal,
            timeout=old.timeout,
            abandon_after=old.abandon_after,
            thread=old.thread,
        )
        return new

    async def forget(self, run: str, principal: str | None = None) -> None:
        """Delete a finished run and its events. Raises RunUnknown, also for a run of another
        principal, and RunActive.
        """
        await self.log.forget((await self.record(run, principal)).id)

    async def append(self, append: Append) -> Commit:
        """Add a remote producer's events. Raises as `EventLog.append` does."""
        await self.start()
        return await self.log.append(append)

    def run(self, run: str, principal: str | Access | None = None) -> Run:
        """The handle of a run that was started before; with a `principal`, or what `asker` found,
        all it does is for them: a run of somebody else is none. Raises RunUnknown for a malformed
        id.
        """
        return Run(check_run_id(run), self, principal)

    def respond(self, run: str, request: Any, who: Access | None = None) -> Response:
        """An HTTP response that streams a run; the faces above know how."""
        raise TailraceError(
            "An engine alone has no HTTP face.", fix="Use tailrace.Tailrace instead of Engine."
        )


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


__all__ = ["LOCAL", "Engine"]
