from __future__ import annotations

import os
import re
import threading
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.protocol.launch import token
from tailrace.server import launch
from tailrace.server.launch import LINK_SECONDS, SESSION_SECONDS, Launch

KEY = f"tl_{'a' * 52}"


class Time:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def door(clock: Time) -> Launch:
    return Launch(KEY, 4000, clock=clock)


def cookies(door: Launch) -> dict[str, str]:
    given = door.redeem(door.link())
    assert given is not None
    return {name: morsel.value for name, morsel in SimpleCookie(given).items()}


# ------------------------------------------------------------------ the key


def test_a_key_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "launch-key"
    assert launch.read(path) is None
    key = launch.ensured(path)
    assert re.fullmatch(r"tl_[a-z2-7]{52}", key)
    assert path.read_text() == f"Authorization: Bearer {key}\n", "what curl -H @FILE sends"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert launch.ensured(path) == launch.read(path) == key
    assert launch.ensured(tmp_path / "other") != key
    assert [file.name for file in path.parent.iterdir()] == ["launch-key"]


def test_servers_that_start_at_once_have_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(launch.ensured(tmp_path / "k")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 20
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_one_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "k"
    launch.ensured(path)
    path.chmod(mode)
    for ask in (launch.read, launch.ensured):
        with pytest.raises(SettingsInvalid, match="open to other users") as refused:
            ask(path)
        assert "Remove it" in refused.value.fix


@pytest.mark.parametrize(
    "content", [b"", b"tl_x", f"Authorization: Bearer {KEY}".encode(), b"\xff\xfe", b"\n" * 10_000]
)
def test_what_has_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsInvalid, match="has no key"):
        launch.ensured(path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    launch.ensured(tmp_path / "k")
    (tmp_path / "link").symlink_to(tmp_path / "k")
    (tmp_path / "folder").mkdir(0o700)
    for name in ("fifo", "link", "folder"):
        with pytest.raises(SettingsInvalid, match="cannot be read"):
            launch.read(tmp_path / name)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for folder in ("file", "dangling"):
        with pytest.raises(SettingsInvalid, match="No launch key can be kept"):
            launch.ensured(tmp_path / folder / "launch-key")


def test_where_none_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsInvalid, match="No launch key can be kept") as refused:
        launch.ensured(tmp_path / "file" / "below" / "k")
    assert "XDG_STATE_HOME" in refused.value.fix


def test_it_is_kept_in_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert launch.place() == tmp_path / "tailrace" / "launch-key"


def test_the_key_is_the_key(door: Launch) -> None:
    assert door.is_key(KEY)
    for other in ("", KEY[:-1], KEY + "a", KEY.upper(), "ä", "\ud800"):
        assert not door.is_key(other)


def test_what_was_made_with_the_key(door: Launch, clock: Time) -> None:
    assert door.is_key(token(KEY, 4000, clock.now))
    assert not door.is_key(token(KEY, 4001, clock.now))
    assert not door.is_key(token(KEY, 4000, clock.now - 61))
    assert not door.is_key(token(f"tl_{'b' * 52}", 4000, clock.now))


# ------------------------------------------------------------------ links and cookies


def test_a_link_is_not_good_for_long(door: Launch, clock: Time) -> None:
    words = [door.link(), door.link()]
    clock.now += LINK_SECONDS - 1
    assert door.redeem(words[0]) is not None
    clock.now += 1
    assert door.redeem(words[1]) is None


def test_a_link_is_good_once(door: Launch) -> None:
    word = door.link()
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", word)
    cookie = door.redeem(word)
    assert cookie is not None
    assert "; HttpOnly" in cookie
    assert "; SameSite=Strict" in cookie
    assert "; Path=/;" in cookie
    assert KEY not in cookie
    assert word not in cookie
    assert door.redeem(word) is None


def test_a_cookie_that_came_by_https_goes_no_other_way(door: Launch) -> None:
    assert "Secure" not in str(door.redeem(door.link()))
    assert str(door.redeem(door.link(), is_secure=True)).endswith("; Secure")


@pytest.mark.parametrize("word", ["", "x", "\ud800", "a" * 10_000])
def test_what_is_no_link(door: Launch, word: str) -> None:
    door.link()
    assert door.redeem(word) is None


def test_links_that_nobody_uses_do_not_gather(door: Launch) -> None:
    words = [door.link() for _ in range(101)]
    assert door.redeem(words[0]) is None
    assert all(door.redeem(word) is not None for word in words[1:])


def test_a_cookie_is_good_until_its_time_is_over(door: Launch, clock: Time) -> None:
    given = cookies(door)
    assert list(given) == ["tailrace-4000"]
    assert door.is_session(given)
    clock.now += SESSION_SECONDS
    assert door.is_session(given)
    clock.now += 1
    assert not door.is_session(given)


def test_a_cookie_outlives_the_server_but_not_its_key(door: Launch, clock: Time) -> None:
    given = cookies(door)
    assert Launch(KEY, 4000, clock=clock).is_session(given)
    assert not Launch(f"tl_{'b' * 52}", 4000, clock=clock).is_session(given)


def test_a_cookie_is_of_one_server(door: Launch, clock: Time) -> None:
    value = cookies(door)["tailrace-4000"]
    other = Launch(KEY, 4001, clock=clock)
    assert not other.is_session({"tailrace-4000": value})
    assert not other.is_session({"tailrace-4001": value})


@pytest.mark.parametrize("change", [str.upper, lambda v: v[:-1], lambda v: "", lambda v: "é" + v,
                                    lambda v: "x." + v.partition(".")[2]])  # fmt: skip
def test_a_cookie_that_was_changed(door: Launch, change: object) -> None:
    value = cookies(door)["tailrace-4000"]
    assert not door.is_session({"tailrace-4000": change(value)})  # type: ignore[operator]
    assert not door.is_session({})
