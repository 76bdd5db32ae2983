"""A log that keeps no secrets, over any other.

Whatever is told of a run, by a function, a program, an exception or a producer elsewhere, gets
into a log by `append`. So this is the one place where nothing can get past. What is masked is each
event by itself: a secret that a function tells in two halves, in two events, is two harmless
texts here. (A program's output may be cut anywhere: `runners.transcript` masks it before.)
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tailrace.eventlog.contract import READ_BYTES, Append, Commit, EventLog, Listener
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Draft
from tailrace.protocol.masking import Masks
from tailrace.protocol.runs import RunQuery, RunRecord

# The columns of a run that have what the work said.
_TOLD: Final = ("progress", "result", "error")


class MaskedLog:
    """`log`, in which nothing that is appended has a secret of `masks`.

    Not masked are a run's `input`, because the work needs it as it is; names (of operations,
    events, principals, threads, producers); and what was kept before.
    """

    def __init__(self, log: EventLog, masks: Masks) -> None:
        self._log = log
        self._masks = masks

    def append(self, append: Append) -> Future[Commit]:
        """See `EventLog`."""
        return self._log.append(self._masked(append))

    def _masked(self, append: Append) -> Append:
        drafts, patch = self._drafts(append.drafts), self._patch(append.patch)
        if drafts is append.drafts and patch is append.patch:
            return append
        return replace(append, drafts=drafts, patch=patch)

    def _drafts(self, drafts: Sequence[Draft]) -> Sequence[Draft]:
        json = self._masks.json
        masked = [json(data) for _, data in drafts]
        if all(data is draft[1] for data, draft in zip(masked, drafts, strict=True)):
            return drafts
        return [Draft(draft[0], data) for data, draft in zip(masked, drafts, strict=True)]

    def _patch(self, patch: dict[str, Any]) -> dict[str, Any]:
        for column in _TOLD:
            told = patch.get(column)
            if told is not None and (masked := self._masks.json(told)) is not told:
                patch = {**patch, column: masked}
        return patch

    # --- as it is -------------------------------------------------------------------------

    @property
    def worker(self) -> str:
        """See `EventLog`."""
        return self._log.worker

    @property
    def folder(self) -> Path | None:
        """See `EventLog`."""
        return self._log.folder

    async def open(self) -> None:
        """See `EventLog`."""
        await self._log.open()

    async def close(self) -> None:
        """See `EventLog`."""
        await self._log.close()

    def listen(self, listener: Listener) -> None:
        """See `EventLog`."""
        self._log.listen(listener)

    def follow(self, run: str, after: int) -> None:
        """See `EventLog`."""
        self._log.follow(run, after)

    def unfollow(self, run: str) -> None:
        """See `EventLog`."""
        self._log.unfollow(run)

    def create(self, run: RunRecord) -> Future[RunRecord]:
        """See `EventLog`."""
        return self._log.create(run)

    async def get(self, run: str) -> RunRecord | None:
        """See `EventLog`."""
        return await self._log.get(run)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """See `EventLog`."""
        return await self._log.find(query)

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        """See `EventLog`."""
        return await self._log.read(run, after, limit)

    async def forget(self, run: str) -> None:
        """See `EventLog`."""
        await self._log.forget(run)

    async def orphans(self) -> list[RunRecord]:
        """See `EventLog`."""
        return await self._log.orphans()

    async def touch(self, runs: Sequence[str], at: float) -> None:
        """See `EventLog`."""
        await self._log.touch(runs, at)

    async def sweep(self, at: float) -> int:
        """See `EventLog`."""
        return await self._log.sweep(at)


__all__ = ["MaskedLog"]
