"""What a server is started with: flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SettingsInvalid
from tailrace.eventlog.places import default_log
from tailrace.supervisor import GRACE_SECONDS

PREFIX: Final = "TAILRACE_"
"""What the environment variables begin with: TAILRACE_PORT, TAILRACE_ALLOW_ROOT, …"""

TABLE: Final = "server"
"""The table of a settings file that is read."""

_MAX_GRACE: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server layer is told.

    `host`: the address to listen at. `port`: 0 lets the system choose one. `log`: where runs
    are kept: a path, `sqlite:PATH` or `memory:`. `allow_root`: the folders scripts may be run
    from; without any there is no operation `script`. `grace`: seconds that a run which is
    asked to stop may take. `app`: somebody's ASGI app to serve instead of Tailrace's own, as
    `module:app`. `config`: the file some of it was read from.
    """

    host: str = "127.0.0.1"
    port: int = 4000
    log: str = field(default_factory=lambda: str(default_log()))
    allow_root: tuple[Path, ...] = ()
    grace: float = GRACE_SECONDS
    app: str | None = None
    config: Path | None = None


def load(flags: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a command line.

    `flags` has the names of `Settings`; None and an empty tuple mean that a flag was not
    given, as an empty variable means in `env`. In a file, paths are relative to the file.
    Raises SettingsInvalid, which names the setting and where it was said.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    config = given.pop("config", None) or env.get(f"{PREFIX}CONFIG") or None
    chosen: dict[str, Any] = {}
    if config is not None:
        config = Path(config)
        chosen |= _read(config)
    for name in _READ:
        said = env.get(PREFIX + name.upper())
        if said:
            pieces = said.split(os.pathsep) if name == "allow_root" else said
            chosen[name] = _checked(name, pieces, f"{PREFIX}{name.upper()}", Path())
    for name, value in given.items():
        chosen[name] = _checked(name, value, _flag(name), Path())
    stray = next((name for name in ("log", "allow_root") if name in chosen), None)
    if "app" in chosen and stray is not None:
        raise SettingsInvalid(
            f"{stray} is for Tailrace's own app, and {chosen['app']} is served instead.",
            fix=f"Leave {stray} out; the app says it itself, as Tailrace(log) does.",
        )
    return Settings(**chosen, config=config)


def _flag(name: str) -> str:
    return "APP" if name == "app" else f"--{name.replace('_', '-')}"


def _read(path: Path) -> dict[str, Any]:
    known = ", ".join(_READ)
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise SettingsInvalid(
            f"The settings file {path} cannot be read: {error.strerror}.",
            fix="Check --config, or TAILRACE_CONFIG.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"The settings file {path} is not TOML: {error}.",
            fix=f"Write a table [{TABLE}] with some of {known}.",
        ) from None
    table = document.pop(TABLE, {})
    if document or not isinstance(table, dict):
        stray = next(iter(document), TABLE)
        raise SettingsInvalid(
            f"{stray!r} in {path} is nothing that is read from there.",
            fix=f"Write a table [{TABLE}] with some of {known}.",
        )
    unknown = next((name for name in table if name not in _READ), None)
    if unknown is not None:
        raise SettingsInvalid(
            f"{unknown!r} in {path} is not a setting of [{TABLE}].",
            fix=f"The settings are {known}.",
        )
    return {
        name: _checked(name, value, f"{name} in {path}", path.parent)
        for name, value in table.items()
    }


def _checked(name: str, value: Any, source: str, folder: Path) -> Any:
    """`value` as its field has it; `folder` is what a relative path is relative to."""
    try:
        return _READ[name](value, folder)
    except ValueError as error:
        # Not the value: a log may be a URL with a password in it.
        raise SettingsInvalid(f"{source} must be {error}.", fix=_EXAMPLES[name]) from None


def _host(value: Any, folder: Path) -> str:
    del folder
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("the name or address of this machine")
    return value.strip().removeprefix("[").removesuffix("]")


def _port(value: Any, folder: Path) -> int:
    del folder
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:6])
    # Not isinstance: True is an int to Python.
    if type(value) is not int or not 0 <= value <= 65_535:
        raise ValueError("a whole number from 0 to 65535")
    return value


def _log(value: Any, folder: Path) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path, sqlite:PATH, or memory:")
    return value if ":" in value else str(folder / Path(value).expanduser())


def _roots(value: Any, folder: Path) -> tuple[Path, ...]:
    listed = [value] if isinstance(value, str | Path) else value
    if not isinstance(listed, list | tuple) or not all(
        isinstance(root, str | Path) and str(root) and "\0" not in str(root) for root in listed
    ):
        raise ValueError("a folder, or a list of folders")
    roots = tuple((folder / Path(root).expanduser()).resolve() for root in listed)
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        raise ValueError(f"an existing folder, which {missing} is not")
    return roots


def _app(value: Any, folder: Path) -> str:
    del folder
    if not isinstance(value, str) or not all(value.partition(":")[::2]):
        raise ValueError("a module and its ASGI app, with a colon between")
    return value


def _grace(value: Any, folder: Path) -> float:
    del folder
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        number = math.nan
    else:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if not 0 < number <= _MAX_GRACE:
        raise ValueError(f"a number of seconds, above 0 and at most {_MAX_GRACE:g}")
    return number


_READ: Final[dict[str, Callable[[Any, Path], Any]]] = {
    "host": _host,
    "port": _port,
    "log": _log,
    "allow_root": _roots,
    "grace": _grace,
    "app": _app,
}

_EXAMPLES: Final = {
    "host": "Give something like 127.0.0.1, or ::1.",
    "port": "Give something like 4000, or 0 to have one chosen.",
    "log": "Give something like runs.db, or memory: to keep nothing.",
    "allow_root": "Give a folder with the scripts that may be run.",
    "grace": f"Give something like {GRACE_SECONDS:g}.",
    "app": "Give something like main:app.",
}

__all__ = ["PREFIX", "TABLE", "Settings", "load"]
