"""Who is let in: whoever has a key and comes by a name that is ours, and who started the server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final

from fastapi import Request

from tailrace.errors import SettingsInvalid, Unauthorized
from tailrace.http.origins import LOOPBACK_HOSTS, Origins
from tailrace.protocol.access import LOCAL, OPEN, SCOPES, Access
from tailrace.server.issuer import Issuer, looks_like
from tailrace.server.keys import Keys
from tailrace.server.launch import Launch
from tailrace.server.listener import bracketed
from tailrace.server.settings import Settings

logger = logging.getLogger("tailrace.server")

LAUNCHER: Final = Access.of(LOCAL, SCOPES)
"""Who started the server: the same as whoever runs scripts in this user's terminals."""

_MAKE: Final = "`tailrace keys create --name NAME --scopes run,watch` makes one."
_WANTED: Final = (
    "Send a key as `Authorization: Bearer KEY`, or `X-API-Key: KEY`; "
    f"{_MAKE} Whoever started the server was told how to get in; `tailrace login` tells it again."
)


class Entrance:
    """The entrance of one server. Raises SettingsInvalid for keys or names that cannot be used.

    Closed, unless `no_auth` says otherwise. On loopback there is also a way in for the user who
    started it: `launch`, once `serve` has put it here.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = Keys(settings.keys)
        if settings.keys is not None and not self._keys.path.exists():
            raise SettingsInvalid(
                f"There is no file with keys at {settings.keys}.",
                fix=f"tailrace keys create --file {settings.keys} --name NAME --scopes run,watch",
            )
        if settings.no_auth and settings.trusted_proxy:
            raise SettingsInvalid(
                "With --no-auth whoever comes by the proxy could start and read everything.",
                fix="Leave one of the two out; keys for those behind the proxy are made by "
                "`tailrace keys create`.",
            )
        self._issuer = None if settings.jwt is None else Issuer(settings.jwt)
        self.is_open = settings.no_auth
        self.launch: Launch | None = None
        hosts = [*LOOPBACK_HOSTS, bracketed(settings.host), *settings.allow_host]
        # An address that stands for all of them is none by which one is called.
        called = [host for host in hosts if host not in ("0.0.0.0", "[::]")]  # noqa: S104
        self.origins = Origins(called, settings.allow_origin)

    @property
    def has_keys(self) -> bool:
        """Whether others than the starter can prove who they are, and nobody else gets in."""
        return not self.is_open and (self._issuer is not None or bool(self._keys))

    def identify(self, request: Request) -> Access | Awaitable[Access]:
        """Who asks. Raises Unauthorized."""
        if self.is_open:
            return OPEN
        secret = _secret(request)
        launch = self.launch
        if secret is None:
            if launch is not None and launch.is_session(request.cookies):
                return LAUNCHER
            raise Unauthorized("This server wants to know who asks.", fix=_WANTED)
        if launch is not None and launch.is_key(secret):
            return LAUNCHER
        if self._issuer is not None and looks_like(secret):
            return _sent_by(self._issuer, secret)
        try:
            key = self._keys.find(secret)
        except SettingsInvalid as error:
            # Strangers need not know where the file is.
            logger.error("No key can be checked: %s %s", error, error.fix)  # noqa: TRY400
            raise Unauthorized(
                "No key can be checked now.", fix="The server's log says why."
            ) from None
        if key is None:
            # Not which of the three, nor the key: it may be somebody's of another server.
            raise Unauthorized("This key is unknown, revoked or expired.", fix=_WANTED)
        return Access.of(key.principal, key.scopes)


async def _sent_by(issuer: Issuer, token: str) -> Access:
    """Whom a token is for. Raises Unauthorized."""
    access = await issuer.find(token)
    if access is None:
        raise Unauthorized(
            "This token is not valid here, or no more.",
            fix="Get a new one from its issuer; the server's log says, at INFO, what is wrong.",
        )
    return access


def _secret(request: Request) -> str | None:
    """The key that is sent. Raises Unauthorized for credentials of another kind."""
    sent = request.headers.get("authorization")
    if sent is None:
        return request.headers.get("x-api-key")
    scheme, _, secret = sent.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("Only `Authorization: Bearer KEY` is understood here.", fix=_WANTED)
    return secret.strip()
