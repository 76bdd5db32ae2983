"""The part of an event log's contract that says how runs of one thread follow each other."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.errors import ThreadBusy
from tailrace.eventlog.contract import Append, EventLog
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.logbook import ended, ending, logs, new_run, record, started


@pytest.mark.anyio
class ThreadContract:
    """Of one principal's runs with one thread, at most one is active."""

    async def test_a_run_keeps_its_thread(self, log: EventLog) -> None:
        made = new_run(thread="chat-7 ☃")
        run = await log.create(made)
        assert run.with_(ordinal=0) == made
        assert await log.get(run.id) == run
        await log.append(ending(run.id, before=State.QUEUED))
        assert (await record(log, run.id)).thread == "chat-7 ☃"

    async def test_a_thread_has_one_active_run(self, log: EventLog) -> None:
        run = (await log.create(new_run(thread="t"))).id
        for move in (None, (State.QUEUED, State.RUNNING), (State.RUNNING, State.CANCELLING)):
            if move is not None:
                await log.append(Append(run, logs(1), move=move))
            with pytest.raises(ThreadBusy, match=run) as refused:
                await log.create(new_run(thread="t"))
            assert refused.value.details == {"run": run}
            assert refused.value.fix
        others: list[dict[str, Any]] = [{"thread": "u"}, {"thread": "T"}, {}, {}]
        others.append({"thread": "t", "principal": "bob"})
        made = [(await log.create(new_run(**given))).id for given in others]
        found = [one.id for one in await log.find(RunQuery())]
        assert found == [*made[::-1], run], "of what was refused nothing is kept"

    async def test_a_thread_goes_on_after_an_end(self, log: EventLog) -> None:
        first = await ended(log, 10.0, thread="t")
        second = await log.create(new_run(thread="t"))
        with pytest.raises(ThreadBusy, match=second.id):
            await log.create(new_run(thread="t"))
        await log.forget(first)
        with pytest.raises(ThreadBusy, match=second.id):
            await log.create(new_run(thread="t"))
        await log.append(ending(second.id, before=State.QUEUED))
        await log.forget(second.id)
        assert (await log.create(new_run(thread="t"))).thread == "t"

    async def test_what_comes_at_once_is_judged_in_its_order(self, log: EventLog) -> None:
        run, other = await started(log, thread="t"), await started(log)
        outcomes = await asyncio.gather(
            log.create(new_run(thread="t")),
            log.append(Append(other, logs(1))),
            log.append(ending(run)),
            log.create(new_run(thread="t")),
            log.create(new_run(thread="t")),
            log.append(Append(other, logs(1))),
            log.create(new_run()),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds[0] is kinds[4] is ThreadBusy
        first, _, _, taken, late, *_ = outcomes
        assert isinstance(taken, RunRecord)
        assert run in str(first)
        assert taken.id in str(late)
        harmed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(harmed) == 2, "a refusal is nobody else's"
        assert (await record(log, other)).last_seq == 2
        assert (await record(log, run)).state is State.COMPLETED

    async def test_one_of_many_gets_the_thread(self, log: EventLog) -> None:
        asked = [new_run(thread=f"t{number % 3}") for number in range(30)]
        outcomes = await asyncio.gather(*map(log.create, asked), return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, RunRecord)]
        assert {run.thread for run in won} == {"t0", "t1", "t2"}
        assert len(won) == 3
        assert sum(isinstance(outcome, ThreadBusy) for outcome in outcomes) == 27
        assert await log.find(RunQuery(principal="ada")) == won[::-1]

    async def test_a_known_key_comes_before_a_busy_thread(self, log: EventLog) -> None:
        run = await log.create(new_run(thread="t", key="k"))
        assert await log.create(new_run(thread="t", key="k")) == run
        with pytest.raises(ThreadBusy):
            await log.create(new_run(thread="t", key="l"))
        await log.append(ending(run.id, before=State.QUEUED))
        fresh = new_run(thread="t", key="l")
        assert (await log.create(fresh)).id == fresh.id, "a refusal uses up no key"
        assert (await log.create(new_run(thread="t", key="k"))).id == run.id

    async def test_the_runs_of_a_thread_are_found(self, log: EventLog) -> None:
        made: list[str] = []
        for number in range(4):
            for principal in ("ada", "bob"):
                given = {"thread": "t", "principal": principal}
                made.append(await ended(log, float(number), **given))
            await started(log, operation="other")
        going = (await log.create(new_run(thread="t"))).id
        await log.create(new_run(thread="u"))
        mine = [going, *made[::2][::-1]]

        async def found(**query: Any) -> list[str]:
            return [run.id for run in await log.find(RunQuery(thread="t", **query))]

        assert await found(principal="ada") == mine
        assert await found() == [going, *made[::-1]]
        assert await found(principal="eve") == []
        assert await found(principal="ada", operation="other") == []
        assert await found(principal="ada", states=frozenset({State.QUEUED})) == [going]
        assert await found(principal="ada", limit=2) == mine[:2]
        assert await found(principal="ada", oldest_first=True, limit=2) == mine[:-3:-1]
        before = (await record(log, mine[1])).ordinal
        assert await found(principal="ada", before=before) == mine[2:]
        assert await found(principal="ada", since=before) == mine[:1]
        await log.forget(mine[2])
        assert await found(principal="ada") == [*mine[:2], *mine[3:]]
