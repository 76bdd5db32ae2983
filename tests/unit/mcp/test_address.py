from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.mcp.address import SILENCE_SECONDS, Address, address, read

URL = "http://127.0.0.1:4100/mcp"


def test_a_table_of_upstreams(tmp_path: Path) -> None:
    table = {
        "upstreams": {
            "market": {"url": URL, "key_env": "MARKET_KEY", "silence": 20, "at_once": 3},
            "files": {"command": ["files", "--root", "."], "env": ["FILES_KEY"], "timeout": 60},
            "deep": {"command": ["it"], "cwd": "sub"},
        }
    }
    found = read(table, tmp_path)
    assert found == {
        "market": Address(
            name="market", url=URL, key_env="MARKET_KEY", silence=20.0, at_once=3
        ),
        "files": Address(
            name="files", command=("files", "--root", "."), env=("FILES_KEY",), timeout=60.0,
            cwd=tmp_path,
        ),
        "deep": Address(name="deep", command=("it",), cwd=tmp_path / "sub"),
    }  # fmt: skip
    assert found["files"].silence == SILENCE_SECONDS
    assert read({}, tmp_path) == read({"upstreams": {}}, tmp_path) == {}


def test_said_in_a_program() -> None:
    assert address("market", {"url": URL}) == Address(name="market", url=URL)
    assert address("files", {"command": ["it"]}).cwd is None, "the process's own"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs a url or a command"),
        ({"url": URL, "command": ["x"]}, "and not both"),
        ({"url": URL, "env": ["X"]}, "which only a command"),
        ({"command": ["x"], "key_env": "X"}, "which only a url"),
        ({"command": ["x"], "headers": {"x": "X"}}, "which only a url"),
        ({"uri": URL}, r"market\.uri is not one of url, command"),
        ({"url": "127.0.0.1:4100"}, "an endpoint"),
        ({"url": "ftp://here/mcp"}, "an endpoint"),
        ({"url": "http:///mcp"}, "an endpoint"),
        ({"url": "http://here:port/mcp"}, "market.url must be"),
        ({"url": "http://here/mcp#a"}, "an endpoint"),
        ({"url": 4}, "an endpoint"),
        ({"url": "http://me:hunter2@here/mcp"}, "without a password"),
        ({"command": "python -m market"}, "a list of texts"),
        ({"command": []}, "a program"),
        ({"command": [""]}, "a program"),
        ({"command": ["a\0"]}, "a list of texts"),
        ({"url": URL, "key_env": "sk-hunter2"}, "not its value"),
        ({"url": URL, "headers": {"X-Key": "sk-hunter2"}}, "not its value"),
        ({"url": URL, "headers": {"X Key": "KEY"}}, "a table like"),
        ({"url": URL, "headers": ["KEY"]}, "a table like"),
        ({"command": ["x"], "env": "X"}, "a list of texts"),
        ({"url": URL, "silence": 0}, "above 0"),
        ({"url": URL, "silence": True}, "above 0"),
        ({"url": URL, "silence": 10}, "20 s or more"),
        ({"url": URL, "timeout": float("nan")}, "above 0"),
        ({"url": URL, "at_once": 0}, "1 or more"),
        ({"url": URL, "at_once": 1.5}, "1 or more"),
        ({"command": ["x"], "cwd": 4}, "a folder"),
        ("http://here", "no table"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(SettingsInvalid, match=said) as refused:
        read({"upstreams": {"market": given}}, Path())
    assert "mcp.upstreams.market" in str(refused.value)
    assert refused.value.fix
    assert "hunter2" not in f"{refused.value} {refused.value.fix}"


@pytest.mark.parametrize("table", [{"upstreams": []}, {"servers": {}}])
def test_a_table_that_is_none(table: Any) -> None:
    with pytest.raises(SettingsInvalid, match=r"mcp\.(upstreams|servers) is no table"):
        read(table, Path())


@pytest.mark.parametrize("name", ["", "4market", "mar ket", "mar.ket", "x" * 33, "é", "a\n"])
def test_a_name_stands_before_the_dot(name: str) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be called"):
        address(name, {"url": URL})


def test_keys_come_from_the_environment() -> None:
    one = address("market", {"url": URL, "key_env": "KEY", "headers": {"X-Api-Key": "OTHER"}})
    assert one.variables == ("KEY", "OTHER")
    environment = {"KEY": "hunter2hunter2", "OTHER": "a b", "MORE": "no"}
    assert one.sent(environment) == {
        "authorization": "Bearer hunter2hunter2",
        "X-Api-Key": "a b",
    }
    assert address("market", {"url": URL}).sent({}) == {}


@pytest.mark.parametrize("value", [None, "", "hunter2\r\nx: y", " hunter2", "hünter2"])
def test_a_key_that_cannot_be_sent(value: str | None) -> None:
    one = address("market", {"url": URL, "key_env": "KEY"})
    with pytest.raises(SettingsInvalid, match="takes the value of KEY") as refused:
        one.sent({} if value is None else {"KEY": value})
    assert "hunter2" not in f"{refused.value} {refused.value.fix}"


def test_a_program_gets_what_is_named() -> None:
    one = address("files", {"command": ["it"], "env": ["A", "B"]})
    assert one.handed({"A": "1", "C": "3"}) == {"A": "1"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"url": "https://here:81/mcp?key=hunter2"}, "https://here:81/mcp"),
        ({"command": ["/usr/bin/it", "--key", "hunter2"]}, "/usr/bin/it"),
    ],
)
def test_what_is_shown_of_it(given: dict[str, Any], shown: str) -> None:
    assert address("x", given).shown == shown
