import hashlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.protocol import access
from tailrace.server.keys import ENV, SCOPES, Keys, default_keys

NOW = 1_800_000_000.0


class Time:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.clock = 100.0
        self.now = NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def keys(path: Path, time: Time) -> Keys:
    return Keys(path, clock=lambda: time.clock, now=lambda: time.now)


def test_create(keys: Keys, path: Path) -> None:
    key, secret = keys.create("ci", ["watch", "run", "run"])
    assert (key.name, set(key.scopes), key.principal) == ("ci", {"run", "watch"}, "key:ci")
    assert (key.created_at, key.expires_at) == (NOW, None)
    assert re.fullmatch(r"tr_[a-z2-7]{8}_[a-z2-7]{52}", secret)
    assert secret[3:11] == key.id
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert keys.list() == tuple(keys) == tuple(Keys(path)) == (key,)


def test_the_secret_is_kept_nowhere(keys: Keys, path: Path) -> None:
    _, secret = keys.create("ci", ["run"])
    assert secret[12:] not in path.read_text()
    assert secret[12:] not in repr(keys.list())
    assert [place.name for place in path.parent.iterdir() if secret[12:] in place.read_text()] == []


def test_secrets_are_all_of_256_random_bits(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def bits(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    monkeypatch.setattr("tailrace.server.keys.secrets", SimpleNamespace(token_bytes=bits))
    secrets = {keys.create(f"k{number}", ["run"])[1] for number in range(3)}
    assert asked == [5, 32] * 3
    assert len({secret[12:] for secret in secrets}) == 3


def test_an_id_is_not_given_twice(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([b"\0" * 5, b"\1" * 32, b"\0" * 5, b"\2" * 5, b"\3" * 32])
    chance = SimpleNamespace(token_bytes=lambda size: next(told))
    monkeypatch.setattr("tailrace.server.keys.secrets", chance)
    first, second = (keys.create(name, ["run"])[0].id for name in ("a", "b"))
    assert first == "aaaaaaaa" != second
    with pytest.raises(SettingsInvalid, match="There is a key 'aaaaaaaa' already"):
        keys.create("aaaaaaaa", ["run"])


def test_scopes_are_those_of_the_protocol() -> None:
    assert SCOPES == access.SCOPES == ("run", "watch", "cancel", "emit", "admin")


def test_a_principal_and_an_end(keys: Keys, path: Path) -> None:
    key, _ = keys.create("ci", SCOPES, principal="jo", expires_at=NOW + 60.1234)
    assert key.principal == "jo"
    assert key.expires_at == pytest.approx(NOW + 60.123, abs=0.001)
    assert Keys(path).list() == (key,)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("", {}, "cannot be a key's name"),
        ("a b", {}, "cannot be a key's name"),
        ("x" * 65, {}, "cannot be a key's name"),
        ("ci\n", {}, "cannot be a key's name"),
        ("ci", {"scopes": []}, "at least one scope"),
        ("ci", {"scopes": ["run", "root"]}, "'root' is not a scope"),
        ("ci", {"scopes": "run"}, "'n' is not a scope"),
        ("ci", {"principal": ""}, "cannot be a principal"),
        ("ci", {"principal": "a\nb"}, "cannot be a principal"),
        ("ci", {"expires_at": NOW}, "expire in the future"),
        ("ci", {"expires_at": 0.0}, "expire in the future"),
        ("ci", {"expires_at": math.nan}, "expire in the future"),
        ("ci", {"expires_at": math.inf}, "expire in the future"),
        ("ci", {"expires_at": 1e15}, "expire in the future"),
    ],
)
def test_what_no_key_can_be_created_with(
    keys: Keys, path: Path, name: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsInvalid, match=said) as caught:
        keys.create(name, **{"scopes": ["run"], **given})
    assert caught.value.fix
    assert not path.exists()


def test_names_are_unique(keys: Keys) -> None:
    key, _ = keys.create("ci", ["run"])
    with pytest.raises(SettingsInvalid, match="There is a key 'ci' already") as caught:
        keys.create("ci", ["watch"])
    assert "tailrace keys rm ci" in caught.value.fix
    assert keys.list() == (key,)


# ------------------------------------------------------------------ looking up


def test_find(keys: Keys) -> None:
    made = [keys.create(name, ["run"]) for name in ("a", "b", "c")]
    assert [keys.find(secret) for _, secret in made] == [key for key, _ in made]


def test_find_nothing(keys: Keys) -> None:
    (_, first), (_, second) = (keys.create(name, ["run"]) for name in ("a", "b"))
    wrong = "a" if first[-5] != "a" else "b"
    for secret in (
        "", "tr_", "é", first[:-1], first + "a", first + "\n", first.upper(), first[3:],
        "tr_" + "a" * 8 + first[11:], first[:12] + second[12:], first[:-5] + wrong + first[-4:],
        "Bearer " + first, "\ud800" + first[1:],
    ):  # fmt: skip
        assert keys.find(secret) is None, secret


def test_whatever_is_well_formed_is_compared(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = keys.create("a", ["run"])
    compared: list[tuple[str, str]] = []

    def compare(told: str, known: str) -> bool:
        compared.append((told, known))
        return True

    monkeypatch.setattr("tailrace.server.keys.hmac.compare_digest", compare)
    unknown = "tr_22222222" + secret[11:]
    assert keys.find(secret) == key
    assert keys.find(unknown) is None
    assert [known for _, known in compared] == [key.sha256, "0" * 64]
    assert compared[1][0] == hashlib.sha256(unknown.encode()).hexdigest()


def test_expired(keys: Keys, time: Time) -> None:
    key, secret = keys.create("ci", ["run"], expires_at=NOW + 60)
    time.now = NOW + 59.9
    assert keys.find(secret) == key
    time.now = NOW + 60
    assert keys.find(secret) is None
    assert keys.list() == (key,)
    assert keys


def test_revoke(keys: Keys) -> None:
    made = [keys.create(name, ["run"]) for name in ("a", "b", "c")]
    (first, secret), (second, _), (third, _) = made
    assert keys.revoke("a") == first
    assert keys.find(secret) is None
    assert keys.revoke(third.id) == third
    assert keys.list() == (second,)
    with pytest.raises(SettingsInvalid, match="There is no key 'a'") as caught:
        keys.revoke("a")
    assert "tailrace keys ls" in caught.value.fix
    keys.revoke("b")
    assert not keys


def test_no_file_is_no_keys(keys: Keys) -> None:
    assert not keys
    assert keys.list() == ()
    assert keys.find("tr_" + "a" * 8 + "_" + "a" * 52) is None


# ------------------------------------------------------------------ the file changes


def test_what_others_change_is_seen_half_a_second_later(keys: Keys, path: Path, time: Time) -> None:
    _, secret = keys.create("a", ["run"])
    other, new = Keys(path).create("b", ["run"])
    Keys(path).revoke("a")
    time.clock += 0.49
    assert keys.find(secret) is not None
    assert keys.find(new) is None
    time.clock += 0.02
    assert keys.find(secret) is None
    assert keys.find(new) == other


def test_the_first_key_is_seen_as_well(keys: Keys, path: Path, time: Time) -> None:
    assert not keys
    Keys(path).create("a", ["run"])
    time.clock += 0.5
    assert keys


def test_it_is_read_again_only_if_it_changed(
    keys: Keys, path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = keys.create("a", ["run"])
    done: list[str] = []
    for name in ("mark", "read"):
        original = getattr(keys._file, name)

        def noted(name: str = name, original: Any = original) -> Any:
            done.append(name)
            return original()

        monkeypatch.setattr(keys._file, name, noted)
    for _ in range(3):
        assert keys.find(secret)
    assert done == []
    time.clock += 0.5
    for _ in range(3):
        assert keys.find(secret)
    assert done == ["mark"]
    os.utime(path, (1, 1))
    time.clock += 0.5
    for _ in range(3):
        assert keys.find(secret)
    assert done == ["mark", "mark", "read"]


@pytest.mark.parametrize("harm", ["bad", "open", "gone"])
def test_a_file_that_goes_bad_is_no_open_door(
    keys: Keys, path: Path, time: Time, harm: str
) -> None:
    key, secret = keys.create("a", ["run"])
    content = path.read_bytes()
    if harm == "bad":
        path.write_bytes(content[:-5])
    elif harm == "open":
        path.chmod(0o644)
    else:
        path.unlink()
    time.clock += 0.5
    # Not only the first time: an answer that was refused is not kept.
    for _ in range(2):
        for ask in (
            lambda: keys.find(secret),
            lambda: keys.find("x"),
            keys.list,
            lambda: bool(keys),
        ):
            with pytest.raises(SettingsInvalid) as caught:
                ask()
            assert caught.value.fix
    for change in (lambda: keys.create("b", ["run"]), lambda: keys.revoke("a")):
        with pytest.raises(SettingsInvalid):
            change()
    path.write_bytes(content)
    path.chmod(0o600)
    assert keys.find(secret) == key


def test_a_bad_file_is_left_as_it_is(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o600)
    with pytest.raises(SettingsInvalid):
        Keys(path).create("a", ["run"])
    assert path.read_text() == "{}"


def test_a_hash_that_was_changed_lets_nobody_in(keys: Keys, path: Path, time: Time) -> None:
    key, secret = keys.create("a", ["run"])
    forged = replace(key, sha256="0" * 64)
    with keys._file.locked():
        keys._file.write([forged])
    time.clock += 0.5
    assert keys.list() == (forged,)
    assert keys.find(secret) is None


CREATE = """
import sys
from pathlib import Path
from tailrace.server.keys import Keys
keys = Keys(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    print(keys.create(f"{sys.argv[2]}{number}", ["run"])[1], flush=True)
"""


def test_processes_that_create_at_once_lose_none(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(path), word],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for word in ("a", "b")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    keys = Keys(path)
    assert len(keys.list()) == 40
    found = [key and key.name for secrets in told for key in map(keys.find, secrets)]
    assert found == [f"{word}{number}" for word in "ab" for number in range(20)]
    assert sorted(place.name for place in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


# ------------------------------------------------------------------ where it is


def test_where_keys_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path)
    monkeypatch.delenv(ENV, raising=False)
    assert Keys().path == default_keys() == tmp_path / "keys.json"
    monkeypatch.setenv(ENV, "")
    assert Keys().path == tmp_path / "keys.json"
    monkeypatch.setenv(ENV, "~/there.json")
    assert Keys().path == Path.home() / "there.json"
    assert Keys(tmp_path / "here.json").path == tmp_path / "here.json"


def test_the_file_is_a_list_that_people_can_read(keys: Keys, path: Path) -> None:
    keys.create("ci", ["run"])
    assert json.loads(path.read_text())["version"] == 1
    assert '\n      "name": "ci",\n' in path.read_text()
