"""The event log that forgets: everything in this process, nothing on disk.

For tests, and for streams that need to be resumable only while the process lives.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from tailrace.errors import LogClosed, RunActive, RunUnknown, TailraceError
from tailrace.eventlog.contract import (
    READ_BYTES,
    Append,
    Commit,
    Listener,
    Retention,
    Standing,
    admit,
    busy,
)
from tailrace.eventlog.retention import Ended, Stretch, crowded, expired, trimmed
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.lifecycle import TERMINAL, State
from tailrace.protocol.runs import RunQuery, RunRecord

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class _Kept:
    """A run and its events. What changes with each append stands in fields of its own, and
    becomes a record when somebody asks for it: a record has too many columns to be made
    anew for each append.
    """

    _run: RunRecord
    _changes: dict[str, Any]
    state: State
    attempt: int
    first: int
    last: int
    size: int

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.blocks: list[Block] = []
        self.producers: dict[str, tuple[int, int]] = {}

    @property
    def run(self) -> RunRecord:
        """The snapshot."""
        run, state = self._run, self.state
        place = {"first_seq": self.first, "last_seq": self.last, "size": self.size}
        if self._changes or state is not run.state or self.last != run.last_seq:
            self._run = run.with_(state=state, **place, **self._changes)
            self._changes = {}
        return self._run

    @run.setter
    def run(self, run: RunRecord) -> None:
        self._run = run
        self._changes = {}
        self.state, self.attempt = run.state, run.attempt
        self.first, self.last, self.size = run.first_seq, run.last_seq, run.size

    @property
    def fixed(self) -> RunRecord:
        """The snapshot as far as it never changes."""
        return self._run

    def change(self, **columns: Any) -> None:
        """Set columns."""
        self._changes.update(columns)
        self.attempt = columns.get("attempt", self.attempt)


class MemoryLog:
    """An `EventLog` in plain dictionaries, used from one event loop."""

    def __init__(self, retention: Retention | None = None) -> None:
        self.worker = f"memory-{uuid4().hex}"
        self.folder = None
        self._retention = retention or Retention()
        self._kept: dict[str, _Kept] = {}
        self._keys: dict[tuple[str, str], str] = {}
        # The runs of each thread, oldest first.
        self._threads: dict[tuple[str, str], dict[str, _Kept]] = {}
        self._followers: Counter[str] = Counter()
        # What the listener was told of each followed run.
        self._heads: dict[str, int] = {}
        self._listener: Listener | None = None
        self._ordinal = 0
        self._is_open = False

    async def open(self) -> None:
        """Nothing can go wrong."""
        self._is_open = True

    async def close(self) -> None:
        """What was kept stays readable to whoever holds the object."""
        self._is_open = False
        self._followers.clear()
        self._heads.clear()

    def listen(self, listener: Listener) -> None:
        """See the contract."""
        self._listener = listener

    def follow(self, run: str, after: int) -> None:
        """See the contract."""
        self._followers[run] += 1
        if self._is_open:
            self._heads[run] = min(after, self._heads.get(run, after))
            asyncio.get_running_loop().call_soon(self._tell, run)

    def unfollow(self, run: str) -> None:
        """See the contract."""
        self._followers[run] -= 1
        if self._followers[run] <= 0:
            del self._followers[run]
            self._heads.pop(run, None)

    def create(self, run: RunRecord) -> asyncio.Future[RunRecord]:
        """See the contract."""
        return self._settled(self._create, run)

    def append(self, append: Append) -> asyncio.Future[Commit]:
        """See the contract."""
        return self._settled(self._append, append)

    async def get(self, run: str) -> RunRecord | None:
        """See the contract."""
        kept = self._kept.get(run)
        return None if kept is None else kept.run

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """See the contract."""
        kept = self._among(query).values()
        ordered = kept if query.oldest_first else reversed(kept)
        found = (k.run for k in ordered if query.matches(k.run))
        return list(itertools.islice(found, query.limit))

    def _among(self, query: RunQuery) -> dict[str, _Kept]:
        """Where to look: among the runs of one thread, or all."""
        if query.principal is None or query.thread is None:
            return self._kept
        return self._threads.get((query.principal, query.thread), {})

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        """See the contract."""
        kept = self._kept.get(run)
        if kept is None or after >= kept.last:
            return []
        found: list[Block] = []
        size = 0
        start = bisect.bisect_right(kept.blocks, after, key=lambda block: block.last)
        for block in itertools.islice(kept.blocks, start, None):
            found.append(block.after(after))
            size += len(block.wire)
            if size >= limit:
                break
        return found

    async def forget(self, run: str) -> None:
        """See the contract."""
        self._check_open()
        kept = self._kept.get(run)
        if kept is None:
            raise RunUnknown(f"There is no run {run}.")
        if not kept.run.ended:
            raise RunActive(f"{run} is {kept.run.state}.", fix="Cancel it first.")
        self._drop(run)

    async def orphans(self) -> list[RunRecord]:
        """None: whoever could have owned a run died with the log."""
        return []

    async def touch(self, runs: Sequence[str], at: float) -> None:
        """See the contract."""
        self._check_open()
        for run in runs:
            if run in self._kept:
                self._kept[run].change(watched_at=at)

    async def sweep(self, at: float) -> int:
        """See the contract."""
        self._check_open()
        ended = [
            Ended(run.id, run.ended_at, run.size)
            for run in (kept.run for kept in self._kept.values())
            if run.ended_at is not None
        ]
        gone = expired(self._retention, ended, at)
        for run in gone:
            self._drop(run)
        return len(gone)

    def _settled(self, act: Callable[[_Given], _Made], given: _Given) -> asyncio.Future[_Made]:
        future: asyncio.Future[_Made] = asyncio.get_running_loop().create_future()
        try:
            self._check_open()
            future.set_result(act(given))
        except TailraceError as error:
            future.set_exception(error)
        return future

    def _check_open(self) -> None:
        if not self._is_open:
            raise LogClosed("The event log is closed.", fix="Open it, or start the engine.")

    def _create(self, run: RunRecord) -> RunRecord:
        known = None if run.key is None else self._keys.get((run.principal, run.key))
        if known is not None:
            return self._kept[known].run
        self._check_free(run)
        if run.id in self._kept:
            raise TailraceError(
                f"There is a run {run.id} already.", fix="Give it an id of its own."
            )
        if run.key is not None:
            self._keys[run.principal, run.key] = run.id
        self._ordinal += 1
        run = run.with_(ordinal=self._ordinal)
        kept = self._kept[run.id] = _Kept(run)
        if run.thread is not None:
            self._threads.setdefault((run.principal, run.thread), {})[run.id] = kept
        return run

    def _check_free(self, run: RunRecord) -> None:
        if run.thread is None:
            return
        others = self._threads.get((run.principal, run.thread))
        # None follows one that is active, so it can only be the newest.
        newest = next(reversed(others.values())) if others else None
        if newest is not None and newest.state not in TERMINAL:
            raise busy(run.thread, newest.fixed.id)

    def _append(self, append: Append) -> Commit:
        kept = self._kept.get(append.run)
        producer = append.producer
        position = kept.producers.get(producer.id) if kept and producer else None
        standing = None if kept is None else Standing(kept.state, kept.attempt)
        drafts = admit(standing, append, position)
        kept = self._kept[append.run]
        first, last = kept.last + 1, kept.last + len(drafts)
        if append.drafts and not drafts:
            return Commit(append.run, first, last, kept.state)
        if drafts:
            epoch = kept.fixed.epoch
            block = Block(append.run, first, last, pack(first, drafts, epoch), epoch)
            kept.blocks.append(block)
            kept.last = last
            kept.size += len(block.wire)
            if producer is not None:
                reached = producer.seq + len(append.drafts) - 1
                kept.producers[producer.id] = (producer.epoch, reached)
        if append.move is not None:
            kept.state = append.move[1]
        if append.patch:
            kept.change(**append.patch)
        if crowded(self._retention, last - kept.first + 1, kept.size):
            self._trim(kept)
        if append.run in self._heads:
            self._tell(append.run)
        return Commit(append.run, first, last, kept.state)

    def _trim(self, kept: _Kept) -> None:
        stretches = [Stretch(b.first, b.last, len(b.wire)) for b in kept.blocks]
        first, dropped = trimmed(self._retention, stretches, kept.size)
        kept.blocks = [block for block in kept.blocks if block.first >= first]
        kept.first, kept.size = first, kept.size - dropped

    def _drop(self, run: str) -> None:
        gone = self._kept.pop(run).fixed
        if gone.key is not None:
            del self._keys[gone.principal, gone.key]
        if gone.thread is not None:
            others = self._threads[gone.principal, gone.thread]
            del others[run]
            if not others:
                del self._threads[gone.principal, gone.thread]

    def _tell(self, run: str) -> None:
        """Tell of everything since the last time, so that whoever comes first tells it."""
        kept = self._kept.get(run)
        head = self._heads.get(run)
        if kept is None or head is None or kept.last <= head:
            return
        self._heads[run] = kept.last
        if kept.blocks and kept.blocks[-1].first == head + 1:
            # As a rule: only what came last is untold.
            self._hear(kept.blocks[-1])
            return
        start = bisect.bisect_right(kept.blocks, head, key=lambda block: block.last)
        for block in kept.blocks[start:]:
            self._hear(block.after(head))

    def _hear(self, block: Block) -> None:
        if self._listener is None:
            return
        try:
            self._listener(block)
        except Exception as error:  # noqa: BLE001 - the append it hears of has happened
            context = {"message": "A log's listener failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
