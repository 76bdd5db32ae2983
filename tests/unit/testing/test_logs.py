"""The contract must notice what it is there for: logs with one fault each."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.errors import LogError
from tailrace.eventlog.contract import READ_BYTES, Append, Commit
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.protocol.blocks import Block
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.logs import EventLogContract, LogFactory

pytestmark = pytest.mark.anyio

OFF = Retention(None, None, None, None, None)


class CountsFromZero(MemoryLog):
    def _append(self, append: Append) -> Commit:
        commit = super()._append(append)
        return Commit(commit.run, commit.first - 1, commit.last - 1, commit.state)


class RepeatsAnEvent(MemoryLog):
    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        return await super().read(run, max(0, after - 1), limit)


class ReadsWithoutEnd(MemoryLog):
    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        return await super().read(run, after, 10**9)


class ForgetsInputs(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        return super()._create(run.with_(input=b"{}"))


class IgnoresKeys(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        return super()._create(run.with_(key=None))


class OverwritesRuns(MemoryLog):
    def _create(self, run: RunRecord) -> RunRecord:
        self._kept.pop(run.id, None)
        return super()._create(run)


class FindsOldestFirst(MemoryLog):
    async def find(self, query: RunQuery) -> list[RunRecord]:
        return (await super().find(query))[::-1]


class PagesOverlap(MemoryLog):
    async def find(self, query: RunQuery) -> list[RunRecord]:
        if query.before is None:
            return await super().find(query)
        found = await super().find(RunQuery(limit=query.limit))
        return [run for run in found if run.ordinal <= query.before]


class ForgetsActiveRuns(MemoryLog):
    async def forget(self, run: str) -> None:
        self._kept.pop(run, None)


class NeverNotesWatchers(MemoryLog):
    async def touch(self, runs: Any, at: float) -> None:
        pass


class SeesOrphansEverywhere(MemoryLog):
    async def orphans(self) -> list[RunRecord]:
        return await self.find(RunQuery())


class NeverCloses(MemoryLog):
    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        pass


class NeverTrims(MemoryLog):
    def _trim(self, kept: Any) -> None:
        pass


class TrimsEverything(MemoryLog):
    def _trim(self, kept: Any) -> None:
        last = kept.run.last_seq
        kept.blocks.clear()
        kept.run = kept.run.with_(first_seq=last + 1, size=0)


class DropsWhatIsUnderWay(MemoryLog):
    async def close(self) -> None:
        await super().close()
        raise LogError("There were appends under way.")


@pytest.mark.parametrize(
    ("faulty", "name"),
    [
        (CountsFromZero, "test_events_are_numbered_from_one_in_each_run"),
        (RepeatsAnEvent, "test_a_read_starts_after_any_event"),
        (ReadsWithoutEnd, "test_a_read_keeps_to_its_limit_but_never_starves"),
        (ForgetsInputs, "test_a_run_is_kept_as_it_was_made"),
        (IgnoresKeys, "test_a_key_names_one_run_of_its_principal"),
        (OverwritesRuns, "test_an_id_is_used_once"),
        (FindsOldestFirst, "test_runs_are_found_newest_first"),
        (PagesOverlap, "test_pages_of_runs_join_without_a_seam"),
        (ForgetsActiveRuns, "test_only_a_finished_run_is_forgotten"),
        (NeverNotesWatchers, "test_watching_is_noted"),
        (SeesOrphansEverywhere, "test_a_live_process_has_no_orphans"),
    ],
)
async def test_a_fault_is_noticed(faulty: type[MemoryLog], name: str) -> None:
    test = getattr(EventLogContract(), name)
    given = {"after": 2} if "after_any" in name else {}
    sound, log = MemoryLog(OFF), faulty(OFF)
    await sound.open()
    await test(sound, **given)
    await log.open()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await test(log, **given)


@pytest.mark.parametrize(
    ("faulty", "name", "given"),
    [
        (
            NeverTrims,
            "test_a_sweep_forgets_the_oldest",
            {"rules": OFF, "survivors": [3]},
        ),
        (
            NeverTrims,
            "test_a_crowded_run_loses_its_oldest_events",
            {"rules": Retention(run_events=10)},
        ),
        (
            TrimsEverything,
            "test_a_crowded_run_loses_its_oldest_events",
            {"rules": Retention(run_events=10)},
        ),
        (NeverCloses, "test_a_closed_log_says_so", {}),
        (DropsWhatIsUnderWay, "test_close_commits_what_was_submitted", {}),
    ],
)
async def test_a_fault_of_the_whole_life_is_noticed(
    faulty: LogFactory, name: str, given: dict[str, Any]
) -> None:
    test = getattr(EventLogContract(), name)
    with pytest.raises((AssertionError, pytest.fail.Exception, LogError)):
        await test(faulty, **given)


def test_the_factory_must_be_given() -> None:
    make: Any = EventLogContract.log_factory
    with pytest.raises(NotImplementedError, match="log_factory"):
        make.__wrapped__(EventLogContract())
