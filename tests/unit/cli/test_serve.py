import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.server import app
from tailrace.server.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings it would have served with."""
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    made: list[Settings] = []
    monkeypatch.setattr(app, "serve", made.append)
    return made


def test_flags_become_settings(
    tailrace: Callable[..., Any], served: list[Settings], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    told = tailrace(
        "serve", "--host", "::1", "--port", "0", "--log", "memory:", "--grace", "2", "--no-auth",
        "--allow-root", str(tmp_path / "a"), "--allow-root", str(tmp_path / "b"),
    )  # fmt: skip
    assert (told.code, told.out, told.err) == (0, "", "")
    roots = ((tmp_path / "a").resolve(), (tmp_path / "b").resolve())
    assert served == [
        Settings(host="::1", port=0, log="memory:", allow_root=roots, grace=2.0, no_auth=True)
    ]


def test_flags_for_scripts(tailrace: Callable[..., Any], served: list[Settings]) -> None:
    told = tailrace("serve", "--log", "x.db", "--survive", "--at-once", "3")
    assert (told.code, told.err) == (0, "")
    assert served == [Settings(log="x.db", survives=True, at_once=3)]


def test_flags_for_who_may_do_how_much(
    tailrace: Callable[..., Any], served: list[Settings]
) -> None:
    told = tailrace(
        "serve", "--trusted-proxy", "127.0.0.1", "--trusted-proxy", "10.0.0.0/8",
        "--rate", "run=60/minute", "--rate", "watch=none", "--audit", "-",
        "--mask", "A", "--mask", "B",
    )  # fmt: skip
    assert (told.code, told.err) == (0, "")
    assert served == [
        Settings(
            trusted_proxy=("127.0.0.1", "10.0.0.0/8"),
            rates={"run": "60/minute", "watch": "none"},
            audit=Path("-"),
            mask=("A", "B"),
        )
    ]


@pytest.mark.parametrize(
    ("flag", "value"), [("--trusted-proxy", "*"), ("--rate", "run=x"), ("--mask", "a b")]
)
def test_a_wrong_flag_is_named(
    tailrace: Callable[..., Any], served: list[Settings], flag: str, value: str
) -> None:
    told = tailrace("serve", flag, value)
    assert (told.code, served) == (125, [])
    assert told.err.startswith(f"tailrace: {flag} must be ")


def test_a_wrong_flag(tailrace: Callable[..., Any], served: list[Settings]) -> None:
    told = tailrace("serve", "--at-once", "0")
    assert (told.code, served) == (125, [])
    assert told.err.startswith("tailrace: --at-once must be a whole number")


def test_what_is_lost_with_the_server_survives_nothing(
    tailrace: Callable[..., Any], tmp_path: Path
) -> None:
    told = tailrace(
        "serve", "--port", "0", "--log", "memory:", "--survive", "--allow-root", str(tmp_path)
    )
    assert told.code == 125
    first, second = told.err.splitlines()
    assert "cannot survive" in first
    assert "Keep the log in a file" in second


def test_nothing_said(tailrace: Callable[..., Any], served: list[Settings]) -> None:
    assert tailrace("serve").code == 0
    assert served == [Settings()]


def test_a_file(tailrace: Callable[..., Any], served: list[Settings], tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[server]\nport = 1\ngrace = 2\n", encoding="utf-8")
    assert tailrace("serve", "--config", str(config), "--port", "3").code == 0
    assert (served[0].port, served[0].grace) == (3, 2.0)


def test_what_is_wrong_in_a_file(
    tailrace: Callable[..., Any], served: list[Settings], tmp_path: Path
) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[server]\nprot = 1\n", encoding="utf-8")
    told = tailrace("serve", "--config", str(config))
    assert (told.code, served) == (125, [])
    first, second = told.err.splitlines()
    assert "'prot'" in first
    assert str(config) in first
    assert "host, port, log, allow_root, grace" in second


def test_an_address_that_others_can_reach(tailrace: Callable[..., Any]) -> None:
    told = tailrace("serve", "--host", "0.0.0.0", "--port", "0", "--log", "memory:", "--no-auth")
    assert told.code == 125
    assert "there is no key to ask for" in told.err
    assert len(told.err.splitlines()) == 2


def test_a_port_that_is_taken(tailrace: Callable[..., Any]) -> None:
    with app.listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        told = tailrace("serve", "--port", port, "--log", "memory:")
    assert told.code == 125
    assert f"127.0.0.1:{port}: another program" in told.err


def test_the_help_says_what_a_key_does(tailrace: Callable[..., Any]) -> None:
    said = " ".join(tailrace("serve", "--help").out.split())
    assert "Nobody gets in without a key." in said
