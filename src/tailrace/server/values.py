"""Single values of settings, as flags, the environment or a file say them.

Each reader takes what was said and the folder that a relative path is relative to. It answers
the value as its field has it, or raises ValueError, which says what the value must be.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tailrace.protocol.access import SCOPES

LIFTED: Final = "none"
"""The rate that is none."""

# What setrlimit(2) takes.
_MAX_COUNT: Final = 2**63 - 1

# That of the package `limits`: 10/minute, 10 per minute, 5/10 seconds. One, for it would take
# the first of several and be silent about the rest.
_RATE: Final = re.compile(
    r"[1-9][0-9]{0,8}\s*(/|per)\s*([1-9][0-9]{0,8})?\s*(second|minute|hour|day|month|year)s?",
    re.ASCII,
)

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

_IPV4_IN_IPV6: Final = ipaddress.IPv6Network("::ffff:0:0/96")

_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def host(value: Any, folder: Path) -> str:
    """Without the brackets of IPv6."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("the name or address of this machine")
    return value.strip().removeprefix("[").removesuffix("]")


def port(value: Any, folder: Path) -> int:
    """0 to 65535."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:6])
    # Not isinstance: True is an int to Python.
    if type(value) is not int or not 0 <= value <= 65_535:
        raise ValueError("a whole number from 0 to 65535")
    return value


def log(value: Any, folder: Path) -> str:
    """A path, or what has a scheme and stays as it is."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path, sqlite:PATH, or memory:")
    return value if ":" in value else str(folder / Path(value).expanduser())


def roots(value: Any, folder: Path) -> tuple[Path, ...]:
    """Folders that are there, resolved."""
    listed = [value] if isinstance(value, str | Path) else value
    if not isinstance(listed, list | tuple) or not all(
        isinstance(root, str | Path) and str(root) and "\0" not in str(root) for root in listed
    ):
        raise ValueError("a folder, or a list of folders")
    found = tuple((folder / Path(root).expanduser()).resolve() for root in listed)
    missing = next((root for root in found if not root.is_dir()), None)
    if missing is not None:
        raise ValueError(f"an existing folder, which {missing} is not")
    return found


def file(value: Any, folder: Path) -> Path:
    """A path, whether there is a file or not."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a file")
    return folder / Path(value).expanduser()


def file_or_stderr(value: Any, folder: Path) -> Path:
    """A path; `-` stays what it is."""
    return Path("-") if value == "-" else file(value, folder)


def names(value: Any, folder: Path) -> tuple[str, ...]:
    """A list, or a text with commas."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(
        isinstance(name, str) and name.strip() for name in listed
    ):
        raise ValueError("a name, or a list of names")
    return tuple(name.strip() for name in listed)


def variables(value: Any, folder: Path) -> tuple[str, ...]:
    """Names of environment variables."""
    listed = names(value, folder)
    if not all(map(_VARIABLE.fullmatch, listed)):
        # Not which: somebody may have given the secret itself.
        raise ValueError("names of environment variables, of letters, digits and underscores")
    return listed


def networks(value: Any, folder: Path) -> tuple[str, ...]:
    """Addresses and networks, in their usual form."""
    return tuple(_network(name) for name in names(value, folder))


def _network(name: str) -> str:
    everywhere = "where a proxy is, and not everywhere: whoever connects could pass for anybody"
    if name == "*":
        raise ValueError(everywhere)
    try:
        found = ipaddress.ip_network(name)
    except ValueError as error:
        raise ValueError(f"an address or a network ({error})") from None
    if found.prefixlen == 0:
        raise ValueError(everywhere)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_IPV4_IN_IPV6):
        raise ValueError(f"an IPv4 address as such, like 10.0.0.7, and not {name}")
    return str(found) if "/" in name else str(found.network_address)


def rate(value: Any, folder: Path) -> str:
    """So many in so long, or that there is no bound; in lower case."""
    said = value.strip().lower() if isinstance(value, str) else ""
    if said != LIFTED and _RATE.fullmatch(said) is None:
        raise ValueError(f"a rate like 10/minute, or {LIFTED}")
    return said


def rates(value: Any, folder: Path) -> dict[str, str]:
    """SCOPE=RATE, some of them."""
    found: dict[str, str] = {}
    for piece in names(value, folder):
        scope, _, said = piece.partition("=")
        if scope.strip() not in SCOPES:
            raise ValueError(f"SCOPE=RATE, with a scope of {', '.join(SCOPES)}")
        found[scope.strip()] = rate(said, folder)
    return found


def app(value: Any, folder: Path) -> str:
    """module:app."""
    if not isinstance(value, str) or not all(value.partition(":")[::2]):
        raise ValueError("a module and its ASGI app, with a colon between")
    return value


def seconds(most: float) -> Callable[[Any, Path], float]:
    """A reader of seconds, more than 0."""

    def read(value: Any, folder: Path) -> float:
        number = math.nan
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            with contextlib.suppress(ValueError, OverflowError):
                number = float(value)
        if not 0 < number <= most:
            raise ValueError(f"a number of seconds, above 0 and at most {most:,.0f}")
        return number

    return read


def switch(value: Any, folder: Path) -> bool:
    """On or off."""
    if isinstance(value, str):
        value = _SWITCHES.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - of whoever wrote the settings
    return value


def count(value: Any, folder: Path) -> int:
    """1 or more."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if type(value) is not int or not 0 < value <= _MAX_COUNT:
        raise ValueError("a whole number, 1 or more")
    return value
