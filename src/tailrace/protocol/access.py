"""Who asks, and what they may: principals and scopes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

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

    @property
    def sees(self) -> str | None:
        """Whose runs it sees; None for everybody's."""
        return None if ADMIN in self.scopes else self.principal


WHO: Final = "tailrace.access"
"""Where the scope of a request has the Access of whoever asks, once that is known."""

OPEN: Final = Access.of(LOCAL)
"""What everybody has where nobody is told apart."""
