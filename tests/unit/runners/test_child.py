from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tailrace.errors import EventInvalid, EventTooLarge, KeyReused, RunEnded
from tailrace.protocol.events import Draft, draft, loads
from tailrace.runners import child
from tailrace.runners.child import WINDOW_BYTES, ProcessFailed, Uplink, raised, returned
from tests.waiting import soon, until_here

pytestmark = pytest.mark.anyio


class Far:
    """The parent's end, by hand."""

    def __init__(self) -> None:
        self.end, near = socket.socketpair()
        self.end.settimeout(10)
        self.lines = self.end.makefile("rb")
        self.ends: list[str] = []
        self._near = near
        self.uplink = Uplink(near)
        self.uplink.begin(near.makefile("rb"))

    def next(self) -> bytes:
        return self.lines.readline()

    def say(self, line: bytes) -> None:
        self.end.sendall(line + b"\n")

    def close(self) -> None:
        self.lines.close()
        self.end.close()
        until_here(lambda: self.ends, "ended")
        self._near.close()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    made = Far()

    def perish() -> None:
        made.ends.append(threading.current_thread().name)
        # The real one never returns.
        threading.Event().wait()

    monkeypatch.setattr(child, "perish", perish)
    yield made
    made.close()


def big(number: int) -> Draft:
    return Draft("big", b'{"n":%d,"x":"%b"}' % (number, b"x" * 200_000))


def in_thread(far: Far, count: int) -> tuple[threading.Thread, list[object]]:
    """Put so many large events, and note what became of each."""
    notes: list[object] = []

    def put() -> None:
        for number in range(count):
            try:
                far.uplink.put(big(number))
            except RunEnded as error:
                notes.append(error)
                return
            notes.append(number)

    thread = threading.Thread(target=put)
    thread.start()
    return thread, notes


def test_an_event_is_a_line(far: Far) -> None:
    far.uplink.put(draft("log", {"message": "two\nlines", "timestamp": 0}, 0.0))
    assert far.next() == b'log {"message":"two\\nlines","timestamp":0}\n'
    assert not far.uplink.is_foreign_thread


def test_it_blocks_until_what_it_said_is_taken(far: Far) -> None:
    thread, notes = in_thread(far, 8)
    for _ in range(6):
        far.next()
    until_here(lambda: len(notes) == 6, "blocked")
    assert far.uplink.is_high
    assert thread.is_alive()
    far.say(b"+%d" % WINDOW_BYTES)
    assert far.next()
    assert far.next()
    thread.join(10)
    assert notes == list(range(8))


def test_whoever_is_blocked_learns_that_nothing_more_is_taken(far: Far) -> None:
    thread, notes = in_thread(far, 8)
    for _ in range(6):
        far.next()
    far.say(b'!"It is over."')
    thread.join(10)
    assert str(notes[-1]) == "It is over."
    with pytest.raises(RunEnded, match="It is over"):
        far.uplink.put(big(0))


async def test_drained_is_what_the_parent_says(far: Far) -> None:
    draining = asyncio.create_task(far.uplink.drain())
    assert await asyncio.to_thread(far.next) == b"?1\n"
    assert not draining.done()
    far.say(b"?1")
    await soon(draining)
    draining = asyncio.create_task(far.uplink.drain())
    assert await asyncio.to_thread(far.next) == b"?2\n"
    far.say(b'!"It is over."')
    with pytest.raises(RunEnded, match="It is over"):
        await soon(draining)
    with pytest.raises(RunEnded, match="It is over"):
        await soon(far.uplink.drain())


async def test_it_ebbs_when_enough_is_taken(far: Far) -> None:
    await soon(far.uplink.ebb())
    for number in range(6):
        far.uplink.put(big(number))
    ebbing = asyncio.create_task(far.uplink.ebb())
    far.say(b"+1")
    for _ in range(6):
        await asyncio.to_thread(far.next)
    assert not ebbing.done()
    far.say(b"+%d" % WINDOW_BYTES)
    await soon(ebbing)


def test_the_verdict_comes_last(far: Far) -> None:
    for number in range(3):
        far.uplink.put(draft("log", {"n": number}, 0.0))
    far.uplink.finish(b"~")
    assert [far.next()[:3] for _ in range(4)] == [b"log", b"log", b"log", b"~\n"]
    with pytest.raises(RunEnded, match="has ended"):
        far.uplink.put(draft("log", {}, 0.0))


def test_it_stops_when_told_to(far: Far) -> None:
    stops = threading.Event()
    far.uplink.stops(stops.set)
    far.say(b"~")
    assert stops.wait(10)
    assert far.ends == []


def test_before_the_work_began_a_stop_is_the_end(far: Far) -> None:
    far.say(b"~")
    until_here(lambda: far.ends, "ended")


def test_the_end_of_the_line_is_the_end(far: Far) -> None:
    far.end.shutdown(socket.SHUT_RDWR)
    until_here(lambda: far.ends, "ended")


def test_a_result_is_said_as_it_will_be_kept() -> None:
    assert loads(returned({"s": {1}})[1:])["result"] == {"s": [1]}
    with pytest.raises(EventInvalid):
        returned(object())
    with pytest.raises(EventTooLarge):
        returned("x" * 300_000)


def test_an_exception_is_said_in_json() -> None:
    told = loads(raised(ValueError("\udcff" + "x" * 20_000))[1:])
    assert told["type"] == "ValueError"
    assert told["error"].startswith("?xxx")
    assert len(told["error"]) == 10_000
    assert "ValueError" in told["traceback"]


def test_our_own_refusals_keep_their_details() -> None:
    told = loads(raised(KeyReused("Used.", key="k"))[1:])
    assert told == {"error": "Used.", "type": "KeyReused", "details": {"key": "k"}}
    told = loads(raised(KeyReused("Used.", key=object()))[1:])
    assert told == {"error": "Used.", "type": "KeyReused"}


def test_why_a_process_failed_is_for_the_log() -> None:
    assert "ProcessFailed" in loads(raised(ProcessFailed("Not ready."))[1:])["traceback"]


def test_an_end_outside_its_own_group_ends_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[object] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(os, "killpg", lambda *given: ends.append(given))
    monkeypatch.setattr(os, "getpgrp", lambda: 1)
    child.perish()
    assert ends == [1]
    monkeypatch.setattr(os, "getpgrp", os.getpid)
    child.perish()
    assert ends == [1, (0, signal.SIGKILL), 1]
