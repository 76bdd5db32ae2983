"""How whoever starts a server gets into it: by the key in their state folder, and by links.

A browser gets a cookie in exchange for a link, which is good for one time, and not for long:
addresses end up in histories and in logs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import math
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.timed import TimestampSigner

from tailrace.client.launch import place, read
from tailrace.errors import SettingsInvalid
from tailrace.protocol.launch import is_token

SESSION_SECONDS: Final = 30 * 86_400
"""How long a browser's cookie is good."""

LINK_SECONDS: Final = 3600
"""How long a link is good."""

_MAX_LINKS: Final = 100


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
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        found = read(path)
    except OSError as error:
        raise SettingsInvalid(
            f"No launch key can be kept at {path}: {error.strerror}.",
            fix="Make the folder writable, or set XDG_STATE_HOME to one that is. With --no-auth "
            "everybody of this machine is let in.",
        ) from None
    assert found is not None  # noqa: S101 - it was just linked
    return found


class Launch:
    """What the starter of one server, which listens at `port`, gets in with."""

    def __init__(self, key: str, port: int, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._port = port
        self._clock = clock
        # Cookies know no ports: two servers of one machine get each other's.
        self._cookie = f"tailrace-{port}"
        self._links: OrderedDict[str, float] = OrderedDict()

        class _Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(clock())

        self._signed = URLSafeTimedSerializer(
            key.encode(),
            salt="tailrace.session",
            signer=_Signer,
            signer_kwargs={"digest_method": hashlib.sha256},
        )

    def link(self) -> str:
        """A word that is exchanged for a cookie, once; for `/?login=…`."""
        word = secrets.token_urlsafe(24)
        self._links[_digest(word)] = self._clock() + LINK_SECONDS
        if len(self._links) > _MAX_LINKS:
            self._links.popitem(last=False)
        return word

    def redeem(self, word: str, *, is_secure: bool = False) -> str | None:
        """A Set-Cookie in exchange for a link's word; None for one that is unknown, used
        or too old.
        `is_secure`: it came by https, and is to go no other way.
        """
        if self._links.pop(_digest(word), -math.inf) <= self._clock():
            return None
        value = self._signed.dumps(self._cookie)
        value = value if isinstance(value, str) else value.decode("ascii")
        secure = "; Secure" if is_secure else ""
        return (
            f"{self._cookie}={value}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict"
            f"{secure}"
        )

    def is_key(self, secret: str) -> bool:
        """Whether it is the launch key, or was made with it a moment ago, for this server."""
        # compare_digest takes no other text.
        if not secret.isascii():
            return False
        is_same = hmac.compare_digest(secret, self._key)
        return is_same or is_token(secret, self._key, self._port, self._clock())

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


__all__ = ["LINK_SECONDS", "SESSION_SECONDS", "Launch", "ensured", "place", "read"]
