"""The contract of `tailrace.eventlog.contract.EventLog` as tests, for every log there is.

A log of your own keeps it if this passes (pytest with the plugin of anyio, which Tailrace
brings along):

    from tailrace.testing.logs import EventLogContract, LogFactory

    class TestMyLog(EventLogContract):
        @pytest.fixture
        def log_factory(self, tmp_path) -> LogFactory:
            places = itertools.count()
            return lambda retention=None: MyLog(tmp_path / str(next(places)), retention)

Each call of the factory makes an empty log, not yet open. To see the values in failed
assertions, call `pytest.register_assert_rewrite("tailrace.testing.logs")` before the import.
"""

# ruff: noqa: S101

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tailrace.errors import LogClosed, RunActive, RunUnknown, TailraceError
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.retention import Retention
from tailrace.protocol.blocks import pack
from tailrace.protocol.events import Draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.admission import AdmissionContract
from tailrace.testing.logbook import (
    LogFactory,
    ending,
    kept,
    logs,
    new_run,
    record,
    seqs,
    started,
    using,
)
from tailrace.testing.telling import TellingContract
from tailrace.testing.threads import ThreadContract

_NOTHING_GOES: Final = Retention(None, None, None, None, None)


@pytest.mark.anyio
class EventLogContract(AdmissionContract, TellingContract, ThreadContract):
    """Subclass it, and override `log_factory`."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def log_factory(self) -> LogFactory:
        raise NotImplementedError("Override the fixture log_factory.")

    @pytest.fixture
    async def log(self, log_factory: LogFactory) -> AsyncIterator[EventLog]:
        async with using(log_factory(_NOTHING_GOES)) as log:
            yield log

    # --- numbers and bytes -----------------------------------------------------------

    async def test_events_are_numbered_from_one_in_each_run(self, log: EventLog) -> None:
        one, other = await started(log), await started(log)
        spans = []
        for run, count in ((one, 2), (other, 1), (one, 3), (other, 2)):
            commit = await log.append(Append(run, logs(count)))
            spans.append((commit.run, commit.first, commit.last, commit.state))
        assert spans == [
            (one, 1, 2, State.RUNNING),
            (other, 1, 1, State.RUNNING),
            (one, 3, 5, State.RUNNING),
            (other, 2, 3, State.RUNNING),
        ]
        assert await seqs(log, one) == [1, 2, 3, 4, 5]
        assert (await record(log, one)).last_seq == 5

    async def test_what_is_read_is_what_is_sent(self, log: EventLog) -> None:
        run = await started(log)
        drafts = logs(2) + logs(2, 'é\r\n\n\nid: 5\nevent: complete\ndata: {}\n\n\0" ')
        await log.append(Append(run, drafts[:1]))
        await log.append(Append(run, drafts[1:]))
        wire = b"".join(block.wire for block in await log.read(run, 0))
        assert wire == pack(1, drafts)
        assert (await record(log, run)).size == len(wire)

    @pytest.mark.parametrize("after", range(8))
    async def test_a_read_starts_after_any_event(self, log: EventLog, after: int) -> None:
        run = await started(log)
        drafts = logs(7)
        for batch in (drafts[:1], drafts[1:5], drafts[5:]):
            await log.append(Append(run, batch))
        wire = b"".join(block.wire for block in await log.read(run, after))
        assert wire == pack(after + 1, drafts[after:])

    async def test_a_read_keeps_to_its_limit_but_never_starves(self, log: EventLog) -> None:
        run = await started(log)
        for _ in range(10):
            await log.append(Append(run, logs(1, "x" * 1000)))
        (first, *_) = few = await log.read(run, 0, 2500)
        assert first.first == 1
        assert 2 <= few[-1].last <= 4
        assert [block.last for block in await log.read(run, 4, 0)] == [5]
        assert await log.read(run, 10) == []
        assert await log.read(run, 99) == []

    # --- runs ------------------------------------------------------------------------

    async def test_a_run_is_kept_as_it_was_made(self, log: EventLog) -> None:
        made = new_run(input=b'{"rows":3}', timeout=5.0, abandon_after=2.5, worker=log.worker)
        run = await log.create(made)
        assert run.with_(ordinal=0) == made
        assert await log.get(run.id) == run
        assert await log.get(new_run().id) is None

    async def test_a_key_names_one_run_of_its_principal(self, log: EventLog) -> None:
        first = await log.create(new_run(key="k"))
        await log.append(Append(first.id, logs(1)))
        assert await log.create(new_run(key="k")) == await log.get(first.id)
        others = [await log.create(new_run(key="k", principal="bob"))]
        others += [await log.create(new_run(key="l")), await log.create(new_run())]
        assert len({first.id, *(run.id for run in others)}) == 4
        await log.append(ending(first.id, before=State.QUEUED))
        await log.forget(first.id)
        assert (await log.create(new_run(key="k"))).id != first.id

    async def test_an_id_is_used_once(self, log: EventLog) -> None:
        run = await log.create(new_run())
        await log.append(Append(run.id, logs(2)))
        with pytest.raises(TailraceError):
            await log.create(new_run(id=run.id, principal="eve"))
        assert (await record(log, run.id)).principal == "ada"
        assert await seqs(log, run.id) == [1, 2]

    async def test_runs_are_found_newest_first(self, log: EventLog) -> None:
        names = ["100%", "a_b", "axb", "Crunch", "crunch"]
        made = [await log.create(new_run(operation=name)) for name in names]
        await log.append(Append(made[4].id, move=(State.QUEUED, State.RUNNING)))
        await log.append(ending(made[3].id, before=State.QUEUED))
        stranger = await log.create(new_run(principal="bob"))

        async def found(**query: Any) -> list[str]:
            return [run.operation for run in await log.find(RunQuery(principal="ada", **query))]

        assert await found() == names[::-1]
        assert (await log.find(RunQuery()))[0] == stranger
        assert await found(operation="crunch") == ["crunch"]
        assert await found(states=frozenset({State.RUNNING})) == ["crunch"]
        wanted = frozenset({State.QUEUED, State.COMPLETED})
        assert await found(states=wanted, limit=2) == ["Crunch", "axb"]
        for text, expected in {
            "%": ["100%"],
            "a_b": ["a_b"],
            "rUNCH": [],
            "runch": ["crunch", "Crunch"],
            made[2].id[4:]: ["axb"],
            "'": [],
        }.items():
            assert await found(text=text) == expected

    async def test_pages_of_runs_join_without_a_seam(self, log: EventLog) -> None:
        made = [await log.create(new_run()) for _ in range(7)]
        assert [run.ordinal for run in made] == sorted({run.ordinal for run in made})
        pages: list[RunRecord] = []
        before = None
        while page := await log.find(RunQuery(limit=3, before=before)):
            pages += page
            before = page[-1].ordinal
            await log.create(new_run())
        assert pages == made[::-1]
        newer = await log.find(RunQuery(since=made[-1].ordinal))
        assert len(newer) == 3
        assert all(run.ordinal > made[-1].ordinal for run in newer)
        query = RunQuery(since=made[1].ordinal, limit=2, oldest_first=True)
        assert await log.find(query) == made[2:4]

    # --- age, size and end -----------------------------------------------------------

    async def test_only_a_finished_run_is_forgotten(self, log: EventLog) -> None:
        run, other = await started(log), await started(log)
        for one in (run, other):
            await log.append(Append(one, logs(3)))
        with pytest.raises(RunActive):
            await log.forget(run)
        await log.append(ending(run))
        await log.forget(run)
        with pytest.raises(RunUnknown):
            await log.forget(run)
        assert await log.get(run) is None
        assert await log.read(run, 0) == []
        assert [found.id for found in await log.find(RunQuery())] == [other]
        assert await seqs(log, other) == [1, 2, 3]

    async def test_watching_is_noted(self, log: EventLog) -> None:
        run, other = await started(log), await started(log)
        await log.touch([run, new_run().id], 12.5)
        assert (await record(log, run)).watched_at == 12.5
        assert (await record(log, other)).watched_at is None

    async def test_a_live_process_has_no_orphans(self, log: EventLog) -> None:
        await started(log, worker=log.worker)
        await started(log)
        assert await log.orphans() == []

    @pytest.mark.parametrize(
        ("rules", "survivors"),
        [
            (Retention(max_age=15.0), [3, 2]),
            (Retention(max_runs=1), [3]),
            (Retention(max_bytes=1100), [3, 2, 1]),
            (Retention(max_bytes=700), [3, 2]),
            (_NOTHING_GOES, [3, 2, 1, 0]),
        ],
    )
    async def test_a_sweep_forgets_the_oldest(
        self, log_factory: LogFactory, rules: Retention, survivors: list[int]
    ) -> None:
        async with using(log_factory(rules)) as log:
            active = await started(log)
            runs = [await started(log) for _ in range(4)]
            for number, run in enumerate(runs):
                await log.append(Append(run, [Draft("log", b"x" * 200)]))
                await log.append(ending(run, number * 10.0))
            assert await log.sweep(35.0) == 4 - len(survivors)
            left = [run.id for run in await log.find(RunQuery())]
            assert left == [*(runs[number] for number in survivors), active]
            assert await log.sweep(35.0) == 0

    @pytest.mark.parametrize("rules", [Retention(run_events=10), Retention(run_bytes=1000)])
    async def test_a_crowded_run_loses_its_oldest_events(
        self, log_factory: LogFactory, rules: Retention
    ) -> None:
        async with using(log_factory(rules)) as log:
            run = await started(log)
            for _ in range(10):
                await log.append(Append(run, logs(3)))
            trimmed = await record(log, run)
            assert 20 < trimmed.first_seq <= 28
            blocks = await log.read(run, 0)
            assert blocks[0].first == trimmed.first_seq
            assert await seqs(log, run) == list(range(trimmed.first_seq, 31))
            assert trimmed.size == sum(len(block.wire) for block in blocks)
            await log.append(Append(run, logs(40)))
            assert await seqs(log, run) == list(range(31, 71)), "the newest block must stay"
            await log.append(ending(run))
            assert (await kept(log, run))[-1].type == "complete"

    async def test_close_commits_what_was_submitted(self, log_factory: LogFactory) -> None:
        log = log_factory()
        async with using(log):
            run = await started(log)
            futures = [log.append(Append(run, logs(1))) for _ in range(50)]
        assert [future.result().last for future in futures] == list(range(1, 51))

    async def test_a_closed_log_says_so(self, log_factory: LogFactory) -> None:
        log = log_factory()
        with pytest.raises(LogClosed):
            await log.create(new_run())
        async with using(log):
            run = await started(log)
        for ask in (
            lambda: log.create(new_run()),
            lambda: log.append(Append(run, logs(1))),
            lambda: log.forget(run),
            lambda: log.touch([run], 1.0),
            lambda: log.sweep(1.0),
        ):
            with pytest.raises(LogClosed):
                await ask()
        log.follow(run, 0)
        log.unfollow(run)
        await log.close()


__all__ = ["EventLogContract", "LogFactory"]
