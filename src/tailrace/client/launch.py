"""The launch key of this user: whoever starts a server gets into it without another word.

One for all servers of a user on this machine. It stays from start to start: whoever watches across
a restart must be let in again. It is kept as a header, so that `curl -H @FILE` sends it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tailrace.errors import SettingsInvalid
from tailrace.protocol.launch import token

_FILE: Final = re.compile(r"Authorization: Bearer (tl_[a-z2-7]{52})\n", re.ASCII)

# Where it is, os.open refuses what is not a plain file of our own.
_FLAGS: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def place() -> Path:
    """The file with this user's launch key."""
    # Most programs that use a client have no need for it.
    import platformdirs  # noqa: PLC0415

    return Path(platformdirs.user_state_path("tailrace", appauthor=False)) / "launch-key"


def read(path: Path) -> str | None:
    """The key in a file; None if there is no file. Raises SettingsInvalid for one that others
    may read, or that has no key.
    """
    try:
        with open(path, opener=_opened, encoding="ascii") as file:
            status = os.fstat(file.fileno())
            is_ours = sys.platform == "win32" or (
                status.st_uid == os.geteuid() and not status.st_mode & 0o077
            )
            found = _FILE.fullmatch(file.read(200)) if stat.S_ISREG(status.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        is_ours, found = True, None
    if found is None or not is_ours:
        said = "is open to other users" if not is_ours else "cannot be read, or has no key"
        raise SettingsInvalid(
            f"The launch key {path} {said}.",
            fix="Remove it, and the next `tailrace serve` makes another.",
        )
    return found[1]


class Launched(Mapping[str, str]):
    """The header that lets this user into their own server at a port of this machine, made anew
    each time that it is looked at; empty where there is no key.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def __getitem__(self, name: str) -> str:
        key = read(place()) if name == "authorization" else None
        if key is None:
            raise KeyError(name)
        return f"Bearer {token(key, self._port, time.time())}"

    def __iter__(self) -> Iterator[str]:
        return iter(("authorization",) if read(place()) is not None else ())

    def __len__(self) -> int:
        return len(tuple(self))


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


__all__ = ["Launched", "place", "read"]
