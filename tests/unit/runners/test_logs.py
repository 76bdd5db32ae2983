"""What is written with `logging`, as events."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.errors import RunCancelled, RunEnded
from tailrace.runners.contract import AMBIENT
from tailrace.runners.logs import RunLogs
from tests.unit.runners.sinks import Recorder
from tests.waiting import WAIT_SECONDS


@pytest.fixture
def sink() -> Iterator[Recorder]:
    sink = Recorder()
    token = AMBIENT.set(sink)
    yield sink
    AMBIENT.reset(token)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("somebody.s")
    logs = RunLogs(logging.INFO)
    logger.addHandler(logs)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.removeHandler(logs)
    logger.propagate = True


def test_a_record_is_an_event(sink: Recorder, logger: logging.Logger) -> None:
    logger.warning("%s rows", 3)
    logger.debug("not that much")
    told = {"level": "warning", "message": "3 rows", "details": {"logger": "somebody.s"}}
    assert sink.told == [("log", told)]


def test_an_exception_without_its_traceback(sink: Recorder, logger: logging.Logger) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logger.exception("It failed")
    ((_, told),) = sink.told
    assert told["details"] == {"logger": "somebody.s", "error": "KeyError: 'gone'"}
    assert "Traceback" not in str(told)


def test_outside_of_a_run_nobody_is_told(logger: logging.Logger) -> None:
    logger.warning("nobody hears this")


def test_our_own_words_are_no_events(sink: Recorder) -> None:
    RunLogs().handle(logging.makeLogRecord({"name": "tailrace.engine", "msg": "x"}))
    assert not sink.told


def test_what_cannot_be_told_harms_nobody(
    sink: Recorder, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(RunLogs, "handleError", lambda _, record: failed.append(record))
    bad = {"name": "somebody.s", "msg": "%d", "args": ("no number",), "levelname": "INFO"}
    RunLogs().handle(logging.makeLogRecord(bad))
    assert len(failed) == 1

    def ended(*_: object, **__: object) -> None:
        raise RunEnded("It was given up.")

    monkeypatch.setattr(sink, "emit", ended)
    logger.info("after the end")
    assert len(failed) == 1


def test_a_thread_that_should_stop_learns_it_here(sink: Recorder, logger: logging.Logger) -> None:
    sink.request_stop()
    with pytest.raises(RunCancelled):
        logger.info("on and on")
    logger.info("while it cleans up")
    assert [told["message"] for _, told in sink.told] == ["while it cleans up"]


class Full(Recorder):
    """Has no room until it is emptied."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting, self.is_emptied = threading.Event(), threading.Event()

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        self.is_waiting.set()
        assert self.is_emptied.wait(WAIT_SECONDS)
        super().emit(type, payload, **fields)


def test_a_thread_that_waits_for_room_keeps_nobody_else_from_logging(
    logger: logging.Logger,
) -> None:
    sink = Full()
    context = contextvars.copy_context()
    context.run(AMBIENT.set, sink)
    writer = threading.Thread(target=context.run, args=(logger.info, "too much"), daemon=True)
    writer.start()
    assert sink.is_waiting.wait(WAIT_SECONDS)
    # Such as the event loop, which is what makes room.
    other = threading.Thread(target=logger.info, args=("outside of any run",), daemon=True)
    other.start()
    other.join(WAIT_SECONDS / 2)
    is_held_up = other.is_alive()
    sink.is_emptied.set()
    writer.join(WAIT_SECONDS)
    assert not is_held_up
    assert [told["message"] for _, told in sink.told] == ["too much"]


def test_a_filter_has_its_say(sink: Recorder, logger: logging.Logger) -> None:
    class Quiet(logging.Filter):
        def filter(self, record: logging.LogRecord) -> Any:
            if record.msg == "secret":
                return False
            return logging.makeLogRecord({**vars(record), "msg": "another"})

    (logs,) = (one for one in logger.handlers if isinstance(one, RunLogs))
    logs.addFilter(Quiet())
    logger.info("secret")
    logger.info("plain")
    # Only from Python 3.12 on may a filter put another record in its place.
    said = "another" if sys.version_info >= (3, 12) else "plain"
    assert [told["message"] for _, told in sink.told] == [said]


def test_what_its_docstring_shows(sink: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    shown = [line.strip() for line in str(RunLogs.__doc__).splitlines()]
    exec("\n".join(line for line in shown if line.startswith("logging.")))
    logging.getLogger("mine").info("hello")
    root.setLevel(logging.WARNING)
    assert [told["message"] for _, told in sink.told] == ["hello"]
