"""How whoever starts a server gets into it: by a key that only they can read, and by links.

The key is one for all servers of a user on this machine, and stays from start to start: whoever
watches across a restart must be let in again. It is kept as a header, so that `curl -H @FILE`
sends it. A browser gets a cookie in exchange for a link, which is good for one time: addresses end
up in histories.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import platformdirs
from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.timed import TimestampSigner

from tailrace.errors import SettingsInvalid

SESSION_SECONDS: Final = 30 * 86_400
"""How long a browser's cookie is good."""

_MAX_LINKS: Final = 100

_FILE: Final = re.compile(r"Authorization: Bearer (tl_[a-z2-7]{52})\n", re.ASCII)

# Where it is, os.open refuses what is not a plain file of our own.
_FLAGS: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def place() -> Path:
    """The file with this user's launch key."""
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


def ensured(path: Path) -> str:
    """The key in a file, which is made if need be. Raises SettingsInvalid as `read` does, and
    where none can be kept.
    """
    known = read(path)
    if known is not None:
        return known
    key = f"tl_{base64.b32encode(secrets.token_bytes(32)).decode().rstrip('=').lower()}"
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as stack:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            stack.callback(new.unlink, missing_ok=True)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"Authorization: Bearer {key}\n")
            # Not a rename: of two servers that start at once, one must take the other's.
            os.link(new, path)
    except FileExistsError:
        return ensured(path)
    except OSError as error:
        raise SettingsInvalid(
            f"No launch key can be kept at {path}: {error.strerror}.",
            fix="Make the folder writable, or set XDG_STATE_HOME to one that is. With --no-auth "
            "everybody of this machine is let in.",
        ) from None
    return key


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


class Launch:
    """What the starter of one server, which listens at `port`, gets in with."""

    def __init__(self, key: str, port: int, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key.encode()
        # Cookies know no ports: two servers of one machine get each other's.
        self._cookie = f"tailrace-{port}"
        self._links: OrderedDict[str, None] = OrderedDict()

        class _Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(clock())

        self._signed = URLSafeTimedSerializer(
            self._key,
            salt="tailrace.session",
            signer=_Signer,
            signer_kwargs={"digest_method": hashlib.sha256},
        )

    def link(self) -> str:
        """A word that is exchanged for a cookie, once; for `/?login=…`."""
        word = secrets.token_urlsafe(24)
        self._links[_digest(word)] = None
        if len(self._links) > _MAX_LINKS:
            self._links.popitem(last=False)
        return word

    def redeem(self, word: str, *, is_secure: bool = False) -> str | None:
        """A Set-Cookie in exchange for a link's word; None for one that is unknown or used.
        `is_secure`: it came by https, and is to go no other way.
        """
        digest = _digest(word)
        if digest not in self._links:
            return None
        del self._links[digest]
        value = self._signed.dumps(self._cookie)
        value = value if isinstance(value, str) else value.decode("ascii")
        secure = "; Secure" if is_secure else ""
        return (
            f"{self._cookie}={value}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict"
            f"{secure}"
        )

    def is_key(self, secret: str) -> bool:
        """Whether it is the launch key."""
        return hmac.compare_digest(secret.encode("utf-8", "replace"), self._key)

    def is_session(self, cookies: dict[str, str]) -> bool:
        """Whether a cookie among these was given by `redeem`, and is not too old."""
        value = cookies.get(self._cookie)
        if value is None:
            return False
        try:
            return bool(self._signed.loads(value, max_age=SESSION_SECONDS) == self._cookie)
        except (BadData, UnicodeError):
            return False


def _digest(word: str) -> str:
    # Looked up by its digest, so that how long a look takes says nothing of the words.
    return hashlib.sha256(word.encode("utf-8", "replace")).hexdigest()


__all__ = ["SESSION_SECONDS", "Launch", "ensured", "place", "read"]
