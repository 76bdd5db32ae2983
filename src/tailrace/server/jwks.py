"""The public keys of an external issuer: read from its address or a file, and kept for a while.

A stranger chooses which key a token names, so it is not for the stranger to say how often the
issuer is asked: one request at a time, and a pause between two.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import orjson
from jwt import PyJWK

logger = logging.getLogger("tailrace.server")

FRESH_SECONDS: Final = 300.0
"""How long keys are used before the issuer is asked again."""

PAUSE_SECONDS: Final = 30.0
"""At least so long between two requests, whatever tokens name."""

# While no key is known every token is refused, so a hiccup at the start should be short.
_FIRST_PAUSE_SECONDS: Final = 5.0

KEPT_SECONDS: Final = 86_400.0
"""How long keys are used while the issuer cannot be asked. Not for ever: who can cut it off
could keep a stolen key alive, which the issuer has long withdrawn.
"""

TIMEOUT_SECONDS: Final = 5.0
"""How long an answer may take, all of it."""

_WARN_SECONDS: Final = 60.0

_MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 100

# What each kind of key can sign with. Never HS256 and the like: a public key is no secret.
_FITTING: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

_NO_KEY: Final = "there is no key that can be used"

_Keys = Mapping[tuple[str | None, str], PyJWK]

# Not on Windows. A FIFO in the file's place must not hold up whoever opens it.
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)


class Jwks:
    """The keys at `place`, a URL or a file, as far as they are for `algorithms`. Of one loop."""

    def __init__(
        self,
        place: str | Path,
        algorithms: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._algorithms = tuple(algorithms)
        self._clock = clock
        # Replaced as a whole. With the id None: the only key there is for an algorithm.
        self._keys: _Keys = {}
        self._read_at = self._tried_at = self._warned_at = -math.inf
        self._is_failing = False
        self._reading: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read them from the file now. Raises OSError, and ValueError for what is wrong with it."""
        if isinstance(self._place, Path):
            keys = _parsed(_content(self._place), self._algorithms)
            if not keys:
                raise ValueError(_NO_KEY)
            self._take(keys)

    async def find(self, id: str | None, algorithm: str) -> PyJWK | None:
        """The key with this id, for this algorithm; None if the issuer has none, or cannot be
        asked. `id` None: the only one for the algorithm.
        """
        key = self._keys.get((id, algorithm))
        if key is None or self._clock() - self._read_at >= FRESH_SECONDS:
            reading = self._refresh()
            # While the issuer is away nobody waits for it whose key is known.
            if reading is not None and (key is None or not self._is_failing):
                # Whoever gives up waiting does not end it for the others.
                await asyncio.shield(reading)
                key = self._keys.get((id, algorithm))
        return key

    def _refresh(self) -> asyncio.Task[None] | None:
        """The reading that is under way, or begins; None in the pause between two."""
        if self._reading is None:
            now = self._clock()
            pause = PAUSE_SECONDS if self._keys else _FIRST_PAUSE_SECONDS
            if now - self._tried_at < pause:
                return None
            self._tried_at = now
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            if isinstance(self._place, Path):
                content = await asyncio.to_thread(_content, self._place)
            else:
                content = await _fetched(self._place)
            # In a thread: to check a hundred keys takes its time.
            self._take(await asyncio.to_thread(_parsed, content, self._algorithms))
            if not self._keys:
                # So it says, and it may have withdrawn the last one.
                self._warn(_NO_KEY)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log says it once a minute
            self._is_failing = True
            if self._clock() - self._read_at >= KEPT_SECONDS:
                self._keys = {}
            self._warn(str(error) or type(error).__name__)
        finally:
            self._reading = None

    def _take(self, keys: _Keys) -> None:
        self._keys, self._read_at, self._is_failing = keys, self._clock(), False

    def _warn(self, why: str) -> None:
        now = self._clock()
        if now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            logger.warning(
                "The issuer's keys cannot be read from %s: %s. %s",
                _shown(self._place),
                why,
                "Those known go on being used." if self._keys else "Its tokens are refused.",
            )


def _shown(place: str | Path) -> str:
    """Where they are, without a query: it could hold what is not for a log."""
    return str(place) if isinstance(place, Path) else urlsplit(place)._replace(query="").geturl()


async def _fetched(url: str) -> bytes:
    """Raises OSError, HTTPError, and ValueError for an answer that cannot be the keys."""
    # What is reached without TLS is on this machine, and no proxy is between.
    client = await asyncio.to_thread(
        httpx2.AsyncClient, timeout=TIMEOUT_SECONDS, trust_env=url.startswith("https:")
    )
    # As it is: unpacked, a small answer could be a huge one.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    content = bytearray()
    try:
        async with (
            # The client's own bound is on each read, and a drop at a time could take for ever.
            asyncio.timeout(TIMEOUT_SECONDS),
            client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"it answers {answer.status_code}")
            async for piece in answer.aiter_raw():
                content += piece
                _check_size(len(content))
    except TimeoutError:
        raise TimeoutError(f"it takes longer than {TIMEOUT_SECONDS:g} s") from None
    return bytes(content)


def _content(path: Path) -> bytes:
    # They are public, but whoever can change them can let anybody in.
    return read_file(path, closed_to=0o022, most=_MAX_BYTES)


def read_file(path: Path, *, closed_to: int, most: int) -> bytes:
    """What is in a file. `closed_to`: the bits that its mode must not have; `most`: bytes.

    Raises OSError, and ValueError for one that is too open, too large, or no plain file.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a plain file")
        mode = stat.S_IMODE(status.st_mode)
        if sys.platform != "win32" and mode & closed_to:
            raise ValueError(f"it is open to other users, its mode is {mode:04o}")
        content = file.read(most + 1)
    _check_size(len(content), most)
    return content


def _check_size(size: int, most: int = _MAX_BYTES) -> None:
    if size > most:
        raise ValueError(f"it has more than {most} bytes")


def _parsed(content: bytes, algorithms: Sequence[str]) -> _Keys:
    """Raises ValueError for what is no set of keys; a key that is no use is passed over."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise ValueError(f"it is no set of keys, of at most {_MAX_KEYS}")
    keys: dict[tuple[str | None, str], PyJWK] = {}
    for algorithm in algorithms:
        fitting = [(jwk, key) for jwk in listed if (key := _key(jwk, algorithm)) is not None]
        for jwk, key in fitting:
            if isinstance(jwk.get("kid"), str):
                keys.setdefault((jwk["kid"], algorithm), key)
        if len(fitting) == 1:
            keys[None, algorithm] = fitting[0][1]
    return keys


def _key(jwk: Any, algorithm: str) -> PyJWK | None:
    """The key for this algorithm; None if it is for another, not for signatures, or broken."""
    try:
        fits = algorithm in _FITTING.get((jwk["kty"], jwk.get("crv")), ())
        is_meant = (
            jwk.get("use") in (None, "sig")
            and "verify" in jwk.get("key_ops", ["verify"])
            and jwk.get("alg", algorithm) == algorithm
        )
        # Who publishes the private half proves nothing by it.
        if not fits or not is_meant or "d" in jwk:
            return None
        # Bound to it: without, PyJWT takes each RSA key for one of RS256.
        return PyJWK(jwk, algorithm)
    except Exception:  # noqa: BLE001 - one key that some library stumbles over must not cost all
        return None


__all__ = ["FRESH_SECONDS", "KEPT_SECONDS", "PAUSE_SECONDS", "Jwks", "read_file"]
