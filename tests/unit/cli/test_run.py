import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli.run import _file
from tailrace.client import Client


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAILRACE_URL", raising=False)
    monkeypatch.setenv("TAILRACE_LOG", str(tmp_path / "runs.db"))
    return tmp_path


def script(folder: Path, text: str, name: str = "x.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


# ------------------------------------------------------------------ here


def test_a_file(tailrace: Callable[..., Any], folder: Path) -> None:
    text = "import os, sys\nprint(sys.argv[1:], os.getcwd())\nprint('err', file=sys.stderr)\n"
    told = tailrace("run", script(folder, text), "-v", "--json", "--", "b")
    assert told.code == 0
    assert told.out == f"['-v', '--json', '--', 'b'] {folder.resolve()}\n"
    first, last = told.err.splitlines()
    assert first == "err"
    assert re.fullmatch(r"✓ run_\w{26} [0-9.]+ s · [0-9]+ events", last)


def test_a_command(tailrace: Callable[..., Any]) -> None:
    told = tailrace("run", "-q", "--", sys.executable, "-c", "print('hi')")
    assert (told.code, told.out, told.err) == (0, "hi\n", "")


def test_its_result(tailrace: Callable[..., Any], folder: Path) -> None:
    text = """print('::result {"rows": [1, 2]}')\n"""
    told = tailrace("run", script(folder, text))
    assert told.out == '::result {"rows": [1, 2]}\n'
    assert told.err.rstrip().endswith(' events · {"rows":[1,2]}')


def test_its_exit_code(tailrace: Callable[..., Any], folder: Path) -> None:
    told = tailrace("run", script(folder, "raise SystemExit(7)\n"))
    assert told.code == 7
    assert "✗ run_" in told.err
    assert "code 7" in told.err


def test_as_json(tailrace: Callable[..., Any]) -> None:
    told = tailrace("run", "--json", "--log", "memory:", "--", "echo", "hi")
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [event["type"] for event in events] == ["start", "output", "complete"]
    assert events[0]["data"]["operation"] == "command"
    assert events[1]["data"]["text"] == "hi\n"


def test_a_timeout(tailrace: Callable[..., Any]) -> None:
    told = tailrace("run", "--timeout", "0.1", "--", "sleep", "30")
    assert told.code == 124
    assert "timed out" in told.err


def test_no_such_file(tailrace: Callable[..., Any], folder: Path) -> None:
    told = tailrace("run", "nothing.py")
    assert (told.code, told.out) == (127, "")
    assert len(told.err.splitlines()) == 2
    assert tailrace("run", str(folder)).code == 126


def test_a_file_that_nobody_can_run(tailrace: Callable[..., Any], folder: Path) -> None:
    told = tailrace("run", script(folder, "?", "x.txt"))
    assert told.code == 126
    assert "nothing that can be run" in told.err
    assert "tailrace run -- PROGRAM x.txt" in told.err


def test_a_file_that_only_the_system_can_run(tailrace: Callable[..., Any], folder: Path) -> None:
    (folder / script(folder, "#!/bin/sh\necho it runs\n", "x.tool")).chmod(0o755)
    assert tailrace("run", "-q", "x.tool").out == "it runs\n"


def test_a_command_there_is_not(tailrace: Callable[..., Any]) -> None:
    assert tailrace("run", "--", "no-such-command").code == 127
    told = tailrace("run", "echo", "hi")
    assert told.code == 127
    assert "tailrace run -- echo" in told.err


def test_a_command_that_may_not_be_run(tailrace: Callable[..., Any], folder: Path) -> None:
    assert tailrace("run", "--", "./" + script(folder, "?", "x.txt")).code == 126


def test_a_log_nobody_knows(tailrace: Callable[..., Any]) -> None:
    told = tailrace("run", "--log", "nosuch://x", "--", "true")
    assert told.code == 125
    assert len(told.err.splitlines()) == 2


def test_a_log_that_cannot_be_opened(tailrace: Callable[..., Any], folder: Path) -> None:
    (folder / "file").touch()
    told = tailrace("run", "--log", str(folder / "file" / "runs.db"), "--", "true")
    assert told.code == 125
    assert len(told.err.splitlines()) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--"),
        ("run", "--timeout", "0", "--", "true"),
        ("run", "--detach", "--", "true"),
        ("run", "--url", "http://h", "--log", "x.db", "x.py"),
    ],
)
def test_bad_usage(tailrace: Callable[..., Any], words: tuple[str, ...]) -> None:
    assert tailrace(*words).code == 2


# ------------------------------------------------------------------ there


def test_detached(
    tailrace: Callable[..., Any], base: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_URL", base)
    told = tailrace("run", "--detach", "hello.py", "you")
    assert (told.code, told.err) == (0, "")
    run = told.out.removesuffix("\n")
    assert client.wait(run)["input"].items() >= {"file": "hello.py", "args": ["you"]}.items()
    assert b"".join(client.output(run)) == b"hello you\n"


def test_detached_as_json(tailrace: Callable[..., Any], base: str) -> None:
    told = tailrace("run", "--detach", "--json", "--url", base, "hello.py")
    assert json.loads(told.out)["operation"] == "script"


def test_attended(tailrace: Callable[..., Any], base: str) -> None:
    told = tailrace("run", "--url", base, "-q", "hello.py", "you")
    assert (told.code, told.out, told.err) == (0, "hello you\n", "")


def test_the_last_line_says_where_it_is(tailrace: Callable[..., Any], base: str) -> None:
    last = tailrace("run", "--url", base, "hello.py").err.splitlines()[-1]
    run = last.split()[1]
    assert last.endswith(f" events · {base}/runs/{run}")


def test_with_a_timeout(tailrace: Callable[..., Any], base: str) -> None:
    told = tailrace("run", "--url", base, "--timeout", "0.5", "slow.py")
    assert (told.code, told.out) == (124, "slow\n")


def test_ctrl_c_cancels_it(
    tailrace: Callable[..., Any], base: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Client.watch
    asked: list[str] = []

    def interrupted(self: Client, run: str, **options: Any) -> Any:
        asked.append(run)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return watch(self, run, **options)

    monkeypatch.setattr(Client, "watch", interrupted)
    told = tailrace("run", "--url", base, "slow.py")
    assert told.code == 130
    assert client.run(asked[0])["state"] == "cancelled"


def test_a_second_ctrl_c_leaves_it(
    tailrace: Callable[..., Any], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Client, run: str, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch", interrupted)
    told = tailrace("run", "--url", base, "slow.py")
    assert told.code == 130
    assert "To return" in told.err


def test_a_server_without_scripts(
    tailrace: Callable[..., Any], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace.errors import OperationUnknown

    def refused(*_: Any, **__: Any) -> None:
        raise OperationUnknown("There is no operation 'script'.", fix="")

    monkeypatch.setattr(Client, "start", refused)
    told = tailrace("run", "--url", base, "x.py")
    assert told.code == 125
    assert "--allow-root" in told.err


def test_nobody_answers(tailrace: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_URL", "http://127.0.0.1:1")
    told = tailrace("run", "--detach", "x.py")
    assert (told.code, told.out) == (125, "")
    assert "No answer" in told.err


def test_which_file_a_server_is_asked_for(folder: Path) -> None:
    name = script(folder, "")
    assert _file(name, "http://127.0.0.1:4000") == str(folder / name)
    assert _file(name, "http://localhost:4000") == str(folder / name)
    assert _file(name, "https://example.org") == name
    assert _file("other.py", "http://127.0.0.1:4000") == "other.py"


def test_what_is_no_text_cannot_be_kept(tailrace: Callable[..., Any]) -> None:
    told = tailrace("run", "--", "echo", "a\udcffb")
    assert told.code == 126
    assert "is no UTF-8" in told.err


def test_the_current_folder_is_gone(tailrace: Callable[..., Any], folder: Path) -> None:
    away = folder / "away"
    away.mkdir()
    os.chdir(away)
    away.rmdir()
    told = tailrace("run", "--", "echo", "hi")
    assert told.code == 125
    assert "The current folder is not there any more" in told.err
