"""How often each may ask, and how many streams may be open.

A request counts under the scope that its route needs. Whoever is known counts as a principal,
whatever the address; all others are told apart by nothing but that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from limits import RateLimitItem, parse_many
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.types import Scope

from tailrace.errors import SettingsInvalid, TooManyRequests
from tailrace.http.windows import Windows
from tailrace.protocol.access import CANCEL, EMIT, RUN, SCOPES, WATCH, caller
from tailrace.seats import Seats

NONE: Final = "none"
"""The rate that is no bound."""

UNKNOWN: Final = "unknown"
"""Beside the scopes: under it count the requests of whoever has no good key where one is needed."""

CAPS: Final = ("streams", "streams_each", "watchers")

_COUNTED: Final = "tailrace.counted"

# RFC 9651 §3.3.1: what an integer of a header field may be, with room to spare.
_MOST: Final = 10**9

Fields = Sequence[tuple[bytes, bytes]]


class _Rate(NamedTuple):
    """A rate of one scope."""

    said: str
    item: RateLimitItem
    policy: str

    @classmethod
    def table(cls, rates: Mapping[str, str]) -> dict[str, _Rate]:
        """By scope, without those that are no bound. Raises SettingsInvalid."""
        table: dict[str, _Rate] = {}
        for scope, said in rates.items():
            if scope not in (*SCOPES, UNKNOWN):
                raise SettingsInvalid(
                    f"There is no scope {str(scope)[:40]!r} that could have a rate.",
                    fix=f"The scopes are {', '.join(SCOPES)}.",
                )
            item = _parsed(scope, said)
            if item is not None:
                policy = f'"{scope}";q={item.amount};w={item.get_expiry()}'
                table[scope] = cls(said.strip(), item, policy)
        return table


def _parsed(scope: str, said: str) -> RateLimitItem | None:
    if isinstance(said, str) and said.strip().lower() == NONE:
        return None
    try:
        items = parse_many(said)
    except ValueError:
        items = []
    # One: with several, each of them would have to be asked before any of them counts.
    if len(items) != 1 or not (0 < items[0].amount <= _MOST and items[0].get_expiry() <= _MOST):
        raise SettingsInvalid(
            f"The rate of {scope} is {str(said)[:40]!r}, which is none.",
            fix="Give something like 10/minute, or none for no bound.",
        )
    return items[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one engine; by default there are none.

    `rates`: by scope, how many requests are taken from one address (of IPv6: one /64) that does
    not say who asks: "10/minute", "100 per 5 minutes", or "none". `keyed`: the same for each
    principal that is known. The windows slide: in no minute there are more than 10.

    `streams`: how many streams may be open in this process. `streams_each`: of one principal, or
    address. `watchers`: of one run. None: any number.

    Raises SettingsInvalid for what cannot be read.
    """

    rates: Mapping[str, str] = field(default_factory=dict)
    keyed: Mapping[str, str] = field(default_factory=dict)
    streams: int | None = None
    streams_each: int | None = None
    watchers: int | None = None

    def __post_init__(self) -> None:
        """Raises SettingsInvalid."""
        _Rate.table(self.rates)
        _Rate.table(self.keyed)
        for name in CAPS:
            most = getattr(self, name)
            if most is not None and (type(most) is not int or most < 1):
                raise SettingsInvalid(
                    f"{name} is {str(most)[:40]!r}, and must be a whole number, 1 or more.",
                    fix="Give something like 1000, or leave it out.",
                )

    def but(
        self,
        *,
        rates: Mapping[str, str] | None = None,
        keyed: Mapping[str, str] | None = None,
        caps: Mapping[str, int | None] | None = None,
    ) -> Limits:
        """The same, but for what is given; `caps` has some of `CAPS`. Raises SettingsInvalid."""
        changed: dict[str, Any] = {**(caps or {})}
        stray = next((name for name in changed if name not in CAPS), None)
        if stray is not None:
            raise SettingsInvalid(
                f"{stray[:40]!r} is nothing that is counted here.",
                fix=f"Use some of {', '.join(CAPS)}.",
            )
        changed["rates"] = {**self.rates, **(rates or {})}
        changed["keyed"] = {**self.keyed, **(keyed or {})}
        return replace(self, **changed)

    def seats(self) -> Seats:
        """For the streams of an engine."""
        return Seats(self.streams, self.streams_each, self.watchers)


SERVED: Final = Limits(
    # To start a run is what costs. To watch is to connect and to read: a crowd behind one
    # address may do it, and all of a crowd that comes back after a restart.
    rates={
        RUN: "10/minute",
        CANCEL: "600/minute",
        EMIT: "6000/minute",
        WATCH: "6000/minute",
        UNKNOWN: "600/minute",
    },
    keyed={RUN: "600/minute", CANCEL: "6000/minute", EMIT: "60000/minute", WATCH: "60000/minute"},
    streams=20_000,
    streams_each=2_000,
    watchers=10_000,
)
"""Those of `tailrace serve`."""


class Rates:
    """Counts how often each asks; the counters are one engine's. `storage`: where they are kept;
    None: in this process.
    """

    def __init__(self, limits: Limits, storage: Storage | None = None) -> None:
        self._rates = _Rate.table(limits.rates)
        self._keyed = _Rate.table(limits.keyed)
        self._limiter = MovingWindowRateLimiter(Windows() if storage is None else storage)

    async def admit(self, scope: Scope, need: str) -> Fields:
        """Count a request that needs the scope `need`, once; the header fields that tell of the
        rate in its answer. Raises TooManyRequests; such a request does not count.
        """
        counted: Fields | None = scope.get(_COUNTED)
        if counted is not None:
            return counted
        name, is_known = caller(scope)
        rate = (self._keyed if is_known else self._rates).get(need)
        if rate is None:
            return ()
        fields: Fields = ()
        if not await self._limiter.hit(rate.item, need, name):
            raise await self._refusal(rate, need, name, is_known=is_known)
        # What heads a stream says of the run it tells of, and nothing else.
        if need != WATCH:
            told, _ = await self._told(rate, need, name)
            fields = tuple((name.encode(), value.encode()) for name, value in told.items())
        scope[_COUNTED] = fields
        return fields

    async def _refusal(
        self, rate: _Rate, need: str, name: str, *, is_known: bool
    ) -> TooManyRequests:
        told, seconds = await self._told(rate, need, name, is_refused=True)
        whom = "principal" if is_known else "address"
        error = TooManyRequests(
            f"{rate.said} is how many requests with the scope {need!r} are taken from one {whom}.",
            fix=f"Try again in {seconds} s.",
            retry_after=seconds,
        )
        error.limits = told
        return error

    async def _told(
        self, rate: _Rate, need: str, name: str, *, is_refused: bool = False
    ) -> tuple[dict[str, str], int]:
        """The header fields (draft-ietf-httpapi-ratelimit-headers), and in how many seconds there
        is room for one more than now.
        """
        reset, left = await self._limiter.get_window_stats(rate.item, need, name)
        left = 0 if is_refused else max(0, left)
        seconds = max(1, math.ceil(reset - time.time()))
        told = {
            "ratelimit-policy": rate.policy,
            "ratelimit": f'"{need}";r={left};t={seconds}',
        }
        return told, seconds


__all__ = ["CAPS", "NONE", "SERVED", "UNKNOWN", "Fields", "Limits", "Rates"]
