"""API keys: made, looked up and revoked. Of each there is who it is, what it may, and a hash.

    tr_k3vq7x2m_5kq2…   `tr_`, so that scanners for leaked secrets know one when they see it;
                        the id, by which it is found; 256 random bits, in lower-case base32

A hash that is slow on purpose would protect a secret that can be guessed. These cannot be, and
each request looks one up, so it is one SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import platformdirs

from tailrace.errors import SettingsInvalid
from tailrace.protocol.access import SCOPES
from tailrace.protocol.events import stamp
from tailrace.server.keyfile import (
    END_OF_TIME,
    MAX_PRINCIPAL,
    Content,
    Key,
    KeyFile,
    instant,
    is_name,
    is_principal,
)

ENV: Final = "TAILRACE_KEYS"
"""The environment variable that says where the keys are."""

_LOOK_SECONDS: Final = 0.5

_SECRET: Final = re.compile(r"tr_([a-z2-7]{8})_[a-z2-7]{52}", re.ASCII)

# No SHA-256 of anything we made: an unknown id is compared as long as a known one.
_NOBODY: Final = "0" * 64


def default_keys() -> Path:
    """Where keys are unless said otherwise: the platform's folder for settings."""
    return Path(platformdirs.user_config_path("tailrace", appauthor=False)) / "keys.json"


class Keys:
    """The keys in the file `path`; None: the one that TAILRACE_KEYS names, or `default_keys()`.

    A file that is not there has no keys. What is read is kept, and the file looked at again
    at most every 0.5 s: so long a revoked key may go on. Whatever reads raises SettingsInvalid
    for a file that cannot be trusted or understood, and for one that was there and is gone:
    "no keys" would open the server to everybody.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path or os.environ.get(ENV) or default_keys()).expanduser()
        self._file = KeyFile(self.path)
        self._clock = clock
        self._now = now
        self._looked = 0.0
        # Replaced as a whole, never changed: a thread that looks into it needs no lock.
        self._content: Content | None = None

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is; None for what is no key, unknown, revoked or expired."""
        keys = self._current()
        found = _SECRET.fullmatch(secret)
        if found is None:
            return None
        key = keys.get(found[1])
        known = _NOBODY if key is None else key.sha256
        is_same = hmac.compare_digest(_digest(secret), known)
        if key is None or not is_same or key.is_expired(self._now()):
            return None
        return key

    def list(self) -> tuple[Key, ...]:
        """All keys, also expired ones, oldest first."""
        return tuple(self._current().values())

    def __iter__(self) -> Iterator[Key]:
        return iter(self.list())

    def __bool__(self) -> bool:
        """Whether there are keys. Expired ones count: when the last one's time is over, the
        server must not be open to everybody.
        """
        return bool(self._current())

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        principal: str | None = None,
        expires_at: float | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is kept nowhere.

        `name`: 1 to 64 letters, digits, dots, dashes or underscores, and of no other key.
        `scopes`: at least one of `SCOPES`. `principal`: the owner of the runs it starts, 1 to
        128 visible characters; `key:<name>` if None. `expires_at`: seconds since 1970. Raises
        SettingsInvalid for what is otherwise, and for a file that cannot be read or written.
        """
        now = self._now()
        chosen = frozenset(scopes)
        principal = f"key:{name}" if principal is None else principal
        _check(name, chosen, principal, expires_at, now)
        with self._file.locked():
            keys = self._load()
            # Nor an id: `revoke` takes both.
            taken = {*keys, *(key.name for key in keys.values())}
            if name in taken:
                raise SettingsInvalid(
                    f"There is a key {name!r} already, in {self.path}.",
                    fix=f"Choose another name, or revoke that one: tailrace keys rm {name}",
                )
            id = _random(5)
            while id in taken:
                id = _random(5)
            secret = f"tr_{id}_{_random(32)}"
            key = Key(
                id=id,
                name=name,
                scopes=chosen,
                principal=principal,
                sha256=_digest(secret),
                # To the millisecond, as the file has them.
                created_at=instant(stamp(now)),
                expires_at=None if expires_at is None else instant(stamp(expires_at)),
            )
            self._file.write((*keys.values(), key))
            self._load()
        return key, secret

    def revoke(self, id_or_name: str) -> Key:
        """Forget a key; what it was. Raises SettingsInvalid if there is none, and for a file
        that cannot be read or written.
        """
        with self._file.locked():
            keys = self._load()
            for key in keys.values():
                if id_or_name in (key.id, key.name):
                    self._file.write(other for other in keys.values() if other is not key)
                    self._load()
                    return key
        raise SettingsInvalid(
            f"There is no key {id_or_name!r} in {self.path}.",
            fix="See which there are: tailrace keys ls",
        )

    def _current(self) -> Mapping[str, Key]:
        content = self._content
        now = self._clock()
        if content is not None and now - self._looked < _LOOK_SECONDS:
            return content.keys
        if content is None or content.mark != self._file.mark():
            return self._load()
        self._looked = now
        return content.keys

    def _load(self) -> Mapping[str, Key]:
        # Before it is read: what it says may be that old. And while it is refused, nothing is
        # noted, so every call tries again and is refused as well.
        looked = self._clock()
        content = self._file.read()
        if content.mark is None and self._content is not None and self._content.mark is not None:
            raise SettingsInvalid(
                f"The key file {self.path} is gone.",
                fix="Put it back. To go on without keys, start the server again.",
            )
        self._content, self._looked = content, looked
        return content.keys


def _random(size: int) -> str:
    return base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()


def _digest(secret: str) -> str:
    # Of all of it, so that `printf %s "$KEY" | sha256sum` tells whose a leaked one is.
    return hashlib.sha256(secret.encode()).hexdigest()


def _check(
    name: str, scopes: frozenset[str], principal: str, expires_at: float | None, now: float
) -> None:
    """Raises SettingsInvalid for what a key cannot be created with."""
    if not is_name(name):
        raise SettingsInvalid(
            f"{name!r} cannot be a key's name.",
            fix="Use 1 to 64 letters, digits, dots, dashes or underscores.",
        )
    stray = next((scope for scope in sorted(scopes) if scope not in SCOPES), None)
    if stray is not None or not scopes:
        said = "A key needs at least one scope." if stray is None else f"{stray!r} is not a scope."
        raise SettingsInvalid(said, fix=f"The scopes are {', '.join(SCOPES)}.")
    if not is_principal(principal):
        raise SettingsInvalid(
            f"{principal!r} cannot be a principal.",
            fix=f"Use 1 to {MAX_PRINCIPAL} visible characters.",
        )
    # Put so that NaN does not pass. The file has milliseconds.
    if expires_at is not None and not now < expires_at < END_OF_TIME - 1:
        raise SettingsInvalid(
            "A key must expire in the future, and before the year 10000.",
            fix="Give a time to come, or none for a key that stays good.",
        )


__all__ = ["ENV", "SCOPES", "Key", "Keys", "default_keys"]
