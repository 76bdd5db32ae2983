"""The contract must notice logs that mix up who follows whom."""

from __future__ import annotations

import pytest

from tailrace.errors import ThreadBusy
from tailrace.eventlog.contract import busy
from tailrace.eventlog.memory import MemoryLog
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.threads import ThreadContract

pytestmark = pytest.mark.anyio


class ForgetsThreads(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        return super()._create(run.with_(thread=None))


class AllowsAny(MemoryLog):
    def _check_free(self, run: RunRecord) -> None:
        pass


class MindsTheThreadAlone(MemoryLog):
    def _check_free(self, run: RunRecord) -> None:
        for kept in self._kept.values():
            if run.thread is not None and run.thread == kept.run.thread and not kept.run.ended:
                raise busy(run.thread, kept.run.id)


class NeverFree(MemoryLog):
    def _check_free(self, run: RunRecord) -> None:
        for kept in self._kept.values():
            mine = (kept.run.principal, kept.run.thread)
            if run.thread is not None and mine == (run.principal, run.thread):
                raise busy(run.thread, kept.run.id)


class BusyBeforeKey(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        self._check_free(run)
        return super()._create(run)


class KeepsWhatItRefuses(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        try:
            return super()._create(run)
        except ThreadBusy:
            super()._create(run.with_(thread=None))
            raise


class FindsAnyThread(MemoryLog):
    async def find(self, query: RunQuery) -> list[RunRecord]:
        found = RunQuery(
            principal=query.principal,
            operation=query.operation,
            before=query.before,
            limit=query.limit,
        )
        return await super().find(found)


@pytest.mark.parametrize(
    ("faulty", "name"),
    [
        (ForgetsThreads, "test_a_run_keeps_its_thread"),
        (AllowsAny, "test_a_thread_has_one_active_run"),
        (MindsTheThreadAlone, "test_a_thread_has_one_active_run"),
        (KeepsWhatItRefuses, "test_a_thread_has_one_active_run"),
        (NeverFree, "test_a_thread_goes_on_after_an_end"),
        (AllowsAny, "test_what_comes_at_once_is_judged_in_its_order"),
        (NeverFree, "test_what_comes_at_once_is_judged_in_its_order"),
        (AllowsAny, "test_one_of_many_gets_the_thread"),
        (BusyBeforeKey, "test_a_known_key_comes_before_a_busy_thread"),
        (KeepsWhatItRefuses, "test_a_known_key_comes_before_a_busy_thread"),
        (FindsAnyThread, "test_the_runs_of_a_thread_are_found"),
    ],
)
async def test_a_fault_is_noticed(faulty: type[MemoryLog], name: str) -> None:
    test = getattr(ThreadContract(), name)
    sound, log = MemoryLog(), faulty()
    await sound.open()
    await test(sound)
    await log.open()
    with pytest.raises((AssertionError, pytest.fail.Exception, ThreadBusy)):
        await test(log)
