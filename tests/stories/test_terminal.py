"""The terminal face, as whoever sits there has it: real processes, pipes, signals, a pty."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tailrace.server import launch

pytestmark = pytest.mark.slow

TAILRACE = [sys.executable, "-m", "tailrace.cli.main"]
BOUND = 30.0

RANDOM = """\
import os, random, sys
chance = random.Random(int(sys.argv[1]))
left = {1: chance.randbytes(200_000), 2: chance.randbytes(100_000)}
while any(left.values()):
    fd = chance.choice([fd for fd in left if left[fd]])
    n = chance.choice((1, 2, 3, 100, 5000, 70_000))
    os.write(fd, left[fd][:n])
    left[fd] = left[fd][n:]
"""

TEXT = """\
import os
text = ("\\0ünï界🎉\\r\\n\\t\\x1b[31m" * 40).encode() + b"\\xff\\xc3\\xe7\\x95 \\xf0\\x9f\\x8e"
for byte in text:
    os.write(1, bytes([byte]))
"""

# Says its pid and that of a child which has left its session, then goes on.
FAMILY = """\
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY


def until(done: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + BOUND
    while not (value := done()):
        assert time.monotonic() < deadline, f"after {BOUND:g} s still not: {what}"
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    # A dead one may wait for an init that does not come to look after it.
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A background job of a shell ignores SIGINT, and so would all its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Place:
    """A folder to work in, and the processes started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")
        }
        self.env |= {"TAILRACE_LOG": str(folder / "runs.db"), "PYTHONUNBUFFERED": "1"}
        self.started: list[subprocess.Popen[bytes]] = []

    def script(self, text: str, name: str = "x.py") -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        asked = {
            "cwd": self.folder, "env": self.env, "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options,
        }  # fmt: skip
        process = subprocess.Popen([*TAILRACE, *words], **asked)
        self.started.append(process)
        return process

    def run(self, *words: str) -> tuple[int, bytes, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=BOUND)
        return process.returncode, out, err.decode()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for process in made.started:
        # Asked first: a server that is killed leaves what its scripts started.
        process.terminate()
        try:
            process.wait(BOUND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def line(pipe: Any) -> str:
    """The next line, which must come within the bound."""
    got = b""
    while not got.endswith(b"\n"):
        assert select.select([pipe], [], [], BOUND)[0], f"no line came, only {got!r}"
        piece = os.read(pipe.fileno(), 1)
        assert piece, f"it ended with {got!r}"
        got += piece
    return got.decode().rstrip("\n")


# ------------------------------------------------------------------ run


@pytest.mark.parametrize("lead", [(), ("--", sys.executable)], ids=["pipe", "terminal"])
@pytest.mark.parametrize("seed", ["1", "2"])
def test_bytes_arrive_as_they_were_written(place: Place, lead: tuple[str, ...], seed: str) -> None:
    """Through the pipe that Python gets, and through the terminal that any command gets."""
    script = place.script(RANDOM)
    done = subprocess.run(
        [sys.executable, script, seed], cwd=place.folder, capture_output=True, check=True
    )
    process = place.start("run", "-q", *lead, script, seed)
    out, err = process.communicate(timeout=BOUND)
    assert process.returncode == 0
    assert out == done.stdout
    assert err == done.stderr


def test_text_that_comes_byte_by_byte(place: Place) -> None:
    script = place.script(TEXT)
    done = subprocess.run(
        [sys.executable, script], cwd=place.folder, capture_output=True, check=True
    )
    assert place.run("run", "-q", script) == (0, done.stdout, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--", "true"), 0),
        (("--", "sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "kill -9 $$"), 137),
        (("--", "sh", "-c", "kill -15 $$"), 143),
        (("--timeout", "0.2", "--", "sleep", "600"), 124),
        (("--", "no-such-command"), 127),
        (("--", "/etc/passwd"), 126),
        (("no-such-file.py",), 127),
        (("--log", "nosuch://log", "--", "true"), 125),
        (("--no-such-option",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_exit_codes(place: Place, words: tuple[str, ...], code: int) -> None:
    got, out, err = place.run("run", *words)
    assert got == code
    assert out == b""
    assert "Traceback" not in err


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_nothing_behind(place: Place, times: int) -> None:
    process = place.start("run", place.script(FAMILY if times == 1 else STUBBORN))
    pids = [int(word) for word in line(process.stdout).split()]
    assert all(map(is_alive, pids))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    if times == 2:
        log = place.folder / "runs.db"
        until(lambda: told_of(log, b"cancelling"), "the log tells of the first")
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=BOUND)
    assert process.returncode == 130
    assert time.monotonic() - began < 5.0, "not even its grace may be needed"
    assert (out, err.decode().rstrip().rpartition(" · ")[2]) == (b"", "cancelled")
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


def test_what_is_killed_takes_its_program_with_it(place: Place) -> None:
    process = place.start("run", place.script(STUBBORN))
    pids = [int(word) for word in line(process.stdout).split()]
    process.kill()
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


def told_of(log: Path, word: bytes) -> bool:
    return any(
        word in path.read_bytes() for path in log.parent.glob(log.name + "*") if path.is_file()
    )


def test_a_reader_who_leaves_stops_the_program_quietly(place: Place) -> None:
    text = "import os\nprint(os.getpid())\nwhile True:\n    print('y' * 1000)\n"
    process = place.start("run", place.script(text))
    assert process.stdout is not None
    assert process.stderr is not None
    pid = int(line(process.stdout))
    process.stdout.close()
    assert process.wait(BOUND) == 141
    assert process.stderr.read() == b""
    until(lambda: not is_alive(pid), "the program is gone")


STATA = """\
#!/bin/sh
[ "$1 $2 $3" = "-b -q do" ] || exit 9
log=$(basename "$4" .do).log
echo ". do $4" > "$log"
while read -r line; do echo "$line" >> "$log"; done < "$4"
"""


@pytest.mark.parametrize(("end", "code"), [("all is well", 0), ("r(601);", 1)])
def test_a_program_that_writes_a_log(place: Place, end: str, code: int) -> None:
    """Stata in batch mode: it prints nothing, and its exit code is 0 whatever happens."""
    (place.folder / "bin").mkdir()
    stata = place.folder / "bin" / "stata-mp"
    stata.write_text(STATA, encoding="utf-8")
    stata.chmod(0o755)
    place.env["PATH"] = f"{stata.parent}{os.pathsep}{place.env['PATH']}"
    place.script(f"hello\n{end}\n", "x.do")
    got, out, err = place.run("run", "x.do")
    assert (got, out) == (code, f". do {place.folder / 'x.do'}\nhello\n{end}\n".encode())
    assert err.startswith("✗" if code else "✓")
    assert ("r(601)" in err) is bool(code)


def test_head(place: Place) -> None:
    words = " ".join([*TAILRACE, "run", "--", "yes"])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -1"],
        cwd=place.folder, env=place.env, capture_output=True, timeout=BOUND, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n", b"")


def test_a_closed_stdout(place: Place) -> None:
    words = " ".join([*TAILRACE, "run", "-q", "--", "echo", "lost"])
    done = subprocess.run(
        ["bash", "-c", f"{words} >&-"],
        cwd=place.folder, env=place.env, capture_output=True, timeout=BOUND, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_who_takes_his_time_holds_up_nothing(place: Place) -> None:
    text = "import sys\nprint('x' * 2_000_000)\nopen('over', 'w').close()\n"
    process = place.start("run", "-q", place.script(text))
    until((place.folder / "over").exists, "the program is over, though nobody has read")
    out, _ = process.communicate(timeout=BOUND)
    assert out == b"x" * 2_000_000 + b"\n"
    assert process.returncode == 0


# ------------------------------------------------------------------ a terminal


# Takes the terminal for its own, as a shell's child has it, and becomes the command.
OWN = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, place: Place, *words: str, **env: str) -> None:
        self.shown = ""
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN, *TAILRACE, *words],
            cwd=place.folder, env={**place.env, "TERM": "xterm", **env},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def see(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + BOUND
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            assert self._read(), f"{pattern!r} is not in {self.shown!r}"
        return found

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        deadline = time.monotonic() + BOUND
        while self._read():
            assert time.monotonic() < deadline, self.shown
        return self.process.wait(BOUND)

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 1.0)[0]:
            return True
        try:
            self.shown += os.read(self.master, 65_536).decode(errors="replace")
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@contextlib.contextmanager
def terminal(place: Place, *words: str, **env: str) -> Iterator[Terminal]:
    made = Terminal(place, *words, **env)
    try:
        yield made
    finally:
        made.close()


def test_on_a_terminal(place: Place) -> None:
    script = place.script("import time\nprint('one', flush=True)\ntime.sleep(1)\nprint('two')\n")
    with terminal(place, "run", script) as screen:
        run = screen.see(r"^(run_\w{26})\r\n")[1]
        screen.see(r"one\r\n\r\x1b\[2K\x1b\[2m\S \d\.\d s · x\.py\x1b\[0m")
        assert screen.end() == 0
        last = rf"\x1b\[32m✓\x1b\[0m {run} \d\.\d s · \d events\r\n$"
        # Between its last word and its end the status line may come once more.
        assert re.search(rf"\r\x1b\[2Ktwo\r\n(\r\x1b\[2K[^\r\n]*)*{last}", screen.shown), (
            screen.shown
        )


def test_a_typed_ctrl_c(place: Place) -> None:
    with terminal(place, "run", place.script(STUBBORN)) as screen:
        pids = [int(pid) for pid in screen.see(r"(\d+) (\d+)\r\n").groups()]
        screen.type(b"\x03")
        screen.see("Ctrl-C again kills it")
        screen.see("stopping")
        assert all(map(is_alive, pids))
        screen.type(b"\x03")
        assert screen.end() == 130
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


MEASURED = """\
import os, time
print(os.isatty(1), *os.get_terminal_size(1), os.environ["TERM"], flush=True)
for row in range(1, 9):
    print(f"::progress {row}/10 rows", flush=True)
    time.sleep(0.1)
print('::result {"rows": 8}', flush=True)
"""


def test_progress_on_a_terminal(place: Place) -> None:
    with terminal(place, "run", "--", sys.executable, place.script(MEASURED)) as screen:
        screen.see(r"True 80 24 xterm\r\n")
        screen.see(r" \d+% · ETA \d+\.\d s · rows\x1b\[0m")
        assert screen.end() == 0
        assert re.search(r'✓\x1b\[0m run_\w+ \d\.\d s · \d+ events · {"rows":8}\r\n$', screen.shown)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_plain_terminal(place: Place, env: dict[str, str]) -> None:
    with terminal(place, "run", "--", "echo", "hi", **env) as screen:
        assert screen.end() == 0
        assert "hi\r\n" in screen.shown
        assert "✓ run_" in screen.shown
        assert "\x1b[3" not in screen.shown
        assert env.get("TERM") != "dumb" or "\x1b" not in screen.shown


# ------------------------------------------------------------------ a server


class Server:
    """`tailrace serve`, and what is said to it."""

    def __init__(self, place: Place, *words: str) -> None:
        place.script("print('hello')\n", "hello.py")
        place.script(FAMILY, "family.py")
        place.script("raise SystemExit(7)\n", "seven.py")
        self._place = place
        self.process = place.start("serve", "--allow-root", str(place.folder), *words)
        self.said = line(self.process.stderr)
        # The command line gets in by the same user's key.
        self.ways_in = [line(self.process.stderr) for _ in range(2)]
        self.url = self.said.rpartition(" ")[2]
        place.env["TAILRACE_URL"] = self.url

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def started(self, script: str) -> str:
        code, out, err = self._place.run("run", "--detach", script)
        assert (code, err) == (0, "")
        assert re.fullmatch(rb"run_[a-z2-7]{26}\n", out)
        return out.decode().strip()

    def show(self, run: str) -> Any:
        return json.loads(self._place.run("runs", "show", run, "--json")[1])


@pytest.fixture
def server(place: Place) -> Server:
    return Server(place, "--port", "0")


def family(place: Place, server: Server) -> tuple[str, Sequence[int]]:
    """A run that goes on, and the pids of its processes."""
    run = server.started("family.py")
    watching = place.start("watch", "-q", run)
    pids = [int(word) for word in line(watching.stdout).split()]
    watching.kill()
    return run, pids


def test_it_says_where_it_listens(server: Server) -> None:
    assert re.fullmatch(r"Tailrace listens at http://127\.0\.0\.1:[1-9][0-9]*", server.said)


def test_a_run_from_its_start_to_its_end(place: Place, server: Server) -> None:
    run = server.started("seven.py")
    code, out, err = place.run("watch", run)
    assert (code, out) == (7, b"")
    assert err.startswith("Starting execution of ")
    assert f"✗ {run}" in err
    assert place.run("replay", "-q", "--speed", "100", f"{server.url}/runs/{run}")[0] == 7
    listed = place.run("runs", "ls")[1].decode().splitlines()
    assert listed[1].split()[:3] == [run, "script", "failed"]
    assert server.show(run)["error"]["exit_code"] == 7
    code, out, err = place.run("runs", "rm", run)
    assert (code, out, err) == (0, b"", f"{run} is forgotten\n")
    assert place.run("runs", "show", run)[0] == 125


def test_cancelling(place: Place, server: Server) -> None:
    run, pids = family(place, server)
    watching = place.start("watch", run)
    line(watching.stdout)
    code, _, err = place.run("runs", "cancel", run)
    assert code == 0
    assert err.startswith(f"{run} is cancel")
    assert watching.wait(BOUND) == 130
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


def test_what_ran_here_is_seen_there(place: Place, server: Server) -> None:
    """The exact events, whoever tells them: `run --json`, `watch --json`, the server."""
    code, out, err = place.run("run", "--json", "hello.py")
    assert code == 0
    run = json.loads(out.splitlines()[0])["data"]["run"]
    assert run in err
    events = [json.loads(told) for told in out.splitlines()]
    assert [event["id"] for event in events] == [str(n + 1) for n in range(len(events))]
    assert place.run("watch", "--json", run)[:2] == (0, out)
    address = f"{server.url}/runs/{run}/events?format=ndjson"
    key = {"authorization": f"Bearer {launch.read(launch.place())}"}
    told = httpx2.get(address, headers=key, trust_env=False, timeout=BOUND).content
    assert told.strip() == out.strip()


def test_the_last_line_says_where_it_is_seen(place: Place, server: Server) -> None:
    def is_said() -> bool:
        with terminal(place, "run", "hello.py") as screen:
            run = screen.see(r"^(run_\w{26})\r\n")[1]
            assert screen.end() == 0
            return screen.shown.endswith(f" events · {server.url}/runs/{run}\r\n")

    # It is not waited for, and a busy machine has it answer late.
    until(is_said, "the server has answered at once")
    with terminal(place, "run", "--log", "memory:", "hello.py") as screen:
        assert screen.end() == 0
        assert screen.shown.endswith(" events\r\n"), "the server does not know that one"


def test_one_that_waits_for_its_turn(place: Place) -> None:
    server = Server(place, "--port", "0", "--at-once", "1")
    first, pids = family(place, server)
    with terminal(place, "run", "--url", server.url, "hello.py") as screen:
        screen.see("queued, next")
        assert place.run("runs", "cancel", first)[0] == 0
        screen.see(r"hello\r\n")
        assert screen.end() == 0
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


def test_once_more(place: Place, server: Server) -> None:
    first = server.started("seven.py")
    code, out, err = place.run("runs", "rerun", first)
    again = out.decode().strip()
    assert (code, err, again != first) == (0, "", True)
    assert place.run("watch", "-q", again)[0] == 7


def test_settings_in_a_file(place: Place) -> None:
    (place.folder / "tailrace.toml").write_text(
        "[scripts]\ntimeout = 0.3\n"
        '[profiles.says]\nextensions = [".says"]\ncommand = ["echo", "it says", "{args}"]\n'
    )
    code, _, err = place.run("serve", "--config", "tailrace.toml", "--port", "0")
    assert code == 125
    assert "In tailrace.toml, profiles.says.command must be words, one of them with" in err
    (place.folder / "tailrace.toml").write_text(
        "[scripts]\ntimeout = 0.3\n"
        '[profiles.says]\nextensions = [".says"]\ncommand = ["echo", "{file}", "{args}"]\n'
    )
    Server(place, "--port", "0", "--config", "tailrace.toml")
    url = place.env["TAILRACE_URL"]
    script = place.script("", "x.says")
    assert place.run("run", "--url", url, "-q", script, "hi") == (0, b"./x.says hi\n", "")
    assert place.run("run", "--url", url, "-q", "family.py")[0] == 124


def test_ctrl_c_leaves_a_watched_run_alone(place: Place, server: Server) -> None:
    run, pids = family(place, server)
    watching = place.start("watch", run)
    line(watching.stdout)
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=BOUND)
    assert watching.returncode == 130
    assert re.search(
        rf"Left; {run} goes on\. To return: tailrace watch --from \d+ {run}\n", err.decode()
    )
    assert server.show(run)["state"] == "running"
    assert all(map(is_alive, pids))


def test_a_watcher_survives_the_server(place: Place, server: Server) -> None:
    run, pids = family(place, server)
    watching = place.start("watch", run)
    line(watching.stdout)
    server.process.kill()
    server.process.wait()
    assert line(watching.stderr).startswith("Starting execution of ")
    assert line(watching.stderr).startswith("The connection was cut; trying to get back")
    Server(place, "--port", server.port)
    _, err = watching.communicate(timeout=BOUND)
    assert watching.returncode == 125
    assert "lost" in err.decode()
    until(lambda: not any(map(is_alive, pids)), "its processes are gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_is_stopped_properly(place: Place, server: Server, number: int) -> None:
    _, pids = family(place, server)
    server.process.send_signal(number)
    assert server.process.wait(BOUND) == 0
    assert server.process.stderr is not None
    assert server.process.stderr.read() == b""
    assert not any(map(is_alive, pids))


def test_two_servers_at_one_port(place: Place, server: Server) -> None:
    code, out, err = place.run("serve", "--port", server.port)
    assert (code, out) == (125, b"")
    first, second = err.splitlines()
    assert first.startswith(f"tailrace: Tailrace cannot listen at 127.0.0.1:{server.port}: ")
    assert "--port" in second


def test_remote_output_cannot_play_tricks(place: Place, server: Server) -> None:
    text = r"print('\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b[31mred\x1b[0m\x9b2J')" + "\n"
    run = server.started(place.script(text, "evil.py"))
    assert place.run("watch", "-q", run)[1] == b"\x1b[31mred\x1b[0m\n"
    raw = b"\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b[31mred\x1b[0m\xc2\x9b2J\n"
    assert place.run("watch", "-q", "--raw", run)[1] == raw


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "ls"),
        ("watch", "run_" + "a" * 26),
        ("replay", "run_" + "a" * 26),
        ("run", "--detach", "x.py"),
        ("run", "--url", "http://127.0.0.1:1", "x.py"),
    ],
    ids=" ".join,
)
def test_nobody_answers(place: Place, words: tuple[str, ...]) -> None:
    place.env["TAILRACE_URL"] = "http://127.0.0.1:1"
    code, out, err = place.run(*words)
    assert (code, out) == (125, b"")
    first, second = err.splitlines()
    assert first.startswith("tailrace: No answer from http://127.0.0.1:1")
    assert "tailrace serve" in second
