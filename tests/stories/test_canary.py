"""A secret in every place where a server may meet one, then a look at all that it has written."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.processes import START_SECONDS, free_port, until

pytestmark = pytest.mark.slow

# What is registered (--mask) is hidden whoever says it. The others are keys of somebody, which
# nobody registers: they must not be written down at all.
REGISTERED = "reg-canary-" + secrets.token_hex(8) + '/ä"+'
OF_PROFILE = "env-canary-" + secrets.token_hex(8)
IN_HEADER, IN_KEY, IN_TICKET, IN_COOKIE, IN_QUERY = (
    f"{place}-canary-{secrets.token_hex(8)}" for place in ("bearer", "key", "ticket", "cook", "ask")
)
EVERY = (REGISTERED, OF_PROFILE, IN_HEADER, IN_KEY, IN_TICKET, IN_COOKIE, IN_QUERY)
HALF = len(REGISTERED) // 2

# Half of it, and the other half once it is asked to go on; then everything else that is understood.
SCRIPT = f"""
import json, os, sys, time
secret = {REGISTERED!r}
for out in (sys.stdout, sys.stderr):
    out.write("half: " + secret[:{HALF}])
    out.flush()
while not os.path.exists("go"):
    time.sleep(0.01)
for out in (sys.stdout, sys.stderr):
    out.write(secret[{HALF}:] + "\\n")
    out.flush()
print(os.environ["API_TOKEN"])
print("::log warning it is " + secret)
print("::progress 1/2 " + secret)
print("::result " + json.dumps({{"secret": secret, secret: [secret]}}))
print(json.dumps(secret), repr(secret), ascii(secret))
sys.stdout.buffer.write(b"\\xff" + secret.encode() + b"\\xff\\n")
sys.stdout.flush()
raise ValueError("no good: " + secret)
"""
FAILS = f"import sys; print('failed: ' + {REGISTERED!r})"
CONFIG = f"""
[profiles.python]
env = {{ API_TOKEN = "{OF_PROFILE}" }}
[profiles.fails]
extensions = [".fails"]
command = ["{{python}}", "{{file}}"]
failure = "^failed.*"
"""


def forms(secret: str) -> set[bytes]:
    """What a leak could look like; also parts of it, for halves are leaks as well."""
    half = secret[: len(secret) // 2], secret[len(secret) // 2 :]
    texts = {secret, *half}
    written = {form for text in texts for form in (json.dumps(text)[1:-1], repr(text)[1:-1], text)}
    return {form.encode() for form in written}


def leaks(content: bytes) -> list[str]:
    return [secret for secret in EVERY if any(form in content for form in forms(secret))]


class House:
    """A server, and everything it answers."""

    def __init__(self, folder: Path, *, no_auth: bool) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        (folder / "scripts" / "it.py").write_text(SCRIPT, encoding="utf-8")
        (folder / "scripts" / "it.fails").write_text(FAILS, encoding="utf-8")
        (folder / "tailrace.toml").write_text(CONFIG, encoding="utf-8")
        self.port = free_port()
        self.env = {
            **os.environ,
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
            "CANARY": REGISTERED,
        }
        self.key = None if no_auth else self._key()
        self.answers: list[bytes] = []
        self.log, self.audit = folder / "kept" / "log.db", folder / "kept" / "audit.jsonl"
        self.log.parent.mkdir()
        self.said = folder / "kept" / "said.txt"
        words = ["serve", "--port", str(self.port), "--log", str(self.log), "--mask", "CANARY"]
        words += ["--audit", str(self.audit), "--config", str(folder / "tailrace.toml")]
        words += ["--allow-root", str(folder / "scripts"), *(["--no-auth"] if no_auth else [])]
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", *words], env=self.env,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def _key(self) -> str:
        words = ["keys", "create", "--name", "ci", "--scopes", "run,watch,cancel"]
        made = subprocess.run(
            [sys.executable, "-m", "tailrace.cli.main", *words],
            env=self.env, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return made.stdout.strip()

    def ask(
        self, method: str, path: str, body: Any = None, *, bare: bool = False, **headers: str
    ) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            if self.key is not None and not bare:
                sent = {"authorization": f"Bearer {self.key}", **sent}
            if body is not None:
                sent["content-type"] = "application/json"
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            self.answers += (repr(answer.getheaders()).encode(), content := answer.read())
            return answer.status, content
        finally:
            connection.close()

    def start(self, file: str) -> str:
        body = {"operation": "script", "input": {"file": file}}
        status, told = self.ask("POST", "/runs", body)
        assert status == 201, told
        return str(json.loads(told)["id"])

    def state(self, run: str) -> str:
        return str(json.loads(self.ask("GET", f"/runs/{run}")[1])["state"])

    @property
    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said.read_text()
        try:
            return self.ask("GET", "/healthz")[0] == 200
        except OSError:
            return False

    @property
    def spools(self) -> list[Path]:
        return [path for path in self.log.parent.rglob("*") if "spools" in str(path.parent)]

    def written(self) -> dict[str, bytes]:
        """Everything the server has written, and everything it has answered."""
        files = [path for path in self.log.parent.rglob("*") if path.is_file()]
        found = {path.name: path.read_bytes() for path in files}
        assert {"log.db", "audit.jsonl", "said.txt"} <= found.keys()
        return {**found, "answers": b"\n".join(self.answers)}

    def leaks(self) -> dict[str, set[str]]:
        """Where there are secrets, and which."""
        found = {name: set(leaks(what)) for name, what in self.written().items()}
        # What is malformed may be shown to whoever has sent it.
        found["answers"] -= {IN_QUERY, IN_TICKET}
        return {name: which for name, which in found.items() if which}

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(params=[True, False], ids=["no-auth", "keys"])
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    house = House(tmp_path, no_auth=request.param)
    try:
        until(lambda: house.is_ready, "the server answers", START_SECONDS)
        yield house
    finally:
        house.end()


def asked_with_secrets(house: House, run: str) -> None:
    """What clients send that is nobody's business, to where it is taken and where it is not."""
    ticket = f"ticket={IN_TICKET}"
    for path in (f"/runs/{run}", f"/runs/{run}/events", "/runs", "/", "/docs", "/nope", "/runs/x"):
        for bare in (True, False):
            house.ask("GET", f"{path}?{ticket}&login={IN_QUERY}&token={IN_QUERY}", bare=bare)
        house.ask("GET", path, authorization=f"Bearer {IN_HEADER}")
        house.ask("GET", path, authorization=f"Basic {IN_HEADER}", cookie=f"session={IN_COOKIE}")
        house.ask("GET", path, bare=True, x_api_key=IN_KEY, cookie=f"tailrace={IN_COOKIE}; a=b")
        house.ask("BREW", f"{path}?{IN_QUERY}", host=f"{IN_QUERY}.example")
        house.ask("GET", path, origin=f"https://{IN_QUERY}.example", last_event_id=IN_QUERY)
    status, told = house.ask("POST", "/tickets", {"run": run})
    assert status == 201
    given = json.loads(told)
    # The second time it was used before.
    for _ in range(2):
        house.ask("GET", given["url"], bare=True)
    files = {name: what for name, what in house.written().items() if name != "answers"}
    assert [name for name, what in files.items() if given["ticket"].encode() in what] == []


def test_a_leak_is_seen() -> None:
    for secret in EVERY:
        assert leaks(f"x {secret} y".encode()) == [secret]
        assert leaks(f"{secret[len(secret) // 2 :]} y".encode()) == [secret]


def test_nothing_leaks(house: House) -> None:
    run = house.start("it.py")
    half = re.compile(rb"half: ")
    path = f"/runs/{run}/events?format=json"
    until(lambda: len(half.findall(house.ask("GET", path)[1])) == 2, "both halves have begun")
    assert leaks(house.log.read_bytes()) == []
    (house.folder / "scripts" / "go").touch()
    until(lambda: house.state(run) == "failed", "it has ended", 20)
    failed = house.start("it.fails")
    until(lambda: house.state(failed) == "failed", "the other has ended", 20)
    asked_with_secrets(house, run)
    for name in ("events", "text", "typed", "ndjson", "jsonrpc", "json"):
        for each in (run, failed):
            assert house.ask("GET", f"/runs/{each}/events?format={name}")[0] == 200
    output = house.ask("GET", f"/runs/{run}/output?stream=stdout")[1]
    assert output.startswith(b"half: ***\n***\n::log warning it is ***\n")
    assert b"\"***\" '***' '***'\n\xff***\xff\n" in output
    output = house.ask("GET", f"/runs/{run}/output?stream=stderr")[1]
    assert output.startswith(b"half: ***\n")
    assert output.endswith(b"ValueError: no good: ***\n")
    for path in ("/runs", f"/runs/{run}", f"/runs/{failed}", "/", "/docs", "/openapi.json"):
        house.ask("GET", path)
    house.ask("GET", "/metrics")
    house.ask("GET", "/operations")
    assert b'"message":"it is ***"' in b"".join(house.answers)
    assert b"The program says that it failed: failed: ***" in b"".join(house.answers)
    until(lambda: house.spools == [], "the spools are cleared away")
    assert house.leaks() == {}
    told = [json.loads(line) for line in house.audit.read_text().splitlines()]
    assert {"started", "watched", "looked at"} <= {each["action"] for each in told}
    assert run in {each["run"] for each in told}
    house.end()
    assert house.leaks() == {}
    if house.key is not None:
        assert all(house.key.encode() not in content for content in house.written().values())


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    words = ["serve", "--port", "0", "--log", "memory:", "--mask", "NO_SUCH_VARIABLE"]
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-m", "tailrace.cli.main", *words],
        env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert said.returncode != 0
    assert "NO_SUCH_VARIABLE" in said.stderr
    assert "Traceback" not in said.stderr
