import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.server.keyfile import Content, Key, KeyFile, instant, is_name, is_principal

KEY = Key("aaaaaaaa", "ci", frozenset({"watch", "run"}), "key:ci", "0f" * 32, 1e9, None)
OTHER = Key("bbbbbbbb", "laptop", frozenset({"admin"}), "jo", "f0" * 32, 1.5e9, 2e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings" / "keys.json"


@pytest.fixture
def file(path: Path) -> KeyFile:
    file = KeyFile(path)
    with file.locked():
        file.write([KEY, OTHER])
    return file


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Changed as an editor would: in place, the mode as it was."""
    document = json.loads(path.read_text())
    changed = change(document)
    path.write_text(json.dumps(document if changed is None else changed))


def test_what_is_written_is_read(file: KeyFile) -> None:
    content = file.read()
    assert list(content.keys.items()) == [("aaaaaaaa", KEY), ("bbbbbbbb", OTHER)]
    assert content.mark == file.mark()


def test_what_it_says(file: KeyFile, path: Path) -> None:
    assert json.loads(path.read_text())["keys"][0] == {
        "id": "aaaaaaaa",
        "name": "ci",
        "scopes": ["run", "watch"],
        "principal": "key:ci",
        "created_at": "2001-09-09T01:46:40.000Z",
        "expires_at": None,
        "sha256": "0f" * 32,
    }
    assert "sha256" not in KEY.shown()
    assert "0f0f" not in repr(KEY)


def test_no_file_is_no_keys(path: Path) -> None:
    assert KeyFile(path).read() == Content(None, {})
    assert KeyFile(path).mark() is None


def test_nobody_else_may_open_it(file: KeyFile, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_generous_umask_changes_nothing(path: Path) -> None:
    before = os.umask(0)
    try:
        with KeyFile(path).locked():
            KeyFile(path).write([KEY])
    finally:
        os.umask(before)
    modes = {place.name: stat.S_IMODE(place.stat().st_mode) for place in path.parent.iterdir()}
    assert modes == {"keys.json": 0o600, ".keys.json.lock": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o610])
def test_one_that_others_may_open_is_refused(file: KeyFile, path: Path, mode: int) -> None:
    before = file.mark()
    path.chmod(mode)
    with pytest.raises(SettingsInvalid, match=f"its mode is {mode:04o}") as caught:
        file.read()
    assert caught.value.fix.startswith(f"chmod 600 {path}")
    assert file.mark() != before


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_one_that_is_ours_alone_is_not(file: KeyFile, path: Path, mode: int) -> None:
    path.chmod(mode)
    assert len(file.read().keys) == 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch(0o600)
    with pytest.raises(SettingsInvalid, match="not a plain file"):
        KeyFile(tmp_path / "fifo").read()
    with pytest.raises(SettingsInvalid, match="cannot be read: Is a directory"):
        KeyFile(tmp_path / "folder").read()
    with pytest.raises(SettingsInvalid, match="cannot be read: Not a directory"):
        KeyFile(tmp_path / "file" / "keys.json").read()
    with pytest.raises(SettingsInvalid, match="cannot be read: Not a directory"):
        KeyFile(tmp_path / "file" / "keys.json").mark()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"version": 1, "keys": [\xff]}', "not JSON"),
        (b"[]", "no list of keys"),
        (b"{}", "no list of keys"),
        (b"null", "no list of keys"),
        (b'{"version": 1}', "no list of keys"),
        (b'{"version": 1, "keys": {}}', "no list of keys"),
        (b'{"version": 1, "keys": [], "open": true}', "no list of keys"),
        (b'{"version": 2, "keys": []}', "version is not 1"),
        (b'{"version": true, "keys": []}', "version is not 1"),
        (b'{"version": "1", "keys": []}', "version is not 1"),
        (b'{"version": 1, "keys": [7]}', "in key 1, the fields"),
        (b'{"version": 1, "keys": [{}]}', "in key 1, the fields"),
    ],
)
def test_what_is_no_list_of_keys_is_refused(
    file: KeyFile, path: Path, content: bytes, said: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=said) as caught:
        file.read()
    assert str(path) in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "AAAAAAAA"), ("id", "a"), ("id", None), ("id", "aaaaaaaa\n"),
        ("name", ""), ("name", "a b"), ("name", 7),
        ("scopes", []), ("scopes", "run"), ("scopes", ["run", "root"]), ("scopes", [["run"]]),
        ("scopes", {"run": 1}),
        ("principal", ""), ("principal", None), ("principal", "a\x1b[2J"),
        ("created_at", None), ("created_at", 1e9), ("created_at", "2001-09-09T01:46:40"),
        ("created_at", "0001-01-01T00:00:00Z"),
        ("expires_at", 0), ("expires_at", ""), ("expires_at", "soon"), ("expires_at", False),
        ("sha256", "0f" * 31), ("sha256", "0F" * 32), ("sha256", None), ("sha256", "é" * 64),
    ],
)  # fmt: skip
def test_a_field_that_is_not_as_it_should_be_is_refused(
    file: KeyFile, path: Path, name: str, value: Any
) -> None:
    rewritten(path, lambda document: document["keys"][1].update({name: value}))
    with pytest.raises(SettingsInvalid, match=f"in key 2, {name} is not as it should be"):
        file.read()


def test_other_fields_are_refused(file: KeyFile, path: Path) -> None:
    rewritten(path, lambda document: document["keys"][0].update(only_from="10.0.0.1"))
    with pytest.raises(SettingsInvalid, match="in key 1, the fields are not id, "):
        file.read()
    rewritten(
        path, lambda document: [document["keys"][0].pop(n) for n in ("only_from", "name")][:0]
    )
    with pytest.raises(SettingsInvalid):
        file.read()


@pytest.mark.parametrize("name", ["id", "name"])
def test_two_that_are_called_alike_are_refused(file: KeyFile, path: Path, name: str) -> None:
    def same(document: Any) -> None:
        document["keys"][1][name] = document["keys"][0][name]

    rewritten(path, same)
    with pytest.raises(SettingsInvalid, match="key 2 has the id or the name of another"):
        file.read()


def test_a_time_with_another_zone_is_read(file: KeyFile, path: Path) -> None:
    rewritten(
        path, lambda document: document["keys"][0].update(expires_at="2001-09-09T03:46:40+02:00")
    )
    assert file.read().keys["aaaaaaaa"].expires_at == 1e9


def test_it_changes_as_a_whole(file: KeyFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tailrace.server.keyfile.os.fsync", full)
    with (
        pytest.raises(SettingsInvalid, match="cannot be changed: No space left") as caught,
        file.locked(),
    ):
        file.write([KEY])
    assert "Check the folder" in caught.value.fix
    assert path.read_bytes() == before
    assert sorted(place.name for place in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_folder_that_cannot_be_synced_is_no_failure(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def picky(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr("tailrace.server.keyfile.os.fsync", picky)
    with file.locked():
        file.write([OTHER])
    assert list(file.read().keys) == ["bbbbbbbb"]


def test_a_place_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = KeyFile(tmp_path / "file" / "keys.json")
    with pytest.raises(SettingsInvalid, match="cannot be changed"), file.locked():
        raise AssertionError("it was locked")


def test_a_link_stays_one(file: KeyFile, path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    linked = KeyFile(link)
    with linked.locked():
        linked.write([OTHER])
    assert link.is_symlink()
    assert file.read() == linked.read() == Content(file.mark(), {"bbbbbbbb": OTHER})


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".keys.json.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(SettingsInvalid), KeyFile(tmp_path / "keys.json").locked():
        raise AssertionError("it was locked")
    assert not (tmp_path / "victim").exists()


def test_whoever_has_it_locked_is_alone_in_one_process_too(file: KeyFile, path: Path) -> None:
    def is_free() -> bool:
        with (path.parent / ".keys.json.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with file.locked():
        assert not is_free()
    assert is_free()


def test_instant() -> None:
    assert instant("2001-09-09T01:46:40.250Z") == 1e9 + 0.25
    for text in ("", "soon", "2001-09-09T01:46:40", "2001-09-09"):
        with pytest.raises(ValueError, match=r"."):
            instant(text)


def test_names_and_principals() -> None:
    assert all(map(is_name, ["a", "A.b_c-9", "x" * 64]))
    assert not any(map(is_name, ["", "a b", "x" * 65, "ä", "a\n", "a/b", None]))
    assert all(map(is_principal, ["a", "key:ci", "Jo Ö", "x" * 128]))
    assert not any(map(is_principal, ["", " a", "a ", "a\nb", "x" * 129, "\u202ea", None]))
