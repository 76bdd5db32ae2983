import asyncio
import socket
import time

import click
import pytest

from tailrace.cli.remote import DEFAULT_URL, address, base_url, complete_run, key, target
from tailrace.errors import RunUnknown

RUN = "run_" + "a" * 26


def test_which_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILRACE_URL", raising=False)
    assert base_url(None) == DEFAULT_URL
    monkeypatch.setenv("TAILRACE_URL", "http://h:1/")
    assert base_url(None) == "http://h:1"
    assert base_url("https://other/prefix/") == "https://other/prefix"
    assert base_url("localhost:4000") == "http://localhost:4000"


def test_a_run_by_its_id() -> None:
    assert target(RUN, "http://h:1") == ("http://h:1", RUN, RUN)


def test_nobody_reads_a_password() -> None:
    assert target(RUN, "http://me:secret@h:1/prefix").link == f"http://h:1/prefix/runs/{RUN}"
    assert target(RUN, "http://h:1").link == f"http://h:1/runs/{RUN}"


@pytest.mark.parametrize("rest", ["", "/", "/events", "/output", "/cancel", "#L3"])
def test_a_run_by_its_address(rest: str) -> None:
    assert target(f"http://h:1/prefix/runs/{RUN}{rest}", None) == ("http://h:1/prefix", RUN, RUN)


def test_an_address_may_ask_for_something() -> None:
    given = f"https://h/runs/{RUN}/events?after=5#x"
    assert target(given, None) == ("https://h", RUN, f"https://h/runs/{RUN}/events?after=5")


@pytest.mark.parametrize("text", ["", "run_x", "http://h/", f"ftp://h/runs/{RUN}", "../etc"])
def test_neither(text: str) -> None:
    with pytest.raises(RunUnknown):
        target(text, None)


# ------------------------------------------------------------------ where a run can be seen


def seen(run: str) -> str | None:
    began = time.monotonic()
    try:
        return asyncio.run(address(run))
    finally:
        assert time.monotonic() - began < 5.0


def test_a_run_that_the_server_knows(url: str, done: str) -> None:
    assert seen(done) == f"{url}/runs/{done}"


@pytest.mark.usefixtures("url")
def test_a_run_that_it_does_not_know() -> None:
    assert seen(RUN) is None


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "no url", "http://[", "ftp://h"])
def test_no_server(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("TAILRACE_URL", base)
    assert seen(RUN) is None


def test_a_server_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("TAILRACE_URL", f"http://127.0.0.1:{port}")
        assert seen(RUN) is None


# ------------------------------------------------------------------ ids


def completed(url: str, incomplete: str) -> list[str]:
    context = click.Context(click.Command("x"))
    context.params["url"] = url
    argument = click.Argument(["run"])
    return [item.value for item in complete_run(context, argument, incomplete)]


def test_ids_are_completed(base: str, done: str) -> None:
    assert done in completed(base, "")
    assert completed(base, done[:12]) == [done]
    assert completed(base, "nothing") == []


def test_a_server_that_does_not_answer_completes_nothing() -> None:
    assert completed("http://127.0.0.1:1", "") == []
    assert completed("no url", "") == []


# ------------------------------------------------------------------ the key


@pytest.mark.parametrize(
    ("url", "base", "is_sent"),
    [
        (None, DEFAULT_URL, True),
        (None, "http://evil.example", False),
        ("https://runs.example", "https://runs.example", True),
        ("https://runs.example/prefix", "https://me@RUNS.example", True),
        ("https://runs.example", "http://runs.example", False),
        ("https://runs.example", "https://runs.example.evil", False),
        ("https://runs.example", "https://runs.example@evil.example", False),
        ("https://runs.example", DEFAULT_URL, False),
    ],
)
def test_the_key_is_for_its_own_server(
    monkeypatch: pytest.MonkeyPatch, url: str | None, base: str, is_sent: bool
) -> None:
    """An address may come from anybody."""
    monkeypatch.setenv("TAILRACE_KEY", "tr_mine")
    if url is None:
        monkeypatch.delenv("TAILRACE_URL", raising=False)
    else:
        monkeypatch.setenv("TAILRACE_URL", url)
    assert key(base) == ("tr_mine" if is_sent else None)


def test_without_a_key_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILRACE_KEY", raising=False)
    assert key(DEFAULT_URL) is None
