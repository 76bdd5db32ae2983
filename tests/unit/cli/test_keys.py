import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli import keys as command
from tailrace.server.keys import Key, Keys


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("TAILRACE_KEYS", str(path))
    monkeypatch.delenv("TAILRACE_URL", raising=False)
    return path


def test_create_prints_the_secret_alone(tailrace: Callable[..., Any], path: Path) -> None:
    told = tailrace("keys", "create", "--name", "ci", "--scopes", "run, watch")
    assert told.code == 0
    secret = told.out.removesuffix("\n")
    key = Keys(path).find(secret)
    assert key is not None
    assert (key.name, set(key.scopes), key.principal) == ("ci", {"run", "watch"}, "key:ci")
    assert key.expires_at is None


def test_create_says_how_to_use_it_and_not_the_secret(
    tailrace: Callable[..., Any], path: Path
) -> None:
    told = tailrace("keys", "create", "--name", "ci", "--scopes", "run")
    assert "only time" in told.err
    assert "curl http://127.0.0.1:4000/runs -H 'Authorization: Bearer …'" in told.err
    assert told.out[12:].strip() not in told.err


def test_create_with_an_end_and_a_principal(
    tailrace: Callable[..., Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tailrace(
        "keys", "create", "--name", "ci", "--scopes", "admin", "--expires", "30d",
        "--principal", "jo",
    )  # fmt: skip
    assert told.code == 0
    (key,) = Keys(path)
    assert key.principal == "jo"
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == pytest.approx(30 * 86_400, abs=1)


@pytest.mark.parametrize("time", ["", "30", "0d", "-1d", "1.5h", "30 d", "1y", "1d2h", "٣d"])
def test_what_is_no_time(tailrace: Callable[..., Any], path: Path, time: str) -> None:
    told = tailrace("keys", "create", "--name", "ci", "--scopes", "run", "--expires", time)
    assert (told.code, told.out) == (2, "")
    assert "is not a time such as 90m, 12h, 30d or 8w" in told.err
    assert not path.exists()


@pytest.mark.parametrize(
    ("time", "seconds"), [("90s", 90), ("90m", 5400), ("12h", 43_200), ("2w", 1_209_600)]
)
def test_what_is_a_time(time: str, seconds: int) -> None:
    assert command._Time().convert(time, None, None) == seconds


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [
        ("a b", "run", "'a b' cannot be a key's name"),
        ("ci", "walk", "'walk' is not a scope"),
        ("ci", ",", "at least one scope"),
    ],
)
def test_what_no_key_can_be_created_with(
    tailrace: Callable[..., Any], path: Path, name: str, scopes: str, said: str
) -> None:
    told = tailrace("keys", "create", "--name", name, "--scopes", scopes)
    assert (told.code, told.out) == (125, "")
    assert said in told.err
    assert len(told.err.splitlines()) == 2
    assert not path.exists()


@pytest.mark.parametrize("words", [["--name", "ci"], ["--scopes", "run"]])
def test_create_needs_both(tailrace: Callable[..., Any], path: Path, words: list[str]) -> None:
    assert tailrace("keys", "create", *words).code == 2


def test_ls(tailrace: Callable[..., Any], path: Path) -> None:
    first, _ = Keys(path).create("ci", ["watch", "run"])
    second, _ = Keys(path).create("laptop", ["admin"], principal="jo", expires_at=2**33)
    told = tailrace("keys", "ls")
    assert (told.code, told.err) == (0, "")
    heading, one, two = told.out.splitlines()
    assert heading.split() == ["ID", "NAME", "SCOPES", "PRINCIPAL", "CREATED", "EXPIRES"]
    assert one.split()[:4] == [first.id, "ci", "run,watch", "key:ci"]
    assert one.endswith("never")
    assert two.split()[:4] == [second.id, "laptop", "admin", "jo"]
    assert " in " in two


def test_ls_as_json(tailrace: Callable[..., Any], path: Path) -> None:
    made = [Keys(path).create(name, ["run"])[0] for name in ("a", "b")]
    told = tailrace("keys", "ls", "--json")
    assert [json.loads(line) for line in told.out.splitlines()] == [key.shown() for key in made]
    assert "sha256" not in told.out


def test_ls_of_none(tailrace: Callable[..., Any], path: Path) -> None:
    assert tailrace("keys", "ls").out.split()[0] == "ID"
    assert tailrace("keys", "ls", "--json").out == ""
    assert not path.exists()


def test_what_a_row_says_of_time() -> None:
    key = Key("aaaaaaaa", "ci", frozenset({"run"}), "p" * 50, "0" * 64, 1000.0, 4600.0)
    assert command._row(key, 1120.0)[3:] == ("p" * 29 + "…", "2 min ago", "in 58 min 00 s")
    assert command._row(key, 4600.0)[5] == "expired"


@pytest.mark.parametrize("by", ["id", "name"])
def test_rm(tailrace: Callable[..., Any], path: Path, by: str) -> None:
    key, secret = Keys(path).create("ci", ["run"])
    Keys(path).create("other", ["run"])
    told = tailrace("keys", "rm", getattr(key, by))
    assert (told.code, told.out) == (0, "")
    assert told.err == f"ci ({key.id}) is revoked\n"
    assert [left.name for left in Keys(path)] == ["other"]
    assert Keys(path).find(secret) is None


def test_rm_of_none(tailrace: Callable[..., Any], path: Path) -> None:
    told = tailrace("keys", "rm", "nobody")
    assert (told.code, told.out) == (125, "")
    assert "There is no key 'nobody'" in told.err


def test_another_file(tailrace: Callable[..., Any], path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    words = ("--file", str(other))
    assert tailrace("keys", "create", *words, "--name", "ci", "--scopes", "run").code == 0
    assert "ci" in tailrace("keys", "ls", *words).out
    assert tailrace("keys", "rm", *words, "ci").code == 0
    assert not Keys(other)
    assert not path.exists()


@pytest.mark.parametrize(
    "words", [["ls"], ["rm", "ci"], ["create", "--name", "b", "--scopes", "run"]], ids=" ".join
)
def test_a_file_that_others_may_read(
    tailrace: Callable[..., Any], path: Path, words: list[str]
) -> None:
    Keys(path).create("ci", ["run"])
    path.chmod(0o644)
    told = tailrace("keys", *words)
    assert (told.code, told.out) == (125, "")
    assert "its mode is 0644" in told.err
    assert f"chmod 600 {path}" in told.err
