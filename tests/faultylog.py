"""A log around another one that fails, waits, or lets others go first, where a test says so."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence

from tailrace.eventlog.contract import READ_BYTES, Append, Commit, EventLog, Listener
from tailrace.protocol.blocks import Block
from tailrace.protocol.runs import RunQuery, RunRecord


class FaultyLog:
    """An `EventLog`.

    `faults` are raised by the appends to come, one by each; while `is_held` none is carried
    out; `delays` are turns of the event loop before an append and before its answer.
    """

    def __init__(self, inner: EventLog, delays: Iterator[tuple[int, int]] | None = None) -> None:
        self.inner = inner
        self.gets = 0
        self.worker = inner.worker
        self.folder = inner.folder
        self.offered: list[Append] = []
        self.faults: deque[Exception] = deque()
        self.read_faults: deque[Exception] = deque()
        self.reads: list[int] = []
        self.touched: list[str] = []
        self.is_held = False
        self._held: list[tuple[Append, asyncio.Future[Commit]]] = []
        self._delays = delays

    def append(self, append: Append) -> asyncio.Future[Commit]:
        self.offered.append(append)
        future: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        if self.faults:
            future.set_exception(self.faults.popleft())
        elif self.is_held:
            self._held.append((append, future))
        elif self._delays is not None:
            return asyncio.ensure_future(self._slowly(append, *next(self._delays)))
        else:
            return self.inner.append(append)
        return future

    def release(self) -> None:
        """Carry out what was held, in order, and all that comes."""
        self.is_held = False
        held, self._held = self._held, []
        for append, future in held:
            _pass_on(self.inner.append(append), future)

    async def _slowly(self, append: Append, before: int, after: int) -> Commit:
        for _ in range(before):
            await asyncio.sleep(0)
        try:
            return await self.inner.append(append)
        finally:
            for _ in range(after):
                await asyncio.sleep(0)

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        self.reads.append(after)
        return await self.inner.read(run, after, limit)

    async def get(self, run: str) -> RunRecord | None:
        self.gets += 1
        if self.read_faults:
            raise self.read_faults.popleft()
        return await self.inner.get(run)

    async def touch(self, runs: Sequence[str], at: float) -> None:
        self.touched += runs
        await self.inner.touch(runs, at)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def listen(self, listener: Listener) -> None:
        self.inner.listen(listener)

    def follow(self, run: str, after: int) -> None:
        self.inner.follow(run, after)

    def unfollow(self, run: str) -> None:
        self.inner.unfollow(run)

    def create(self, run: RunRecord) -> asyncio.Future[RunRecord]:
        return self.inner.create(run)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        return await self.inner.find(query)

    async def forget(self, run: str) -> None:
        await self.inner.forget(run)

    async def orphans(self) -> list[RunRecord]:
        return await self.inner.orphans()

    async def sweep(self, at: float) -> int:
        return await self.inner.sweep(at)


def _pass_on(answer: asyncio.Future[Commit], to: asyncio.Future[Commit]) -> None:
    def answered(done: asyncio.Future[Commit]) -> None:
        error = done.exception()
        if error is None:
            to.set_result(done.result())
        else:
            to.set_exception(error)

    answer.add_done_callback(answered)
