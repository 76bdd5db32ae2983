from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from tailrace import channel as channels
from tailrace.channel import CHUNK_BYTES, TAIL_BYTES, Channel, Taken
from tailrace.projections import Projection, stream
from tailrace.projections.contract import Types
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import Draft, draft

EVENTS = stream("events")
TEXT = stream("text")


def block(first: int, *drafts: Draft) -> Block:
    told = drafts or (draft("log", {"message": f"event {first}"}, 0.0),)
    return Block("run_a", first, first + len(told) - 1, pack(first, told))


def burst(first: int, count: int) -> Block:
    return block(first, *(draft("log", {"message": str(n)}, 0.0) for n in range(count)))


def large(first: int, size: int) -> Block:
    return block(first, Draft("log", b'{"message":"%b"}' % (b"x" * size)))


class Sleeper:
    def __init__(self, channel: Channel) -> None:
        self.woken = 0
        channel.readers.add(self)

    def wake(self) -> None:
        self.woken += 1


class Counting:
    """The text projection, and how often each event was told."""

    name = "counting"
    media_type = TEXT.media_type
    opening = heartbeat = b""

    def __init__(self) -> None:
        self.told: Counter[int] = Counter()

    def tell(self, block: Block, types: Types) -> bytes:
        self.told.update(range(block.first, block.last + 1))
        return TEXT.tell(block, types)

    def control(self, type: str, payload: Mapping[str, Any]) -> bytes:
        return TEXT.control(type, payload)

    def closing(self, retry: int | None) -> bytes:
        return TEXT.closing(retry)


def all_from(
    channel: Channel, cursor: int, projection: Projection = EVENTS, types: Types = None
) -> bytes:
    wire = b""
    while cursor < channel.head:
        taken = channel.take(cursor, projection, types)
        assert taken is not None
        assert taken.cursor > cursor
        wire += taken.wire
        cursor = taken.cursor
    return wire


# --- the tail --------------------------------------------------------------------------


def test_everything_pending_comes_as_one() -> None:
    channel = Channel("run_a")
    blocks = [block(1), burst(2, 3), block(5)]
    for one in blocks:
        channel.publish(one)
    whole = b"".join(one.wire for one in blocks)
    assert channel.take(0, EVENTS, None) == Taken(whole, 5)
    assert channel.take(1, EVENTS, None) == Taken(whole.removeprefix(blocks[0].wire), 5)
    assert channel.take(3, EVENTS, None) == Taken(blocks[1].after(3).wire + blocks[2].wire, 5)
    assert channel.take(5, EVENTS, None) == Taken(b"", 5)
    assert channel.take(9, EVENTS, None) == Taken(b"", 9)


def test_readers_at_one_cursor_get_the_same_object() -> None:
    channel = Channel("run_a")
    for one in (block(1), burst(2, 3), block(5)):
        channel.publish(one)
    for cursor in range(5):
        for types in (None, frozenset({"log"})):
            taken = channel.take(cursor, TEXT, types)
            again = channel.take(cursor, TEXT, types)
            assert taken is not None
            assert again is not None
            assert taken.wire is again.wire


def test_the_stored_bytes_themselves_are_sent() -> None:
    channel = Channel("run_a")
    only = block(1)
    channel.publish(only)
    taken = channel.take(0, EVENTS, None)
    assert taken is not None
    assert taken.wire is only.wire


def test_each_event_is_told_once_whatever_the_number_of_readers() -> None:
    channel, counting = Channel("run_a"), Counting()
    cursors = [0] * 50
    for first in range(1, 31):
        channel.publish(block(first))
        # Some readers keep up, others come now and then.
        for reader, cursor in enumerate(cursors):
            if reader % 5 == 0 or first % (1 + reader % 7) == 0:
                taken = channel.take(cursor, counting, None)
                assert taken is not None
                cursors[reader] = taken.cursor
    for cursor in cursors:
        channel.take(cursor, counting, None)
    assert counting.told == dict.fromkeys(range(1, 31), 1)


def test_what_is_told_stays_told_when_the_tail_moves_on() -> None:
    channel, counting = Channel("run_a"), Counting()
    count = 2 * TAIL_BYTES // 100_000
    for first in range(1, count + 1):
        channel.publish(large(first, 100_000))
        # A slow reader walks through the tail, a quick one stands at its end.
        for cursor in (max(0, first - 8), first - 1):
            all_from(channel, cursor, counting)
    assert set(counting.told.values()) == {1}


def test_the_tail_is_bounded_and_says_where_it_starts() -> None:
    channel = Channel("run_a")
    for first in range(1, 41):
        channel.publish(large(first, 100_000))
        assert sum(len(one.wire) for one in channel._tail) <= TAIL_BYTES + 100_200
    assert channel.take(0, EVENTS, None) is None
    start = channel._tail[0].first
    assert 25 < start <= 35
    assert channel.take(start - 2, EVENTS, None) is None
    assert channel.take(start - 1, EVENTS, None) is not None


def test_a_block_beyond_the_bound_is_kept_until_the_next() -> None:
    channel = Channel("run_a")
    huge = large(1, 2 * TAIL_BYTES)
    channel.publish(huge)
    assert all_from(channel, 0) == huge.wire
    channel.publish(block(2))
    assert channel.take(0, EVENTS, None) is None
    assert all_from(channel, 1) == block(2).wire


def test_a_chunk_is_bounded() -> None:
    channel = Channel("run_a")
    blocks = [large(first, 60_000) for first in range(1, 11)]
    for one in blocks:
        channel.publish(one)
    taken = channel.take(0, EVENTS, None)
    assert taken is not None
    assert CHUNK_BYTES <= len(taken.wire) < CHUNK_BYTES + 60_200
    assert all_from(channel, 0) == b"".join(one.wire for one in blocks)


def test_a_burst_is_told_in_pieces() -> None:
    channel = Channel("run_a")
    many = burst(1, 10_000)
    channel.publish(many)
    taken = channel.take(0, EVENTS, None)
    assert taken is not None
    assert len(taken.wire) < 2 * CHUNK_BYTES
    assert all_from(channel, 0) == many.wire
    for cursor in (1, 2345, 9_999):
        assert all_from(channel, cursor) == many.after(cursor).wire


@pytest.mark.parametrize("count", [1, 2, 2500, 3000, 10_000])
def test_pieces_are_the_block(count: int) -> None:
    many = burst(7, count)
    pieces = list(channels.pieces(many))
    assert b"".join(piece.wire for piece in pieces) == many.wire
    assert [piece.first for piece in pieces] == [7, *(piece.last + 1 for piece in pieces[:-1])]
    assert pieces[-1].last == many.last
    for piece in pieces:
        seqs = [event.seq for event in piece.events]
        assert seqs == list(range(piece.first, piece.last + 1))


def test_a_hole_empties_the_tail() -> None:
    channel = Channel("run_a")
    channel.publish(block(1))
    channel.take(0, TEXT, None)
    channel.publish(burst(5, 2))
    assert channel.head == 6
    for cursor in range(4):
        assert channel.take(cursor, TEXT, None) is None
    assert all_from(channel, 4) == burst(5, 2).wire
    assert all_from(channel, 5) == burst(5, 2).after(5).wire


def test_a_block_that_overlaps_is_cut() -> None:
    channel = Channel("run_a")
    channel.publish(burst(1, 3))
    channel.publish(burst(1, 3))
    whole = burst(1, 5)
    channel.publish(whole)
    assert channel.head == 5
    assert all_from(channel, 0) == whole.wire
    assert channel._size == sum(len(one.wire) for one in channel._tail)


def test_a_filter_passes_the_terminal_event() -> None:
    channel = Channel("run_a")
    end = draft("complete", {"status": "completed"}, 0.0)
    channel.publish(block(1))
    channel.publish(block(2, draft("progress", {"current": 1}, 0.0), end))
    types = frozenset({"progress"})
    taken = channel.take(0, EVENTS, types)
    assert taken is not None
    assert b"event: log" not in taken.wire
    assert b"event: progress" in taken.wire
    assert b"event: complete" in taken.wire
    nothing = channel.take(0, EVENTS, frozenset({"nothing"}))
    assert nothing is not None
    assert nothing.cursor == 3
    assert nothing.wire == pack(3, [end])


def test_a_filter_that_passes_nothing_moves_on() -> None:
    channel = Channel("run_a")
    channel.publish(block(1))
    assert channel.take(0, EVENTS, frozenset({"progress"})) == Taken(b"", 1)


def test_projections_and_filters_do_not_mix() -> None:
    channel = Channel("run_a")
    for first in range(1, 4):
        channel.publish(block(first))
    ways = [(stream(name), types) for name in ("events", "text", "typed", "ndjson")
            for types in (None, frozenset({"log"}), frozenset({"progress"}))]  # fmt: skip
    told = [all_from(channel, 0, *way) for way in ways]
    assert told == [
        b"".join(way.tell(block(first), types) for first in range(1, 4)) for way, types in ways
    ]


def test_what_is_shared_is_bounded() -> None:
    channel, counting = Channel("run_a"), Counting()
    channel.publish(large(1, 400_000))
    for number in range(200):
        taken = channel.take(0, counting, frozenset({"log", f"type{number}"}))
        assert taken is not None
        assert len(taken.wire) > 400_000
    kept = {id(wire): len(wire) for kinds in channel._told.values() for wire in kinds.values()}
    kept |= {id(taken.wire): len(taken.wire) for taken in channel._taken.values()}
    assert sum(kept.values()) <= 64 * 401_000


# --- readers ---------------------------------------------------------------------------


def test_readers_are_woken_by_news_only() -> None:
    channel = Channel("run_a")
    sleeper = Sleeper(channel)
    channel.publish(block(1))
    channel.publish(block(1))
    assert sleeper.woken == 1
    channel.publish(block(2))
    assert sleeper.woken == 2


def test_a_reader_may_leave_while_it_is_woken() -> None:
    channel = Channel("run_a")

    class Leaving(Sleeper):
        def wake(self) -> None:
            super().wake()
            channel.readers.clear()

    leaving = [Leaving(channel), Leaving(channel)]
    channel.publish(block(1))
    assert [one.woken for one in leaving] == [1, 1]


def test_a_snapshot_that_is_ahead_wakes_the_readers() -> None:
    """The block it stems from is no news any more when it comes."""
    channel = Channel("run_a")
    sleeper = Sleeper(channel)
    channel.publish(block(1))
    channel.settle(1, ended=False)
    assert sleeper.woken == 1
    channel.settle(2, ended=True)
    assert sleeper.woken == 2
    assert channel.ended
    channel.publish(block(2, draft("complete", {}, 0.0)))
    assert channel.head == 2
    assert channel.ended
    assert channel.take(1, EVENTS, None) is None


def test_a_snapshot_never_steps_back() -> None:
    channel = Channel("run_a")
    channel.publish(block(1))
    channel.publish(block(2, draft("complete", {}, 0.0)))
    channel.settle(1, ended=False)
    assert (channel.head, channel.ended) == (2, True)
    assert all_from(channel, 1)


def test_the_terminal_event_ends_the_channel() -> None:
    channel = Channel("run_a")
    channel.publish(block(1))
    assert not channel.ended
    channel.publish(block(2, draft("log", {}, 0.0), draft("error", {}, 0.0)))
    assert channel.ended
