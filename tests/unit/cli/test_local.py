import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli import local
from tailrace.cli.local import Attended, attend
from tailrace.cli.screen import Screen
from tailrace.engine import Engine
from tailrace.errors import InputInvalid
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord

PYTHON = sys.executable


def run(*argv: str, **options: Any) -> int:
    return attend(argv, Engine("memory:", grace=1.0), Screen(), **options)


async def signalled(program: str, *numbers: int) -> tuple[int, RunRecord, Engine]:
    """Run a program that says something when it is ready, and send ourselves signals then."""
    engine = Engine("memory:", grace=30.0)
    attended = Attended(engine, Screen())
    work = asyncio.create_task(attended.run([PYTHON, "-uc", program]))
    for number in numbers:
        state = State.CANCELLING if attended._signals else State.RUNNING
        while True:
            assert not work.done(), work.result()
            found = await engine.find(RunQuery()) if attended._run else []
            if found and found[0].state is state and found[0].last_seq >= 2:
                break
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), number)
        while number not in attended._signals:
            await asyncio.sleep(0.005)
    code = await asyncio.wait_for(work, 20)
    async with engine:
        found = await engine.find(RunQuery())
    return code, found[0], engine


READY = "import signal, time; print('ready'); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); " + READY


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that outlives its engine."""
    from tailrace.eventlog.memory import MemoryLog

    async def close(self: MemoryLog) -> None:
        pass

    monkeypatch.setattr(MemoryLog, "close", close)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.usefixtures("kept")
def test_a_signal_cancels(number: int, code: int) -> None:
    got, record, _ = asyncio.run(signalled(READY, number))
    assert got == code
    assert record.state is State.CANCELLED


@pytest.mark.usefixtures("kept")
def test_a_second_ctrl_c_kills() -> None:
    began = time.monotonic()
    got, record, _ = asyncio.run(signalled(STUBBORN, signal.SIGINT, signal.SIGINT))
    assert got == 130
    assert record.state is State.CANCELLED
    assert time.monotonic() - began < 20, "the grace was 30 s"


def test_a_closing_terminal_does_not_kill() -> None:
    attended = Attended(Engine("memory:"), Screen())
    attended._signalled(signal.SIGHUP)
    attended._signalled(signal.SIGHUP)
    assert attended._signals == [signal.SIGHUP]


def test_a_third_ctrl_c_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    monkeypatch.setattr(local, "sweep", left.append)
    monkeypatch.setattr(os, "_exit", left.append)
    attended = Attended(Engine("memory:"), Screen())
    attended._run = "run_x"
    attended._signals = [signal.SIGINT, signal.SIGINT]
    attended._signalled(signal.SIGINT)
    assert left == ["run_x", 130]


def test_output_and_the_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = run("sh", "-c", "echo out; echo err >&2")
    assert code == 0
    out, err = capfd.readouterr()
    assert out == "out\n"
    lines = err.splitlines()
    assert lines[0] == "err"
    assert lines[1].startswith("✓ run_")


def test_events(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("false", as_json=True) == 1
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [event["type"] for event in events] == ["start", "error"]
    assert events[0]["data"]["input"] == {"argv": ["false"]}


def test_a_timeout_without_sense() -> None:
    with pytest.raises(InputInvalid):
        run("true", timeout=1e12)


def test_output_that_cannot_be_shown_stops_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Screen, "write", full)
    began = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        run(PYTHON, "-uc", READY)
    assert time.monotonic() - began < 20


def test_warnings_are_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(self: Attended, columns: int) -> str:
        return ""

    async def shown(self: Attended) -> None:
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("tailrace.engine").exception("Something is %s", "amiss")

    monkeypatch.setattr(Attended, "_show", shown)
    monkeypatch.setattr(Attended, "_status", warn)
    run("true")
    err = capfd.readouterr().err
    assert "tailrace: Something is amiss\n" in err
    assert "Traceback" not in err
    assert logging.getLogger("tailrace").handlers == []


def test_where_it_runs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARK_OF_OURS", "seen")
    run("sh", "-c", "pwd; echo $MARK_OF_OURS")
    assert capfd.readouterr().out.splitlines() == [str(tmp_path.resolve()), "seen"]
