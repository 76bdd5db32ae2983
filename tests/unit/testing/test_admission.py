"""The contract must notice logs that let in what they should not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tailrace.errors import TailraceError
from tailrace.eventlog.contract import Append, Commit
from tailrace.eventlog.memory import MemoryLog
from tailrace.protocol.lifecycle import State
from tailrace.testing.admission import AdmissionContract

pytestmark = pytest.mark.anyio

Bend = Callable[[Append], Append]


class Bent(MemoryLog):
    """Changes each append before it looks at it."""

    def __init__(self, bend: Bend) -> None:
        super().__init__()
        self._bend = bend

    def _append(self, append: Append) -> Commit:
        return super()._append(self._bend(append))


class EndsNothing(MemoryLog):
    def _append(self, append: Append) -> Commit:
        kept = self._kept.get(append.run)
        if kept is not None and kept.run.ended:
            kept.run = kept.run.with_(state=State.RUNNING)
        return super()._append(append)


class MakesRuns(MemoryLog):
    def _append(self, append: Append) -> Commit:
        if append.run not in self._kept:
            return Commit(append.run, 1, len(append.drafts), State.RUNNING)
        return super()._append(append)


class LeavesTraces(MemoryLog):
    def _append(self, append: Append) -> Commit:
        try:
            return super()._append(append)
        except TailraceError:
            kept = self._kept.get(append.run)
            if kept is not None:
                kept.run = kept.run.with_(**append.patch)
            raise


def without_moves() -> MemoryLog:
    return Bent(lambda append: replace(append, move=None))


def without_fences() -> MemoryLog:
    return Bent(lambda append: replace(append, fence=None))


def without_producers() -> MemoryLog:
    return Bent(lambda append: replace(append, producer=None))


def without_columns() -> MemoryLog:
    return Bent(lambda append: replace(append, patch={}))


@pytest.mark.parametrize(
    ("faulty", "name"),
    [
        (without_moves, "test_a_move_is_a_compare_and_set"),
        (without_fences, "test_an_older_attempt_is_fenced"),
        (without_producers, "test_a_producer_is_heard_exactly_once"),
        (without_producers, "test_a_producer_may_repeat_the_end"),
        (without_columns, "test_columns_change_with_the_events"),
        (EndsNothing, "test_nothing_follows_the_end"),
        (MakesRuns, "test_an_unknown_run_is_refused"),
        (LeavesTraces, "test_a_refused_append_leaves_nothing"),
    ],
)
async def test_a_fault_is_noticed(faulty: Callable[[], MemoryLog], name: str) -> None:
    test = getattr(AdmissionContract(), name)
    sound, log = MemoryLog(), faulty()
    await sound.open()
    await test(sound)
    await log.open()
    with pytest.raises((AssertionError, pytest.fail.Exception, TailraceError)):
        await test(log)
