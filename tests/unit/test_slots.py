from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from tailrace.slots import Place, Slots
from tests.waiting import soon, turns

pytestmark = pytest.mark.anyio


class Row:
    """Places, in the order they were asked for."""

    def __init__(self, limit: int | None) -> None:
        self.slots = Slots(limit)
        self._held: dict[Place, contextlib.ExitStack] = {}

    def enter(self, order: int = 0, *, at_once: bool = False) -> Place:
        stack = contextlib.ExitStack()
        place = stack.enter_context(self.slots.place(order, at_once=at_once))
        self._held[place] = stack
        return place

    def leave(self, place: Place) -> None:
        self._held.pop(place).close()

    @property
    def positions(self) -> list[int]:
        return [place.position for place in self._held]


async def test_there_are_so_many_slots_and_the_rest_wait() -> None:
    row = Row(2)
    places = [row.enter() for _ in range(5)]
    assert row.positions == [0, 0, 1, 2, 3]
    assert [place.has_slot for place in places] == [True, True, False, False, False]
    row.leave(places[0])
    assert row.positions == [0, 0, 1, 2]
    assert places[2].turn.done()


async def test_without_a_limit_nobody_waits() -> None:
    row = Row(None)
    for _ in range(100):
        row.enter()
    assert set(row.positions) == {0}


async def test_who_gives_up_lets_the_others_move_up() -> None:
    row = Row(1)
    first, second, third, fourth = (row.enter() for _ in range(4))
    row.leave(third)
    assert row.positions == [0, 1, 2]
    row.leave(second)
    assert (fourth.position, fourth.has_slot) == (1, False)
    row.leave(first)
    assert fourth.has_slot
    row.leave(fourth)
    assert row.enter().has_slot


async def test_the_lowest_order_is_the_first() -> None:
    """Runs are known by their order in the log; who is told of them later is not later."""
    row = Row(1)
    holder = row.enter(9)
    late, early, middle = row.enter(5), row.enter(1), row.enter(3)
    assert [place.position for place in (early, middle, late)] == [1, 2, 3]
    row.leave(holder)
    assert early.has_slot
    assert not middle.has_slot


async def test_equals_go_as_they_came() -> None:
    row = Row(1)
    holder = row.enter()
    places = [row.enter(7) for _ in range(4)]
    assert [place.position for place in places] == [1, 2, 3, 4]
    row.leave(holder)
    assert places[0].has_slot


async def test_what_goes_on_already_does_not_wait_and_the_others_do() -> None:
    row = Row(2)
    resumed = [row.enter(at_once=True) for _ in range(3)]
    waiting = row.enter()
    assert [place.has_slot for place in resumed] == [True] * 3
    row.leave(resumed[0])
    assert not waiting.has_slot, "two go on, and there are two slots"
    row.leave(resumed[1])
    assert waiting.has_slot


async def test_a_fault_gives_the_slot_back() -> None:
    slots = Slots(1)
    with pytest.raises(ZeroDivisionError), slots.place():
        raise ZeroDivisionError
    with slots.place() as place:
        assert place.has_slot


async def test_whoever_listens_hears_that_it_moves() -> None:
    row = Row(1)
    first, second, third = (row.enter() for _ in range(3))
    moved = third.moved()
    assert third.moved() is moved
    await turns()
    assert not moved.done()
    row.enter()
    assert not moved.done(), "who comes behind moves nobody"
    row.leave(second)
    assert moved.done()
    again = third.moved()
    assert again is not moved
    row.leave(first)
    await soon(asyncio.wait((again, third.turn)))
    assert third.has_slot


async def test_one_that_comes_before_moves_those_behind_it() -> None:
    row = Row(1)
    row.enter(0)
    behind = row.enter(5)
    moved = behind.moved()
    row.enter(3)
    assert moved.done()
    assert behind.position == 2


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_slots_are_full_and_the_positions_without_a_gap(
    seed: int,
) -> None:
    chance = random.Random(seed)
    limit = chance.randint(1, 4)
    row, places = Row(limit), list[Place]()
    for _ in range(300):
        if places and chance.random() < 0.5:
            row.leave(places.pop(chance.randrange(len(places))))
        else:
            places.append(row.enter(chance.randint(0, 5)))
        held = [place for place in places if place.has_slot]
        waiting = sorted(place.position for place in places if not place.has_slot)
        assert len(held) == min(limit, len(places))
        assert waiting == [*range(1, len(waiting) + 1)]
