"""Tokens of an external issuer (RFC 7519), as another way to say who asks.

A token is checked by what the settings say and never by what it says of itself: the algorithms,
the issuer and the audience are ours to name, and of its header only `alg` and `kid` are read,
to find a key among those that are known.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from tailrace.errors import SettingsInvalid
from tailrace.protocol.access import SCOPES, Access
from tailrace.server.keyfile import is_principal

if TYPE_CHECKING:
    from jwt import PyJWK

logger = logging.getLogger("tailrace.server")

MAX_TOKEN: Final = 8 * 1024
"""Bound of a token, in characters."""

PREFIX: Final = "jwt:"
"""What these principals begin with, so that none of them is that of a key, or `local`."""

_REMEMBERED_SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 1024
_MAX_LEEWAY: Final = 300.0
_MAX_SECRET: Final = 64 * 1024

_PART: Final = r"[A-Za-z0-9_-]"
_TOKEN: Final = re.compile(rf"{_PART}+\.{_PART}+\.{_PART}*")

_LINE_END: Final = re.compile(rb"\r?\n\Z")

# Two kinds, never mixed: where both are allowed, the public key of the one is a secret that
# everybody knows for the other. By each, the bytes that its secret needs (RFC 7518 §3.2).
_PUBLISHED: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_SHARED: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}

_EXAMPLE: Final = (
    'Write something like issuer = "https://login.example.com/", audience = "tailrace", '
    'jwks = "https://login.example.com/.well-known/jwks.json".'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """Whose tokens are believed, and how they are read. Raises SettingsInvalid.

    `issuer`, `audience`: what `iss` must be, and what must be among `aud`. Either `jwks`, where
    the issuer's public keys are, an https URL (http on this machine) or a file; or `secret_file`,
    a file of at least 32 bytes that only this user may open, with a secret shared with it; a
    newline at its end does not count. `algorithms`: those of the one kind or the other; none
    stands for all that are safe with `jwks`, and for HS256 with a secret. `scopes_claim`: the
    claim with the scopes, a list, or a text with spaces between. `principal_claim`: the claim
    that names who asks. `leeway`: seconds that the clocks may differ by.
    """

    issuer: str
    audience: str
    jwks: str | Path | None = None
    secret_file: Path | None = None
    algorithms: tuple[str, ...] = ()
    scopes_claim: str = "scope"
    principal_claim: str = "sub"
    leeway: float = 30.0

    def __post_init__(self) -> None:
        if (self.jwks is None) == (self.secret_file is None):
            raise _wrong("jwt needs either jwks or secret_file")
        if isinstance(self.jwks, str) and not _is_safe(self.jwks):
            raise _wrong("jwt.jwks must be a file or an https URL, without a password in it")
        known = _PUBLISHED if self.secret_file is None else tuple(_SHARED)
        stray = next((name for name in self.algorithms if name not in known), None)
        if stray is not None:
            other = "jwks" if self.secret_file is None else "a secret"
            raise _wrong(
                f"jwt.algorithms must not have {stray!r} with {other}",
                fix=f"Leave it out, or use some of {', '.join(known)}.",
            )

    @property
    def allowed(self) -> tuple[str, ...]:
        """The algorithms that a token may be signed with."""
        return self.algorithms or (_PUBLISHED if self.secret_file is None else ("HS256",))


def read(table: Mapping[str, Any], folder: Path) -> IssuerSettings:
    """The table [jwt] of a settings file; `folder` is what paths in it are relative to.

    Raises SettingsInvalid, naming the place.
    """
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name not in _READ:
            raise _wrong(f"jwt.{name} is not one of {', '.join(_READ)}")
        try:
            given[name] = _READ[name](value, folder)
        except ValueError as error:
            raise _wrong(f"jwt.{name} must be {error}") from None
    missing = next((name for name in ("issuer", "audience") if name not in given), None)
    if missing is not None:
        raise _wrong(f"jwt needs {missing}")
    return IssuerSettings(**given)


def _wrong(what: str, fix: str = _EXAMPLE) -> SettingsInvalid:
    return SettingsInvalid(f"{what}.", fix=fix)


def _text(value: Any, folder: Path) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("a text")
    return value


def _file(value: Any, folder: Path) -> Path:
    return folder / Path(_text(value, folder)).expanduser()


def _place(value: Any, folder: Path) -> str | Path:
    return value if "://" in _text(value, folder) else _file(value, folder)


def _names(value: Any, folder: Path) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise ValueError("a name, or a list of names")
    return tuple(_text(name, folder) for name in listed)


def _leeway(value: Any, folder: Path) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _MAX_LEEWAY:
        raise ValueError(f"a number of seconds, at most {_MAX_LEEWAY:g}")
    return float(value)


_READ: Final[Mapping[str, Callable[[Any, Path], Any]]] = {
    "issuer": _text,
    "audience": _text,
    "jwks": _place,
    "secret_file": _file,
    "algorithms": _names,
    "scopes_claim": _text,
    "principal_claim": _text,
    "leeway": _leeway,
}


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = parts.port
    except ValueError:
        return False
    if not host or port == 0 or "@" in parts.netloc or parts.fragment or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ------------------------------------------------------------------ tokens


def looks_like(token: str) -> bool:
    """Whether it could be a token: three parts in base64url, of which a signature may be empty.
    A key has no dots.
    """
    return _TOKEN.fullmatch(token) is not None


class _Refused(Exception):
    """Why a token is not believed; nothing of it that could be used, or forge a line of a log."""


class _Remembered(NamedTuple):
    access: Access
    until: float


class Issuer:
    """The issuer that `settings` describe. Of one event loop.

    Raises SettingsInvalid for a file that cannot be used, and if PyJWT is not installed. An
    address is first asked when a token comes.
    """

    def __init__(
        self, settings: IssuerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            import cryptography  # noqa: F401, PLC0415 - without it, PyJWT knows no public keys
            import jwt  # noqa: PLC0415 - an extra: most servers do without

            from tailrace.server import jwks  # noqa: PLC0415 - as jwt, which it needs
        except ImportError:
            raise _wrong(
                "jwt needs PyJWT and cryptography, which are not installed",
                fix="pip install 'tailrace[jwt]'",
            ) from None
        self._settings = settings
        self._jwt = jwt
        self._clock = clock
        self._remembered: dict[bytes, _Remembered] = {}
        self._secret: bytes | None = None
        try:
            if settings.secret_file is not None:
                found = jwks.read_file(settings.secret_file, closed_to=0o077, most=_MAX_SECRET)
                self._secret = self._checked(found)
            elif settings.jwks is not None:
                self._jwks = jwks.Jwks(settings.jwks, settings.allowed, clock=clock)
                self._jwks.load()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            name = "jwks" if settings.secret_file is None else "secret_file"
            raise _wrong(
                f"jwt.{name}, {settings.secret_file or settings.jwks}, cannot be used: {why}",
                fix=_MEND[name],
            ) from None

    def _checked(self, secret: bytes) -> bytes:
        secret = _LINE_END.sub(b"", secret)
        least = max(_SHARED[name] for name in self._settings.allowed)
        if len(secret) < least:
            raise ValueError(f"it has {len(secret)} bytes and needs {least}")
        try:
            # It refuses what is somebody's public key.
            self._jwt.get_algorithm_by_name("HS256").prepare_key(secret)
        except self._jwt.PyJWTError:
            raise ValueError("it is a key or a certificate, and no secret") from None
        return secret

    async def find(self, token: str) -> Access | None:
        """What a token is good for; None if it is not valid. Why not is in the log, at INFO."""
        try:
            if len(token) > MAX_TOKEN or not looks_like(token):
                raise _Refused("it is none, or too long")
            digest = hashlib.sha256(token.encode("ascii")).digest()
            known = self._remembered.get(digest)
            if known is not None and self._clock() < known.until:
                return known.access
            claims = await self._claims(token)
            access = self._access(claims)
        except _Refused as why:
            logger.info("A token is refused: %s.", why)
            return None
        self._remember(digest, access, claims["exp"])
        return access

    async def _claims(self, token: str) -> dict[str, Any]:
        """What it says, once that is proven. Raises _Refused."""
        settings = self._settings
        algorithm, key = await self._key(token)
        try:
            return self._jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=settings.leeway,
                options={
                    "require": ["exp", "iss", "aud", settings.principal_claim],
                    "enforce_minimum_key_length": True,
                },
            )
        except Exception as error:  # noqa: BLE001 - a parser that stumbles proves nothing
            # Not its own words, which quote what a stranger wrote.
            kind = type(error).__name__
            raise _Refused(_REASONS.get(kind, f"it is malformed ({kind})")) from None

    async def _key(self, token: str) -> tuple[str, PyJWK | bytes]:
        """Its algorithm, which is an allowed one, and the key to check it with."""
        part = token.partition(".")[0]
        try:
            header = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            algorithm, id = header["alg"], header.get("kid")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _Refused("its header cannot be read") from None
        if algorithm not in self._settings.allowed:
            raise _Refused(f"its algorithm is none of {', '.join(self._settings.allowed)}")
        # RFC 7515 §4.1.11: what is critical must be understood, and we understand no extension.
        if "crit" in header or not isinstance(id, str | None):
            raise _Refused("its header has what is not understood")
        if self._secret is not None:
            return algorithm, self._secret
        key = await self._jwks.find(id, algorithm)
        if key is None:
            raise _Refused("its key is none of the issuer's, or they cannot be read now")
        return algorithm, key

    def _access(self, claims: Mapping[str, Any]) -> Access:
        who = claims[self._settings.principal_claim]
        if not is_principal(who) or not is_principal(PREFIX + who):
            raise _Refused(f"its {self._settings.principal_claim} cannot name who asks")
        said = claims.get(self._settings.scopes_claim)
        names = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        # An issuer that serves others too may have to say whose scope it is.
        meant = [name.removeprefix("tailrace:") for name in names if isinstance(name, str)]
        return Access.of(PREFIX + who, [scope for scope in SCOPES if scope in meant])

    def _remember(self, digest: bytes, access: Access, ends_at: Any) -> None:
        # In whole numbers first: one can be too large for a float.
        left = min(int(ends_at) - int(time.time()), _REMEMBERED_SECONDS) + self._settings.leeway
        self._remembered.pop(digest, None)
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        until = self._clock() + max(0, min(left, _REMEMBERED_SECONDS))
        self._remembered[digest] = _Remembered(access, until)


_MEND: Final[Mapping[str, str]] = {
    "jwks": 'Give a file with a JWK set (RFC 7517), like {"keys": [...]}, and chmod 644 it.',
    "secret_file": "Make one: (umask 077; openssl rand -base64 64 | tr -d '\\n' > FILE)",
}

_REASONS: Final[Mapping[str, str]] = {
    "ExpiredSignatureError": "its time is over",
    "ImmatureSignatureError": "its time is yet to come",
    "InvalidAudienceError": "it is for another audience",
    "InvalidIssuerError": "it is of another issuer",
    "InvalidKeyError": "its key is too weak, or of another kind",
    "InvalidSignatureError": "its signature is not of this key",
    "MissingRequiredClaimError": "it lacks exp, iss, aud, or who it is for",
}

__all__ = ["MAX_TOKEN", "PREFIX", "Issuer", "IssuerSettings", "looks_like", "read"]
