"""What is peculiar to a file that processes share; the rest is in tests/contracts."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import (
    LogClosed,
    LogCorrupt,
    LogError,
    LogFull,
    RunUnknown,
    TailraceError,
    ThreadBusy,
    WriterFenced,
)
from tailrace.eventlog.contract import READ_BYTES, Append, Commit, Producer
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.events import Draft, draft
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.logbook import (
    Heard,
    ended,
    ending,
    kept,
    logs,
    new_run,
    record,
    seqs,
    started,
    using,
)

from .conftest import Child, Spawn

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(path)
    async with using(log):
        yield log


async def says(child: Child) -> list[str]:
    return await asyncio.to_thread(child.says)


# ---------------------------------------------------------------- the file


async def test_a_reopened_file_has_everything(path: Path) -> None:
    async with using(SqliteLog(path)) as log:
        runs = [await started(log, key=str(n), thread=f"t{n}") for n in range(3)]
        for run in runs:
            await log.append(Append(run, logs(5), producer=Producer("p", 3, 1)))
        await log.append(Append(runs[0], patch={"progress": b"[1]", "attempt": 7}))
        await log.append(ending(runs[2]))
        await log.touch(runs[1:2], 5.5)
        records = await log.find(RunQuery())
        events = [await kept(log, run) for run in runs]
    async with using(SqliteLog(path)) as log:
        assert await log.find(RunQuery()) == records
        assert [await kept(log, run) for run in runs] == events
        assert (await log.create(new_run(key="1"))).id == runs[1]
        with pytest.raises(ThreadBusy, match=runs[1]):
            await log.create(new_run(thread="t1"))
        with pytest.raises(WriterFenced):
            await log.append(Append(runs[1], logs(1), producer=Producer("p", 2, 6)))
        commit = await log.append(Append(runs[1], logs(3), producer=Producer("p", 3, 4)))
        assert (commit.first, commit.last) == (6, 6)
        assert (await log.create(new_run())).ordinal > records[0].ordinal


async def test_the_same_object_can_be_opened_again(path: Path) -> None:
    log = SqliteLog(path)
    for expected in (1, 2, 3):
        async with using(log):
            run = await started(log)
            assert len(await log.find(RunQuery())) == expected
            assert await log.orphans() == []
        assert run


async def test_nothing_is_left_beside_the_file_once_it_is_closed(path: Path) -> None:
    async with using(SqliteLog(path)) as log:
        await seqs(log, await ended(log, 1.0))
        assert len(list(path.parent.iterdir())) > 2
    assert {file.name for file in path.parent.iterdir()} == {"log.db", "log.db.workers"}
    assert list(path.with_name("log.db.workers").iterdir()) == []


async def test_folders_are_made(tmp_path: Path) -> None:
    async with using(SqliteLog(str(tmp_path / "a" / "b" / "log.db"))) as log:
        await started(log)
    assert (tmp_path / "a" / "b" / "log.db").is_file()


async def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log.db", Path("/proc/no/log.db")):
        with pytest.raises(LogError) as error:
            await SqliteLog(path).open()
        assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"Dear diary, " * 1000, b"SQLite format 3\0" + b"x" * 4096])
async def test_a_file_that_is_no_log_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    log = SqliteLog(path)
    with pytest.raises(LogCorrupt):
        await log.open()
    with pytest.raises(LogClosed):
        await log.append(Append("run"))
    with pytest.raises(LogClosed):
        await log.get("run")
    assert path.read_bytes() == content
    assert list(path.with_name("log.db.workers").iterdir()) == []
    path.unlink()
    async with using(log):
        await started(log)


async def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(LogError, match="another program"):
        await SqliteLog(path).open()
    assert path.read_bytes() == before


async def test_many_may_make_one_file_at_once(tmp_path: Path) -> None:
    for round_ in range(5):
        many = [SqliteLog(tmp_path / f"{round_}.db") for _ in range(5)]
        await asyncio.gather(*(log.open() for log in many))
        runs = [await started(log) for log in many]
        assert [run.id for run in await many[-1].find(RunQuery())] == runs[::-1]
        await asyncio.gather(*(log.close() for log in many))


async def test_the_future_of_a_cancelled_wait_is_let_be(log: SqliteLog) -> None:
    run = await started(log)
    log.append(Append(run, logs(1))).cancel()
    assert (await log.append(Append(run, logs(1)))).last == 2


# ---------------------------------------------------------------- damage


def flip(path: Path, text: bytes) -> None:
    """Change one byte of `text` in the file."""
    content = path.read_bytes()
    at = content.index(text)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([text[0] ^ 1]))


async def test_a_flipped_byte_is_noticed_and_the_rest_works(path: Path) -> None:
    async with using(SqliteLog(path)) as log:
        hurt, sound = await started(log), await started(log)
        for text in ("before", "needle", "after"):
            await log.append(Append(hurt, logs(1, text)))
    flip(path, b"needle")
    async with using(SqliteLog(path)) as log:
        heard = Heard()
        log.listen(heard)
        log.follow(hurt, 0)
        assert [block.last for block in await log.read(hurt, 0)] == [1]
        with pytest.raises(LogCorrupt, match=hurt):
            await log.read(hurt, 1)
        assert await seqs(log, hurt, 2) == [3]
        for run in (hurt, sound):
            await log.append(Append(run, logs(1)))
        assert await seqs(log, sound) == [1]
        assert (await heard.until(hurt, 4))[-1].last == 4
        await log.append(ending(hurt))
        await log.forget(hurt)


# ---------------------------------------------------------------- no space


def pages(log: SqliteLog, bound: int) -> None:
    """Let the writer's connection use that many pages and no more."""
    connection = log._writer._connection
    assert connection is not None
    connection.execute(f"PRAGMA max_page_count = {bound}")


async def test_a_full_disk_refuses_and_loses_nothing(log: SqliteLog) -> None:
    run, other = await started(log), await started(log)
    big = draft("log", {"text": "x" * 50_000}, 0.0)
    pages(log, 66)
    offered = await asyncio.gather(
        *(log.append(Append(run, [big])) for _ in range(20)), return_exceptions=True
    )
    refused = [outcome for outcome in offered if isinstance(outcome, LogFull)]
    full = (await record(log, run)).last_seq
    assert 2 <= full == 20 - len(refused) < 20
    assert refused[0].fix
    assert await seqs(log, run) == list(range(1, full + 1))

    # What is small still finds room, though its group was too large as a whole.
    futures = [log.append(Append(one, [told])) for told in (big, *logs(1)) for one in (run, other)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["LogFull"] * 2 + ["Commit"] * 2

    pages(log, 10_000)
    commit = await log.append(Append(run, [big]))
    assert commit.first == full + 2
    assert await seqs(log, run) == list(range(1, full + 3))


QUOTA = """
import resource, signal

async def main():
    async with using(SqliteLog(path)) as log:
        run = await started(log)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
        kept = 0
        try:
            while True:
                await log.append(Append(run, logs(10, "x" * 1000)))
                kept += 10
        except TailraceError as error:
            say(type(error).__name__)
        say(kept, (await log.get(run)).last_seq, len((await log.read(run, 0, 10**9))[0].events))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        say((await log.append(Append(run, logs(1)))).last - kept)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""


async def test_a_write_the_system_refuses_is_survived(path: Path, spawn: Spawn) -> None:
    child = spawn(QUOTA, path)
    assert await says(child) == ["LogError"]
    expected, head, events = await says(child)
    assert int(expected) > 0
    assert expected == head == events
    assert await says(child) == ["1"]


# ---------------------------------------------------------------- several processes

APPENDS = """
async def main():
    async with using(SqliteLog(path)) as log:
        while words := await told():
            commit = await log.append(Append(words[0], logs(int(words[1]))))
            say(commit.last)

asyncio.run(main())
"""

LISTENS = """
async def main():
    async with using(SqliteLog(path)) as log:
        log.listen(lambda block: say(block.run, block.first, block.last))
        while words := await told():
            log.follow(words[0], int(words[1]))
            say("following")

asyncio.run(main())
"""

OWNS = """
async def main():
    async with using(SqliteLog(path)) as log:
        say(await started(log, worker=log.worker), await started(log))
        say(len(await log.orphans()))
        await told()

asyncio.run(main())
"""


async def test_commits_of_another_process_reach_the_listener(
    log: SqliteLog, path: Path, spawn: Spawn
) -> None:
    run = await started(log)
    await log.append(Append(run, logs(2)))
    writer, listener = spawn(APPENDS, path), spawn(LISTENS, path)
    heard = Heard()
    log.listen(heard)
    log.follow(run, 2)
    listener.tell(run, "1")
    assert await says(listener) == ["following"]
    assert await says(listener) == [run, "2", "2"]
    async with asyncio.timeout(20):
        for count in (1, 3):
            writer.tell(run, str(count))
            (last,) = await says(writer)
            blocks = await asyncio.wait_for(heard.until(run, int(last)), 2)
            assert [block.last for block in blocks] == sorted({block.last for block in blocks})
            assert (await says(listener))[2] == last
        commit = await log.append(Append(run, logs(1)))
        assert (commit.first, commit.last) == (7, 7)
        assert (await says(listener))[2] == "7"
    told = [event for block in heard.blocks for event in block.events]
    assert told == await kept(log, run, 2)


async def test_both_number_one_run_without_a_clash(
    log: SqliteLog, path: Path, spawn: Spawn
) -> None:
    run = await started(log)
    other = spawn(APPENDS, path)
    for _ in range(20):
        other.tell(run, "2")
    ours = [await log.append(Append(run, logs(3))) for _ in range(20)]
    theirs = [int((await says(other))[0]) for _ in range(20)]
    assert await seqs(log, run) == list(range(1, 101))
    spans = {range(commit.first, commit.last + 1) for commit in ours}
    assert not any(last in span for span in spans for last in theirs)


CREATES = """
from tailrace.errors import ThreadBusy
from tailrace.testing.logbook import new_run

async def create(log, number):
    try:
        return (await log.create(new_run(thread=f"t{number}"))).id
    except ThreadBusy as busy:
        return busy.details["run"]

async def main():
    async with using(SqliteLog(path)) as log:
        say("ready")
        await told()
        say(*await asyncio.gather(*(create(log, number) for number in range(50))))

asyncio.run(main())
"""


async def test_processes_agree_on_who_has_a_thread(
    log: SqliteLog, path: Path, spawn: Spawn
) -> None:
    children = [spawn(CREATES, path) for _ in range(3)]
    for child in children:
        assert await says(child) == ["ready"]
    for child in children:
        child.tell("go")
    asked = (log.create(new_run(thread=f"t{number}")) for number in range(50))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    ours = [
        outcome.details["run"] if isinstance(outcome, ThreadBusy) else outcome.id
        for outcome in outcomes
        if isinstance(outcome, ThreadBusy | RunRecord)
    ]
    runs = {run.thread: run.id for run in await log.find(RunQuery(limit=500))}
    assert ours == [runs[f"t{number}"] for number in range(50)]
    for child in children:
        assert await says(child) == ours
    assert len(await log.find(RunQuery(limit=500))) == 50


async def test_an_end_elsewhere_frees_the_thread(log: SqliteLog, path: Path) -> None:
    async with using(SqliteLog(path)) as other:
        run = await started(log, thread="t")
        # It knows the run by heart by now.
        await other.append(Append(run, logs(1)))
        with pytest.raises(ThreadBusy, match=run):
            await other.create(new_run(thread="t"))
        await log.append(ending(run))
        assert (await other.create(new_run(thread="t"))).thread == "t"
        with pytest.raises(ThreadBusy):
            await log.create(new_run(thread="t"))


async def test_a_refusal_is_one_job_s_own(log: SqliteLog) -> None:
    """In one group with an append that the tables refuse: each job is then tried alone."""
    run = await started(log, thread="t")
    poison = Append(run, logs(1, "poison"), patch={"attempt": 2**64})
    outcomes = await asyncio.gather(
        log.create(new_run(thread="t")),
        log.create(new_run(thread="u")),
        log.append(poison),
        log.create(new_run(thread="u")),
        log.append(Append(run, logs(1))),
        return_exceptions=True,
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ThreadBusy, RunRecord, TailraceError, ThreadBusy, Commit]
    assert await seqs(log, run) == [1]
    assert len(await log.find(RunQuery())) == 2


async def test_a_killed_process_leaves_orphans_and_a_live_one_none(
    log: SqliteLog, path: Path, spawn: Spawn
) -> None:
    await started(log, worker=log.worker)
    lives, dies = spawn(OWNS, path), spawn(OWNS, path)
    await says(lives)
    assert await says(lives) == ["0"]
    orphan, _ = await says(dies)
    assert await says(dies) == ["0"]
    assert await log.orphans() == []
    dies.process.send_signal(signal.SIGSTOP)
    assert await log.orphans() == [], "stopped is not dead"
    dies.kill()
    for _ in range(2):
        assert [run.id for run in await log.orphans()] == [orphan]
    lost = ending(orphan)
    await log.append(Append(orphan, lost.drafts, (State.RUNNING, State.LOST), lost.patch))
    assert await log.orphans() == []


async def test_a_worker_named_like_a_path_is_only_dead(log: SqliteLog, path: Path) -> None:
    run = await started(log, worker="../log.db")
    assert [orphan.id for orphan in await log.orphans()] == [run]
    assert path.is_file()
    await log.append(Append(run, logs(1)))


async def test_an_ended_run_is_no_orphan_whatever_its_columns_say(log: SqliteLog) -> None:
    run = await started(log, worker="f" * 32)
    await log.append(Append(run, logs(1), move=(State.RUNNING, State.FAILED)))
    assert await log.orphans() == []
    await log.forget(run)


async def test_two_may_sweep_at_once(path: Path) -> None:
    rules = Retention(max_runs=1)
    async with using(SqliteLog(path, rules)) as one, using(SqliteLog(path, rules)) as two:
        for at in range(30):
            await ended(one, float(at))
        counts = await asyncio.gather(one.sweep(100.0), two.sweep(100.0))
        assert sum(counts) == 29
        assert len(await one.find(RunQuery())) == 1


# ---------------------------------------------------------------- threads and groups


async def test_appends_that_wait_are_committed_together(log: SqliteLog) -> None:
    runs = [await started(log) for _ in range(100)]
    sizes: list[int] = []
    transact = log._writer._transact

    def counted(group: list[Any]) -> Any:
        sizes.append(len(group))
        return transact(group)

    log._writer._transact = counted  # type: ignore[method-assign]
    await asyncio.gather(*(log.append(Append(run, logs(1))) for run in runs for _ in range(5)))
    assert sum(sizes) == 500
    assert len(sizes) < 50


@pytest.mark.parametrize("patch", [{"progress": "not bytes"}, {"attempt": 2**64}])
async def test_a_poisoned_append_fails_alone(log: SqliteLog, patch: dict[str, Any]) -> None:
    run = await started(log)
    poison = Append(run, logs(1, "poison"), patch=patch)
    appends = [Append(run, logs(1)), poison, Append(run, logs(1)), poison, Append(run, logs(1))]
    outcomes = await asyncio.gather(*map(log.append, appends), return_exceptions=True)
    assert [getattr(outcome, "last", None) for outcome in outcomes] == [1, None, 2, None, 3]
    # No LogError: whoever keeps its events for a better day would wait for ever.
    assert [type(outcomes[1]), type(outcomes[3])] == [TailraceError] * 2
    assert all(event.payload["message"] == "hello 0" for event in await kept(log, run))


async def test_a_follower_of_a_long_run_is_sent_to_read(log: SqliteLog) -> None:
    run = await started(log)
    for _ in range(4):
        await log.append(Append(run, [Draft("log", b'"%s"' % (b"x" * (READ_BYTES // 2)))]))
    heard = Heard()
    log.listen(heard)
    log.follow(run, 0)
    blocks = await heard.until(run, 4)
    assert [(block.first, block.last) for block in blocks] == [(1, 2), (4, 4)]


async def test_who_stops_following_hears_no_more(log: SqliteLog, path: Path) -> None:
    run = await started(log)
    heard = Heard()
    log.listen(heard)
    log.follow(run, 0)
    await log.append(Append(run, logs(1)))
    future = log.append(Append(run, logs(1)))
    # It is committed, and on its way to the loop, which does not turn meanwhile.
    with closing(sqlite3.connect(path)) as other:
        until = time.monotonic() + 10
        while other.execute("SELECT max(last_seq) FROM runs").fetchone() != (2,):
            assert time.monotonic() < until
    log.unfollow(run)
    await future
    assert [block.last for block in heard.blocks] == [1]


async def test_closing_settles_reads_and_refuses_new_ones(path: Path) -> None:
    log = SqliteLog(path)
    async with using(log):
        run = await ended(log, 1.0)
        reads = [asyncio.ensure_future(log.read(run, 0)) for _ in range(20)]
        await asyncio.sleep(0)
    assert {len(blocks) for blocks in await asyncio.gather(*reads)} == {1}
    for refused in (log.get(run), log.find(RunQuery()), log.read(run, 0), log.orphans()):
        with pytest.raises(LogClosed):
            await refused


async def test_what_is_asked_for_at_once_happens_in_its_order(log: SqliteLog) -> None:
    """Appends are gathered, and whatever is none sees what came before it."""
    made = new_run(state=State.RUNNING, key="k")
    asked: list[asyncio.Future[Any]] = [
        log.create(made),
        log.append(Append(made.id, logs(2))),
        log.create(new_run(key="k")),
        log.append(ending(made.id)),
        asyncio.ensure_future(log.touch([made.id], 3.0)),
        asyncio.ensure_future(log.forget(made.id)),
    ]
    await asyncio.sleep(0)
    asked += [log.append(Append(made.id, logs(1))), log.create(new_run(key="k"))]
    outcomes: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    assert (outcomes[2].id, outcomes[2].last_seq) == (made.id, 2)
    assert (outcomes[1].last, outcomes[3].last) == (2, 3)
    assert outcomes[5] is None
    assert isinstance(outcomes[6], RunUnknown)
    assert outcomes[7].id != made.id
    assert await log.get(made.id) is None
