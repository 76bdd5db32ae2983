from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.eventlog.contract import Append, EventLog, Producer
from tailrace.eventlog.masked import MaskedLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.places import open_log
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.events import Draft, draft
from tailrace.protocol.masking import Masks
from tailrace.testing.logbook import Heard, kept, logs, new_run, record, started, using

pytestmark = pytest.mark.anyio

SECRET = "hunter2-hunter2"


class Seen(MemoryLog):
    """Remembers what it was given."""

    appended: Append

    def append(self, append: Append):  # type: ignore[no-untyped-def]
        self.appended = append
        return super().append(append)


@pytest.fixture
def inner() -> Seen:
    return Seen()


@pytest.fixture
async def log(inner: Seen) -> AsyncIterator[EventLog]:
    async with using(MaskedLog(inner, Masks([SECRET]))) as log:
        yield log


async def test_what_is_told_is_masked(log: EventLog) -> None:
    heard = Heard()
    log.listen(heard)
    run = await started(log)
    log.follow(run, 0)
    told = [draft("log", {"message": f"it is {SECRET}!", SECRET: 1}, 0.0), *logs(1)]
    await log.append(Append(run, told, producer=Producer("p", 0, 1)))
    payloads = [event.payload for event in await kept(log, run)]
    assert [payload["message"] for payload in payloads] == ["it is ***!", "hello 0"]
    assert payloads[0]["***"] == 1
    assert SECRET.encode() not in b"".join(block.wire for block in await heard.until(run, 2))
    # A repetition is one, whatever was masked of it.
    again = await log.append(Append(run, told, producer=Producer("p", 0, 1)))
    assert (again.first, again.last) == (3, 2)


async def test_the_snapshot_is_masked(log: EventLog) -> None:
    run = await started(log)
    said = b'{"error":"%b","n":1}' % SECRET.encode()
    patch = {"progress": said, "result": said, "error": said, "worker": SECRET}
    await log.append(Append(run, patch=patch))
    found = await record(log, run)
    masked = b'{"error":"***","n":1}'
    assert (found.progress, found.result, found.error) == (masked, masked, masked)
    assert found.worker == SECRET
    assert patch["result"] == said, "the caller's own is left alone"
    await log.append(Append(run, patch={"progress": None}))
    assert (await record(log, run)).progress is None


async def test_what_has_no_secret_is_passed_on_as_it_is(log: EventLog, inner: Seen) -> None:
    run = await started(log)
    for append in (
        Append(run, logs(3), patch={"result": b"1"}, fence=0),
        Append(run, (Draft("log", b"{}"),)),
        Append(run),
    ):
        await log.append(append)
        assert inner.appended is append


async def test_the_input_is_for_the_work(log: EventLog) -> None:
    run = await log.create(new_run(input=b'{"key":"%b"}' % SECRET.encode()))
    assert SECRET.encode() in (await record(log, run.id)).input


def test_a_log_without_secrets_is_as_it_was() -> None:
    log = MemoryLog()
    assert open_log(log, None) is log
    assert open_log(log, None, Masks()) is log
    masked = open_log(log, None, Masks([SECRET]))
    assert isinstance(masked, MaskedLog)
    assert isinstance(masked, EventLog)


async def test_it_is_where_the_other_is(tmp_path: Path) -> None:
    other = SqliteLog(tmp_path / "log.db")
    log = MaskedLog(other, Masks([SECRET]))
    async with using(log):
        assert log.folder == other.folder is not None
        assert log.worker == other.worker
