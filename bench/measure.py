"""Figures from the kernel: CPU, memory, sockets, the disk."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name may hold blanks and brackets: the fields follow the last bracket.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], list(roots)
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes, by the kernel's own clock, to the nanosecond.

    A process's clock has the number ~pid << 3 | 2 (clock_getcpuclockid(3)); /proc/PID/stat
    has the same figure in ticks of 10 ms.
    """
    used = 0.0
    for pid in pids:
        with suppress(OSError):
            used += time.clock_gettime(~pid << 3 | 2)
    return used


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes."""
    used = 0
    for pid in pids:
        with suppress(OSError):
            used += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return used


def socket_bytes() -> int:
    """Memory of all TCP sockets of this machine, in whole pages."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[line.split().index("mem") + 1]) * PAGE
    return 0


def fsync_seconds(folder: Path, seconds: float = 0.5) -> tuple[float, float]:
    """What it takes this disk to keep 4 KiB (write and fdatasync): median and p99."""
    path = folder / "fsync-probe"
    block = os.urandom(4096)
    took: list[float] = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        end = time.perf_counter() + seconds
        while not took or time.perf_counter() < end:
            began = time.perf_counter()
            os.pwrite(file, block, 4096 * (len(took) % 1024))
            os.fdatasync(file)
            took.append(time.perf_counter() - began)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took), quantile(took, 0.99)


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them are; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def raise_limits() -> None:
    """As many open files as this process, and what it starts, may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on one of the cores we were given;
    nothing where there is only one.
    """
    before = os.sched_getaffinity(0)
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core % len(CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
