from __future__ import annotations

from collections.abc import Awaitable

import pytest

from tailrace.outlet import End, Frame, Outlet
from tailrace.seats import Seats


class Bare(Outlet):
    def push(self, frame: Frame) -> Awaitable[None] | None:
        raise NotImplementedError

    def close(self, end: End) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        raise NotImplementedError


class Holds:
    def __init__(self) -> None:
        self.dropped: list[Outlet] = []

    def drop(self, outlet: Outlet) -> None:
        self.dropped.append(outlet)
        # Whoever is told may say the same to the outlet.
        outlet.left()


@pytest.mark.parametrize(
    ("body", "is_last", "chunk"),
    [
        (b"hello", False, b"5\r\nhello\r\n"),
        (b"x" * 26, False, b"1a\r\n" + b"x" * 26 + b"\r\n"),
        (b"bye", True, b"3\r\nbye\r\n0\r\n\r\n"),
        # A chunk of no bytes would be the end (RFC 9112 §7.1).
        (b"", False, b""),
        (b"", True, b"0\r\n\r\n"),
    ],
)
def test_a_frame_as_a_chunk(body: bytes, is_last: bool, chunk: bytes) -> None:
    frame = Frame(body, is_last=is_last)
    assert frame.body is body
    assert frame.chunk == chunk
    assert frame.chunk is frame.chunk, "framed once for all"


def test_whoever_leaves_is_dropped_once() -> None:
    holder, outlet = Holds(), Bare()
    outlet.left()
    outlet.holder = holder
    outlet.left()
    outlet.left()
    assert holder.dropped == [outlet]
    assert outlet.holder is None


def test_who_has_left_frees_its_seat_once() -> None:
    seats = Seats(each=5)
    others = seats.take("a")
    outlet = Bare()
    outlet.seat = seats.take("a")
    for _ in range(3):
        outlet.left()
    assert seats.taken == others.taken == 1
