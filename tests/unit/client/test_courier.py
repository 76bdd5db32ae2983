from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tailrace.client import courier as couriers
from tailrace.client import sender as senders
from tailrace.client.courier import Courier
from tailrace.client.requests import Server
from tailrace.client.sender import Sender
from tailrace.errors import (
    BufferFull,
    RunEnded,
    ServerUnreachable,
    TailraceError,
    WriterFenced,
)
from tailrace.protocol.events import Draft, to_json
from tests.unit.client.far import KEPT, Far
from tests.unit.client.scripted import RUN, nowhere, problem, reply, scripted
from tests.waiting import soon, turns, until, until_here


def row(number: int) -> Draft:
    return Draft("row", to_json({"n": number}))


class Couriers(Far):
    """A server, and those who send to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0
        self.couriers: list[Courier] = []

    def attach(self, *, is_asking: bool = False) -> Courier:
        def stopped() -> None:
            self.stops += 1

        # As a rule nothing is sent but what the test puts.
        sender = Sender("p", now=time.monotonic() + (0 if is_asking else 600))
        server = Server("http://somewhere/tailrace", "s3cret")
        courier = Courier(server, RUN, sender, stopped, self.http)
        courier.begin()
        self.couriers.append(courier)
        return courier


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Couriers]:
    monkeypatch.setattr(senders, "BASE_SECONDS", 0.001)
    monkeypatch.setattr(senders, "CAP_SECONDS", 0.002)
    monkeypatch.setattr(senders, "FLOOR_SECONDS", 0.001)
    far = Couriers()
    yield far
    far.open.set()
    for courier in far.couriers:
        courier.close()
        courier._thread.join(10)
        assert not courier._thread.is_alive()
    assert not far.http.is_closed, "it is somebody else's"
    far.http.close()


# --- there ---------------------------------------------------------------------------------


def test_what_is_put_arrives_once_and_in_order(far: Couriers) -> None:
    courier = far.attach()
    for number in range(5000):
        courier.put(row(number), may_wait=True)
    courier.flush()
    assert far.told == list(range(5000))
    assert courier.held == 0
    # A flush with nothing to wait for does not.
    courier.flush(0.0)


def test_threads_may_share_it(far: Couriers) -> None:
    courier = far.attach()

    def put(start: int) -> None:
        for number in range(start, start + 500):
            courier.put(row(number), may_wait=True)
            if number % 100 == 0:
                courier.flush(10)

    threads = [threading.Thread(target=put, args=(n * 500,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    courier.flush()
    assert sorted(far.told) == list(range(2000))
    for n in range(4):
        own = [number for number in far.told if n * 500 <= number < (n + 1) * 500]
        assert own == sorted(own)


def test_how_it_asks(far: Couriers) -> None:
    far.attach().put(row(1), may_wait=True)
    far.couriers[0].flush()
    asked = far.asked[-1]
    assert (asked.method, asked.url.path) == ("POST", f"/tailrace/runs/{RUN}/events")
    assert asked.headers["authorization"] == "Bearer s3cret"
    assert asked.headers["content-type"] == "application/json"


def test_putting_waits_for_no_network(far: Couriers) -> None:
    far.open.clear()
    courier = far.attach()
    for number in range(1000):
        courier.put(row(number), may_wait=False)
    assert far.told == []
    far.open.set()
    courier.flush()
    assert far.told == list(range(1000))


def test_through_cuts(far: Couriers) -> None:
    far.answers += [httpx2.ConnectError("refused"), httpx2.ReadError("cut")]
    far.refuse(503, "log-closed")
    far.refuse(429, "too-many-requests")
    courier = far.attach()
    courier.put(row(1), may_wait=True)
    courier.flush()
    assert far.told == [1]
    assert len({request.content for request in far.asked[-4:]}) == 1


def test_over_a_real_wire() -> None:
    with scripted(reply(200, KEPT), reply(503), problem(409, "writer-fenced", "Late.")) as server:
        sender = Sender("p", now=time.monotonic())
        courier = Courier(Server(server.url, "s3cret"), RUN, sender, lambda: None)
        courier.begin()
        courier.put(row(1), may_wait=True)
        courier.flush(10)
        courier.put(row(2), may_wait=True)
        with pytest.raises(WriterFenced, match="Late"):
            courier.flush(10)
        courier.close()
        assert not courier._thread.is_alive()
    assert [asked.json["events"] for asked in server.asked] == [
        [{"type": "row", "data": {"n": n}}] for n in (1, 2, 2)
    ]


# --- too much ------------------------------------------------------------------------------


def test_who_may_wait_is_blocked_while_there_is_no_room(
    far: Couriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    far.open.clear()
    courier = far.attach()
    put: list[int] = []

    def work() -> None:
        for number in range(25):
            courier.put(row(number), may_wait=True)
            put.append(number)

    worker = threading.Thread(target=work)
    worker.start()
    until_here(lambda: len(put) == 10)
    until_here(lambda: courier._changed._waiters)  # type: ignore[attr-defined]
    assert len(put) == 10
    with pytest.raises(BufferFull) as raised:
        courier.put(row(99), may_wait=False)
    assert "ebb" in raised.value.fix
    far.open.set()
    worker.join(10)
    courier.flush()
    assert far.told == list(range(25))


def test_who_is_blocked_hears_that_there_is_no_more_use(
    far: Couriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    far.open.clear()
    far.refuse(409, "writer-fenced")
    courier = far.attach()
    raised: list[Exception] = []

    def work() -> None:
        try:
            for number in range(25):
                courier.put(row(number), may_wait=True)
        except TailraceError as error:
            raised.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    until_here(lambda: courier.held == 10)
    far.open.set()
    worker.join(10)
    assert isinstance(raised[0], WriterFenced)


def test_who_is_blocked_by_a_run_that_is_over_goes_on(
    far: Couriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    far.open.clear()
    far.refuse(409, "run-ended", state="failed")
    courier = far.attach()

    def work() -> None:
        for number in range(25):
            courier.put(row(number), may_wait=True)

    worker = threading.Thread(target=work)
    worker.start()
    until_here(lambda: courier.held == 10)
    far.open.set()
    worker.join(10)
    assert courier.held == 25
    with pytest.raises(RunEnded):
        courier.flush()
    with pytest.raises(RunEnded):
        asyncio.run(courier.drain())


@pytest.mark.anyio
async def test_a_coroutine_waits_while_there_is_much(
    far: Couriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 20)
    far.open.clear()
    courier = far.attach()
    put: list[int] = []

    async def work() -> None:
        for number in range(50):
            courier.put(row(number), may_wait=False)
            put.append(number)
            await courier.ebb()
        await courier.drain()

    working = asyncio.create_task(work())
    await until(lambda: len(put) == 10)
    await turns(100)
    assert len(put) == 10
    far.open.set()
    await soon(working)
    assert far.told == list(range(50))


# --- the end -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refuse",
    [
        lambda far: far.refuse(409, "writer-fenced"),
        lambda far: far.refuse(401, "unauthorized"),
        lambda far: far.answers.append(httpx2.Response(200, content=b"<html>")),
        lambda far: far.answers.append(ValueError("a bug")),
    ],
)
def test_what_ends_the_sending_is_raised_everywhere(
    far: Couriers, refuse: Callable[[Couriers], None]
) -> None:
    refuse(far)
    courier = far.attach()
    courier.put(row(1), may_wait=True)
    with pytest.raises(TailraceError):
        courier.flush(10)
    with pytest.raises(TailraceError):
        courier.put(row(2), may_wait=True)
    with pytest.raises(TailraceError):
        asyncio.run(courier.drain())
    asyncio.run(courier.ebb())
    courier._thread.join(10)
    assert not courier._thread.is_alive()
    assert courier.held == 1


def test_a_wait_has_an_end(far: Couriers) -> None:
    far.answers += [httpx2.ConnectError("refused")] * 1000
    courier = far.attach()
    courier.put(row(1), may_wait=True)
    with pytest.raises(ServerUnreachable, match=r"After 0\.05 s .*not kept \(1\): .*refused"):
        courier.flush(0.05)
    with pytest.raises(ServerUnreachable, match=r"After 0\.05 s"):
        asyncio.run(courier.drain(0.05))
    # Nothing is given up for that.
    far.answers.clear()
    courier.flush(10)
    assert far.told == [1]


def test_patience() -> None:
    sender = Sender("p", patience=0.0, now=time.monotonic())
    courier = Courier(Server(nowhere(), None), RUN, sender, lambda: None)
    courier.begin()
    courier.put(row(1), may_wait=True)
    with pytest.raises(ServerUnreachable, match="ConnectError"):
        courier.flush(10)
    courier.close()


def test_nothing_is_sent_once_it_is_closed(far: Couriers) -> None:
    courier = far.attach()
    courier.close()
    courier.close()
    with pytest.raises(TailraceError, match="has been left"):
        courier.put(row(1), may_wait=True)


def test_it_does_not_wait_for_a_question_at_the_end(
    far: Couriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "_PARTING_SECONDS", 0.01)
    far.open.clear()
    courier = far.attach(is_asking=True)
    until_here(lambda: len(far.asked) == 1)
    courier.close()
    assert courier._thread.is_alive()


def test_what_is_put_before_the_beginning_is_refused() -> None:
    courier = Courier(Server(nowhere(), None), RUN, Sender("p", now=0.0), lambda: None)
    with pytest.raises(TailraceError, match="not begun") as raised:
        courier.put(row(1), may_wait=True)
    assert "with block" in raised.value.fix
    with pytest.raises(TailraceError, match="not begun"):
        courier.flush()
    with pytest.raises(TailraceError, match="not begun"):
        asyncio.run(courier.drain())
    asyncio.run(courier.ebb())
    courier.close()
    assert courier.held == 0


@pytest.mark.parametrize("is_closed", [False, True])
def test_it_begins_once(far: Couriers, *, is_closed: bool) -> None:
    courier = far.attach()
    if is_closed:
        courier.close()
    with pytest.raises(TailraceError, match="has had its block") as raised:
        courier.begin()
    assert "again" in raised.value.fix


FORKED = """
import asyncio, os, socket, sys, threading, time
from tailrace.client import courier as couriers
from tailrace.client.courier import Courier
from tailrace.client.requests import Server
from tailrace.client.sender import Sender
from tailrace.errors import TailraceError
from tailrace.protocol.events import Draft

ROW = Draft("row", b"{}")
url = sys.argv[1]

def courier():
    return Courier(Server(url, None), "run_" + "a" * 26, Sender("p", now=time.monotonic()), print)

begun, fresh = courier(), courier()
begun.begin()
begun.put(ROW, may_wait=True)
begun.flush(10)
loop = asyncio.new_event_loop()
begun._waiting.append((loop, loop.create_future()))
held = begun._lock
held.acquire()
pid = os.fork()
if pid == 0:
    said = []
    for what in (
        lambda: begun.put(ROW, may_wait=True),
        lambda: begun.flush(5),
        lambda: asyncio.run(begun.drain(5)),
        begun.begin,
        fresh.begin,
        lambda: fresh.put(ROW, may_wait=True),
    ):
        try:
            what()
        except TailraceError as error:
            said.append("forked" in str(error) and "Attach" in error.fix)
    begun.close()
    print(said, len(begun._waiting), flush=True)
    os._exit(0)
held.release()
begun._waiting.clear()
os.waitpid(pid, 0)
begun.put(ROW, may_wait=True)
begun.flush(10)
begun.close()
print("kept", begun.held, flush=True)
"""


def test_a_forked_process_has_nobody_who_sends() -> None:
    with scripted(reply(200, KEPT), reply(200, KEPT)) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, server.url],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{[True] * 6} 0\nkept 0\n", "")
    assert len(server.asked) == 2


@pytest.mark.anyio
async def test_whoever_waits_in_a_loop_that_has_ended_harms_nobody(far: Couriers) -> None:
    far.open.clear()
    courier = far.attach()
    courier.put(row(1), may_wait=True)

    def begin_and_leave() -> None:
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(courier.drain())
        loop.run_until_complete(asyncio.sleep(0))
        waiting.cancel()
        loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
        loop.close()

    await asyncio.to_thread(begin_and_leave)
    waiting = asyncio.create_task(courier.drain())
    far.open.set()
    await soon(waiting)
    assert far.told == [1]


# --- the run, and the log ------------------------------------------------------------------


@pytest.mark.parametrize("state", ["cancelling", "completed"])
def test_it_is_told_once_that_the_run_is_to_stop(far: Couriers, state: str) -> None:
    far.answers += [httpx2.Response(200, json={**KEPT, "state": state})] * 2
    courier = far.attach()
    for number in range(2):
        courier.put(row(number), may_wait=True)
        courier.flush()
    until_here(lambda: far.stops == 1)
    assert far.stops == 1


def test_a_silent_one_asks(far: Couriers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "POLL_SECONDS", 0.01)
    far.answers.append(httpx2.Response(200, json=KEPT))
    far.answers.append(httpx2.Response(200, json={**KEPT, "state": "cancelling"}))
    far.attach(is_asking=True)
    until_here(lambda: far.stops == 1)
    assert len(far.asked) == 2


def test_trouble_is_told_now_and_then(far: Couriers, caplog: pytest.LogCaptureFixture) -> None:
    far.answers += [httpx2.ConnectError("refused")] * 25
    courier = far.attach()
    courier.put(row(1), may_wait=True)
    courier.flush(20)
    until_here(lambda: len(caplog.records) == 2)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{RUN}: events wait (1): No answer")


class Listener(logging.Handler):
    """It waits for room among the events with its lock held, as a handler does."""

    def __init__(self, courier: Courier) -> None:
        super().__init__()
        self.courier = courier
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.name)
        self.courier.put(row(2), may_wait=True)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root, level, handlers = logging.getLogger(), logging.root.level, logging.root.handlers[:]
    root.setLevel(logging.DEBUG)
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def test_what_is_said_of_the_sending_is_not_sent(far: Couriers, root: logging.Logger) -> None:
    courier = far.attach()
    root.addHandler(listener := Listener(courier))
    far.answers.append(httpx2.ConnectError("refused"))
    courier.put(row(1), may_wait=True)
    courier.flush(10)
    until_here(lambda: "tailrace.client" in listener.heard)
    courier.flush(10)
    assert far.told == [1]
    assert {name for name in listener.heard if name.startswith("http")} == set()


def test_who_waits_for_room_with_the_lock_of_a_log_does_not_hold_up_the_sending(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    monkeypatch.setattr(senders, "CAP_SECONDS", 0.001)
    with scripted(reply(503), *[reply(200, KEPT)] * 30) as server:
        sender = Sender("p", now=time.monotonic())
        courier = Courier(Server(server.url, None), RUN, sender, lambda: None)
        root.addHandler(Listener(courier))

        def work() -> None:
            for _ in range(50):
                logging.getLogger("somebody").info("row")

        worker = threading.Thread(target=work, daemon=True)
        courier._is_fit = True  # so that the worker waits before anything is sent
        worker.start()
        until_here(lambda: courier._changed._waiters)  # type: ignore[attr-defined]
        courier._is_fit = False
        courier.begin()
        worker.join(20)
        assert not worker.is_alive()
        courier.flush(10)
        courier.close()
    assert sum(len(asked.json["events"]) for asked in server.asked[1:]) == 50


def test_its_thread_has_nothing_of_the_work_s_context(far: Couriers) -> None:
    ambient = contextvars.ContextVar[str]("ambient")
    seen: list[str | None] = []
    sender = Sender("p", now=time.monotonic())

    def stopped() -> None:
        seen.append(ambient.get(None))

    far.answers.append(httpx2.Response(200, json={**KEPT, "state": "cancelling"}))
    courier = Courier(Server("http://somewhere", None), RUN, sender, stopped, far.http)
    far.couriers.append(courier)
    # As threads begin where Python has them inherit the context of whoever starts them.
    context = contextvars.copy_context()
    context.run(ambient.set, "a run")
    courier._thread.run = functools.partial(context.run, courier._thread.run)  # type: ignore[method-assign]
    courier.begin()
    courier.put(row(1), may_wait=True)
    courier.flush(10)
    until_here(lambda: seen)
    assert seen == [None]
