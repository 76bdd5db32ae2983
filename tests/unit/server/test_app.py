import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tailrace.errors import LogError, SettingsInvalid
from tailrace.facade import Tailrace
from tailrace.server import app
from tailrace.server.keys import Keys
from tailrace.server.settings import Settings, load


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text("print('hello')\n", encoding="utf-8")
    return tmp_path


# ------------------------------------------------------------------ build


def test_without_a_root_there_is_no_script_operation() -> None:
    runs = app.build(Settings(log="memory:"))
    assert list(runs.operations) == []


def test_with_a_root_there_is(scripts: Path) -> None:
    runs = app.build(Settings(log="memory:", allow_root=(scripts,)))
    assert [operation.name for operation in runs.operations] == ["script"]


def test_what_scripts_may_do(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "x.toml"
    config.write_text(
        "[scripts]\nat_once = 3\ntimeout = 60\noutput_bytes = 7\nprocesses = 50\nsurvives = true\n"
        '[profiles.lua]\nextensions = [".lua"]\ncommand = ["lua", "{file}"]\n'
    )
    asked: dict[str, Any] = {}
    allow = Tailrace.allow_scripts

    def known(self: Tailrace, *roots: Path | str, **rules: Any) -> None:
        asked.update(rules)
        allow(self, *roots, **rules)

    monkeypatch.setattr(Tailrace, "allow_scripts", known)
    given = {"config": config, "log": str(tmp_path / "runs.db"), "allow_root": scripts}
    script = app.build(load(given, {})).operations.get("script")
    assert (script.concurrency, script.timeout) == (3, 60.0)
    assert script.traits.lets_go("run_x")
    assert asked["profiles"]["lua"].extensions == (".lua",)
    assert (asked["output_bytes"], asked["processes"]) == (7, 50)
    assert asked.keys().isdisjoint({"cpu_seconds", "file_bytes"}), "their defaults are not ours"


def test_scripts_by_default(scripts: Path) -> None:
    script = app.build(Settings(log="memory:", allow_root=(scripts,))).operations.get("script")
    assert (script.concurrency, script.timeout) == (10, None)
    assert not script.traits.lets_go("run_x")


def test_a_log_that_is_lost_with_the_server(scripts: Path) -> None:
    settings = Settings(log="memory:", allow_root=(scripts,), survives=True)
    with pytest.raises(SettingsInvalid, match="cannot survive"):
        app.build(settings)
    assert list(app.build(Settings(log="memory:", survives=True)).operations) == []


def test_a_log_nobody_knows() -> None:
    with pytest.raises(SettingsInvalid, match="nosuch://"):
        app.build(Settings(log="nosuch://x"))


# ------------------------------------------------------------------ serve


class Thread(threading.Thread):
    """`serve` in a thread, where there are no signals: it is stopped through the server."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.said: list[str] = []
        self.is_ready = threading.Event()
        self.error: BaseException | None = None
        self._settings = settings

    def run(self) -> None:
        try:
            app.serve(self._settings, self._say)
        except BaseException as error:
            self.error = error
        finally:
            self.is_ready.set()

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.is_ready.set()


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    made: list[Any] = []

    class Known(app._Server):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(app, "_Server", Known)
    yield made
    for server in made:
        server.should_exit = True


def test_it_says_where_it_listens_once_it_answers(servers: list[Any]) -> None:
    thread = Thread(Settings(log="memory:", port=0))
    thread.start()
    assert thread.is_ready.wait(20), thread.error
    assert thread.error is None
    [said] = thread.said
    first, browser, curl = said.splitlines()
    base = first.removeprefix("Tailrace listens at ")
    answer = httpx2.get(f"{base}/readyz", trust_env=False)
    assert answer.status_code == 200
    assert "server" not in answer.headers
    assert httpx2.get(f"{base}/runs", trust_env=False).status_code == 401
    with httpx2.Client(trust_env=False) as visitor:
        assert visitor.get(browser.split()[-1]).status_code == 200
        assert visitor.get(f"{base}/runs").status_code == 200
    told = subprocess.run(
        ["sh", "-c", curl.partition("with curl")[2]], capture_output=True, text=True, check=True
    )
    assert "What can be run" in told.stdout
    servers[0].should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    assert servers[0].config.timeout_graceful_shutdown == 7


@pytest.mark.parametrize("is_folder_bad", [False, True])
def test_who_has_no_way_in(servers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                           is_folder_bad: bool) -> None:  # fmt: skip
    """With --no-auth nobody needs one; with keys others have theirs."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("file" if is_folder_bad else "state")))
    settings = Settings(log="memory:", port=0, no_auth=True)
    if is_folder_bad:
        keys = tmp_path / "keys.json"
        Keys(keys).create("ci", ["watch"])
        settings = Settings(log="memory:", port=0, keys=keys)
    thread = Thread(settings)
    thread.start()
    assert thread.is_ready.wait(20), thread.error
    assert thread.error is None
    [said] = thread.said
    assert "\n" not in said
    base = said.removeprefix("Tailrace listens at ")
    status = httpx2.get(f"{base}/runs", trust_env=False).status_code
    assert status == (401 if is_folder_bad else 200)
    assert not (tmp_path / "state").exists()
    servers[0].should_exit = True
    thread.join(20)


@pytest.mark.parametrize(("proxy", "status"), [((), 403), (("127.0.0.0/8",), 401)])
def test_a_proxy_that_speaks_tls(servers: list[Any], proxy: tuple[str, ...], status: int) -> None:
    thread = Thread(Settings(log="memory:", port=0, trusted_proxy=proxy,
                             allow_host=("runs.example.com",)))  # fmt: skip
    thread.start()
    assert thread.is_ready.wait(20), thread.error
    base = thread.said[0].splitlines()[0].removeprefix("Tailrace listens at ")
    headers = {"host": "runs.example.com", "origin": "https://runs.example.com",
               "x-forwarded-proto": "https"}  # fmt: skip
    assert httpx2.get(f"{base}/runs", headers=headers, trust_env=False).status_code == status
    servers[0].should_exit = True
    thread.join(20)


def test_a_key_that_cannot_be_kept(
    servers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    thread = Thread(Settings(log="memory:", port=0))
    thread.start()
    thread.join(20)
    assert isinstance(thread.error, SettingsInvalid)
    assert "--no-auth" in thread.error.fix
    assert thread.said == []


def test_a_log_that_cannot_be_opened(servers: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    thread = Thread(Settings(log=str(tmp_path / "file" / "runs.db"), port=0))
    thread.start()
    thread.join(20)
    assert isinstance(thread.error, LogError)
    assert thread.said == []
