from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from tailrace.server import app, launch
from tailrace.server.entrance import Entrance
from tailrace.server.keys import Keys
from tailrace.server.launch import Launch
from tailrace.server.settings import Settings

BASE = "http://127.0.0.1:4321"
KEY = f"tl_{'a' * 52}"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text("print('hello')\n", encoding="utf-8")
    return tmp_path


def index(settings: Settings, **headers: str) -> httpx2.Response:
    with TestClient(app.build(settings).asgi, base_url=BASE) as client:
        return client.get("/", headers=headers)


def test_it_has_commands_to_copy(scripts: Path) -> None:
    answer = index(Settings(log="memory:", allow_root=(scripts,)))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    commands = [line for line in answer.text.splitlines() if line.startswith("  curl ")]
    assert len(commands) == 4
    assert all(f"{BASE}/" in command for command in commands)
    assert '"file": "hello.py"' in commands[1]
    assert commands[2] == f"  curl -N '{BASE}/run_file?file_path=hello.py'"
    assert "\n\n\n" not in answer.text


def test_without_scripts() -> None:
    text = index(Settings(log="memory:")).text
    assert '"operation": "NAME"' in text
    assert "run_file" not in text
    assert "\n\n\n" not in text


def test_a_script_that_a_shell_would_take_apart_is_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "a'; rm -rf x.py").touch()
    text = index(Settings(log="memory:", allow_root=(tmp_path,))).text
    assert "rm -rf" not in text
    assert "run_file" not in text


@pytest.mark.parametrize("host", ["x$(reboot)", "x;reboot", "x'y", "x`y`"])
def test_a_host_header_cannot_write_commands(host: str) -> None:
    text = index(Settings(log="memory:"), host=host).text
    assert host not in text
    assert re.search(r"^  curl http://127\.0\.0\.1:[0-9]+/runs$", text, re.MULTILINE)


# ------------------------------------------------------------------ behind a closed door


class Closed:
    def __init__(self, scripts: Path) -> None:
        settings = Settings(log="memory:", allow_root=(scripts,), keys=scripts / "keys.json")
        keys = Keys(settings.keys)
        self.secret = keys.create("ci", ["run", "watch"])[1]
        self.admin = keys.create("root", ["admin"])[1]
        self.entrance = Entrance(settings)
        self.entrance.launch = Launch(KEY, 4321)
        self.client = TestClient(app.build(settings, self.entrance).asgi, base_url=BASE)


@pytest.fixture
def closed(scripts: Path) -> Iterator[Closed]:
    closed = Closed(scripts)
    with closed.client:
        yield closed


def test_strangers_are_told_how_to_get_in_and_nothing_else(closed: Closed) -> None:
    answer = closed.client.get("/")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert f"tailrace login --url {BASE}" in answer.text
    assert "hello.py" not in answer.text
    assert "set-cookie" not in answer.headers


def test_a_link_lets_a_browser_in_once(closed: Closed) -> None:
    assert closed.entrance.launch is not None
    word = closed.entrance.launch.link()
    answer = closed.client.get(f"/?login={word}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert f'content="0; url={BASE}/"' in answer.text
    assert word not in answer.text
    assert closed.client.get("/runs").status_code == 200, "the cookie says who asks"
    # The same link in the same browser's history is only a page.
    answer = closed.client.get(f"/?login={word}")
    assert answer.status_code == 200
    assert "hello.py" in answer.text
    closed.client.cookies.clear()
    answer = closed.client.get(f"/?login={word}")
    assert answer.status_code == 401
    assert "was used, or is too old" in answer.text
    assert closed.client.get("/runs").status_code == 401


def test_the_commands_have_what_says_who_asks(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a folder"))
    text = closed.client.get("/", headers={"authorization": f"Bearer {KEY}"}).text
    assert text.count(f" -H @'{launch.place()}' ") == text.count("  curl ") == 4
    assert KEY not in text
    text = closed.client.get("/", headers={"x-api-key": closed.secret}).text
    assert text.count('-H "Authorization: Bearer $TAILRACE_KEY"') == text.count("  curl ") == 4
    assert closed.secret not in text


def test_only_the_starter_gets_another_link(closed: Closed) -> None:
    assert closed.client.post("/login").status_code == 401
    for secret in (closed.secret, closed.admin):
        answer = closed.client.post("/login", headers={"x-api-key": secret})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    answer = closed.client.post("/login", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 201
    url = answer.json()["url"]
    assert url.startswith(f"{BASE}/?login=")
    assert closed.client.get(url).status_code == 200
    assert closed.client.get("/operations").status_code == 200


def test_a_server_without_a_way_in_knows_no_links(closed: Closed) -> None:
    closed.entrance.launch = None
    assert closed.client.get("/?login=x").status_code == 401
