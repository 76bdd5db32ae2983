"""Who is let in: whoever has a key, once there are any, and comes by a name that is ours."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import Request

from tailrace.errors import SettingsInvalid, Unauthorized
from tailrace.http.origins import LOOPBACK_HOSTS, Origins
from tailrace.protocol.access import OPEN, Access
from tailrace.server.keys import Keys
from tailrace.server.listener import bracketed
from tailrace.server.settings import Settings

logger = logging.getLogger("tailrace.server")

_MAKE: Final = "`tailrace keys create --name NAME --scopes run,watch` makes one."


class Entrance:
    """The entrance of one server. Raises SettingsInvalid for keys or names that cannot be used.

    Until there is a key, everybody of this machine is the same. The first one closes the server
    for all who have none, also while it runs; and to revoke the last one does not open it again.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = Keys(settings.keys)
        if settings.keys is not None and not self._keys.path.exists():
            # A slip of the pen must not open the server.
            raise SettingsInvalid(
                f"There is no file with keys at {settings.keys}.",
                fix=f"tailrace keys create --file {settings.keys} --name NAME --scopes run,watch",
            )
        self._is_open = settings.no_auth
        self._is_closed = False
        hosts = [*LOOPBACK_HOSTS, bracketed(settings.host), *settings.allow_host]
        # An address that stands for all of them is none by which one is called.
        called = [host for host in hosts if host not in ("0.0.0.0", "[::]")]  # noqa: S104
        self.origins = Origins(called, settings.allow_origin)

    @property
    def is_guarded(self) -> bool:
        """Whether a key is asked for."""
        if not self._is_closed:
            self._is_closed = bool(self._keys)
        return self._is_closed and not self._is_open

    def identify(self, request: Request) -> Access:
        """Who asks. Raises Unauthorized."""
        if not self.is_guarded:
            return OPEN
        secret = _secret(request)
        if secret is None:
            raise Unauthorized(
                "This server wants a key.",
                fix=f"Send one as `Authorization: Bearer KEY`, or `X-API-Key: KEY`. {_MAKE}",
            )
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
            raise Unauthorized("This key is unknown, revoked or expired.", fix=_MAKE)
        return Access.of(key.principal, key.scopes)


def _secret(request: Request) -> str | None:
    """The key that is sent. Raises Unauthorized for credentials of another kind."""
    sent = request.headers.get("authorization")
    if sent is None:
        return request.headers.get("x-api-key")
    scheme, _, secret = sent.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("Only `Authorization: Bearer KEY` is understood here.", fix=_MAKE)
    return secret.strip()
