"""A `tailrace serve` that is closed, as it is from the start, and whoever comes to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.processes import START_SECONDS, free_port, until


class House:
    def __init__(self, folder: Path) -> None:
        (folder / "scripts").mkdir()
        (folder / "scripts" / "hello.sh").write_text("echo hello")
        self.port = free_port()
        self.state = folder / "state"
        homes = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(self.state)}
        self.env = {**os.environ, **homes}
        self.said = folder / "said.txt"
        words = ["serve", "--port", str(self.port), "--log", str(folder / "log.db")]
        words += ["--allow-root", str(folder / "scripts")]
        self.words = words
        self.start()

    def start(self) -> None:
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cli.main", *self.words], env=self.env, stderr=out,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until(lambda: self.is_ready, "the server answers", START_SECONDS)

    def restart(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.start()

    def tailrace(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = {**self.env, "TAILRACE_URL": f"http://127.0.0.1:{self.port}", **env}
        return subprocess.run(
            [sys.executable, "-m", "tailrace.cli.main", *words],
            env=env, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    def key(self, name: str, scopes: str) -> str:
        made = self.tailrace("keys", "create", "--name", name, "--scopes", scopes)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                sent["content-type"] = "application/json"
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] == b"{" else text
        finally:
            connection.close()

    @property
    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said.read_text()
        try:
            return self.ask("GET", "/healthz")[0] == 200
        except OSError:
            return False
