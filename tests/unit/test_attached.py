from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from tailrace import ProgressLogger, RunLogs, tqdm
from tailrace.attached import Attachment, attach
from tailrace.client import sender as senders
from tailrace.errors import (
    BufferFull,
    EventInvalid,
    EventTooLarge,
    RequestError,
    RunCancelled,
    RunEnded,
    RunUnknown,
    ServerUnreachable,
    TailraceError,
    WriterFenced,
)
from tailrace.protocol.events import MAX_EVENT_BYTES
from tailrace.runners.contract import AMBIENT
from tests.unit.client.far import KEPT, Far
from tests.unit.client.scripted import RUN, nowhere
from tests.waiting import soon, until, until_here

URL = "http://somewhere/tailrace"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    # A question at the beginning would take the answers that are meant for events.
    monkeypatch.setattr(senders, "LINGER_SECONDS", 600.0)
    monkeypatch.setattr(senders, "CAP_SECONDS", 0.001)
    far = Far()
    yield far
    far.open.set()
    far.http.close()


def attached(far: Far, **given: Any) -> Attachment:
    return attach(URL, RUN, token="s3cret", http=far.http, **given)


def stop(far: Far, state: str = "cancelling") -> None:
    """What is answered next says that the run is to stop."""
    far.answers.append(httpx2.Response(200, json={**KEPT, "state": state}))


def told(far: Far) -> list[tuple[str, dict[str, Any]]]:
    for _, data in far.events:
        assert data.pop("timestamp")
    return far.events


# --- telling -------------------------------------------------------------------------------


def test_what_work_tells(far: Far) -> None:
    with attached(far) as run:
        assert run.id == RUN
        run.emit("one", {"a": 1})
        run.emit("two", a=1, type=2)
        run.emit("three", [1], more=2)
        run.emit("four", "text")
        run.progress(1, 4)
        run.log("hello", rows=3)
        run.output("text\n")
        run.result({"rows": 3})
        run.steps(2).next_step("Load")
    events = told(far)
    assert events[:8] == [
        ("one", {"a": 1}),
        ("two", {"a": 1, "type": 2}),
        ("three", {"value": [1], "more": 2}),
        ("four", {"value": "text"}),
        ("progress", {"current": 1, "total": 4, "percent": 25.0}),
        ("log", {"level": "info", "message": "hello", "details": {"rows": 3}}),
        ("output", {"stream": "stdout", "text": "text\n"}),
        ("result", {"result": {"rows": 3}}),
    ]
    assert events[8][1]["step_name"] == "Load"


@pytest.mark.anyio
async def test_what_a_coroutine_tells(far: Far) -> None:
    async with attached(far) as run:
        async for _ in run.track(["a", "b"], "Crunching"):
            run.log("row")
        await run.drain()
        assert [type_ for type_, _ in far.events] == ["log", "progress", "log", "progress"]
        await asyncio.to_thread(run.log, "from a thread")
    assert far.events[-1][1]["message"] == "from a thread"


@pytest.mark.parametrize(
    ("type_", "payload", "kind"),
    [
        ("complete", {}, EventInvalid),
        ("gap", {}, EventInvalid),
        ("a b", {}, EventInvalid),
        ("log", object(), EventInvalid),
        ("log", "x" * MAX_EVENT_BYTES, EventTooLarge),
    ],
)
def test_what_cannot_be_told(far: Far, type_: str, payload: Any, kind: type[TailraceError]) -> None:
    with attached(far) as run, pytest.raises(kind):
        run.emit(type_, payload)
    assert far.events == []


def test_what_tells_of_work_tells_of_this(far: Far) -> None:
    logger = logging.getLogger("somebody")
    listener = RunLogs()
    logger.addHandler(listener)
    try:
        with attached(far):
            assert list(tqdm([1, 2], desc="Reading")) == [1, 2]
            ProgressLogger(2).next_step("Load")
            logger.warning("careful")
        logger.warning("not any more")
    finally:
        logger.removeHandler(listener)
    types = [type_ for type_, _ in far.events]
    assert types[-2:] == ["progress", "log"]
    assert far.events[-1][1]["message"] == "careful"


def test_a_framework_may_end_the_block_in_another_context(far: Far) -> None:
    run = attached(far)
    contextvars.copy_context().run(run.__enter__)
    assert AMBIENT.get(None) is None
    run.log("hello")
    run.__exit__(None, None, None)
    assert [type_ for type_, _ in far.events] == ["log"]


# --- whose it is ---------------------------------------------------------------------------


def test_who_it_is(far: Far) -> None:
    with attached(far, producer="worker-7", epoch=3, attempt=2) as run:
        run.log("hello")
    said = far.asked[-1].content
    assert said.endswith(b'"attempt":2,"producer":{"id":"worker-7","epoch":3,"seq":1}}')
    assert far.asked[-1].headers["authorization"] == "Bearer s3cret"


def test_each_has_a_name_of_its_own(far: Far) -> None:
    for _ in range(2):
        with attached(far) as run:
            run.log("hello")
    names = {request.content.partition(b'"producer"')[2] for request in far.asked}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: attach(URL, "run_7"), RunUnknown),
        (lambda: attach("somewhere", RUN), RequestError),
        (lambda: attach(URL, RUN, producer=""), RequestError),
        (lambda: attach(URL, RUN, epoch=-1), RequestError),
        (lambda: attach(URL, RUN, attempt=0), RequestError),
        (lambda: attach(URL, RUN, token="a b"), RequestError),
    ],
)
def test_what_makes_no_sense(make: Callable[[], Attachment], kind: type[TailraceError]) -> None:
    with pytest.raises(kind) as raised:
        make()
    assert raised.value.fix


# --- when it is to stop --------------------------------------------------------------------


def test_it_learns_from_the_answers_that_it_is_to_stop(far: Far) -> None:
    stop(far)
    with attached(far) as run:
        assert not run.cancelled
        run.log("one")
        run.flush()
        until_here(lambda: run.cancelled)
        assert run.wait_cancelled(10)
        # To tell how it ends is still allowed.
        run.log("cleaned up")
    assert [data["message"] for _, data in far.events] == ["cleaned up"]


def test_it_asks_by_itself(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "LINGER_SECONDS", 0.0)
    stop(far)
    with attached(far) as run:
        assert run.wait_cancelled(10)


def test_a_loop_is_left_and_the_block_by_an_exception(far: Far) -> None:
    stop(far)
    seen: list[int] = []

    def work() -> None:
        with attached(far) as run:
            for item in run.track(range(10)):
                seen.append(item)
                run.log("row")
                run.flush()
                until_here(lambda: run.cancelled)

    with pytest.raises(RunEnded, match="as it was asked to") as raised:
        work()
    assert seen == [0]
    assert isinstance(raised.value.__cause__, RunCancelled)
    assert raised.value.fix


@pytest.mark.anyio
async def test_a_coroutine_s_loop_is_left_as_well(far: Far) -> None:
    stop(far)
    seen: list[int] = []

    async def work() -> None:
        async with attached(far) as run:
            async for item in run.track(range(10)):
                seen.append(item)
                run.log("row")
                await run.drain()
                await until(lambda: run.cancelled)

    with pytest.raises(RunEnded):
        await work()
    assert seen == [0]


def test_who_catches_it_leaves_the_block_as_usual(far: Far) -> None:
    stop(far)
    with attached(far) as run:
        run.log("one")
        run.flush()
        until_here(lambda: run.cancelled)
        with pytest.raises(RunCancelled):
            run.check()


def test_the_wish_of_another_run_passes_through(far: Far) -> None:
    with pytest.raises(RunCancelled), attached(far):
        raise RunCancelled


# --- the end of the block ------------------------------------------------------------------


def test_the_end_waits_for_what_is_not_kept(far: Far) -> None:
    far.open.clear()
    threading.Timer(0.05, far.open.set).start()
    with attached(far) as run:
        run.emit("row", n=1)
    assert far.told == [1]


def fail(far: Far) -> None:
    with attached(far) as run:
        run.emit("row", n=1)
        raise KeyError


def test_so_it_does_when_the_work_fails(far: Far) -> None:
    with pytest.raises(KeyError):
        fail(far)
    assert far.told == [1]


def test_but_not_for_ever(far: Far) -> None:
    far.answers += [httpx2.ConnectError("refused")] * 10_000
    with pytest.raises(ServerUnreachable, match="refused"), attached(far, timeout=0.05) as run:
        run.emit("row", n=1)
    with pytest.raises(TailraceError, match="has been left"):
        run.emit("row", n=2)


def test_the_failure_of_the_work_comes_first(far: Far, caplog: pytest.LogCaptureFixture) -> None:
    far.refuse(409, "writer-fenced")
    with pytest.raises(KeyError):
        fail(far)
    assert [record.getMessage() for record in caplog.records] == [
        f"{RUN}: some events are not kept (1): Because."
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("state", "kind"), [("completed", RunEnded), ("lost", RunEnded), ("cancelled", None)]
)
async def test_a_cancelled_run_takes_no_more_and_nobody_is_blamed(
    far: Far, state: str, kind: type[Exception] | None
) -> None:
    async def work() -> None:
        far.refuse(409, "run-ended", state=state)
        async with attached(far) as run:
            run.emit("row", n=1)
        assert run.cancelled

    def work_here() -> None:
        far.refuse(409, "run-ended", state=state)
        with attached(far) as run:
            run.emit("row", n=1)
        assert run.cancelled

    if kind is None:
        await work()
        work_here()
    else:
        with pytest.raises(kind):
            await work()
        with pytest.raises(kind):
            work_here()


@pytest.mark.parametrize("state", ["cancelled", "lost"])
def test_the_error_of_work_that_cleans_up_is_not_hidden(far: Far, state: str) -> None:
    far.refuse(409, "run-ended", state=state)

    def work() -> None:
        with attached(far) as run:
            try:
                run.log("one")
                assert run.wait_cancelled(10)
                raise KeyError
            finally:
                run.log("cleaned up")
                run.progress(1, 1)

    with pytest.raises(KeyError):
        work()


def test_nothing_but_a_check_is_raised_for_a_cancel(far: Far) -> None:
    far.refuse(409, "run-ended", state="cancelled")
    with attached(far) as run:
        for _ in range(3):
            run.log("one")
            run.flush()
            assert run.wait_cancelled(10)
        asyncio.run(run.drain())
        with pytest.raises(RunCancelled):
            run.check()
        with pytest.raises(RunCancelled):
            list(run.track([1]))
        with pytest.raises(RunCancelled):
            list(tqdm([1]))
    assert far.events == []


def test_what_a_run_that_was_over_before_did_not_take_is_told_at_the_end(far: Far) -> None:
    far.refuse(409, "run-ended", state="completed")

    def work() -> None:
        with attached(far) as run:
            run.log("one")
            assert run.wait_cancelled(10)
            run.log("two")
            with pytest.raises(RunEnded):
                run.flush()

    with pytest.raises(RunEnded):
        work()


def test_what_ends_the_sending_is_raised_by_the_next_emit(far: Far) -> None:
    far.refuse(409, "writer-fenced")

    def work() -> None:
        with attached(far) as run:
            run.emit("row", n=0)
            with pytest.raises(WriterFenced):
                run.flush()
            run.emit("row", n=1)

    with pytest.raises(WriterFenced):
        work()


@pytest.mark.anyio
async def test_a_coroutine_that_is_cancelled_still_has_its_events_kept(far: Far) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with attached(far) as run:
            run.emit("row", n=1)
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await soon(entered.wait())
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(working)
    assert far.told == [1]


# --- too much ------------------------------------------------------------------------------


@pytest.fixture
def small(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    monkeypatch.setattr(senders, "LINGER_SECONDS", 0.001)


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_the_event_loop_is_not_blocked(far: Far) -> None:
    far.open.clear()
    async with attached(far) as run:
        for number in range(10):
            run.emit("row", n=number)
        with pytest.raises(BufferFull):
            run.emit("row", n=10)
        blocked = asyncio.create_task(asyncio.to_thread(run.emit, "row", n=10))
        far.open.set()
        await soon(blocked)
        await run.ebb()
    assert far.told == list(range(11))


@pytest.mark.usefixtures("small")
def test_a_thread_is(far: Far) -> None:
    far.open.clear()
    threading.Timer(0.05, far.open.set).start()
    with attached(far) as run:
        for number in range(50):
            run.emit("row", n=number)
    assert far.told == list(range(50))


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_a_generator_of_rows_waits(far: Far) -> None:
    async def rows() -> AsyncIterator[int]:
        for number in range(50):
            yield number

    async with attached(far) as run:
        async for number in rows():
            run.emit("row", n=number)
            await run.ebb()
    assert far.told == list(range(50))


@contextlib.contextmanager
def stalled() -> Iterator[tuple[str, threading.Event, list[str]]]:
    """A server that answers nobody before the event is set, and what it was told."""
    go = threading.Event()
    told: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert go.wait(10)
            told.extend(event["data"]["message"] for event in body["events"])
            self.send_response(200)
            said = json.dumps(KEPT).encode()
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", go, told
    finally:
        go.set()
        server.shutdown()
        serving.join(10)
        server.server_close()


class Lockful(RunLogs):
    """One that takes its lock, as the handlers of other people do."""

    handle = logging.Handler.handle


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", [RunLogs, Lockful])
def test_what_the_sending_logs_neither_comes_back_nor_holds_it_up(kind: type[RunLogs]) -> None:
    root, listener = logging.getLogger(), kind()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        with stalled() as (url, go, told):
            threading.Timer(1.0, go.set).start()

            def work() -> None:
                with attach(url, RUN, token="s3cret"):
                    for number in range(100):
                        logging.getLogger("somebody").debug("row %d", number)

            working = threading.Thread(target=work, daemon=True)
            working.start()
            working.join(20)
            assert not working.is_alive()
            assert told == [f"row {number}" for number in range(100)]
    finally:
        root.removeHandler(listener)
        root.setLevel(level)


# --- the block, and what is not one --------------------------------------------------------


def test_outside_of_a_block_nothing_is_taken(far: Far) -> None:
    run = attached(far)
    with pytest.raises(TailraceError, match="not begun") as raised:
        run.log("one")
    assert "with block" in raised.value.fix
    with pytest.raises(TailraceError, match="not begun"):
        run.flush()
    with run:
        run.log("one")
    assert len(far.events) == 1


@pytest.mark.anyio
async def test_each_block_takes_an_attachment_of_its_own(far: Far) -> None:
    run = attached(far)
    with run:
        with pytest.raises(TailraceError, match="has had its block"):
            run.__enter__()
        assert AMBIENT.get(None) is run
        run.log("one")
    assert AMBIENT.get(None) is None
    with pytest.raises(TailraceError, match="has had its block"):
        await run.__aenter__()
    assert len(far.events) == 1


def test_nobody_is_asked_by_an_attachment_that_is_only_made() -> None:
    attach(nowhere(), RUN)
    assert not [t for t in threading.enumerate() if t.name.startswith("tailrace-attach")]
