"""On what it was measured, and with which versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.measure import CORES
from bench.places import NODE, PACKAGES

_PYTHON = ("tailrace", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "granian",
           "hypercorn", "orjson", "pydantic")  # fmt: skip
_PROGRAMS = {"nginx": "-v", "pushpin": "--version", "node": "--version", "go": "version",
             "cc": "--version"}  # fmt: skip


def described() -> dict[str, Any]:
    """For the JSON file."""
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(CORES),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "kernel": f"{platform.system()} {platform.release()}",
            "load_average": os.getloadavg(),
        },
        "versions": {"python": platform.python_version(), **_packages(), **_programs()},
    }


def headline(told: dict[str, Any]) -> str:
    """The same in a line."""
    machine, versions = told["machine"], told["versions"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, "
        f"load {machine['load_average'][0]:.1f}\n{known}"
    )


def _cpu() -> str:
    with suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1].strip()
    return platform.processor() or "unknown"


def _packages() -> dict[str, str]:
    found = {}
    for name in _PYTHON:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for place in importlib.metadata.distributions(
        name="sse-starlette", path=[*sys.path, str(PACKAGES)]
    ):
        found["sse-starlette"] = place.version
    with suppress(OSError, ValueError):
        package = json.loads((NODE / "better-sse" / "package.json").read_text())
        found["better-sse"] = package["version"]
    return found


def _programs() -> dict[str, str]:
    found = {}
    for name, flag in _PROGRAMS.items():
        if shutil.which(name):
            done = subprocess.run([name, flag], capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
            if number:
                found[name] = number[0]
    if shutil.which("dpkg-query"):
        asked = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        number = re.search(r"(?<=:)\d+\.\d+(\.\d+)?", done.stdout)
        if number:
            found["nchan"] = number[0]
    return found
