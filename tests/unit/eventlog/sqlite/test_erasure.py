from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tailrace.errors import RunUnknown
from tailrace.eventlog.contract import Append, EventLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog, erasure, schema
from tailrace.protocol.events import draft
from tailrace.testing.logbook import ended, record, started, using

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "SLICE_ROWS", 3)


async def filled(log: EventLog, blocks: int) -> str:
    run = await started(log)
    for _ in range(blocks):
        await log.append(Append(run, [draft("log", {"message": "x" * 100}, 0.0)]))
    return run


def rows(path: Path, table: str) -> int:
    connection = schema.connect(path)
    try:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)
    finally:
        connection.close()


async def test_a_large_run_goes_in_slices_that_let_others_in(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with using(SqliteLog(path)) as log:
        run = await ended(log, 1.0)
        other = await filled(log, 10)
        await log.append(Append(other, [draft("log", {}, 0.0)]))
        large = await filled(log, 20)
        await log.append(
            Append(
                large,
                [draft("complete", {}, 0.0)],
                move=((await record(log, large)).state, (await record(log, run)).state),
                patch={"ended_at": 2.0},
            )
        )
        forgetting = asyncio.create_task(log.forget(large))
        while await log.get(large) is not None:
            await asyncio.sleep(0)
        # It is gone for everybody before its blocks are.
        assert await log.read(large, 0) == []
        await forgetting
        assert rows(path, "forgotten") == 0
        assert rows(path, "blocks") == 1 + 11 + (await record(log, other)).last_seq - 11
        with pytest.raises(RunUnknown):
            await log.forget(large)


async def test_what_a_crash_interrupted_is_finished_by_the_next_sweep(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with using(SqliteLog(path)) as log:
        run = await ended(log, 1.0)
    connection = schema.connect(path)
    assert rows(path, "blocks") == 1
    erasure.forget(connection, run)
    assert erasure.unfinished(connection) == [1]
    connection.close()
    async with using(SqliteLog(path)) as log:
        await log.sweep(2.0)
    assert (rows(path, "blocks"), rows(path, "forgotten")) == (0, 0)


async def test_a_crowded_run_is_trimmed_by_a_slice_at_a_time(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", Retention(run_events=20))
    async with using(log):
        run = await filled(log, 20)
        firsts = [(await record(log, run)).first_seq]
        for _ in range(10):
            await log.append(Append(run, [draft("log", {}, 0.0)]))
            firsts.append((await record(log, run)).first_seq)
        steps = [after - before for before, after in itertools.pairwise(firsts)]
        assert max(steps) <= erasure.SLICE_ROWS
        last = await record(log, run)
        assert last.last_seq - last.first_seq + 1 <= 20
        blocks = await log.read(run, 0)
        assert blocks[0].first == last.first_seq
        assert last.size == sum(len(block.wire) for block in blocks)
