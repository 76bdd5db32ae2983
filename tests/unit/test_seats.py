from __future__ import annotations

import pytest

from tailrace.errors import TooManyRequests
from tailrace.seats import Seats


def test_without_bounds_there_is_always_a_seat() -> None:
    seats = Seats()
    taken = []
    for number in range(10_000):
        seats.check(f"address:{number}", watchers=10_000)
        taken.append(seats.take(f"address:{number}"))
    assert seats.taken == 10_000
    # Nobody is told apart where it does not matter: a crowd is one object.
    assert len(seats) == len({*taken}) == 1


def test_so_many_in_total() -> None:
    seats = Seats(most=2)
    one = seats.take("a")
    seats.check("b")
    seats.take("b")
    with pytest.raises(TooManyRequests, match="2 streams") as refused:
        seats.check("c")
    assert refused.value.headers == {"retry-after": "5"}
    assert "/events" in refused.value.fix
    one.free()
    seats.check("c")


def test_so_many_of_each() -> None:
    seats = Seats(each=2)
    taken = [seats.take("a"), seats.take("a"), seats.take("b")]
    with pytest.raises(TooManyRequests, match="2 streams"):
        seats.check("a")
    seats.check("b")
    taken[0].free()
    seats.check("a")
    for seat in taken[1:]:
        seat.free()
    assert (seats.taken, len(seats)) == (0, 0)


def test_so_many_of_a_run() -> None:
    seats = Seats(watchers=3)
    seats.check("a", watchers=3)
    with pytest.raises(TooManyRequests, match="3 watchers"):
        seats.check("a", watchers=4)


def test_what_was_promised_is_kept() -> None:
    seats = Seats(most=1, each=1)
    taken = [seats.take("a") for _ in range(3)]
    assert seats.taken == 3
    for seat in taken:
        seat.free()
    assert seats.taken == 0


def test_after_all_were_forgotten_a_late_one_frees_nothing() -> None:
    seats = Seats(most=5, each=5)
    late = seats.take("a")
    seats = seats.anew()
    seats.take("a")
    late.free()
    assert seats.taken == 1
    assert len(seats) == 1


def test_an_idle_stream_has_room_for_a_reference_and_no_more() -> None:
    seats = Seats(each=1000)
    assert len({id(seats.take("address:10.0.0.1")) for _ in range(100)}) == 1
    assert not hasattr(seats.take("a"), "__dict__")


def test_a_seat_for_as_long_as_a_block_lasts() -> None:
    seats = Seats(each=1)
    with seats.sitting("ada"):
        with pytest.raises(TooManyRequests), seats.sitting("ada"):
            raise AssertionError("there was no seat")
        with seats.sitting("bob"):
            assert seats.taken == 2
    assert (seats.taken, len(seats)) == (0, 0)
