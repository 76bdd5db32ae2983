"""The event log that forgets: everything in this process, nothing on disk.

For tests, and for streams that need to be resumable only while the process lives.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
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
)
from tailrace.eventlog.retention import Ended, Stretch, crowded, expired, trimmed
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.runs import RunQuery, RunRecord

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(slots=True)
class _Kept:
    run: RunRecord
    blocks: list[Block] = field(default_factory=list)
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)


class MemoryLog:
    """An `EventLog` in plain dictionaries, used from one event loop."""

    def __init__(self, retention: Retention | None = None) -> None:
        self.worker = f"memory-{uuid4().hex}"
        self._retention = retention or Retention()
        self._kept: dict[str, _Kept] = {}
        self._keys: dict[tuple[str, str], str] = {}
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
        kept = self._kept.values()
        ordered = kept if query.oldest_first else reversed(kept)
        found = (k.run for k in ordered if query.matches(k.run))
        return list(itertools.islice(found, query.limit))

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        """See the contract."""
        kept = self._kept.get(run)
        if kept is None or after >= kept.run.last_seq:
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
                kept = self._kept[run]
                kept.run = kept.run.with_(watched_at=at)

    async def sweep(self, at: float) -> int:
        """See the contract."""
        self._check_open()
        ended = [
            Ended(k.run.id, k.run.ended_at, k.run.size)
            for k in self._kept.values()
            if k.run.ended_at is not None
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
        if run.id in self._kept:
            raise TailraceError(
                f"There is a run {run.id} already.", fix="Give it an id of its own."
            )
        if run.key is not None:
            self._keys[run.principal, run.key] = run.id
        self._ordinal += 1
        run = run.with_(ordinal=self._ordinal)
        self._kept[run.id] = _Kept(run)
        return run

    def _append(self, append: Append) -> Commit:
        known = self._kept.get(append.run)
        producer = append.producer
        position = known.producers.get(producer.id) if known and producer else None
        standing = None if known is None else Standing(known.run.state, known.run.attempt)
        drafts = admit(standing, append, position)
        kept = self._kept[append.run]
        run = kept.run
        if append.drafts and not drafts:
            return Commit(run.id, run.last_seq + 1, run.last_seq, run.state)
        first, last = run.last_seq + 1, run.last_seq + len(drafts)
        state = run.state if append.move is None else append.move[1]
        if producer is not None and drafts:
            reached = producer.seq + len(append.drafts) - 1
            kept.producers[producer.id] = (producer.epoch, reached)
        if drafts:
            block = Block(run.id, first, last, pack(first, drafts, run.epoch), run.epoch)
            kept.blocks.append(block)
            run = run.with_(last_seq=last, size=run.size + len(block.wire))
        kept.run = run.with_(state=state, **append.patch)
        if crowded(self._retention, last - run.first_seq + 1, run.size):
            self._trim(kept)
        if run.id in self._heads:
            self._tell(run.id)
        return Commit(run.id, first, last, state)

    def _trim(self, kept: _Kept) -> None:
        stretches = [Stretch(b.first, b.last, len(b.wire)) for b in kept.blocks]
        first, dropped = trimmed(self._retention, stretches, kept.run.size)
        kept.blocks = [block for block in kept.blocks if block.first >= first]
        kept.run = kept.run.with_(first_seq=first, size=kept.run.size - dropped)

    def _drop(self, run: str) -> None:
        gone = self._kept.pop(run).run
        if gone.key is not None:
            del self._keys[gone.principal, gone.key]

    def _tell(self, run: str) -> None:
        """Tell of everything since the last time, so that whoever comes first tells it."""
        kept = self._kept.get(run)
        head = self._heads.get(run)
        if kept is None or head is None or kept.run.last_seq <= head:
            return
        self._heads[run] = kept.run.last_seq
        start = bisect.bisect_right(kept.blocks, head, key=lambda block: block.last)
        for block in kept.blocks[start:]:
            if self._listener is None:
                return
            try:
                self._listener(block.after(head))
            except Exception as error:  # noqa: BLE001 - the append it hears of has happened
                context = {"message": "A log's listener failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
