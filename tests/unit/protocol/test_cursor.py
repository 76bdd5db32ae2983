"""The cursor's grammar, and what a cursor entitles to."""

from __future__ import annotations

import pytest

from tailrace.errors import CursorFromFuture, CursorMalformed
from tailrace.protocol.cursor import Cursor, Extent, Kind, Resume, parse, resume

LIVE = Extent(first=1, last=9)
DONE = Extent(first=1, last=9, ended=True)
TRIMMED = Extent(first=6, last=9, ended=True)
# The log lost what followed event 7, and has written 8 and 9 anew.
MENDED = Extent(first=1, last=9, epoch=1, base=7)
EMPTY = Extent()


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("0", Cursor(0, 0)),
        ("57", Cursor(0, 57)),
        ("57.2", Cursor(0, 57, 2)),
        ("57.0", Cursor(0, 57, 0)),
        ("1-57", Cursor(1, 57)),
        ("12-57.3", Cursor(12, 57, 3)),
        ("0-57", Cursor(0, 57)),
        ("007", Cursor(0, 7)),
        ("9" * 9 + "-" + "9" * 18 + "." + "9" * 9, Cursor(10**9 - 1, 10**18 - 1, 10**9 - 1)),
    ],
)
def test_what_is_a_cursor(text: str, cursor: Cursor) -> None:
    assert parse(text) == cursor
    assert parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "latest", "-1", "+1", "1-", "-", ".", "1.", ".1", "1-2-3", "1.2.3", "1.-2"),
        *("1_000", "1e3", " 1", "1 ", "1\n", "\n1", "1\0", "٣", "²", "1-٣", "0x1", "1,2"),
        *("9" * 19, "9" * 10 + "-1", "1." + "9" * 10, "9" * 100_000),
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(CursorMalformed) as error:
        parse(text)
    assert len(str(error.value)) < 160


@pytest.mark.parametrize(
    ("cursor", "text", "complete"),
    [
        (Cursor(0, 57), "57", 57),
        (Cursor(1, 57), "1-57", 57),
        (Cursor(0, 57, 2), "57.2", 56),
        (Cursor(3, 57, 0), "3-57.0", 56),
        (Cursor(0, 0, 4), "0.4", 0),
    ],
)
def test_how_a_cursor_is_written_and_counts(cursor: Cursor, text: str, complete: int) -> None:
    assert str(cursor) == text
    assert cursor.complete == complete


@pytest.mark.parametrize(
    ("text", "extent", "expected"),
    [
        ("0", EMPTY, Resume(Kind.LIVE, 0)),
        ("0", LIVE, Resume(Kind.REPLAY, 0)),
        ("8", LIVE, Resume(Kind.REPLAY, 8)),
        ("9", LIVE, Resume(Kind.LIVE, 9)),
        ("9", DONE, Resume(Kind.FINISHED, 9)),
        ("8", DONE, Resume(Kind.REPLAY, 8)),
        # An event of which only some frames arrived is told again as a whole.
        ("9.1", LIVE, Resume(Kind.REPLAY, 8)),
        ("9.1", DONE, Resume(Kind.REPLAY, 8)),
        ("1.0", LIVE, Resume(Kind.REPLAY, 0)),
        ("0.3", EMPTY, Resume(Kind.LIVE, 0)),
        # Trimmed: 1 to 5 are not kept any more.
        ("0", TRIMMED, Resume(Kind.GONE, 5, (1, 5))),
        ("4", TRIMMED, Resume(Kind.GONE, 5, (5, 5))),
        ("5", TRIMMED, Resume(Kind.REPLAY, 5)),
        ("5.1", TRIMMED, Resume(Kind.GONE, 5, (5, 5))),
        ("6.1", TRIMMED, Resume(Kind.REPLAY, 5)),
        ("9", TRIMMED, Resume(Kind.FINISHED, 9)),
        # A log that lost acknowledged events.
        ("7", MENDED, Resume(Kind.REPLAY, 7)),
        ("3", MENDED, Resume(Kind.REPLAY, 3)),
        ("8", MENDED, Resume(Kind.RESET, 7, (8, 8))),
        ("8.1", MENDED, Resume(Kind.RESET, 7, (8, 8))),
        ("42", MENDED, Resume(Kind.RESET, 7, (8, 42))),
        ("1-8", MENDED, Resume(Kind.REPLAY, 8)),
        ("1-9", MENDED, Resume(Kind.LIVE, 9)),
        ("1-3", MENDED, Resume(Kind.REPLAY, 3)),
        ("0", Extent(first=6, last=9, epoch=1, base=7), Resume(Kind.GONE, 5, (1, 5))),
    ],
)
def test_what_a_watcher_gets(text: str, extent: Extent, expected: Resume) -> None:
    assert resume(parse(text), extent) == expected


@pytest.mark.parametrize(
    ("text", "extent"),
    [
        ("1", EMPTY),
        ("10", LIVE),
        ("10.1", DONE),
        ("1-9", LIVE),
        ("1-10", MENDED),
        ("2-3", MENDED),
    ],
)
def test_a_position_that_cannot_have_been_given_out(text: str, extent: Extent) -> None:
    with pytest.raises(CursorFromFuture) as error:
        resume(parse(text), extent)
    assert text in str(error.value)
