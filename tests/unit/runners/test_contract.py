from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from typing import Any

import pytest

from tailrace.errors import RunCancelled
from tailrace.runners.contract import Sink


class Plain(Sink):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        self._tell_once()
        self.told.append(type)

    async def ebb(self) -> None:
        return

    async def drain(self) -> None:
        return


def test_work_goes_on_until_it_is_asked_to_stop() -> None:
    sink = Plain()
    sink.check()
    sink.emit("one")
    seen = [sink.cancelled]
    sink.request_stop()
    assert [*seen, sink.cancelled] == [False, True]
    with pytest.raises(RunCancelled):
        sink.check()


def test_an_emit_tells_it_once_and_cleaning_up_may_emit() -> None:
    sink = Plain()
    sink.request_stop()
    sink.request_stop()
    with pytest.raises(RunCancelled):
        sink.emit("one")
    sink.emit("two")
    assert sink.told == ["two"]


def test_a_check_tells_it_every_time() -> None:
    sink = Plain()
    sink.request_stop()
    for _ in range(2):
        with pytest.raises(RunCancelled):
            sink.check()
    sink.emit("told already")


def test_a_loop_that_catches_everything_is_left_all_the_same() -> None:
    sink = Plain()
    sink.request_stop()

    def careless() -> None:
        with contextlib.suppress(Exception):
            sink.check()

    with pytest.raises(RunCancelled):
        careless()
    assert not issubclass(RunCancelled, Exception)
    assert not issubclass(RunCancelled, asyncio.CancelledError)


def test_work_is_let_go_without_being_asked_to_stop() -> None:
    sink = Plain()
    assert not sink.released
    sink.release()
    sink.check()
    sink.emit("one")
    assert (sink.released, sink.cancelled, sink.told) == (True, False, ["one"])


def test_a_sleep_ends_with_the_request() -> None:
    sink = Plain()
    assert not sink.wait_cancelled(0.001)
    heard: list[bool] = []
    sleeping = threading.Thread(target=lambda: heard.append(sink.wait_cancelled(60)))
    sleeping.start()
    sink.request_stop()
    sleeping.join(10)
    assert heard == [True]
    assert sink.wait_cancelled(60)


FORKED = """
import logging, os, sys
import tailrace
from tailrace.runners.contract import AMBIENT
from tests.unit.runners.test_contract import Plain

logging.basicConfig(stream=sys.stdout, format="%(name)s %(message).40s", level=logging.INFO)
logging.getLogger().addHandler(tailrace.RunLogs())

def fork(then):
    sys.stdout.flush()
    if not (pid := os.fork()):
        then()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)

def work():
    list(tailrace.tqdm([1, 2]))
    tailrace.ProgressLogger(2).next_step("Load")
    logging.info("from afar")
    print(AMBIENT.get(None), sink.told)
    fork(lambda: print("no warning"))

sink = Plain()
fork(lambda: print("no warning"))
AMBIENT.set(sink)
fork(work)
logging.info("here")
print(AMBIENT.get(None) is sink, sink.told)
"""


def test_a_forked_process_is_outside_of_the_run() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said[1].startswith("tailrace.run Process ")
    assert [said[0], *said[2:]] == [
        "no warning",
        "root from afar",
        "None []",
        "no warning",
        "root here",
        "True ['log']",
    ]
