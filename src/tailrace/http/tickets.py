"""Tickets for `EventSource`, which cannot send a key: in the address, so worth next to nothing.

An address ends up in logs and histories. So a ticket is for one run, for reading alone, for a
minute, and for one connection; a client that comes back fetches a new one (ASVS V4.4).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from itsdangerous import BadData, URLSafeSerializer
from starlette.datastructures import QueryParams
from starlette.types import Scope

from tailrace.engine import Engine
from tailrace.errors import Unauthorized
from tailrace.protocol.access import WATCH, Access

SECONDS: Final = 60.0
"""How long a ticket may be used."""

_PATH: Final = re.compile(r"/runs/([^/]+)/events\Z")
_FIX: Final = "POST /tickets gives a new one, for one connection within a minute."


class Tickets:
    """Those of one process: what it has signed, and what was used of that."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        # New with each process: who comes back after a restart needs a new ticket anyway.
        self._signed = URLSafeSerializer(secrets.token_bytes(32), salt="tailrace.ticket")
        self._clock = clock
        self._used: dict[str, float] = {}

    def make(self, run: str, principal: str) -> str:
        """A ticket for a run, which belongs to `principal`."""
        told = [run, principal, self._clock() + SECONDS, secrets.token_urlsafe(9)]
        ticket = self._signed.dumps(told)
        return ticket if isinstance(ticket, str) else ticket.decode("ascii")

    def use(self, ticket: str, run: str) -> Access:
        """What it is good for. Raises Unauthorized for one that is not ours, of another run, too
        old, or used before.
        """
        now = self._clock()
        try:
            told = self._signed.loads(ticket)
            # Base64 can be written in several ways, and a ticket in one.
            is_ours = self._signed.dumps(told) == ticket
        except (BadData, UnicodeEncodeError):
            is_ours = False
        if not is_ours:
            raise Unauthorized("This is no ticket of this server.", fix=_FIX)
        known, principal, ends_at, number = told
        if known != run:
            raise Unauthorized("This ticket is for another run.", fix=_FIX)
        if now >= ends_at:
            raise Unauthorized("This ticket is too old.", fix=_FIX)
        if number in self._used:
            raise Unauthorized("This ticket was used before.", fix=_FIX)
        self._used[number] = ends_at
        # In the order of their use, so one that is over may wait for one before it: for less than
        # a minute.
        while self._used[first := next(iter(self._used))] <= now:
            del self._used[first]
        return Access.of(principal, [WATCH])


_known: WeakKeyDictionary[Engine, Tickets] = WeakKeyDictionary()


def tickets(engine: Engine) -> Tickets:
    """Those of an engine."""
    return _known.setdefault(engine, Tickets())


def redeemed(engine: Engine, scope: Scope, path: str) -> Access | None:
    """What the ticket in a request is good for; None without one. `path`: below the mount. Raises
    Unauthorized.
    """
    if b"ticket=" not in scope["query_string"]:
        return None
    ticket = QueryParams(scope["query_string"]).get("ticket")
    if not ticket:
        return None
    found = _PATH.search(path)
    if scope["method"] != "GET" or found is None:
        raise Unauthorized("A ticket is for GET /runs/{id}/events alone.", fix="Send a key.")
    return tickets(engine).use(ticket, found[1])
