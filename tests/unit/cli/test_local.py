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
from tailrace.cli.local import Attended, attend, title
from tailrace.cli.screen import Screen
from tailrace.engine import Engine
from tailrace.errors import InputInvalid
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.runners.lifeline import Lifeline
from tailrace.runners.sweep import sweep

PYTHON = sys.executable


def run(*argv: str, **options: Any) -> int:
    given = {"argv": list(argv)}
    return attend("command", given, Engine("memory:", grace=1.0), Screen(), **options)


async def signalled(program: str, *numbers: int) -> tuple[int, RunRecord, Engine]:
    """Run a program that says something when it is ready, and send ourselves signals then."""
    engine = Engine("memory:", grace=30.0)
    attended = Attended(engine, Screen())
    given = {"argv": [PYTHON, "-uc", program]}
    work = asyncio.create_task(attended.run("command", given))
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


@pytest.mark.usefixtures("kept")
def test_a_second_ctrl_c_whose_order_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cancellings at once are one, and a shim may be out of reach: then it is swept."""
    monkeypatch.setattr(local, "_KILL_SECONDS", 0.1)
    monkeypatch.setattr(Lifeline, "order", lambda *_: None)
    swept: list[str] = []

    def known(run: str) -> int:
        swept.append(run)
        return sweep(run)

    monkeypatch.setattr(local, "sweep", known)
    began = time.monotonic()
    got, record, _ = asyncio.run(signalled(STUBBORN, signal.SIGINT, signal.SIGINT))
    assert (got, record.state, swept) == (130, State.CANCELLED, [record.id])
    assert time.monotonic() - began < 20, "the grace was 30 s"


@pytest.mark.usefixtures("kept")
def test_a_second_ctrl_c_is_the_shim_s_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows those that carry no mark; whoever kills it first loses them."""
    monkeypatch.setattr(local, "sweep", lambda _: pytest.fail("swept"))
    got, record, _ = asyncio.run(signalled(STUBBORN, signal.SIGINT, signal.SIGINT))
    assert (got, record.state) == (130, State.CANCELLED)


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
    assert events[0]["data"]["title"] == "false"


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


def test_what_a_run_is_called() -> None:
    assert title({"file": "/a/b.py", "args": []}) == "b.py"
    assert title({"argv": ["/bin/sh", "x"]}) == "sh"


def test_nothing_of_it_is_left_in_the_spools(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "runs.db"))
    assert attend("command", {"argv": ["true"]}, engine, Screen()) == 0
    assert list(engine.spools) == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_it_is_told_of_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen()
    screen.out_is_tty = is_terminal
    monkeypatch.setattr(Screen, "size", property(lambda _: (33, 111)))
    code = "import os; print(os.environ['TERM'], *os.get_terminal_size(1))"
    attend("command", {"argv": [PYTHON, "-c", code]}, Engine("memory:"), screen)
    term = "xterm" if is_terminal else "dumb"
    assert capfd.readouterr().out == f"{term} 111 33\n"


# ------------------------------------------------------------------ where it can be seen


@pytest.mark.parametrize("draws", [True, False])
def test_the_address_is_for_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, draws: bool
) -> None:
    async def address(run: str) -> str:
        return f"http://h/runs/{run}"

    monkeypatch.setattr(local, "address", address)
    screen = Screen()
    screen.draws = draws
    attend("command", {"argv": ["true"]}, Engine("memory:"), screen)
    last = capfd.readouterr().err.splitlines()[-1]
    assert (" · http://h/runs/run_" in last) is draws


# ------------------------------------------------------------------ Stata, or what is taken for it

STATA = """\
import pathlib, sys
assert sys.argv[1:4] == ["-b", "-q", "do"], sys.argv
log = pathlib.Path(pathlib.Path(sys.argv[4]).stem + ".log")
log.write_text(". use a.dta\\nfile a.dta not found\\nr(601);\\n" if "{ends}" else "all fine\\n")
"""


@pytest.mark.parametrize(("ends", "code"), [("", 0), ("r(601);", 1)])
def test_a_program_that_writes_a_log(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    code: int,
) -> None:
    """It prints nothing, and its exit code is 0 whatever happens."""
    stata = tmp_path / "bin" / "stata-mp"
    stata.parent.mkdir()
    stata.write_text(f"#!{PYTHON}\n{STATA.replace('{ends}', ends)}", encoding="utf-8")
    stata.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stata.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "x.do"
    file.touch()
    given = {"file": str(file), "args": []}
    assert attend("script", given, Engine("memory:"), Screen()) == code
    out, err = capfd.readouterr()
    assert out == (tmp_path / "here" / "x.log").read_text(encoding="utf-8")
    assert err.startswith("✗" if code else "✓")
    assert ("r(601);" in err) is bool(code)
