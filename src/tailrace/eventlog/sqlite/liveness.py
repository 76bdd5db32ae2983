"""Who of the processes that share a log is alive: the kernel knows, through file locks.

Each worker holds a lock on a file of its own beside the log. The kernel drops the lock with
the process, however it ends, so a lock that can be had means a dead worker: no heartbeat to
wait for, no pid to be reused, and it holds across containers that share the disk.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

# POSIX locks belong to the process: probing a file of our own would succeed, and closing
# it again would drop the lock. So our own are known by name.
_held: set[str] = set()

# A name comes out of the log, and may be a remote worker's: it must not become a path.
_WORKER: Final = re.compile(r"[0-9a-f]{32}")


class Liveness:
    """This process's place among the workers of one log."""

    def __init__(self, folder: Path) -> None:
        self.worker = ""
        self._folder = folder
        self._descriptor = -1

    def claim(self) -> None:
        """Start to count as alive."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # A new name each time: a process that is forked from one with an engine in it must
        # not share it, and what an earlier life of this one left behind is nobody's.
        self.worker = uuid4().hex
        path = self._folder / f".{self.worker}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _held.add(self.worker)
        try:
            os.write(self._descriptor, str(os.getpid()).encode())
            if sys.platform != "win32":
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Only now under its name: whoever finds it unlocked would take us for dead.
            path.rename(self._folder / self.worker)
        except OSError:
            path.unlink(missing_ok=True)
            self.release()
            raise

    def release(self) -> None:
        """Stop counting as alive."""
        if self._descriptor >= 0:
            (self._folder / self.worker).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
            _held.discard(self.worker)

    def alive(self, worker: str) -> bool:
        """Whether `worker` still runs. A dead one's file is cleared away."""
        if worker in _held:
            return True
        if _WORKER.fullmatch(worker) is None:
            return False
        path = self._folder / worker
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            # Another user's file, or no descriptors left: to call a live worker dead would
            # end its runs, to wait for a dead one costs only time.
            return True
        try:
            if _locked(descriptor):
                return True
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    if sys.platform == "win32":  # pragma: no cover
        return _process_exists(int(os.read(descriptor, 20) or b"0"))
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _process_exists(pid: int) -> bool:  # pragma: no cover
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
