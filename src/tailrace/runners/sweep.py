"""Finding whatever a run has left behind: by the mark in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

MARK: Final = "TAILRACE_RUN"
"""The environment variable by which a run's processes can be found, wherever they hide."""

_LOOKS: Final = 20
_LOOK_SECONDS: Final = 0.001


def sweep(*runs: str) -> int:
    """Kill every process that still carries a mark of these runs (Linux); how many there were.

    This finds those that left their process group by setsid or a double fork.
    """
    marks = {f"{MARK}={run}".encode() for run in runs}
    known: set[int] = set()
    killed: set[int] = set()
    for _ in range(_LOOKS):
        processes = _processes()
        # Somebody who ended before we could look may have left a child that we did not see,
        # and so may one that forks while we look. Only the first look is never sure.
        is_sure = bool(known)
        found: set[int] = set()
        for process in processes:
            environ = _read(process, "environ")
            if not marks.isdisjoint(environ.split(b"\0")):
                found.add(process)
            elif not environ and (process not in known or _is_starting(process)):
                is_sure = False
        found -= killed
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if is_sure and not found:
            break
        known = set(processes)
        killed |= found
        time.sleep(_LOOK_SECONDS)
    return len(killed)


def _processes() -> list[int]:
    """The newest first: they are the quickest to be gone."""
    with contextlib.suppress(OSError):
        names = [place.name for place in Path("/proc").iterdir()]
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)
    return []


def _read(process: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/{name}").read_bytes()
    return b""


def _is_starting(process: int) -> bool:
    """Whether it is within execve: for a moment the kernel shows neither the old environment
    nor the new one. Its own threads, and the dead, have no program.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/exe").readlink()
        return not _read(process, "cmdline")
    return False
