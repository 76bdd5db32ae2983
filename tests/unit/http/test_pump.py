"""A generator and an outlet, without a server; what goes over the wire: test_eventsource.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from tailrace.clock import Clock
from tailrace.http import pump as pumps
from tailrace.http.pump import OPENING, Pump, Pumps
from tailrace.outlet import End, Frame, Outlet
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


class Wire(Outlet):
    """Takes frames; while it is held, each must be waited for."""

    __slots__ = ("closed", "cuts", "frames", "is_held", "may_go")

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.is_held = False
        self.may_go = asyncio.Event()
        self.closed: list[End] = []
        self.cuts = 0

    def push(self, frame: Frame) -> Awaitable[None] | None:
        self.frames.append(frame)
        return self.may_go.wait() if self.is_held else None  # type: ignore[return-value]

    def close(self, end: End) -> None:
        self.closed.append(end)

    def cut(self) -> None:
        self.cuts += 1

    @property
    def body(self) -> bytes:
        return b"".join(frame.body for frame in self.frames)


def pumping(wire: Wire, items: AsyncIterator[Any]) -> "asyncio.Task[Pump]":
    async def run() -> Pump:
        pump = Pump(wire, items, Clock())
        await pump.run()
        return pump

    return asyncio.create_task(run())


async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumps, "BATCH_BYTES", 100)

    async def items() -> AsyncIterator[str]:
        for _ in range(50):
            yield "x" * 20

    wire = Wire()
    await soon(pumping(wire, items()))
    assert wire.body == b"data: xxxxxxxxxxxxxxxxxxxx\n\n" * 50 + b": end\n"
    assert max(len(frame.body) for frame in wire.frames) < 130
    assert [frame.is_last for frame in wire.frames] == [False] * (len(wire.frames) - 1) + [True]
    assert wire.closed == [End.FINISHED]


async def test_what_gathers_while_a_send_waits_goes_after_it() -> None:
    gate = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(0)
        yield "two"
        await gate.wait()
        yield "three"

    wire = Wire()
    wire.is_held = True
    running = pumping(wire, items())
    await until(lambda: wire.frames)
    await turns(10)
    assert wire.body == b"data: one\n\n"
    wire.is_held = False
    wire.may_go.set()
    await until(lambda: b"two" in wire.body)
    gate.set()
    await soon(running)
    assert wire.body == b"data: one\n\ndata: two\n\ndata: three\n\n: end\n"


async def test_who_has_left_gets_no_end() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    wire = Wire()
    made: list[Pump] = []

    async def run() -> None:
        made.append(Pump(wire, items(), Clock()))
        await made[0].run()

    running = asyncio.create_task(run())
    await until(lambda: wire.frames)
    made[0].drop()
    await soon(running)
    assert wire.body == b"data: one\n\n"
    assert not wire.closed
    assert made[0].beat(0.0) is None, "the clock lets go of it"


async def test_a_generator_that_goes_on_after_its_cancelling_is_left_alone() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "last words"
            yield "and more"

    wire = Wire()
    made: list[Pump] = []

    async def run() -> None:
        made.append(Pump(wire, items(), Clock()))
        await made[0].run()

    running = asyncio.create_task(run())
    await until(lambda: wire.frames)
    made[0].leave()
    await soon(running)
    assert wire.body == b"data: one\n\ndata: last words\n\nretry: 500\n: end\n"
    assert wire.closed == [End.SHUTDOWN]


async def test_to_be_cancelled_by_others_is_passed_on() -> None:
    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    wire = Wire()
    running = pumping(wire, items())
    await until(lambda: wire.frames)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)


async def test_a_crowd_is_one_for_each_loop_and_ends_together() -> None:
    crowd = Pumps.here()
    assert crowd is Pumps.here()
    assert OPENING.startswith(b": ")

    async def items() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    wires = [Wire(), Wire()]

    async def run(wire: Wire) -> None:
        pump = Pump(wire, items(), crowd.clock)
        crowd.join(pump)
        try:
            await pump.run()
        finally:
            crowd.part(pump)

    running = [asyncio.create_task(run(wire)) for wire in wires]
    await until(lambda: all(wire.frames for wire in wires))
    crowd.clock.drain()
    await soon(asyncio.gather(*running))
    assert all(wire.body.endswith(b"retry: 500\n: end\n") for wire in wires)
    assert not crowd._pumps
