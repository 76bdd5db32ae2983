"""What a server is started with: flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SettingsInvalid
from tailrace.eventlog.places import default_log
from tailrace.mcp import address
from tailrace.mcp.address import Address
from tailrace.protocol.access import SCOPES
from tailrace.runners import profiles
from tailrace.runners.profiles import Profiles
from tailrace.server import chat, issuer, values
from tailrace.server.chat import ChatSettings
from tailrace.server.issuer import IssuerSettings
from tailrace.supervisor import GRACE_SECONDS

PREFIX: Final = "TAILRACE_"
"""What the environment variables begin with: TAILRACE_PORT, TAILRACE_ALLOW_ROOT, …"""

_MAX_GRACE: Final = 3600.0
_MAX_TIMEOUT: Final = 365 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server layer is told.

    `host`: the address to listen at. `port`: 0 lets the system choose one. `log`: where runs
    are kept: a path, `sqlite:PATH` or `memory:`. `allow_root`: the folders scripts may be run
    from; without any there is no operation `script`. `grace`: seconds that a run which is
    asked to stop may take. `app`: somebody's ASGI app to serve instead of Tailrace's own, as
    `module:app`. `config`: the file some of it was read from. `keys`: the file with the keys;
    None: that of this user. `no_auth`: let everybody of this machine in, without a key.
    `allow_host`: further names by which the server is called. `allow_origin`: sites whose pages
    may call it, like https://app.example.com.

    Of scripts: `survives`: they go on when the server ends, and the next start takes them up.
    `at_once`: how many run at the same time, the others are queued. `timeout`: seconds, for
    those that are started without one. `limits`: those of `runners.script.Limits` that differ
    from its defaults. `profiles`: how they are run; None: as shipped.

    Of who may do how much: `jwt`: the issuer whose tokens are believed. `trusted_proxy`:
    addresses and networks whose X-Forwarded-For and -Proto are believed. `rates`: by scope, as
    "10/minute", or "none", for each address that has no key; `keyed_rates`: for each principal
    that has one. `caps`: `streams` open at a time, `streams_each` of one of these, `watchers` of
    a run, `run_bytes` of its events, `half_open` requests. All three: only what was said.

    `mcp`: other MCP servers whose tools are operations here, by name. `chat`: a language model
    with tools; None: there is no chat.

    `audit`: the file that says who did what, a line of JSON each; Path("-"): stderr. `mask`:
    environment variables whose values are not kept or shown.
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
    trusted_proxy: tuple[str, ...] = ()
    jwt: IssuerSettings | None = None
    rates: Mapping[str, str] = field(default_factory=dict)
    keyed_rates: Mapping[str, str] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    mcp: Mapping[str, Address] = field(default_factory=dict)
    chat: ChatSettings | None = None
    audit: Path | None = None
    mask: tuple[str, ...] = ()
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
    for name, said, source in _said(given, env):
        value = _checked(name, said, source, Path())
        # To change one rate is not to forget the others, nor the model the tools.
        if name == "rates":
            value = {**chosen.get(name, {}), **value}
        elif name == "chat" and name in chosen:
            value = replace(chosen[name], model=value.model)
        chosen[name] = value
    stray = next((name for name in chosen if name not in _SERVED), None)
    if "app" in chosen and stray is not None:
        stray = "limits" if stray in _COLLECTED else stray
        raise SettingsInvalid(
            f"{stray} is for Tailrace's own app, and {chosen['app']} is served instead.",
            fix=f"Leave {stray} out; the app says it itself, as Tailrace(log) "
            "and allow_scripts(…) do.",
        )
    limits: dict[str, int] = {name: chosen.pop(name) for name in _LIMITS if name in chosen}
    return Settings(**chosen, limits=limits, config=config)


def _said(given: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Of a command line: names, what was said, and where; what wins comes last."""
    for name, (variable, _) in _SAID.items():
        said = env.get(PREFIX + variable)
        if said:
            pieces = said.split(os.pathsep) if name == "allow_root" else said
            yield name, pieces, PREFIX + variable
    for name, value in given.items():
        yield name, value, _SAID[name][1]


def _document(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file, by name."""
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
    known = ("server", "scripts", "limits", *_APART)
    stray = next(
        (name for name, table in document.items() if name not in known or type(table) is not dict),
        None,
    )
    if stray is not None:
        raise SettingsInvalid(f"{stray!r} in {path} is nothing that is read from there.", fix=_FORM)
    keyed = document.get("limits", {}).pop("keyed", {})
    if type(keyed) is not dict:
        raise SettingsInvalid(f"'limits.keyed' in {path} is no table.", fix=_FORM)
    return {**document, "limits.keyed": keyed}


def _read(path: Path) -> dict[str, Any]:
    document = _document(path)
    read: dict[str, Any] = {}
    for table, names in _TABLES.items():
        for name, value in document.get(table, {}).items():
            if name not in names:
                raise SettingsInvalid(
                    f"{name!r} in {path} is not a setting of [{table}].",
                    fix=f"The settings are {', '.join(names)}.",
                )
            where = name if table == "server" else f"{table}.{name}"
            checked = _checked(name, value, f"{where} in {path}", path.parent)
            if table == "limits":
                read.setdefault("caps" if name in _CAPS else "rates", {})[name] = checked
            elif table == "limits.keyed":
                read.setdefault("keyed_rates", {})[name] = checked
            else:
                read[name] = checked
    for table, reader in _APART.items():
        if table in document:
            try:
                read[table] = reader(document[table], path.parent)
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


def _model(value: Any, folder: Path) -> ChatSettings:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("the name of a model")
    return ChatSettings(model=value)


# Of [scripts], and of [limits].
_LIMITS: Final = ("output_bytes", "cpu_seconds", "file_bytes", "processes")
_CAPS: Final = ("streams", "streams_each", "watchers", "run_bytes", "half_open")

# How each is read, and what it may look like.
_READ: Final[dict[str, tuple[Callable[[Any, Path], Any], str]]] = {
    "host": (values.host, "Give something like 127.0.0.1, or ::1."),
    "port": (values.port, "Give something like 4000, or 0 to have one chosen."),
    "log": (values.log, "Give something like runs.db, or memory: to keep nothing."),
    "allow_root": (values.roots, "Give a folder with the scripts that may be run."),
    "grace": (values.seconds(_MAX_GRACE), f"Give something like {GRACE_SECONDS:g}."),
    "app": (values.app, "Give something like main:app."),
    "keys": (values.file, "Give the file that `tailrace keys create --file FILE` makes."),
    "allow_host": (values.names, "Give names like tailrace.example.com."),
    "allow_origin": (values.names, "Give origins like https://app.example.com."),
    "trusted_proxy": (values.networks, "Give where your proxy is, like 127.0.0.1 or 10.1.0.0/16."),
    "audit": (values.file_or_stderr, "Give something like audit.jsonl, or - for stderr."),
    "mask": (values.variables, "Give names like API_TOKEN, of variables that are set."),
    "rates": (values.rates, f"Give something like run=10/minute, or run={values.LIFTED}."),
    "chat": (_model, "Give a model like openai:gpt-5, or demo for the built-in one."),
    "no_auth": (values.switch, "Leave it out, and whoever asks needs a key."),
    "survives": (values.switch, "Leave it out, and scripts end with the server."),
    "at_once": (values.count, "Give how many scripts may run at the same time, like 10."),
    "timeout": (
        values.seconds(_MAX_TIMEOUT),
        "Give something like 3600, or leave it out for none.",
    ),
    "output_bytes": (values.count, "Give how much a script may write, like 1073741824."),
    "cpu_seconds": (values.count, "Give how long a process may compute, like 3600."),
    "file_bytes": (values.count, "Give how large a file may become, like 1073741824."),
    "processes": (values.count, "Give how many processes the server's user may have, like 500."),
    **dict.fromkeys(SCOPES, (values.rate, f"Give something like 10/minute, or {values.LIFTED}.")),
    "streams": (values.count, "Give how many streams may be open at the same time, like 5000."),
    "streams_each": (values.count, "Give how many of them one principal may have, like 100."),
    "watchers": (values.count, "Give how many may watch one run, like 1000."),
    "run_bytes": (values.count, "Give how much the events of a run may take, like 1073741824."),
    "half_open": (values.count, "Give how many requests may be unfinished, like 200."),
}

_TABLES: Final = {
    "server": (
        *("host", "port", "log", "allow_root", "grace", "app"),
        *("keys", "allow_host", "allow_origin", "trusted_proxy", "audit", "mask"),
    ),
    "scripts": ("survives", "at_once", "timeout", *_LIMITS),
    "limits": (*SCOPES, *_CAPS),
    "limits.keyed": SCOPES,
}

# Tables that somebody else knows how to read.
_APART: Final[Mapping[str, Callable[[Any, Path], Any]]] = {
    "chat": chat.read,
    "jwt": issuer.read,
    "mcp": address.read,
    "profiles": lambda table, _: profiles.read(table),
}

_COLLECTED: Final = ("rates", "keyed_rates", "caps")

_FORM: Final = (
    f"Write a table [server] with some of {', '.join(_TABLES['server'])}, "
    f"[scripts] with some of {', '.join(_TABLES['scripts'])}, "
    f"[limits] with some of {', '.join(_TABLES['limits'])}, [limits.keyed], [jwt], "
    "[mcp.upstreams.NAME], [chat], or [profiles.NAME]."
)

# What each is called in the environment, and as a flag; the others stand in a file only.
_SAID: Final = {
    **{name: (name.upper(), f"--{name.replace('_', '-')}") for name in _TABLES["server"]},
    "app": ("APP", "APP"),
    "no_auth": ("NO_AUTH", "--no-auth"),
    "survives": ("SURVIVE", "--survive"),
    "at_once": ("AT_ONCE", "--at-once"),
    "rates": ("RATE", "--rate"),
    "chat": ("CHAT", "--chat"),
}

_SERVED: Final = ("host", "port", "grace", "app", "trusted_proxy")
"""What is also for somebody's own app."""

__all__ = ["PREFIX", "Settings", "load"]
