"""A stage: an engine whose runs do what the test tells them, when it tells them."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from tailrace.dispatch.contract import Execute
from tailrace.engine import LOCAL
from tailrace.eventlog.contract import Append, EventLog, Retention
from tailrace.eventlog.memory import MemoryLog
from tailrace.facade import Tailrace
from tailrace.protocol.events import draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, run_id
from tailrace.run import RunContext
from tests.visitor import WAIT_SECONDS, Visitor

BEGAN: Final = 1_700_000_000.0

Order = tuple[str, Any]
Tale = tuple[str, dict[str, Any], float]


class Idle:
    """A dispatcher that never executes anything."""

    def bind(self, execute: Execute) -> None:
        pass

    async def submit(self, run: str) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Stage:
    """The engine, who visits its app, and the strings of its puppets."""

    runs: Tailrace
    visitor: Visitor
    _strings: dict[str, asyncio.Queue[Order]] = field(
        default_factory=lambda: defaultdict(asyncio.Queue)
    )

    # --- puppets: runs that do as they are told -----------------------------------------

    async def play(self, run: RunContext, name: str = "") -> Any:
        """The operation `puppet`."""
        run.log(f"I am {name}")
        while True:
            what, given = await self._strings[run.id].get()
            if what == "return":
                return given
            if what == "raise":
                raise given
            run.emit(what, given)

    async def start(self, operation: str = "puppet", **given: Any) -> str:
        """A run's id."""
        answer = await self.visitor.post("/runs", {"operation": operation, "input": given})
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def emit(self, run: str, type: str, **payload: Any) -> None:
        self._strings[run].put_nowait((type, payload))

    def finish(self, run: str, result: Any = None) -> None:
        self._strings[run].put_nowait(("return", result))

    def fail(self, run: str, error: Exception) -> None:
        self._strings[run].put_nowait(("raise", error))

    async def ended(self, run: str) -> RunRecord:
        """Wait for a run's end."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.runs.run(run).wait()

    async def head(self, run: str, seq: int) -> RunRecord:
        """Wait until a run has that many events."""
        async with asyncio.timeout(WAIT_SECONDS):
            async for event in self.runs.run(run).events():
                if event.seq >= seq:
                    break
        return await self.runs.record(run)

    async def done(self, operation: str = "puppet", **given: Any) -> str:
        """A run that has completed."""
        run = await self.start(operation, **given)
        self.finish(run)
        await self.ended(run)
        return run

    # --- runs that are written, not run -----------------------------------------------------

    async def written(
        self,
        told: Sequence[Tale] = (),
        *,
        ends: float | None = None,
        **given: Any,
    ) -> str:
        """A run with these events, each `(type, payload, seconds after it began)`."""
        record = RunRecord(
            id=run_id(uuid4().bytes),
            operation="written",
            principal=LOCAL,
            created_at=BEGAN,
            started_at=BEGAN,
            **given,
        )
        await self.runs.start()
        await self.log.create(record)
        moves = (State.QUEUED, State.RUNNING)
        await self.log.append(Append(record.id, move=moves, patch={"attempt": 1}))
        for type_, payload, at in told:
            await self.log.append(Append(record.id, [draft(type_, payload, BEGAN + at)]))
        if ends is not None:
            last = draft("complete", {"status": "completed"}, BEGAN + ends)
            moves = (State.RUNNING, State.COMPLETED)
            patch = {"ended_at": BEGAN + ends}
            await self.log.append(Append(record.id, [last], move=moves, patch=patch))
        return record.id

    # --- behind the curtain --------------------------------------------------------------------

    @property
    def log(self) -> EventLog:
        return self.runs.log

    def beat(self, after: float) -> None:
        """Have the hub's clock look at every stream, as if so many seconds had passed."""
        self.runs.hub.clock.beat(time.monotonic() + after)


async def count(run: RunContext, rows: int = 10) -> dict[str, int]:
    """Count up to `rows`."""
    for row in range(1, rows + 1):
        run.progress(row, rows)
    return {"rows": rows}


async def write(run: RunContext) -> None:
    """Write as a program does, also what is no text."""
    run.output("one\n")
    run.output("oops\n", "stderr")
    run.emit("output", {"stream": "stdout", "text": "\ufffd\n", "bytes": "/wo="})
    run.log("no output of the program's own")
    run.output("twö\r\nthree")


@contextlib.asynccontextmanager
async def staged(
    log: EventLog | None = None, *, retention: Retention | None = None, idle: bool = False
) -> AsyncIterator[Stage]:
    """A stage, until the block ends; whatever still runs is stopped then."""
    runs = Tailrace(log or MemoryLog(retention), grace=0.1, dispatcher=Idle() if idle else None)
    stage = Stage(runs, Visitor(runs.asgi))
    runs.operation(name="puppet")(stage.play)
    runs.operation(count)
    runs.operation(write)
    try:
        yield stage
    finally:
        async with asyncio.timeout(WAIT_SECONDS):
            await runs.close()
