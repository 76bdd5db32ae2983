import json
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from tailrace.cli import watch as module
from tailrace.cli.remote import Target
from tailrace.client import Client, WatchedEvent

UNKNOWN = "run_" + "a" * 26


def test_a_finished_run(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("watch", done)
    assert told.code == 0
    assert told.out == "row 1\nrow 2\n"
    lines = told.err.splitlines()
    assert lines[:2] == ["Starting execution of crunch…", "[1/2] Crunching"]
    assert lines[3:5] == ["\x1b[31mred", "[warning] careful"]
    assert lines[-1].startswith("✓ " + done)
    assert lines[-1].endswith(f" s · 8 events · {url}/runs/{done}")


def test_by_address(tailrace: Callable[..., Any], base: str, done: str) -> None:
    assert tailrace("watch", "-q", f"{base}/runs/{done}").out == "row 1\nrow 2\n"
    assert tailrace("watch", "-q", f"{base}/runs/{done}/events?after=4").out == "row 2\n"


def test_quiet(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("watch", "-q", done)
    assert (told.code, told.out, told.err) == (0, "row 1\nrow 2\n", "\x1b[31mred\n")


def test_raw(tailrace: Callable[..., Any], url: str, done: str) -> None:
    assert tailrace("watch", "-q", "--raw", done).err == "\x1b[31mred\x1b]0;title\x07\n"


def ndjson(client: Client, run: str) -> str:
    return "".join(
        f'{{"id":"{event.id}","type":"{event.type}","data":{event.raw}}}\n'
        for event in client.watch(run)
    )


def test_as_json(tailrace: Callable[..., Any], url: str, client: Client, done: str) -> None:
    told = tailrace("watch", "--json", done)
    assert told.code == 0
    assert told.out == ndjson(client, done)
    assert [json.loads(line)["id"] for line in told.out.splitlines()] == list("12345678")


def test_from_an_event_on(tailrace: Callable[..., Any], url: str, done: str) -> None:
    assert tailrace("watch", "-q", "--from", "3", done).out == "row 2\n"


def test_from_the_last_event_on(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("watch", "--from", "8", done)
    assert (told.code, told.out) == (0, "")
    assert told.err.startswith(f"✓ {done}")


def test_from_an_event_to_come(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("watch", "--from", "99", done)
    assert told.code == 125
    assert "ahead of the run" in told.err


def test_some_types(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("watch", "--json", "--types", "log,progress", done)
    types = [json.loads(line)["type"] for line in told.out.splitlines()]
    assert types == ["progress", "progress", "log", "complete"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [({}, 1, "no luck"), ({"code": 7}, 7, "code 7"), ({"code": 137}, 137, "code 137")],
)
@pytest.mark.usefixtures("url")
def test_the_exit_code_is_the_run_s(
    tailrace: Callable[..., Any], client: Client, given: dict[str, int], code: int, said: str
) -> None:
    run = client.start("broken", given)["id"]
    told = tailrace("watch", run)
    assert told.code == code
    assert told.err.splitlines()[-1].startswith(f"✗ {run}")
    assert said in told.err


def test_a_cancelled_run(
    tailrace: Callable[..., Any], url: str, client: Client, going: str
) -> None:
    client.cancel(going)
    told = tailrace("watch", going)
    assert (told.code, told.out) == (130, "here\n")
    assert "[cancelling]" in told.err
    assert told.err.rstrip().endswith("cancelled")


def test_a_run_that_took_too_long(tailrace: Callable[..., Any], url: str, client: Client) -> None:
    assert tailrace("watch", client.start("hang", timeout=0.1)["id"]).code == 124


def test_what_there_is_now(tailrace: Callable[..., Any], url: str, done: str, going: str) -> None:
    told = tailrace("watch", "--no-follow", going)
    assert (told.code, told.out, told.err) == (0, "here\n", "Starting execution of hang…\n")
    assert tailrace("watch", "--no-follow", "--from", "2", going).out == ""
    assert tailrace("watch", "--no-follow", "--from", "latest", going).out == ""
    told = tailrace("watch", "--no-follow", "--types", "start", going)
    assert (told.code, told.out, told.err) == (0, "", "Starting execution of hang…\n")
    assert tailrace("watch", "--no-follow", done).out == "row 1\nrow 2\n"


def test_ctrl_c_leaves_and_says_how_to_return(
    tailrace: Callable[..., Any],
    base: str,
    client: Client,
    going: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(self: Client, run: str, **_: Any) -> Generator[WatchedEvent, None, None]:
        yield WatchedEvent("1", "start", {"operation": "hang"}, "{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch", interrupted)
    told = tailrace("watch", "--url", base, going)
    assert told.code == 130
    assert told.err.splitlines()[-1] == (
        f"Left; {going} goes on. To return: tailrace watch --url {base} --from 1 {going}"
    )
    assert client.run(going)["state"] == "running"


def test_cuts_are_told_once(capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from tailrace.cli.screen import Screen

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    cuts = module._Cuts(Screen())
    cuts.pause(0.5)
    cuts.pause(1.0)
    assert slept == [0.5, 1.0]
    assert capfd.readouterr().err.count("The connection was cut") == 1
    cuts.is_cut = False
    cuts.pause(0.5)
    assert capfd.readouterr().err.count("The connection was cut") == 1


def test_a_run_that_waits_says_so(base: str, client: Client, done: str) -> None:
    """And what has elapsed is counted from its start, once it has started."""
    from tailrace.cli.screen import Screen

    events = [
        WatchedEvent("1", "status", {"status": "queued", "position": 3}, "{}"),
        WatchedEvent("2", "start", {"timestamp": "2026-01-02T03:04:05.000Z"}, "{}"),
    ]
    screen = Screen()
    screen.draws = True
    cuts = module._Cuts(screen)
    options = {"as_json": False, "quiet": False, "raw": True}
    where = Target(base, done, done)
    watching = module.Watching(client, where, screen, cuts, url=None, options=options)
    watching._snapshot = {**client.run(done), "started_at": None}
    shown: list[Any] = []
    for event in events:
        watching._show(event)
        shown.append((watching._telling.progress, watching._snapshot["started_at"]))
    assert shown == [({"message": "queued, 3rd"}, None), (None, "2026-01-02T03:04:05.000Z")]


def test_replay(tailrace: Callable[..., Any], url: str, done: str) -> None:
    told = tailrace("replay", "-q", "--speed", "100", done)
    assert (told.code, told.out) == (0, "row 1\nrow 2\n")


def test_only_a_finished_run_is_replayed(
    tailrace: Callable[..., Any], url: str, going: str
) -> None:
    told = tailrace("replay", going)
    assert (told.code, told.out) == (125, "")
    assert f"tailrace watch {going}" in told.err.splitlines()[1]


@pytest.mark.parametrize("run", [UNKNOWN, "nonsense"])
@pytest.mark.parametrize("command", ["watch", "replay"])
def test_a_run_there_is_not(tailrace: Callable[..., Any], url: str, command: str, run: str) -> None:
    told = tailrace(command, run)
    assert (told.code, told.out) == (125, "")
    assert len(told.err.splitlines()) == 2


def test_nobody_answers(tailrace: Callable[..., Any]) -> None:
    told = tailrace("watch", "--url", "http://127.0.0.1:1", UNKNOWN)
    assert told.code == 125
    assert "No answer" in told.err
