from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.sse import Decoder
from tailrace.testing.drops import Breaking, drop_after

BODY = b": hi\nretry: 5\nid: 1\ndata: a\n\nid: 2\r\ndata: b\r\n\r\ndata: c\rdata: c\r\rdata: d\n\n"


def passed(breaking: Breaking, *chunks: bytes) -> bytes:
    return b"".join(map(breaking.pass_on, chunks))


@pytest.mark.parametrize("size", [1, 2, 7, len(BODY)])
@pytest.mark.parametrize("events", [1, 2, 3])
def test_it_breaks_right_after_an_event(events: int, size: int) -> None:
    breaking = Breaking(drop_after(events))
    chunks = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    got = passed(breaking, *chunks)
    assert breaking.is_broken
    assert BODY.startswith(got)
    assert len(Decoder().feed(got)) == events
    assert len(Decoder().feed(got[:-2])) == events - 1


def test_it_does_not_break_before() -> None:
    breaking = Breaking(drop_after(5, bytes=1000))
    assert passed(breaking, BODY) == BODY
    assert not breaking.is_broken
    assert passed(breaking, b"data: e\n\n", b"data: f\n\n") == b"data: e\n\n"
    assert breaking.is_broken


@given(at=st.integers(1, len(BODY)), size=st.integers(1, len(BODY)))
def test_it_breaks_in_the_middle_of_an_event(at: int, size: int) -> None:
    breaking = Breaking(drop_after(bytes=at))
    chunks = [BODY[start : start + size] for start in range(0, len(BODY), size)]
    assert passed(breaking, *chunks) == BODY[:at]
    assert breaking.is_broken


def test_whichever_comes_first() -> None:
    first = BODY.index(b"id: 2")
    assert passed(Breaking(drop_after(1, bytes=9)), BODY) == BODY[:9]
    assert passed(Breaking(drop_after(1, bytes=70)), BODY) == BODY[:first]


@pytest.mark.parametrize("given", [{"events": 0}, {"bytes": 0}])
def test_nothing_may_come_at_all(given: dict[str, Any]) -> None:
    breaking = Breaking(drop_after(**given))
    assert breaking.is_broken
    assert breaking.pass_on(BODY) == b""


def test_each_connection_breaks_or_the_first_ones() -> None:
    assert all(drop_after(1).applies(number) for number in (1, 2, 99))
    assert [drop_after(1, times=2).applies(number) for number in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize(
    "given", [{}, {"events": -1}, {"bytes": -1}, {"events": 1, "times": 0}, {"times": 3}]
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"breaks"):
        drop_after(**given)
