from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tailrace.client.launch import Launched, place, read
from tailrace.client.requests import Server
from tailrace.errors import SettingsInvalid
from tailrace.protocol.launch import is_token

KEY = f"tl_{'a' * 52}"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    place().parent.mkdir()
    return place()


def write(file: Path, key: str = KEY) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, f"Authorization: Bearer {key}\n".encode())
    os.close(descriptor)


def test_where_it_is(tmp_path: Path, file: Path) -> None:
    assert file == tmp_path / "tailrace" / "launch-key"
    assert read(file) is None
    write(file)
    assert read(file) == KEY


def sent(server: Server) -> str | None:
    return server.token.get("authorization")


@pytest.mark.parametrize("base", ["http://127.0.0.1:4000", "http://localhost:4000/prefix",
                                  "http://[::1]:4000"])  # fmt: skip
def test_a_server_of_this_machine_learns_who_asks_but_not_the_key(file: Path, base: str) -> None:
    server = Server(base, None)
    assert sent(server) is None
    assert server.operations().headers.keys() == {"accept"}
    write(file)
    told = str(sent(server))
    assert KEY not in told
    assert is_token(told.removeprefix("Bearer "), KEY, 4000, time.time())
    assert "authorization" in server.operations().headers


@pytest.mark.parametrize("base", ["http://192.0.2.1:4000", "https://127.0.0.1:4000",
                                  "http://127.0.0.1.evil.example:4000"])  # fmt: skip
def test_others_learn_nothing(file: Path, base: str) -> None:
    write(file)
    assert sent(Server(base, None)) is None


def test_a_token_that_is_given_goes_first(file: Path) -> None:
    write(file)
    assert sent(Server("http://127.0.0.1:4000", "mine")) == "Bearer mine"


def test_whoever_comes_back_says_it_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch may go on for days, and what was said at its beginning is good for a minute."""
    write(file)
    events = Server("http://127.0.0.1:4000", None).events("run_" + "a" * 26)
    first = dict(events.headers)
    now = time.time()
    monkeypatch.setattr("tailrace.client.launch.time.time", lambda: now + 1000)
    assert dict(events.headers) != first


def test_a_port_that_is_not_said(file: Path) -> None:
    write(file)
    told = str(sent(Server("http://localhost", None))).removeprefix("Bearer ")
    assert is_token(told, KEY, 80, time.time())


def test_an_open_file_is_refused(file: Path) -> None:
    write(file)
    file.chmod(0o644)
    with pytest.raises(SettingsInvalid, match="open to other users"):
        dict(Launched(4000))
