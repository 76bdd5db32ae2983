"""A page of the documentation, played: its files written, its servers started, its commands run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.docs.snippets import PLAYED, Block, blocks
from tests.processes import START_SECONDS, free_port, until

RUN_SECONDS: Final = 60
# What the pages call the port, and no page uses in another sense.
_PORT: Final = re.compile(r"\b4000\b")


class Stage:
    """One page's folder, port and servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "page"
        self.folder.mkdir()
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.said = ""
        home = folder / "home"
        home.mkdir()
        self._out = folder / "server.txt"
        self._state = folder / "variables.sh"
        self._state.touch()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "TAILRACE_", "COV_")) and "proxy" not in name.lower()
        }
        self._env = {
            **kept,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
            "TAILRACE_URL": self.base,
            "NO_PROXY": "*",
        }
        self._server: subprocess.Popen[bytes] | None = None

    def play(self, block: Block) -> None:
        text = _PORT.sub(str(self.port), block.text)
        match block.mark:
            case "file":
                place = self.folder / block.argument
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
            case "append":
                with (self.folder / block.argument).open("a", encoding="utf-8") as file:
                    file.write(f"\n\n{text}")
            case "serve":
                self._serve(block, text)
            case "run":
                self._run(block, text)
            case "says":
                pattern = ".*?".join(map(re.escape, text.strip().split("…")))
                matched = re.fullmatch(pattern, self.said.strip(), re.DOTALL)
                assert matched, f"{block}: what was printed is\n{self.said}"

    def _serve(self, block: Block, text: str) -> None:
        self.stop()
        with self._out.open("wb") as out:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {text.strip()}"], cwd=self.folder, env=self._env,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until(lambda: self._is_up(block), f"{block} answers", START_SECONDS)

    def _is_up(self, block: Block) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, f"{block} ended:\n{self._out.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _run(self, block: Block, text: str) -> None:
        if block.language == "python":
            words = [sys.executable, "-c", text]
        else:
            # What one block calls by a name, those after it know.
            kept = f"source {self._state}; trap 'export -p >{self._state}' EXIT; set -a -u\n"
            words = ["bash", "-c", kept + text]
        done = subprocess.run(
            words, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
        self.said = done.stdout
        wanted = int(block.argument or 0)
        assert done.returncode == wanted, f"{block}: {done.returncode}\n{done.stdout}{done.stderr}"

    def stop(self) -> None:
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # Its own group, made at its start: workers are in it.
            os.killpg(self._server.pid, signal.SIGTERM)
        try:
            self._server.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None


@contextlib.contextmanager
def played(page: Path, folder: Path) -> Iterator[Stage]:
    """A page from its first block to its last; its last server still answers in the block."""
    stage = Stage(folder)
    try:
        for block in blocks(page):
            if block.mark in PLAYED:
                stage.play(block)
        yield stage
    finally:
        stage.stop()
