"""Where the bench keeps what it builds and starts, and what it has to build first."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
SERVERS = BENCH / "servers"
BUILT = ROOT / "build" / "bench"
PACKAGES = BUILT / "python"
NODE = BUILT / "node_modules"

# Python packages that only the bench needs.
PYTHON_PEERS = {"sse_starlette": "sse-starlette"}
DEBIAN_PEERS = ("nginx", "libnginx-mod-nchan", "pushpin", "zurl", "golang-go", "nodejs", "npm")


class Unbuilt(Exception):
    """A program could not be made; the message is the reason."""


def program(name: str) -> Path:
    """A program of ours, compiled if it is not or if its source is newer."""
    source = BENCH / f"{name}.c"
    if not source.exists():
        source = SERVERS / f"{name}.go"
    target = BUILT / name
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    compiler = "go" if source.suffix == ".go" else "cc"
    if shutil.which(compiler) is None:
        raise Unbuilt(f"there is no compiler `{compiler}`")
    BUILT.mkdir(parents=True, exist_ok=True)
    flags = ["build"] if compiler == "go" else ["-O2", "-Wall"]
    # Under a name of its own until it is whole: two may be at it at the same time.
    made = BUILT / f"{name}.{os.getpid()}"
    _run([compiler, *flags, "-o", str(made), str(source)])
    made.replace(target)
    return target


def is_importable(package: str) -> bool:
    """Whether the servers we start can import it."""
    return importlib.util.find_spec(package) is not None or (PACKAGES / package).is_dir()


def install() -> list[str]:
    """Fetch the peers that are missing and can be fetched; what was done, and what failed."""
    said = []
    BUILT.mkdir(parents=True, exist_ok=True)
    for package, name in PYTHON_PEERS.items():
        if not is_importable(package):
            # Beside the environment and not in it: Tailrace itself has no need of them.
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
            said.append(_tried(name, [*pip, str(PACKAGES), name]))
    if shutil.which("npm") and not (NODE / "better-sse").is_dir():
        npm = ["npm", "install", "--silent", "--prefix", str(BUILT), "better-sse"]
        said.append(_tried("better-sse", npm))
    if shutil.which("apt-get"):
        listed = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package}\n", *DEBIAN_PEERS],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        missing = [name for name in DEBIAN_PEERS if name not in listed]
        apt = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        if missing and os.geteuid() == 0:
            os.environ["DEBIAN_FRONTEND"] = "noninteractive"
            _tried("apt-get update", ["apt-get", "update", "-qq"])
            said.append(_tried(", ".join(missing), apt))
        elif missing:
            said.append(f"missing from this system: sudo apt-get install {' '.join(missing)}")
    return said


def _tried(name: str, command: Sequence[str]) -> str:
    try:
        _run(command)
    except Unbuilt as error:
        return f"{name}: {error}"
    return f"{name}: installed"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise Unbuilt(f"`{' '.join(command[:3])} …` failed: {said[-1][:200]}")
