"""The contract must notice logs that tell the wrong thing, or at the wrong time."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.eventlog.contract import Append, Commit
from tailrace.eventlog.memory import MemoryLog
from tailrace.protocol.blocks import Block, pack
from tailrace.testing import logbook, telling
from tailrace.testing.telling import TellingContract

pytestmark = pytest.mark.anyio


class TellsNothing(MemoryLog):
    def _tell(self, run: str) -> None:
        pass


class TellsTwice(MemoryLog):
    def _tell(self, run: str) -> None:
        super()._tell(run)
        if self._heads.get(run):
            self._heads[run] -= 1
            super()._tell(run)


class TellsTooEarly(MemoryLog):
    """Tells first, and commits in a later turn of the loop."""

    def append(self, append: Append) -> asyncio.Future[Commit]:
        kept = self._kept[append.run]
        first = kept.run.last_seq + 1
        last = first + len(append.drafts) - 1
        if append.run in self._heads and self._listener is not None and append.drafts:
            self._heads[append.run] = last
            self._listener(Block(append.run, first, last, pack(first, append.drafts)))
        future = asyncio.get_running_loop().create_future()
        append_ = super().append

        def commit() -> None:
            if not future.done():
                future.set_result(append_(append).result())

        asyncio.get_running_loop().call_later(0.001, commit)
        return future


class TellsOnlyTheNewest(MemoryLog):
    """Late, too: whoever comes first overtakes it."""

    def follow(self, run: str, after: int) -> None:
        super().follow(run, after)
        newest = self._kept[run].blocks[-1:] if run in self._kept else []
        for block in newest:
            if self._listener is not None:
                asyncio.get_running_loop().call_soon(self._listener, block)


class StopsAtTheFirstUnfollow(MemoryLog):
    def unfollow(self, run: str) -> None:
        self._followers[run] = 0
        self._heads.pop(run, None)


class NeverStops(MemoryLog):
    def unfollow(self, run: str) -> None:
        pass


class FallsWithItsListener(MemoryLog):
    def _append(self, append: Append) -> Commit:
        commit = super()._append(append)
        if append.run in self._heads and self._listener is not None and append.drafts:
            self._listener(self._kept[append.run].blocks[-1])
        return commit


@pytest.mark.parametrize(
    ("faulty", "name"),
    [
        (TellsNothing, "test_a_listener_hears_what_is_committed_in_order"),
        (TellsTwice, "test_a_listener_hears_what_is_committed_in_order"),
        (TellsTooEarly, "test_a_listener_hears_what_is_committed_in_order"),
        (TellsNothing, "test_whoever_follows_late_hears_that_there_is_more"),
        (TellsOnlyTheNewest, "test_whoever_follows_late_hears_that_there_is_more"),
        (StopsAtTheFirstUnfollow, "test_follows_nest"),
        (NeverStops, "test_follows_nest"),
        (FallsWithItsListener, "test_a_listener_that_fails_harms_no_append"),
        (TellsTwice, "test_many_writers_of_many_runs_keep_their_order"),
    ],
)
async def test_a_fault_is_noticed(
    faulty: type[MemoryLog], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = getattr(TellingContract(), name)
    sound, log = MemoryLog(), faulty()
    await sound.open()
    await test(sound)
    await log.open()
    for module in (logbook, telling):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    with pytest.raises((AssertionError, TimeoutError, ZeroDivisionError)):
        await test(log)
