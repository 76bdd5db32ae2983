import json
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.cli.runs import _row
from tailrace.client import Client

UNKNOWN = "run_" + "a" * 26


def test_ls(tailrace: Callable[..., Any], url: str, done: str, going: str) -> None:
    told = tailrace("runs", "ls")
    assert told.code == 0
    heading, newest, second = told.out.splitlines()[:3]
    assert heading.split() == ["ID", "OPERATION", "STATE", "STARTED", "DURATION", "PROGRESS"]
    assert newest.split()[:3] == [going, "hang", "running"]
    assert second.split()[:3] == [done, "crunch", "completed"]
    assert second.endswith("100%")
    assert heading.index("STATE") == newest.index("running") == second.index("completed")


def test_ls_as_json(tailrace: Callable[..., Any], url: str, client: Client, done: str) -> None:
    told = tailrace("runs", "ls", "--json", "--limit", "1")
    assert [json.loads(line) for line in told.out.splitlines()] == [client.run(done)]


def test_ls_of_some_states(tailrace: Callable[..., Any], url: str, done: str, going: str) -> None:
    out = tailrace("runs", "ls", "--state", "running,queued").out
    assert going in out
    assert done not in out


def test_ls_of_a_thread(tailrace: Callable[..., Any], url: str, client: Client, done: str) -> None:
    run = client.start("crunch", thread="chat 7")["id"]
    client.wait(run)
    told = tailrace("runs", "ls", "--thread", "chat 7", "--json")
    assert [json.loads(line)["id"] for line in told.out.splitlines()] == [run]
    assert "chat 7" in tailrace("runs", "show", run).out


def test_ls_of_a_state_there_is_not(tailrace: Callable[..., Any], url: str) -> None:
    told = tailrace("runs", "ls", "--state", "walking")
    assert (told.code, told.out) == (125, "")
    assert len(told.err.splitlines()) == 2


def test_ls_goes_on_over_pages(
    tailrace: Callable[..., Any], url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.cli.runs._PAGE", 2)
    started = [client.start("crunch")["id"] for _ in range(5)]
    told = tailrace("runs", "ls", "--limit", "5", "--json")
    assert [json.loads(line)["id"] for line in told.out.splitlines()] == started[::-1]


def test_a_run_that_waits() -> None:
    run = {
        "id": "run_x", "operation": "o\x1b[2J" + "p" * 50, "state": "queued", "progress": None,
        "created_at": "1970-01-01T00:00:00.000Z", "started_at": None, "ended_at": None,
        "duration_seconds": None,
    }  # fmt: skip
    row = _row(run, 120.0)
    assert row == ("run_x", "o" + "p" * 28 + "…", "queued", "2 min ago", "-", "-")
    assert _row({**run, "started_at": "1970-01-01T00:01:00.000Z"}, 120.0)[4] == "1 min 00 s"


def test_show(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("runs", "show", done)
    assert told.code == 0
    shown = dict(line.split(None, 1) for line in told.out.splitlines())
    assert shown["id"] == done
    assert shown["state"] == "completed"
    assert shown["result"] == '{"rows":2}'
    assert shown["links"] == f"{url}/runs/{done}"
    assert "error" not in shown


def test_show_as_json(tailrace: Callable[..., Any], url: str, client: Client, done: str) -> None:
    assert json.loads(tailrace("runs", "show", done, "--json").out) == client.run(done)


@pytest.mark.parametrize("word", ["show", "rerun"])
def test_a_run_there_is_not(tailrace: Callable[..., Any], url: str, word: str) -> None:
    told = tailrace("runs", word, UNKNOWN)
    assert (told.code, told.out) == (125, "")
    assert UNKNOWN in told.err


def test_cancel(tailrace: Callable[..., Any], url: str, client: Client, going: str) -> None:
    told = tailrace("runs", "cancel", going)
    assert told.code == 0
    assert told.err.startswith(f"{going} is cancel")
    assert client.wait(going)["state"] == "cancelled"


def test_rerun(tailrace: Callable[..., Any], url: str, client: Client) -> None:
    first = client.start("crunch", {"rows": 3}, timeout=60)["id"]
    told = tailrace("runs", "rerun", first)
    assert (told.code, told.err) == (0, "")
    run = client.wait(told.out.removesuffix("\n"))
    assert run["id"] != first
    assert (run["operation"], run["input"], run["state"]) == ("crunch", {"rows": 3}, "completed")


def test_rerun_as_json(tailrace: Callable[..., Any], url: str, done: str) -> None:
    run = json.loads(tailrace("runs", "rerun", "--json", done).out)
    assert (run["operation"], run["id"] != done) == ("crunch", True)


def test_one_of_many_is_refused(
    tailrace: Callable[..., Any], url: str, client: Client, done: str
) -> None:
    told = tailrace("runs", "rm", UNKNOWN, done)
    assert told.code == 125
    assert f"{done} is forgotten" in told.err
    assert UNKNOWN in told.err
    assert done not in [run["id"] for run in client.runs().runs]


def test_an_active_run_is_not_forgotten(tailrace: Callable[..., Any], url: str, going: str) -> None:
    assert tailrace("runs", "rm", going).code == 125


@pytest.mark.parametrize(
    "words",
    [("ls",), ("show", UNKNOWN), ("cancel", UNKNOWN), ("rerun", UNKNOWN), ("rm", UNKNOWN)],
)
def test_nobody_answers(tailrace: Callable[..., Any], words: tuple[str, ...]) -> None:
    told = tailrace("runs", *words, "--url", "http://127.0.0.1:1")
    assert (told.code, told.out) == (125, "")
    first, second = told.err.splitlines()
    assert first.startswith("tailrace: No answer from http://127.0.0.1:1")
    assert "tailrace serve" in second
