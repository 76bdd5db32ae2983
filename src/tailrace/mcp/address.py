"""Where another MCP server is, and on which terms its tools are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from tailrace.errors import SettingsInvalid

SILENCE_SECONDS: Final = 300.0
"""After so long without a byte, not even a keep-alive, an upstream counts as gone."""

# Who keeps a connection alive says something every 15 s, as the SDK's servers do.
_MIN_SILENCE: Final = 20.0
_MAX_SECONDS: Final = 365 * 86_400.0

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# RFC 9110 §5.1, and what goes into a header's value.
_FIELD: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", re.ASCII)

_EXAMPLE: Final = (
    'Write something like [mcp.upstreams.market] with url = "http://127.0.0.1:4100/mcp", '
    'or command = ["python", "-m", "market"].'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An upstream: its tools are operations called NAME.TOOL.

    `url`: of its Streamable HTTP endpoint; or `command`: the program, with its arguments, that
    speaks MCP over stdin and stdout, in the folder `cwd`; each run starts one of its own.
    `key_env`: the environment variable whose value is sent as `Authorization: Bearer`.
    `headers`: further headers, each with the variable that has its value. `env`: variables that
    the program gets besides PATH, HOME and the like. `silence`: seconds without a byte after
    which it counts as gone. `timeout`: seconds, for runs that are started without one.
    `at_once`: how many runs of each tool execute at the same time; None: all.

    Raises SettingsInvalid.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    cwd: Path | None = None
    key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    env: tuple[str, ...] = ()
    silence: float = SILENCE_SECONDS
    timeout: float | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if _NAME.fullmatch(self.name) is None:
            raise SettingsInvalid(
                f"An upstream cannot be called {self.name[:40]!r}.",
                fix="Use a letter, then at most 31 letters, digits, - or _.",
            )
        if (self.url is None) == (not self.command):
            raise self._wrong("needs a url or a command, and not both")
        if self.command and (self.key_env or self.headers):
            raise self._wrong(
                "has a key or headers, which only a url can be sent",
                'Hand the program a variable: env = ["MARKET_KEY"].',
            )
        if self.url is not None and (self.env or self.cwd):
            raise self._wrong("has env or cwd, which only a command can have")

    @property
    def shown(self) -> str:
        """Where it is, without what may be a secret."""
        if self.url is None:
            return self.command[0]
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables whose values are secrets."""
        key = () if self.key_env is None else (self.key_env,)
        return (*key, *self.headers.values())

    def sent(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The headers of every request. Raises SettingsInvalid for a variable that is not set,
        or has what no header can carry.
        """
        found = {name: self._value(of, environment) for name, of in self.headers.items()}
        if self.key_env is not None:
            found["authorization"] = f"Bearer {self._value(self.key_env, environment)}"
        return found

    def _value(self, variable: str, environment: Mapping[str, str]) -> str:
        value = environment.get(variable, "")
        if _VALUE.fullmatch(value) is None:
            what = "that is not set" if not value else "that no header can carry"
            raise self._wrong(
                f"takes the value of {variable}, {what}",
                f"Set {variable} in the environment of the server; printable ASCII only.",
            )
        return value

    def handed(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables that its program gets."""
        return {name: environment[name] for name in self.env if name in environment}

    def _wrong(self, what: str, fix: str = _EXAMPLE) -> SettingsInvalid:
        return SettingsInvalid(f"mcp.upstreams.{self.name} {what}.", fix=fix)


def read(table: Mapping[str, Any], folder: Path) -> dict[str, Address]:
    """The table [mcp] of a settings file, by name; commands work in `folder`.

    Raises SettingsInvalid, naming the place.
    """
    stray = next((name for name in table if name != "upstreams"), None)
    upstreams = table.get("upstreams", {})
    if stray is not None or not isinstance(upstreams, Mapping):
        what = "mcp.upstreams" if stray is None else f"mcp.{stray}"
        raise SettingsInvalid(f"{what} is no table of upstreams.", fix=_EXAMPLE)
    return {name: address(name, given, folder) for name, given in upstreams.items()}


def address(name: str, given: Any, folder: Path | None = None) -> Address:
    """What is said of one upstream, checked. Raises SettingsInvalid, naming the place."""
    if not isinstance(given, Mapping):
        raise SettingsInvalid(f"mcp.upstreams.{name} is no table.", fix=_EXAMPLE)
    checked: dict[str, Any] = {}
    for key, value in given.items():
        where = f"mcp.upstreams.{name}.{key}"
        if key not in _READ:
            raise SettingsInvalid(f"{where} is not one of {', '.join(_READ)}.", fix=_EXAMPLE)
        try:
            checked[key] = _READ[key](value)
        except ValueError as error:
            # Not the value: it may be the key itself.
            raise SettingsInvalid(f"{where} must be {error}.", fix=_EXAMPLE) from None
    if folder is not None and "command" in checked:
        checked["cwd"] = folder / checked.get("cwd", "")
    return Address(name=name, **checked)


def _url(value: Any) -> str:
    wanted = "the address of an endpoint, like http://127.0.0.1:4100/mcp"
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(wanted)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(wanted)
    if parts.username is not None:
        raise ValueError(f"{wanted}, without a password: use key_env or headers")
    _ = parts.port
    return value


def _texts(value: Any) -> tuple[str, ...]:
    is_listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_listed or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _command(value: Any) -> tuple[str, ...]:
    words = _texts(value)
    if not words or not words[0]:
        raise ValueError("a program and its arguments, as a list of texts")
    return words


def _variable(value: Any) -> str:
    if not isinstance(value, str) or _VARIABLE.fullmatch(value) is None:
        raise ValueError("the name of an environment variable, and not its value")
    return value


def _variables(value: Any) -> tuple[str, ...]:
    return tuple(map(_variable, _texts(value)))


def _headers(value: Any) -> dict[str, str]:
    wanted = 'a table like {"X-Api-Key" = "MARKET_KEY"}, of headers and environment variables'
    if not isinstance(value, Mapping) or not all(map(_FIELD.fullmatch, value)):
        raise ValueError(wanted)
    return {name: _variable(variable) for name, variable in value.items()}


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_SECONDS:
        raise ValueError("a number of seconds, above 0")
    return float(value)


def _silence(value: Any) -> float:
    seconds = _seconds(value)
    if seconds < _MIN_SILENCE:
        raise ValueError(f"{_MIN_SILENCE:g} s or more: a keep-alive comes every 15 s, if at all")
    return seconds


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a whole number, 1 or more")
    return value


def _folder(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a folder")
    return Path(value).expanduser()


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "url": _url,
    "command": _command,
    "cwd": _folder,
    "key_env": _variable,
    "headers": _headers,
    "env": _variables,
    "silence": _silence,
    "timeout": _seconds,
    "at_once": _count,
}
