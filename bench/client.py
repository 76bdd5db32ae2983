"""The load client `load.c`, on the second core: started, told when to begin, asked what it saw."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import measure
from bench.places import program


class Wrong(Exception):
    """What was delivered is not what was published; the message says where."""


class Load:
    """Watchers, or other clients, of one server. Options are those of `load.c`."""

    def __init__(self, port: int, paths: Sequence[str], folder: Path, **options: Any) -> None:
        listed = folder / "paths"
        listed.write_text("".join(f"{path}\n" for path in paths))
        given = {"port": port, "paths": listed, **options}
        self._command = [str(program("load")), *(f"{key}={value}" for key, value in given.items())]
        self._process: subprocess.Popen[str] | None = None
        self._result: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        with measure.pinned(1):
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def say(self, order: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has ended by itself, and its result says why.
            pass

    def until(self, told: str) -> dict[str, Any]:
        """Its next line of this kind; its result where it ends before."""
        assert self._process is not None
        assert self._process.stdout is not None
        while self._result is None:
            line = self._process.stdout.readline()
            if not line:
                raise Wrong(f"the load client ended with {self._process.wait()}")
            said: dict[str, Any] = json.loads(line)
            if said["told"] == "result":
                self._result = said
            if said["told"] == told:
                return said
        return self._result

    def result(self) -> dict[str, Any]:
        """What it saw. Raises Wrong for anything lost, doubled or out of order."""
        said = self.until("result")
        faults = ("gaps", "repeats", "wrong_count", "refused", "broken")
        counted = ", ".join(f"{said[name]} {name}" for name in faults if said[name])
        if said["fault"] or counted:
            raise Wrong("; ".join(filter(None, (said["fault"], counted))))
        return said
