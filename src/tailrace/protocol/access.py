"""Who asks, and what they may: principals and scopes. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tailrace.errors import ScopeMissing

RUN: Final = "run"
WATCH: Final = "watch"
CANCEL: Final = "cancel"
EMIT: Final = "emit"
ADMIN: Final = "admin"

SCOPES: Final = (RUN, WATCH, CANCEL, EMIT, ADMIN)
"""To start runs; to see them; to cancel and forget them; to append events from elsewhere; to see
and do all of it with everybody's.
"""

LOCAL: Final = "local"
"""The principal of whoever is not told apart: this process, or an open server's callers."""


class Access(NamedTuple):
    """A principal, the owner of the runs it starts, and its scopes."""

    principal: str
    scopes: frozenset[str]

    @classmethod
    def of(cls, principal: str, scopes: Iterable[str] = SCOPES[:-1]) -> Access:
        """All but `admin`, unless said otherwise."""
        return cls(principal, frozenset(scopes))

    def may(self, scope: str) -> bool:
        """Whether it has the scope."""
        return scope in self.scopes or ADMIN in self.scopes

    def check(self, scope: str) -> None:
        """Raises ScopeMissing, if it has not the scope."""
        if not self.may(scope):
            raise ScopeMissing(
                f"This key has not the scope {scope!r}.",
                fix=f"Use one that has: tailrace keys create --name NAME --scopes {scope}",
            )

    @property
    def sees(self) -> str | None:
        """Whose runs it sees; None for everybody's."""
        return None if ADMIN in self.scopes else self.principal


WHO: Final = "tailrace.access"
"""Where the scope of a request has the Access of whoever asks, once that is known."""

OPEN: Final = Access.of(LOCAL)
"""What everybody has where nobody is told apart."""


class Caller(NamedTuple):
    """Whose bucket a request goes to, and whether it is known who that is."""

    name: str
    is_known: bool


def caller(scope: Mapping[str, Any]) -> Caller:
    """Who is counted for a request."""
    access = scope.get(WHO)
    if isinstance(access, Access) and access != OPEN:
        return Caller(f"principal:{access.principal}", is_known=True)
    client = scope.get("client")
    # Without an address, all that come by a socket of Unix.
    return Caller(_address(str(client[0]) if client else ""), is_known=False)


@lru_cache(maxsize=1024)
def _address(host: str) -> str:
    if ":" in host:
        try:
            number = ipaddress.IPv6Address(host)
        except ValueError:
            return f"address:{host}"
        if number.ipv4_mapped is not None:
            return f"address:{number.ipv4_mapped}"
        # Whoever has one has 2**64 of them.
        return f"address:{ipaddress.IPv6Address(int(number) >> 64 << 64)}/64"
    return f"address:{host}"
