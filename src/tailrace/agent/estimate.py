"""How long a turn may take: as long as the turns before it, of the same route, did.

No times are made up: for a route that has no finished turns there is no estimate.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from tailrace.agent.router import Decision, Router
from tailrace.engine import Engine
from tailrace.protocol.agent import CHAT
from tailrace.protocol.events import loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord

NO_HISTORY: Final = "no history yet"
"""What is said of a route that has no finished turns."""

KEPT: Final = 200
"""How many turns of a route count: the latest."""

_FIRST_LOOK: Final = 2_000
_PAGE: Final = 50
_MAX_UNFINISHED: Final = 500
_MAX_PRINCIPALS: Final = 1_000
_FRESH_SECONDS: Final = 1.0


class Estimates:
    """What the finished turns in the log tell of the next ones.

    They are read when somebody asks: all of them once, and after that those that are new, every
    `fresh` seconds at most. One belongs to its engine's event loop.
    """

    def __init__(self, engine: Engine, *, fresh: float = _FRESH_SECONDS) -> None:
        self._engine = engine
        self._fresh = fresh
        self._looked = -math.inf
        self._looking = asyncio.Lock()
        self._everybody: dict[str, deque[float]] = {}
        self._own: OrderedDict[str, dict[str, deque[float]]] = OrderedDict()
        self._newest: int | None = None
        # Turns end in another order than they begin: the slow ones must not be passed over.
        self._unfinished: dict[str, None] = {}

    async def of(self, route: str, *, sees: str | None) -> dict[str, Any] | None:
        """{p50_seconds, p90_seconds, runs} of a route's latest finished turns, at most KEPT; None
        if there are none. The time in a queue is not part of it.

        `sees`: whose turns count (`Access.sees`; None: everybody's). How long the turns of others
        took would tell what they do. Raises LogError.
        """
        await self._look()
        samples = self._everybody if sees is None else self._own.get(sees, {})
        return summary(samples.get(route, ()))

    async def _look(self) -> None:
        async with self._looking:
            if time.monotonic() - self._looked < self._fresh:
                return
            await self._again()
            await (self._first() if self._newest is None else self._next(self._newest))
            self._looked = time.monotonic()

    async def _again(self) -> None:
        """What became of those that had not ended."""
        for run in list(self._unfinished):
            record = await self._engine.log.get(run)
            if record is None or record.ended:
                del self._unfinished[run]
            if record is not None:
                self._keep(_turn(record))

    async def _first(self) -> None:
        """The latest ones. They are kept from the oldest on, so that the oldest go first."""
        found: list[_Turn] = []
        before: int | None = None
        while len(found) < _FIRST_LOOK:
            page = await self._engine.find(RunQuery(operation=CHAT, before=before, limit=_PAGE))
            found += map(_turn, page)
            if len(page) < _PAGE:
                break
            before = page[-1].ordinal
        for turn in reversed(found):
            self._note(turn)

    async def _next(self, newest: int) -> None:
        while True:
            page = await self._engine.find(
                RunQuery(operation=CHAT, since=newest, oldest_first=True, limit=_PAGE)
            )
            for record in page:
                self._note(_turn(record))
            if len(page) < _PAGE:
                return
            newest = page[-1].ordinal

    def _note(self, turn: _Turn) -> None:
        self._newest = turn.ordinal
        self._keep(turn)
        if not turn.ended:
            self._unfinished[turn.run] = None
            while len(self._unfinished) > _MAX_UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]

    def _keep(self, turn: _Turn) -> None:
        if turn.route is None or turn.seconds is None:
            return
        own = self._own.setdefault(turn.principal, {})
        self._own.move_to_end(turn.principal)
        while len(self._own) > _MAX_PRINCIPALS:
            self._own.popitem(last=False)
        for samples in (self._everybody, own):
            samples.setdefault(turn.route, deque(maxlen=KEPT)).append(turn.seconds)


class _Turn(NamedTuple):
    """The little that counts of a run, whose result may be large."""

    run: str
    ordinal: int
    principal: str
    ended: bool
    route: str | None
    seconds: float | None


def _turn(record: RunRecord) -> _Turn:
    route: Any = None
    seconds: float | None = None
    if record.state is State.COMPLETED and record.started_at and record.ended_at:
        result = loads(record.result)
        route = result.get("route") if isinstance(result, dict) else None
        # The clock of the machine may have been set back.
        seconds = max(0.0, record.ended_at - record.started_at)
    return _Turn(
        record.id,
        record.ordinal,
        record.principal,
        record.ended,
        route if isinstance(route, str) else None,
        seconds,
    )


def summary(seconds: Iterable[float]) -> dict[str, Any] | None:
    """{p50_seconds, p90_seconds, runs}; None without any."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    return {
        "p50_seconds": round(quantile(ordered, 0.5), 3),
        "p90_seconds": round(quantile(ordered, 0.9), 3),
        "runs": len(ordered),
    }


def quantile(ordered: list[float], share: float) -> float:
    """The nearest rank: the least value that `share` of all (above 0, at most 1) do not exceed.

    It is always one of them. Interpolation would tell of times that nothing took, which for a
    handful of runs is most of what it tells.
    """
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


async def analyse(
    text: str,
    *,
    router: Router,
    estimates: Estimates,
    sees: str | None,
    model: str,
    tools: Mapping[str, str] | Iterable[str] = (),
    turns: int = 0,
) -> dict[str, Any]:
    """What would become of the question `text`, without asking any model.

    {complexity, score, route, model, toolsNeeded, estimatedTime, reasons, recommendation}, where
    estimatedTime has for each route {p50Seconds, p90Seconds, runs}, or NO_HISTORY. `model` is
    the chat's own; the others are those of `Router.decide` and `Estimates.of`. Raises LogError.
    """
    decision = router.decide(text, tools, turns)
    times = {route.name: await estimates.of(route.name, sees=sees) for route in router.routes}
    chosen = decision.model or model
    return {
        "complexity": decision.complexity,
        "score": decision.score,
        "route": decision.route,
        "model": chosen,
        "toolsNeeded": list(decision.tools_needed),
        "estimatedTime": {name: _camel(known) for name, known in times.items()},
        "reasons": [*decision.reasons, f"route {decision.route}: {decision.reason}"],
        "recommendation": recommendation(decision, chosen, times[decision.route]),
    }


def recommendation(decision: Decision, model: str, known: Mapping[str, Any] | None) -> str:
    """One or a few sentences for whoever has to decide."""
    if known is None:
        expected = f"How long that takes is not known: there is {NO_HISTORY}."
    else:
        expected = (
            f"Of {known['runs']} turns like it, half took at most {known['p50_seconds']:g} s, "
            f"and nine of ten at most {known['p90_seconds']:g} s."
            if known["runs"] > 1
            else f"The one turn like it took {known['p50_seconds']:g} s."
        )
    sentences = [f"Ask {model}, by the route {decision.route}.", expected]
    return " ".join([*sentences, decision.note] if decision.note else sentences)


def _camel(known: Mapping[str, Any] | None) -> dict[str, Any] | str:
    if known is None:
        return NO_HISTORY
    return {
        "p50Seconds": known["p50_seconds"],
        "p90Seconds": known["p90_seconds"],
        "runs": known["runs"],
    }
