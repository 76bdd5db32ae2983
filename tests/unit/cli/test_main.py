import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

import tailrace as root
from tailrace.cli import main as entry
from tailrace.errors import RunUnknown

HEAVY = (
    "asyncio", "fastapi", "httpx2", "importlib.metadata", "logging", "orjson", "pydantic",
    "starlette", "uvicorn", "tailrace.engine", "tailrace.client", "tailrace.projections",
)  # fmt: skip


def loaded_by(*words: str) -> list[str]:
    code = (
        "import json, sys\n"
        "from tailrace.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, check=True, text=True
    )
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        *([name, "--help"] for name in entry._COMMANDS),
        ["runs", "ls", "--help"],
    ],
    ids=" ".join,
)
def test_what_only_answers_loads_next_to_nothing(words: list[str]) -> None:
    loaded = loaded_by(*words)
    assert [name for name in HEAVY if name in loaded] == []


def test_version(tailrace: Callable[..., Any]) -> None:
    told = tailrace("--version")
    assert (told.code, told.out) == (0, f"tailrace {root.__version__}\n")


def test_help(tailrace: Callable[..., Any]) -> None:
    told = tailrace("--help")
    assert told.code == 0
    assert all(f"\n  {name} " in told.out for name in entry._COMMANDS)
    assert "_TAILRACE_COMPLETE" in told.out


def test_bad_usage(tailrace: Callable[..., Any]) -> None:
    told = tailrace("rum")
    assert told.code == 2
    assert "No such command 'rum'. Did you mean" in told.err
    assert told.out == ""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Makes a function the command `x`."""

    def make(function: Callable[[], Any]) -> None:
        monkeypatch.setattr(
            entry._Commands, "get_command", lambda *_: click.Command("x", callback=function)
        )

    return make


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_exit_codes_are_what_commands_return(
    tailrace: Callable[..., Any], command: Callable[..., None]
) -> None:
    command(lambda: 7)
    assert tailrace("x").code == 7
    command(lambda: None)
    assert tailrace("x").code == 0


def test_a_fault_is_two_lines(tailrace: Callable[..., Any], command: Callable[..., None]) -> None:
    command(raising(RunUnknown("There is none.", fix="Make one.")))
    told = tailrace("x")
    assert told.code == 125
    assert told.err == "tailrace: There is none.\n          Make one.\n"


def test_a_fault_of_our_own(tailrace: Callable[..., Any], command: Callable[..., None]) -> None:
    command(raising(ZeroDivisionError("oh")))
    told = tailrace("x")
    assert told.code == 125
    assert told.err.startswith("tailrace: ZeroDivisionError: oh\n")
    assert len(told.err.splitlines()) == 2


def test_debug_shows_where(command: Callable[..., None]) -> None:
    command(raising(ZeroDivisionError("oh")))
    with pytest.raises(ZeroDivisionError):
        entry.main(["--debug", "x"])


def test_interrupted(tailrace: Callable[..., Any], command: Callable[..., None]) -> None:
    command(raising(KeyboardInterrupt()))
    assert tailrace("x").code == 130


def test_a_reader_who_leaves_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    code = (
        "import click\nfrom tailrace.cli import main as entry\n"
        "entry._Commands.get_command = lambda *_: click.Command('x', callback=lambda: "
        "click.echo('y' * 100_000))\nentry.main(['x'])\n"
    )
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_stdout_stays_closed() -> None:
    code = (
        "import os\nfrom tailrace.cli.main import _open_standard_files\n"
        "os.close(1)\n_open_standard_files()\n"
        "assert os.path.samestat(os.fstat(1), os.stat(os.devnull))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
