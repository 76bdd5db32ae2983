"""Story 1: a script over HTTP, as somebody with curl sees it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.needs import needs
from tests.processes import ROOT, START_SECONDS, free_port, marked, until

GRACE = 1.0
AT_ONCE = 2
PROGRAMS = ROOT / "tests" / "programs"


pytestmark = [pytest.mark.slow, needs("curl")]


class Server:
    """`tailrace serve`, and curl."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.scripts = folder / "scripts"
        self.scripts.mkdir(exist_ok=True)
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        words = ["serve", "--no-auth", "--rate", "run=none", "--port", str(self.port)]
        words += ["--log", str(folder / "log.db")]
        words += ["--allow-root", str(self.scripts), "--grace", str(GRACE), *options]
        self.said = folder / "said.txt"
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", *words],
                env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def write(self, name: str, text: str) -> None:
        path = self.scripts / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    @property
    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said.read_text()
        return b"ok" in subprocess.run(
            ["curl", "-s", f"{self.base}/healthz"], capture_output=True, check=False
        ).stdout  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        words = ["curl", "-sS", "-X", method, f"{self.base}{path}"]
        if body is not None:
            words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        said = subprocess.run(words, capture_output=True, check=True).stdout
        return json.loads(said) if said else None

    def output(self, run: str, stream: str = "stdout") -> bytes:
        path = f"{self.base}/runs/{run}/output?stream={stream}"
        return subprocess.run(["curl", "-sSN", path], capture_output=True, check=True).stdout

    def run_file(self, name: str, *curl: str, method: str = "GET", **query: Any) -> Curl:
        asked = urlencode({"file_path": name, **query}, doseq=True)
        return Curl("-X", method, *curl, f"{self.base}/run_file?{asked}")

    def state(self, run: str) -> str:
        return str(self.ask("GET", f"/runs/{run}")["state"])

    def ends(self, run: str, state: str) -> None:
        until(lambda: self.state(run) == state, f"{run} is {state}", 15)


class Curl:
    """`curl -N` of an event stream, line by line, and when each of them came."""

    def __init__(self, *words: str) -> None:
        self.began = time.time()
        # stdbuf: curl itself would hold lines back towards a pipe; -N is for what it receives.
        self._fd, theirs = os.pipe()
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "curl", "-sSNi", *words], stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        os.set_blocking(self._fd, False)
        self._rest = b""
        self.lines: list[tuple[float, str]] = []

    def _read(self) -> bool:
        """Take what has come; whether that is all there will be."""
        with contextlib.suppress(BlockingIOError):
            while self._fd >= 0:
                chunk = os.read(self._fd, 65536)
                if not chunk:
                    os.close(self._fd)
                    self._fd = -1
                    self._process.wait()
                *whole, self._rest = (self._rest + chunk).split(b"\n")
                now = time.time()
                self.lines += [(now, line.decode()) for line in whole]
        return self._fd < 0

    @property
    def data(self) -> list[str]:
        self._read()
        return [line[6:] for _, line in self.lines if line.startswith("data: ")]

    @property
    def told(self) -> list[str]:
        """Without the elapsed time."""
        return [line for line in self.data if not re.fullmatch(r"\[[0-9.]+ s\]", line)]

    def header(self, name: str) -> str:
        until(lambda: self._read() or any(not line.strip() for _, line in self.lines), "a head")
        found = [line for _, line in self.lines if line.lower().startswith(f"{name}: ")]
        return found[0].partition(": ")[2].strip()

    @property
    def run(self) -> str:
        return self.header("tailrace-run")

    def until(self, line: str, within: float = 15.0) -> float:
        """Wait for a line; when it came."""
        until(lambda: line in self.data, f"curl shows {line!r} and not {self.data}", within)
        return next(at for at, said in self.lines if said == f"data: {line}")

    def over(self) -> list[str]:
        until(self._read, "curl has ended", 30)
        return self.told

    def leave(self) -> None:
        self._process.kill()
        until(self._read, "curl has ended")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("scripts"), "--at-once", str(AT_ONCE)) as server:
        yield server


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    server = Server(folder, *options)
    try:
        until(lambda: server.is_ready, "the server answers", START_SECONDS)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


WAITING = "while not os.path.exists('go'): time.sleep(0.01)\n"


def test_what_is_written_is_on_the_screen_while_the_script_runs(server: Server) -> None:
    go = server.scripts / "go"
    go.unlink(missing_ok=True)
    server.write("train.py", f"import os, time\nprint('first')\n{WAITING}print('second')\n")
    curl = server.run_file("train.py")
    curl.until("Starting execution of train.py…")
    curl.until("first")
    assert "second" not in curl.data
    go.touch()
    assert curl.over() == [
        "Starting execution of train.py…", "first", "second", "*** Execution completed ***"
    ]  # fmt: skip
    assert server.state(curl.run) == "completed"


def test_the_time_is_told_every_two_seconds_of_silence(server: Server) -> None:
    server.write("silent.sh", "sleep 5.5; echo done\n")
    curl = server.run_file("silent.sh")
    curl.over()
    elapsed = [float(line[1:-3]) for line in curl.data if line.endswith(" s]")]
    assert [int(seconds) // 2 for seconds in elapsed] == [1, 2], elapsed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.sh", "printf 'one\\ntwo\\n\\nfour\\n'"),
        ("lines.py", "print('one\\ntwo\\n\\nfour')"),
        pytest.param("lines.R", "cat('one\\ntwo\\n\\nfour\\n')", marks=needs("Rscript")),
    ],
)
def test_each_line_is_a_line_of_the_stream(server: Server, name: str, text: str) -> None:
    server.write(name, text)
    curl = server.run_file(name, method="POST")
    assert curl.over()[1:-1] == ["one", "two", "", "four"]
    assert server.output(curl.run) == b"one\ntwo\n\nfour\n"


FAILURES = [
    ("fails.sh", "echo before; exit 7", "7", {"exit_code": 7}),
    ("fails.py", "print('before'); raise SystemExit(3)", "3", {"exit_code": 3}),
    ("killed.sh", "echo before; kill -9 $$", "SIGKILL", {"exit_code": 137}),
    ("fails.do", 'display "before"\nuse nofile\n', "r(601);", {"failure": "r(601);"}),
    pytest.param(
        "fails.R", "cat('before\\n'); quit(status = 4)", "4", {"exit_code": 4},
        marks=needs("Rscript"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said", "details"), FAILURES)
def test_a_failure_says_its_code(
    server: Server, name: str, text: str, said: str, details: dict[str, Any]
) -> None:
    server.write(name, text)
    curl = server.run_file(name)
    told = curl.over()
    assert "before" in told
    assert told[-1].startswith("*** Execution failed: ")
    assert said in told[-1]
    error = server.ask("GET", f"/runs/{curl.run}")["error"]
    assert details.items() <= error.items()


STATA = """
display "begin"
forvalues i = 1/4 {
    display "Iteration `i'/4"
    sleep 60
}
"""


def test_stata_s_log_is_the_output(server: Server) -> None:
    """By a stand-in: see tests/programs/stata-mp."""
    server.write("study/model.do", STATA)
    curl = server.run_file("study/model.do")
    told = curl.over()
    assert told[0] == "Starting execution of model.do…"
    assert [line for line in told if line.startswith("Iteration")] == [
        f"Iteration {n}/4" for n in range(1, 5)
    ]
    assert told[-1] == "*** Execution completed ***"
    assert server.output(curl.run) == (server.scripts / "study" / "model.log").read_bytes()
    progress = server.ask("GET", f"/runs/{curl.run}")["progress"]
    assert (progress["current"], progress["total"]) == (4, 4)


def test_break_is_pressed_once(server: Server) -> None:
    server.write("long.do", 'display "begin"\nsleep 60000\n')
    curl = server.run_file("long.do")
    curl.until("begin")
    server.ask("POST", f"/runs/{curl.run}/cancel")
    told = curl.over()
    assert "--Break--" in told
    assert "the session is corrupt" not in told
    assert told[-1].startswith("*** Execution cancelled")


def test_several_at_once_and_the_others_in_line(server: Server) -> None:
    go = server.scripts / "go"
    go.unlink(missing_ok=True)
    server.write("wait.py", f"import os, sys, time\nprint('on', sys.argv[1])\n{WAITING}")
    curls: list[Curl] = []
    for number in range(4):
        curls.append(server.run_file("wait.py", args=[str(number)]))
        until(lambda: bool(curls[-1].data), "it has begun, or is in line")
    for number in range(AT_ONCE):
        curls[number].until(f"on {number}")
    curls[2].until("[queued, next]")
    curls[3].until("[queued, 1 before it]")
    shown = [server.ask("GET", f"/runs/{curl.run}") for curl in curls]
    assert [told["state"] for told in shown] == ["running", "running", "queued", "queued"]
    assert [told["position"] for told in shown] == [None, None, 1, 2]
    server.ask("POST", f"/runs/{curls[2].run}/cancel")
    assert curls[2].over()[-1].startswith("*** Execution cancelled")
    curls[3].until("[queued, next]")
    go.touch()
    for number in (0, 1, 3):
        assert curls[number].over()[-2:] == [f"on {number}", "*** Execution completed ***"]


def test_leaving_stops_nothing_and_cancelling_does(server: Server) -> None:
    server.write("deaf.sh", "trap '' TERM; setsid sleep 600 & echo on; while :; do sleep 1; done\n")
    curl = server.run_file("deaf.sh")
    curl.until("on")
    run = curl.run
    curl.leave()
    assert server.state(run) == "running"
    server.ask("POST", f"/runs/{run}/cancel")
    server.ends(run, "cancelled")
    assert marked(run) == []


def test_a_timeout(server: Server) -> None:
    server.write("slow.sh", "echo on; sleep 600\n")
    curl = server.run_file("slow.sh", timeout=0.5)
    assert curl.over()[-1].startswith("*** Execution timed out")
    assert server.state(curl.run) == "timed_out"


def test_coming_back_with_the_last_id(server: Server) -> None:
    go = server.scripts / "go"
    go.unlink(missing_ok=True)
    server.write("back.py", f"import os, time\nprint('one')\n{WAITING}print('two')\n")
    curl = server.run_file("back.py")
    curl.until("one")
    run = curl.run
    last = [line[4:] for _, line in curl.lines if line.startswith("id: ")][-1]
    curl.leave()
    go.touch()
    again = server.run_file("back.py", "-H", f"last-event-id: {last}")
    assert again.over() == ["two", "*** Execution completed ***"]
    assert again.run == run


def test_once_more_with_the_same_arguments(server: Server) -> None:
    server.write("args.sh", 'printf "<%s>" "$@"\n')
    args = ["a b", "$(id)", "-x", "ü"]
    curl = server.run_file("args.sh", args=args)
    curl.over()
    again = server.ask("POST", f"/runs/{curl.run}/rerun")
    assert again["id"] != curl.run
    server.ends(again["id"], "completed")
    expected = "".join(f"<{arg}>" for arg in args).encode()
    assert server.output(curl.run) == server.output(again["id"]) == expected


def test_typed_events_from_a_shell(server: Server) -> None:
    lines = ["::progress 3/10 loading", "::log warning low on disk", '::result {"rows": 5}']
    server.write("typed.sh", "".join(f"echo '{line}'\n" for line in lines))
    body = {"operation": "script", "input": {"file": "typed.sh"}}
    run = server.ask("POST", "/runs", body)["id"]
    server.ends(run, "completed")
    shown = server.ask("GET", f"/runs/{run}")
    assert shown["result"] == {"exit_code": 0, "result": {"rows": 5}}
    assert (shown["progress"]["percent"], shown["progress"]["message"]) == (30, "loading")
    told = server.ask("GET", f"/runs/{run}/events?format=json")["events"]
    assert [event["type"] for event in told if event["type"] != "output"] == [
        "start", "progress", "log", "result", "complete"
    ]  # fmt: skip
    assert server.output(run).decode().splitlines() == lines


@pytest.mark.parametrize("name", ["../outside.sh", "/etc/passwd", "missing.sh", "notes.txt"])
def test_only_scripts_below_the_roots(server: Server, name: str) -> None:
    (server.scripts.parent / "outside.sh").write_text("echo out")
    server.write("notes.txt", "echo out")
    curl = server.run_file(name)
    until(curl._read, "curl has ended")
    assert curl.lines[0][1].startswith("HTTP/1.1 403")
    assert "path-forbidden" in curl._rest.decode() + curl.lines[-1][1]


def check_bytes(server: Server, name: str, code: str, expected: bytes) -> None:
    server.write(name, code)
    run = server.ask("POST", "/runs", {"operation": "script", "input": {"file": name}})["id"]
    until(lambda: server.state(run) == "completed", "it is completed", 60)
    assert hashlib.sha256(server.output(run)).digest() == hashlib.sha256(expected).digest()


RANDOM = "import random, sys\nsys.stdout.buffer.write(random.Random(7).randbytes(3_000_000))\n"
ODD = r"""printf 'a\000b\r50%%\r100%%\r\n\303'; sleep 0.1; printf '\251\377\n'"""


def test_the_bytes_are_exact(server: Server) -> None:
    check_bytes(server, "noise.py", RANDOM, random.Random(7).randbytes(3_000_000))
    odd = b"a\0b\r50%\r100%\r\n\xc3\xa9\xff\n"
    check_bytes(server, "odd.sh", ODD, odd)
    long_line = "import sys\nsys.stdout.write('é' * 5_000_000)\n"
    check_bytes(server, "long.py", long_line, ("é" * 5_000_000).encode())
    burst = "import os\nfor n in range(1600): os.write(1, b'%05d' % n * 13107)\n"
    expected = b"".join(b"%05d" % n * 13107 for n in range(1600))
    check_bytes(server, "burst.py", burst, expected)


SETTINGS = """
[scripts]
output_bytes = 1_000_000
survives = true

[profiles.sorted]
extensions = [".list"]
command = ["sort", "{file}"]
failure = "^FATAL"
patterns = ['piece (?P<current>\\d+) out of (?P<total>\\d+)']
"""


def test_a_settings_file_with_limits_and_profiles(tmp_path: Path) -> None:
    (tmp_path / "tailrace.toml").write_text(SETTINGS)
    with serving(tmp_path, "--config", str(tmp_path / "tailrace.toml")) as server:
        server.write("endless.sh", "yes")
        body = {"operation": "script", "input": {"file": "endless.sh"}}
        run = server.ask("POST", "/runs", body)["id"]
        server.ends(run, "failed")
        error = server.ask("GET", f"/runs/{run}")["error"]
        assert "wrote more than 1,000,000 bytes" in error["error"]
        assert server.output(run) == b"y\n" * 500_000
        server.write("mine.list", "piece 3 out of 4\nb\na\nFATAL: no\n")
        curl = server.run_file("mine.list")
        assert curl.over()[1:-1] == ["FATAL: no", "a", "b", "piece 3 out of 4", "[3/4]"]
        shown = server.ask("GET", f"/runs/{curl.run}")
        assert (shown["state"], shown["error"]["failure"]) == ("failed", "FATAL")
        assert shown["progress"]["percent"] == 75


def test_a_restart_in_the_middle(tmp_path: Path) -> None:
    """`kill -9`, by a watcher that comes back as a browser would."""
    with serving(tmp_path, "--survive") as server:
        server.write("long.py", f"import os, time\nprint('one')\n{WAITING}print('two')\n")
        curl = server.run_file("long.py")
        curl.until("one")
        run = curl.run
        last = [line[4:] for _, line in curl.lines if line.startswith("id: ")][-1]
        server.process.kill()
        curl.over()
    with serving(tmp_path, "--survive") as server:
        again = server.run_file("long.py", "-H", f"last-event-id: {last}")
        (server.scripts / "go").touch()
        told = again.over()
        assert (again.run, told[-2:]) == (run, ["two", "*** Execution completed ***"])
        assert "one" not in told
