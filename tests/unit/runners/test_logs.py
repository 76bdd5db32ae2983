"""What is written with `logging`, as events."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tailrace.errors import RunCancelled, RunEnded
from tailrace.runners.contract import AMBIENT
from tailrace.runners.logs import RunLogs
from tests.unit.runners.sinks import Recorder


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
