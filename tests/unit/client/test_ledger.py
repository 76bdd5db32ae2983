"""What may come next, by the numbers."""

from __future__ import annotations

import pytest

from tailrace.client.ledger import Ledger, Place
from tailrace.errors import CursorMalformed

NEW, KNOWN, AMISS = Place.NEW, Place.KNOWN, Place.AMISS


def ledger(after: str = "0", *, is_filtered: bool = False) -> Ledger:
    made = Ledger(after, is_filtered=is_filtered)
    made.opened()
    return made


@pytest.mark.parametrize(
    ("after", "id", "place"),
    [
        ("0", "1", NEW),
        ("0", "0", KNOWN),
        ("0", "2", AMISS),
        ("57", "57", KNOWN),
        ("57", "1", KNOWN),
        ("57", "58", NEW),
        ("57", "59", AMISS),
        ("57", "1-58", NEW),  # A log that lost what we never saw.
        ("57", "1-57", AMISS),  # Without a reset, numbers do not go back.
        ("57", "1-59", AMISS),
        ("1-58", "59", KNOWN),  # Of the lost tail, told by a cache.
        ("1-58", "1-59", NEW),
        ("57.2", "57", NEW),  # Only a part of it was there.
        ("57.2", "56", KNOWN),
        ("57", "58.1", AMISS),
        ("57", "", AMISS),
        ("57", "58 ", AMISS),
        ("latest", "58", NEW),
        ("latest", "1-1", NEW),
        ("latest", "x", AMISS),
    ],
)
def test_events(after: str, id: str, place: Place) -> None:
    book = ledger(after)
    assert book.event(id) is place
    assert book.cursor == (id if place is NEW else after)


@pytest.mark.parametrize(
    ("id", "place"),
    [("57", KNOWN), ("58", NEW), ("90", NEW), ("1-90", NEW), ("1-50", AMISS)],
)
def test_events_with_a_filter(id: str, place: Place) -> None:
    assert ledger("57", is_filtered=True).event(id) is place


@pytest.mark.parametrize(
    ("kind", "first", "last", "place", "following"),
    [
        ("gap", 58, 60, NEW, "61"),
        ("gap", 50, 60, NEW, "61"),
        ("gap", 50, 57, KNOWN, "58"),
        ("gap", 59, 60, AMISS, "58"),
        ("gap", 60, 58, AMISS, "58"),
        ("gap", 0, 60, AMISS, "58"),
        ("gap", True, 60, AMISS, "58"),
        ("gap", 58, 60.0, AMISS, "58"),
        ("gap", None, None, AMISS, "58"),
        ("gap", "58", "60", AMISS, "58"),
        ("reset", 55, 57, NEW, "1-55"),
        ("reset", 58, 60, NEW, "1-58"),
        ("reset", 59, 60, AMISS, "58"),
    ],
)
def test_losses(kind: str, first: object, last: object, place: Place, following: str) -> None:
    book = ledger("57")
    assert book.lost(kind, first, last) is place
    assert book.cursor == "57"
    assert book.event(following) is NEW


def test_a_gap_for_a_filtered_watcher_may_be_anywhere() -> None:
    book = ledger("57", is_filtered=True)
    assert book.lost("gap", 70, 80) is NEW
    assert book.event("85") is NEW


def test_a_gap_before_the_first_event_of_latest() -> None:
    book = ledger("latest")
    assert book.lost("gap", 3, 9) is NEW
    assert book.event("11") is AMISS
    assert book.event("10") is NEW


def test_what_control_frames_said_ends_with_the_response() -> None:
    book = ledger("57")
    assert book.lost("gap", 58, 60) is NEW
    book.opened()
    # Another server still has them.
    assert book.event("58") is NEW


def test_a_second_loss_of_the_same_events_is_news_again() -> None:
    book = ledger("57")
    assert [book.lost("reset", 57, 57), book.lost("reset", 57, 57)] == [NEW, KNOWN]
    assert book.event("1-57") is NEW
    book.opened()
    assert book.lost("reset", 57, 57) is NEW
    assert book.event("1-57") is KNOWN
    assert book.event("2-57") is NEW


def test_a_reset_amid_the_events_takes_nothing_back() -> None:
    book = ledger("57")
    assert book.lost("reset", 57, 57) is NEW
    assert book.event("1-57") is NEW
    assert book.lost("reset", 57, 57) is KNOWN
    assert book.event("1-57") is KNOWN
    assert book.event("1-58") is NEW


def test_a_gap_behind_a_reset() -> None:
    book = ledger("60")
    assert book.lost("reset", 58, 60) is NEW
    assert book.lost("gap", 58, 59) is NEW
    assert book.event("1-60") is NEW


def test_where_latest_starts() -> None:
    book = Ledger("latest", is_filtered=False)
    book.opened("1-57")
    assert book.cursor == "1-57"
    book.opened("12")
    assert book.cursor == "1-57"
    assert book.event("1-59") is AMISS


def test_a_cursor_outside_the_grammar() -> None:
    with pytest.raises(CursorMalformed):
        Ledger("yesterday", is_filtered=False)
