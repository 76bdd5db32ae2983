"""Cursors: a round trip, and a watcher that never loses, repeats or keeps a wrong event."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.errors import CursorFromFuture, CursorMalformed
from tailrace.protocol.cursor import Cursor, Extent, Kind, parse, resume

cursors = st.builds(
    Cursor,
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**18 - 1),
    st.none() | st.integers(0, 10**9 - 1),
)


@given(cursors)
def test_what_is_written_is_read(cursor: Cursor) -> None:
    assert parse(str(cursor)) == cursor


@given(st.from_regex(r"(?:[0-9]{1,9}-)?[0-9]{1,18}(?:\.[0-9]{1,9})?", fullmatch=True))
def test_what_is_read_means_what_is_written_again(text: str) -> None:
    assert parse(str(parse(text))) == parse(text)


@given(st.text() | st.text("0123456789-. \n_٣", max_size=12))
def test_any_text_is_a_cursor_or_is_refused(text: str) -> None:
    with contextlib.suppress(CursorMalformed):
        assert parse(text).seq >= 0
        assert set(text) <= set("0123456789-.")


# ---------------------------------------------------------------- one log that only grows


@given(st.integers(0, 12), st.integers(1, 14), st.booleans(), st.data())
def test_a_watcher_gets_exactly_the_rest(
    last: int, first: int, ended: bool, data: st.DataObject
) -> None:
    first = min(first, max(last, 1))
    ended = ended and last > 0
    extent = Extent(first, last, ended)
    cursor = Cursor(0, data.draw(st.integers(0, 15)), data.draw(st.none() | st.integers(0, 3)))
    if cursor.seq > last:
        with pytest.raises(CursorFromFuture):
            resume(cursor, extent)
        return
    decision = resume(cursor, extent)
    received = list(range(1, cursor.complete + 1))
    lost = [] if decision.lost is None else list(range(decision.lost[0], decision.lost[1] + 1))
    rest = [seq for seq in range(first, last + 1) if seq > decision.after]
    assert received + lost + rest == list(range(1, last + 1))
    assert (decision.kind is Kind.GONE) == bool(lost)
    assert (decision.kind is Kind.FINISHED) == (ended and not rest and not lost)
    assert (decision.kind is Kind.LIVE) == (not ended and not rest and not lost)


# ---------------------------------------------------------------- one that loses its tail


@dataclass
class Model:
    """A log that is a list. What it says of itself is all that `resume` may know."""

    events: list[int] = field(default_factory=list)
    first: int = 1
    epoch: int = 0
    base: int = 0
    written: int = 0

    def append(self, count: int) -> None:
        for _ in range(count):
            self.written += 1
            self.events.append(self.written)

    def lose(self, count: int) -> None:
        del self.events[max(0, len(self.events) - count) :]
        self.base = len(self.events) if not self.epoch else min(self.base, len(self.events))
        self.epoch += 1
        self.first = min(self.first, len(self.events) + 1)

    def trim(self, count: int) -> None:
        self.first = max(self.first, min(self.first + count, len(self.events)))

    @property
    def extent(self) -> Extent:
        return Extent(self.first, len(self.events), epoch=self.epoch, base=self.base)


@dataclass
class Watcher:
    """Keeps what it was sent; what it was told is lost stays None."""

    cursor: Cursor = field(default_factory=lambda: Cursor(0, 0))
    events: list[int | None] = field(default_factory=list)

    def come_back(self, log: Model, take: int) -> None:
        decision = resume(self.cursor, log.extent)
        if decision.kind is Kind.RESET:
            del self.events[decision.after :]
        else:
            del self.events[self.cursor.complete :]
        at = max(decision.after, log.first - 1)
        self.events += [None] * (at - len(self.events))
        got = log.events[at : at + take]
        self.events += got
        self.cursor = Cursor(log.epoch, at + len(got))


steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("lose"), st.integers(1, 3)),
    st.tuples(st.just("watch"), st.integers(0, 5)),
    st.tuples(st.just("trim"), st.integers(1, 2)),
)


@example([("append", 2), ("watch", 5), ("lose", 1), ("append", 2), ("lose", 1)])
@given(st.lists(steps, max_size=30))
def test_no_watcher_keeps_what_a_log_lost(history: list[tuple[str, int]]) -> None:
    log, watcher = Model(), Watcher()
    for verb, count in history:
        if verb == "watch":
            watcher.come_back(log, count)
        else:
            getattr(log, verb)(count)
    watcher.come_back(log, len(log.events))
    assert len(watcher.events) == len(log.events)
    for seen, kept in zip(watcher.events, log.events, strict=True):
        assert seen in (None, kept)
    assert None not in watcher.events[log.first - 1 :]
