"""What a server is started with: flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import contextlib
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SettingsInvalid
from tailrace.eventlog.places import default_log
from tailrace.runners import profiles
from tailrace.runners.profiles import Profiles
from tailrace.supervisor import GRACE_SECONDS

PREFIX: Final = "TAILRACE_"
"""What the environment variables begin with: TAILRACE_PORT, TAILRACE_ALLOW_ROOT, …"""

_MAX_GRACE: Final = 3600.0
_MAX_TIMEOUT: Final = 365 * 86_400.0
# What setrlimit(2) takes.
_MAX_LIMIT: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server layer is told.

    `host`: the address to listen at. `port`: 0 lets the system choose one. `log`: where runs
    are kept: a path, `sqlite:PATH` or `memory:`. `allow_root`: the folders scripts may be run
    from; without any there is no operation `script`. `grace`: seconds that a run which is
    asked to stop may take. `app`: somebody's ASGI app to serve instead of Tailrace's own, as
    `module:app`. `config`: the file some of it was read from. `keys`: the file with the keys;
    None: that of this user. `no_auth`: let everybody of this machine in, though there are keys.
    `allow_host`: further names by which the server is called. `allow_origin`: sites whose pages
    may call it, like https://app.example.com.

    Of scripts: `survives`: they go on when the server ends, and the next start takes them up.
    `at_once`: how many run at the same time, the others are queued. `timeout`: seconds, for
    those that are started without one. `limits`: those of `runners.script.Limits` that differ
    from its defaults. `profiles`: how they are run; None: as shipped.
    """

    host: str = "127.0.0.1"
    port: int = 4000
    log: str = field(default_factory=lambda: str(default_log()))
    allow_root: tuple[Path, ...] = ()
    grace: float = GRACE_SECONDS
    app: str | None = None
    survives: bool = False
    at_once: int = 10
    timeout: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    profiles: Profiles | None = None
    keys: Path | None = None
    no_auth: bool = False
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
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
    for name, (variable, _) in _SAID.items():
        said = env.get(PREFIX + variable)
        if said:
            pieces = said.split(os.pathsep) if name == "allow_root" else said
            chosen[name] = _checked(name, pieces, PREFIX + variable, Path())
    for name, value in given.items():
        chosen[name] = _checked(name, value, _SAID[name][1], Path())
    stray = next((name for name in chosen if name not in _SERVED), None)
    if "app" in chosen and stray is not None:
        raise SettingsInvalid(
            f"{stray} is for Tailrace's own app, and {chosen['app']} is served instead.",
            fix=f"Leave {stray} out; the app says it itself, as Tailrace(log) "
            "and allow_scripts(…) do.",
        )
    limits: dict[str, int] = {name: chosen.pop(name) for name in _LIMITS if name in chosen}
    return Settings(**chosen, limits=limits, config=config)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise SettingsInvalid(
            f"The settings file {path} cannot be read: {error.strerror}.",
            fix="Check --config, or TAILRACE_CONFIG.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        said = f"The settings file {path} is not TOML: {error}."
        raise SettingsInvalid(said, fix=_FORM) from None
    known = (*_TABLES, "profiles")
    stray = next(
        (name for name, table in document.items() if name not in known or type(table) is not dict),
        None,
    )
    if stray is not None:
        raise SettingsInvalid(f"{stray!r} in {path} is nothing that is read from there.", fix=_FORM)
    read: dict[str, Any] = {}
    for table, names in _TABLES.items():
        for name, value in document.get(table, {}).items():
            if name not in names:
                raise SettingsInvalid(
                    f"{name!r} in {path} is not a setting of [{table}].",
                    fix=f"The settings are {', '.join(names)}.",
                )
            where = name if table == "server" else f"{table}.{name}"
            read[name] = _checked(name, value, f"{where} in {path}", path.parent)
    if document.get("profiles"):
        try:
            read["profiles"] = profiles.read(document["profiles"])
        except SettingsInvalid as error:
            raise SettingsInvalid(f"In {path}, {error}", fix=error.fix) from None
    return read


def _checked(name: str, value: Any, source: str, folder: Path) -> Any:
    """`value` as its field has it; `folder` is what a relative path is relative to."""
    read, example = _READ[name]
    try:
        return read(value, folder)
    except ValueError as error:
        # Not the value: a log may be a URL with a password in it.
        raise SettingsInvalid(f"{source} must be {error}.", fix=example) from None


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


def _file(value: Any, folder: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a file")
    return folder / Path(value).expanduser()


def _names(value: Any, folder: Path) -> tuple[str, ...]:
    del folder
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(
        isinstance(name, str) and name.strip() for name in listed
    ):
        raise ValueError("a name, or a list of names")
    return tuple(name.strip() for name in listed)


def _app(value: Any, folder: Path) -> str:
    del folder
    if not isinstance(value, str) or not all(value.partition(":")[::2]):
        raise ValueError("a module and its ASGI app, with a colon between")
    return value


def _seconds(most: float) -> Callable[[Any, Path], float]:
    def read(value: Any, folder: Path) -> float:
        del folder
        number = math.nan
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            with contextlib.suppress(ValueError, OverflowError):
                number = float(value)
        if not 0 < number <= most:
            raise ValueError(f"a number of seconds, above 0 and at most {most:,.0f}")
        return number

    return read


def _switch(value: Any, folder: Path) -> bool:
    del folder
    if isinstance(value, str):
        value = _SWITCHES.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - of whoever wrote the settings
    return value


_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _count(value: Any, folder: Path) -> int:
    del folder
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if type(value) is not int or not 0 < value <= _MAX_LIMIT:
        raise ValueError("a whole number, 1 or more")
    return value


_LIMITS: Final = ("output_bytes", "cpu_seconds", "file_bytes", "processes")

# How each is read, and what it may look like.
_READ: Final[dict[str, tuple[Callable[[Any, Path], Any], str]]] = {
    "host": (_host, "Give something like 127.0.0.1, or ::1."),
    "port": (_port, "Give something like 4000, or 0 to have one chosen."),
    "log": (_log, "Give something like runs.db, or memory: to keep nothing."),
    "allow_root": (_roots, "Give a folder with the scripts that may be run."),
    "grace": (_seconds(_MAX_GRACE), f"Give something like {GRACE_SECONDS:g}."),
    "app": (_app, "Give something like main:app."),
    "keys": (_file, "Give the file that `tailrace keys create --file FILE` makes."),
    "allow_host": (_names, "Give names like tailrace.example.com."),
    "allow_origin": (_names, "Give origins like https://app.example.com."),
    "no_auth": (_switch, "Leave it out, and keys are asked for once there are any."),
    "survives": (_switch, "Leave it out, and scripts end with the server."),
    "at_once": (_count, "Give how many scripts may run at the same time, like 10."),
    "timeout": (_seconds(_MAX_TIMEOUT), "Give something like 3600, or leave it out for none."),
    "output_bytes": (_count, "Give how much a script may write, like 1073741824."),
    "cpu_seconds": (_count, "Give how long a process may compute, like 3600."),
    "file_bytes": (_count, "Give how large a file may become, like 1073741824."),
    "processes": (_count, "Give how many processes the server's user may have, like 500."),
}

_TABLES: Final = {
    "server": (
        *("host", "port", "log", "allow_root", "grace", "app"),
        *("keys", "allow_host", "allow_origin"),
    ),
    "scripts": ("survives", "at_once", "timeout", *_LIMITS),
}

_FORM: Final = (
    f"Write a table [server] with some of {', '.join(_TABLES['server'])}, "
    f"[scripts] with some of {', '.join(_TABLES['scripts'])}, or [profiles.NAME]."
)

# What each is called in the environment, and as a flag; the others stand in a file only.
_SAID: Final = {
    **{name: (name.upper(), f"--{name.replace('_', '-')}") for name in _TABLES["server"]},
    "app": ("APP", "APP"),
    "no_auth": ("NO_AUTH", "--no-auth"),
    "survives": ("SURVIVE", "--survive"),
    "at_once": ("AT_ONCE", "--at-once"),
}

_SERVED: Final = ("host", "port", "grace", "app")
"""What is also for somebody's own app."""

__all__ = ["PREFIX", "Settings", "load"]
