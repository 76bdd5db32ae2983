"""A process and everybody below it: who they are, and how they are ended, all of them.

Only the standard library: the shim has nothing else.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36

_LINUX: Final = sys.platform == "linux"
_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.05


def prctl(option: int, value: int) -> None:
    """What Python has no function for. Does nothing elsewhere than on Linux."""
    if _LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class Family:
    """The children of this process, of which one, the `eldest`, leads a process group.

    On Linux, where this process is a subreaper, whoever loses their parent becomes a child of
    ours, after `setsid` and a double fork as well. So once there are no children left, there
    is nobody left.
    """

    def __init__(self, eldest: int) -> None:
        self._eldest = eldest
        self.status: int | None = None
        """How the eldest ended (`os.waitstatus_to_exitcode` reads it); None: not yet."""

    def signal(self, number: int, *, alone: bool = False) -> None:
        """Send a signal to the eldest's group, or to it alone, until it has ended: by then its
        number may be another's.
        """
        if not self._eldest or self.status is not None:
            return
        try:
            if alone:
                os.kill(self._eldest, number)
            else:
                os.killpg(self._eldest, number)
        except (ProcessLookupError, PermissionError):
            pass

    def reap(self) -> bool:
        """Collect whoever has ended; whether there is anybody left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._eldest:
                self.status = status

    def end(self) -> None:
        """End everybody, and return when nobody is left but those of other users, whom we
        cannot end.
        """
        # All at once: in the group nobody can be born meanwhile.
        self.signal(signal.SIGKILL)
        pause = _PAUSE_SECONDS
        while self.reap():
            if not _LINUX:
                # Those who left the group cannot be found here.
                if self.status is not None:
                    return
            elif not _killed(descendants(os.getpid())):
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _killed(found: list[int]) -> bool:
    """Whether anybody could be ended, or is gone already."""
    foreign = 0
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            foreign += 1
        except ProcessLookupError:
            pass
    return not found or foreign < len(found)


def descendants(pid: int) -> list[int]:
    """Everybody below `pid`, the newest generation first: they are the quickest to be gone."""
    found: list[int] = []
    generation = [pid]
    while generation:
        generation = [child for parent in generation for child in _children(parent)]
        found += generation
    return found[::-1]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        # It has ended, and its children are ours by now.
        pass
    return children
