"""Where programs leave what they write: a folder for each run, shared with its shim."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from tailrace.runners.shim import KILL, ORDERS

FORMAT: Final = "1"
"""Of what a folder has in it. A server that was replaced meanwhile may know another."""

_SHIM: Final = "shim"
_SURVIVES: Final = "survives"
_MARKS: Final = "marks"
_PREFIX: Final = "tailrace"

_END_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.005


class Spools:
    """The folders of one log's runs; `root` need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def temporary(cls, owner: object) -> Spools:
        """For a log that goes with its process: gone with `owner`. What processes that were
        killed could not clear away is cleared away here.
        """
        place = Path(tempfile.gettempdir())
        for stale in place.glob(f"{_PREFIX}-*-*"):
            pid = stale.name.split("-")[1]
            if pid.isdecimal() and not _exists(int(pid)):
                # Somebody else's cannot be removed, and stays.
                shutil.rmtree(stale, ignore_errors=True)
        root = tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-")
        weakref.finalize(owner, shutil.rmtree, root, ignore_errors=True)
        return cls(Path(root))

    def folder(self, run: str) -> Path:
        """That of a run."""
        return self.root / run

    def has(self, run: str) -> bool:
        """Whether its program was started, and is not cleared away."""
        return self.folder(run).is_dir()

    def goes_on(self, run: str) -> bool:
        """Whether its shim is there."""
        return is_alive(self.folder(run))

    def survives(self, run: str) -> bool:
        """Whether its program outlives whoever runs it; so does what an ended one has written."""
        return (self.folder(run) / _SURVIVES).exists() or not self.goes_on(run)

    def marks(self, run: str) -> frozenset[str]:
        """By what the secrets are recognised that its output must not show (`Masks.marks`). What
        is in the spool has them: only who knows them may go on with it.
        """
        with contextlib.suppress(FileNotFoundError):
            return frozenset((self.folder(run) / _MARKS).read_text("ascii").split())
        return frozenset()

    def clear(self, run: str) -> None:
        """End what still goes on, and forget all of it; blocks until that is done."""
        folder = self.folder(run)
        ends = time.monotonic() + _END_SECONDS
        while order(folder, KILL) and time.monotonic() < ends:
            time.sleep(_LOOK_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)

    def __iter__(self) -> Iterator[str]:
        """The runs that have one."""
        with contextlib.suppress(FileNotFoundError):
            for folder in self.root.iterdir():
                yield folder.name


def note(folder: Path, pid: int, *, survives: bool) -> None:
    """Note in a folder who its shim is. Raises OSError."""
    if survives:
        (folder / _SURVIVES).touch(0o600)
    (folder / _SHIM).write_text(f"{FORMAT} {pid} {_started_at(pid)}", "ascii")


def note_marks(folder: Path, marks: Collection[str]) -> None:
    """Note in a folder what `Spools.marks` answers. Raises OSError."""
    if marks:
        place = folder / _MARKS
        place.touch(0o600)
        place.write_text("\n".join(sorted(marks)), "ascii")


def is_readable(folder: Path) -> bool:
    """Whether what is there is of this FORMAT."""
    with contextlib.suppress(OSError):
        return (folder / _SHIM).read_text("ascii").partition(" ")[0] == FORMAT
    return False


def is_alive(folder: Path) -> bool:
    """Whether there is a shim that takes orders."""
    with contextlib.suppress(OSError):
        os.close(open_orders(folder))
        return True
    return False


def order(folder: Path, what: bytes) -> bool:
    """Tell a shim what to do; whether there is one."""
    try:
        orders = open_orders(folder)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        os.write(orders, what)
    os.close(orders)
    rouse(folder)
    return True


def rouse(folder: Path) -> None:
    """A program may have stopped its own shim, to be heard by nobody. By number and start time:
    the number alone may be another's by now.
    """
    with contextlib.suppress(OSError, ValueError):
        _, pid, started_at = (folder / _SHIM).read_text("ascii").split(" ")
        if started_at and started_at == _started_at(int(pid)):
            os.kill(int(pid), signal.SIGCONT)


def open_orders(folder: Path) -> int:
    """Where a shim takes orders. Raises OSError, at once (ENXIO), where there is none."""
    return os.open(folder / ORDERS, os.O_WRONLY | os.O_NONBLOCK)


def _started_at(pid: int) -> str:
    """When a process was started, in the kernel's own unit (proc(5)); nothing if nobody knows."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return stat.rpartition(")")[2].split()[19]
    return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
