"""Seats: whoever comes, leaves, stalls, fails or is cancelled in whatever order, there are never
more streams than seats, nobody has less than none, and when all are gone all seats are free.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.cohort import Manner
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.http.many import ManyStream
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import stream
from tailrace.protocol.access import OPEN, WHO
from tailrace.protocol.cursor import Cursor
from tailrace.seats import Seats
from tests.stage import Stage, staged
from tests.visitor import Visit, Visitor
from tests.waiting import turns, until

MOST: Final = 5
EACH: Final = 3
WATCHERS: Final = 4

which = st.integers(0, 15)
opens = st.tuples(st.just("open"), st.integers(0, 23))
others = st.tuples(
    st.sampled_from(["leave", "cancel", "fail", "stall", "go_on", "say", "finish", "beat", "turn"]),
    which,
)
steps = st.lists(st.one_of(opens, opens, others), max_size=40)


class Door:
    """An app of some callers, runs and kinds of stream, whose sends fail when told to."""

    def __init__(self, runs: Tailrace, names: list[str]) -> None:
        self._runs = runs
        self.names = names
        self.failing: set[int] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        number, choice = map(int, scope["path"].split("/")[1:])
        scope["client"] = (f"10.0.0.{choice % 3}", 5)
        run = self.names[choice // 3 % 2]
        telling = Telling(Cursor(0, 0), Manner(stream("events")))
        response = (
            RunStream(self._runs.hub, run, telling),
            ManyStream(self._runs, {WHO: OPEN}, None, ""),
            ManyStream(self._runs, {WHO: OPEN}, [run], ""),
            RunStream(self._runs.hub, run, telling, headers={"x": "y"}),
        )[choice // 6]

        async def sent(message: Any) -> None:
            if number in self.failing:
                raise OSError
            await send(message)

        with contextlib.suppress(OSError):
            await response(scope, receive, sent)


def look(seats: Seats) -> None:
    held = [seat.taken for seat in seats._callers.values()]
    assert all(0 < count <= EACH for count in held), held
    assert sum(held) == seats.taken <= MOST


class Play:
    """What happens, one thing after the other."""

    def __init__(self, stage: Stage, names: list[str]) -> None:
        self.stage = stage
        self.door = Door(stage.runs, names)
        self.visits: list[Visit] = []
        self._visitor = Visitor(self.door)

    def open(self, number: int) -> None:
        self.visits.append(self._visitor.open("GET", f"/{len(self.visits)}/{number}"))

    def leave(self, number: int) -> None:
        self._one(number).leave()

    def cancel(self, number: int) -> None:
        self._one(number).task.cancel()

    def fail(self, number: int) -> None:
        self.door.failing.add(number % (len(self.visits) or 1))

    def stall(self, number: int) -> None:
        self._one(number).stall()

    def go_on(self, number: int) -> None:
        self._one(number).go_on()

    def say(self, number: int) -> None:
        self.stage.emit(self.door.names[number % 2], "log", message="x")

    def finish(self, number: int) -> None:
        self.stage.finish(self.door.names[number % 2])

    def beat(self, number: int) -> None:
        self.stage.beat(10.0 * number)

    def _one(self, number: int) -> Visit:
        if not self.visits:
            self.open(number)
        return self.visits[number % len(self.visits)]


async def play(told: list[tuple[str, int]], stage: Stage) -> None:
    runs = stage.runs
    runs.hub.seats = seats = Limits(streams=MOST, streams_each=EACH, watchers=WATCHERS).seats()
    on = Play(stage, [await stage.start() for _ in range(2)])
    for what, number in told:
        if what == "turn":
            await turns(number)
        else:
            getattr(on, what)(number)
        look(seats)
    await turns(20)
    look(seats)
    for visit in on.visits:
        visit.leave()
    await until(lambda: all(visit.task.done() for visit in on.visits), "all have left")
    await until(lambda: not runs.hub.connections, "nobody is there")
    assert (seats.taken, len(seats)) == (0, 0)
    for visit in on.visits:
        assert visit.status in (0, 200, 429)
        with contextlib.suppress(asyncio.CancelledError):
            await visit.task


@settings(deadline=None, max_examples=100)
@given(steps)
def test_never_too_many_and_none_lost(told: list[tuple[str, int]]) -> None:
    async def main() -> None:
        async with staged() as stage:
            await play(told, stage)

    asyncio.run(main())
