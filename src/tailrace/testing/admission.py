"""The half of an event log's contract that says who may write, and when."""

# ruff: noqa: S101

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tailrace.errors import ProducerGap, RunEnded, RunUnknown, StateMoved, WriterFenced
from tailrace.eventlog.contract import Append, EventLog, Producer
from tailrace.protocol.lifecycle import State
from tailrace.testing.logbook import ended, ending, kept, logs, new_run, record, seqs, started


@pytest.mark.anyio
class AdmissionContract:
    """What `tailrace.eventlog.contract.admit` decides, as a log must carry it out."""

    async def test_a_move_is_a_compare_and_set(self, log: EventLog) -> None:
        run = await started(log)
        moves = [(State.RUNNING, State.CANCELLING), (State.RUNNING, State.COMPLETED)]
        won, lost = await asyncio.gather(
            *(log.append(Append(run, logs(1), move=move)) for move in moves),
            return_exceptions=True,
        )
        assert not isinstance(won, BaseException)
        assert won.state is State.CANCELLING
        assert isinstance(lost, StateMoved)
        assert lost.state == "cancelling"
        assert (await record(log, run)).state is State.CANCELLING
        assert await seqs(log, run) == [1]

    async def test_nothing_follows_the_end(self, log: EventLog) -> None:
        run = await ended(log, 10.0)
        for late in (
            Append(run, logs(1)),
            Append(run, move=(State.COMPLETED, State.RUNNING)),
            ending(run),
        ):
            with pytest.raises(RunEnded):
                await log.append(late)
        assert [event.type for event in await kept(log, run)] == ["complete"]

    async def test_an_older_attempt_is_fenced(self, log: EventLog) -> None:
        run = await started(log)
        await log.append(Append(run, logs(1), fence=0))
        await log.append(Append(run, patch={"attempt": 2, "worker": "elsewhere"}))
        for fence in (0, 1, 3):
            with pytest.raises(WriterFenced):
                await log.append(Append(run, logs(1), fence=fence))
        await log.append(Append(run, logs(1), fence=2))
        assert await seqs(log, run) == [1, 2]

    async def test_an_unknown_run_is_refused(self, log: EventLog) -> None:
        with pytest.raises(RunUnknown):
            await log.append(Append(new_run().id, logs(1)))
        with pytest.raises(RunUnknown):
            await log.forget(new_run().id)
        assert await log.read(new_run().id, 0) == []

    async def test_a_producer_is_heard_exactly_once(self, log: EventLog) -> None:
        run = await started(log)

        async def send(epoch: int, seq: int, count: int, **more: Any) -> tuple[int, int]:
            producer = Producer("p", epoch, seq)
            commit = await log.append(Append(run, logs(count), producer=producer, **more))
            return commit.first, commit.last

        assert await send(1, 1, 3) == (1, 3)
        assert await send(1, 1, 3) == (4, 3)
        assert await send(1, 2, 1, patch={"progress": b"1"}) == (4, 3)
        assert (await record(log, run)).progress is None
        assert await send(1, 2, 4) == (4, 5)
        with pytest.raises(ProducerGap) as gap:
            await send(1, 7, 1)
        assert gap.value.details["expected"] == 6
        with pytest.raises(WriterFenced):
            await send(0, 6, 1)
        with pytest.raises(ProducerGap):
            await send(2, 6, 1)
        assert await send(2, 1, 1) == (6, 6)
        with pytest.raises(WriterFenced):
            await send(1, 6, 1)
        other = Producer("q", 0, 1)
        assert (await log.append(Append(run, logs(1), producer=other))).last == 7
        assert await seqs(log, run) == [1, 2, 3, 4, 5, 6, 7]

    async def test_a_producer_may_repeat_the_end(self, log: EventLog) -> None:
        run = await started(log)
        end = ending(run)
        last = Append(run, end.drafts, end.move, end.patch, producer=Producer("p", 0, 1))
        assert (await log.append(last)).last == 1
        again = await log.append(last)
        assert (again.first, again.last, again.state) == (2, 1, State.COMPLETED)
        assert await seqs(log, run) == [1]

    async def test_a_refused_append_leaves_nothing(self, log: EventLog) -> None:
        run = await started(log)
        before = await record(log, run)
        progress = {"progress": b'{"bad":true}'}
        refused: Sequence[Append] = (
            Append(run, logs(2, "bad"), fence=9, patch=progress),
            Append(run, logs(2, "bad"), move=(State.QUEUED, State.LOST), patch=progress),
            Append(run, logs(2, "bad"), producer=Producer("p", 0, 2), patch=progress),
            Append(new_run().id, logs(2, "bad")),
        )
        group = [one for bad in refused for one in (bad, Append(run, logs(1, "good")))]
        settled = await asyncio.gather(*map(log.append, group), return_exceptions=True)
        kinds = [type(outcome) for outcome in settled[::2]]
        assert kinds == [WriterFenced, StateMoved, ProducerGap, RunUnknown]
        assert [getattr(outcome, "last", None) for outcome in settled[1::2]] == [1, 2, 3, 4]
        assert [event.payload["message"] for event in await kept(log, run)] == ["good 0"] * 4
        after = await record(log, run)
        assert after.with_(last_seq=before.last_seq, size=before.size) == before
        await log.append(Append(run, logs(1), producer=Producer("p", 0, 1)))

    async def test_columns_change_with_the_events(self, log: EventLog) -> None:
        run = await started(log)
        before = await record(log, run)
        times = {"started_at": 2.5, "ended_at": 3.5}
        told = {"progress": b"{}", "result": b"[1]", "error": b'{"error":"e"}'}
        patch = {"attempt": 4, "worker": "w", **times, **told}
        commit = await log.append(Append(run, patch=patch))
        assert (commit.first, commit.last) == (1, 0)
        assert await log.get(run) == before.with_(**patch)
        # What was said may be taken back: work that begins has no progress yet.
        gone = {"progress": None, "result": None, "error": None}
        await log.append(Append(run, patch=gone))
        assert await log.get(run) == before.with_(**{**patch, **gone})
