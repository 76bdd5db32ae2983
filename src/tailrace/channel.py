"""One run as it is live in this process: the newest blocks, and who is reading them.

The tail is bounded. A reader that falls out of it is not waited for: it reads the log until
it has caught up. What is told of the tail is encoded once for each projection, whatever the
number of readers, and readers at the same cursor get the very same bytes object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from tailrace.projections.contract import Projection, Types
from tailrace.protocol.blocks import Block
from tailrace.protocol.runs import RunRecord

TAIL_BYTES: Final = 1024 * 1024
"""Bound of a run's tail in memory, in bytes."""

CHUNK_BYTES: Final = 256 * 1024
"""About how much one send carries at the most, in bytes."""

PIECE_BYTES: Final = 64 * 1024
"""About how much is encoded without a pause, in bytes: a millisecond of work."""

# Any filter a client can think of makes its own encoding. What goes beyond these bounds is
# not shared: so many joined chunks, so many bytes of encoded blocks.
_SHARED: Final = 64
_SHARED_BYTES: Final = 8 * TAIL_BYTES
_ENTRY_BYTES: Final = 100


def pieces(block: Block) -> Iterator[Block]:
    """A burst is one block of megabytes. In pieces of about PIECE_BYTES, telling it keeps
    nobody else waiting, and no server has to hold all of it for each watcher.
    """
    first, start, wire = block.first, 0, block.wire
    while len(wire) - start > PIECE_BYTES:
        # A payload holds no raw line feed, so a blank line ends an event.
        end = wire.find(b"\n\n", start + PIECE_BYTES) + 2
        if not 2 <= end < len(wire):
            break
        # By its last id: to count the events of a history costs more than to send them.
        before = wire.rfind(b"\n\n", start, end - 2)
        begin = start if before < 0 else before + 2
        id_ = wire[begin : wire.index(b"\n", begin)]
        last = int(id_[4:].rpartition(b"-")[2])
        yield Block(block.run, first, last, wire[start:end], block.epoch)
        first, start = last + 1, end
    yield Block(block.run, first, block.last, wire[start:], block.epoch) if start else block


class Reader(Protocol):
    """Who wants to know that there is more."""

    def wake(self) -> None:
        """There is something new at the channel."""


class Taken(NamedTuple):
    """What a reader gets: the bytes to send, and the sequence number it has then."""

    wire: bytes
    cursor: int


class Channel:
    """The live end of one run.

    `head` is the last sequence number known to be committed, `ended` whether it is the
    run's last for ever. The hub keeps here how many use it, whether the log tells of the run,
    whether its owner wants to know of watchers, and the snapshot it read last, and when.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.head = 0
        self.ended = False
        self.readers: set[Reader] = set()
        self.users = 0
        self.is_followed = False
        self.wants_watchers = False
        self.record: RunRecord | None = None
        self.read_at = 0.0
        self._tail: deque[Block] = deque()
        self._size = 0
        # By the first event of the block, so that they go with it.
        self._told: dict[int, dict[tuple[str, Types], bytes]] = {}
        self._told_size = 0
        self._taken: dict[tuple[str, Types, int], Taken] = {}

    def settle(self, head: int, *, ended: bool) -> None:
        """Learn what the log says. Never steps back: a block may have come in meanwhile."""
        has_more = head > self.head
        if has_more:
            self.head = head
            self._clear()
        has_ended = ended and head >= self.head and not self.ended
        self.ended = self.ended or has_ended
        if has_more or has_ended:
            # The block that says so is still on its way, and will be no news when it comes.
            self._wake()

    def publish(self, block: Block) -> None:
        """Take in a newly committed block and wake the readers."""
        if block.last <= self.head:
            return
        if block.first > self.head + 1:
            # A hole: what lies in it is read from the log by whoever needs it.
            self._clear()
        if block.first <= self.head:
            block = block.after(self.head)
        # A token of a stream is a block of its own.
        for piece in (block,) if len(block.wire) <= PIECE_BYTES else pieces(block):
            self._tail.append(piece)
            self._size += len(piece.wire)
        self.head = block.last
        self.ended = block.ends
        while self._size > TAIL_BYTES and len(self._tail) > 1:
            self._drop_oldest()
        self._taken.clear()
        self._wake()

    def recall(self, blocks: Sequence[Block]) -> None:
        """Take in what somebody has read of the log, if it is the newest and nothing is here
        yet: a crowd that comes to a silent run shall not read it each for themselves.
        """
        if self._tail or not blocks or blocks[-1].last != self.head:
            return
        for block in reversed(blocks):
            if self._size + len(block.wire) > TAIL_BYTES:
                break
            if self._tail and self._tail[0].first != block.last + 1:
                break
            self._tail.appendleft(block)
            self._size += len(block.wire)
        self._taken.clear()

    def take(self, cursor: int, projection: Projection, types: Types) -> Taken | None:
        """Everything after `cursor`, up to about CHUNK_BYTES; None if the tail starts later."""
        if cursor >= self.head:
            return Taken(b"", cursor)
        if not self._tail or cursor + 1 < self._tail[0].first:
            return None
        place = (projection.name, types, cursor)
        taken = self._taken.get(place)
        if taken is None:
            taken = self._encode(cursor, projection, types)
            if len(self._taken) < _SHARED:
                self._taken[place] = taken
        return taken

    def _encode(self, cursor: int, projection: Projection, types: Types) -> Taken:
        # From the newest back: almost everybody is near it, and the tail of a busy run may be
        # thousands of small blocks.
        ahead: list[Block] = []
        for block in reversed(self._tail):
            if block.last <= cursor:
                break
            ahead.append(block)
        parts: list[bytes] = []
        size, work, reached = 0, 0, cursor
        # A filter may let nothing through of all that has to be encoded for it.
        while ahead and size < CHUNK_BYTES and work < PIECE_BYTES:
            block = ahead.pop()
            part, is_new = self._tell(block, cursor, projection, types)
            parts.append(part)
            size += len(part)
            work += len(block.wire) if is_new else 0
            reached = block.last
        return Taken(parts[0] if len(parts) == 1 else b"".join(parts), reached)

    def _tell(
        self, block: Block, cursor: int, projection: Projection, types: Types
    ) -> tuple[bytes, bool]:
        """What is told of a block after `cursor`, and whether that was work."""
        if cursor >= block.first:
            return projection.tell(block.after(cursor), types), True
        kinds = self._told.setdefault(block.first, {})
        told = kinds.get((projection.name, types))
        if told is not None:
            return told, False
        told = projection.tell(block, types)
        if self._told_size < _SHARED_BYTES:
            kinds[projection.name, types] = told
            self._told_size += len(told) + _ENTRY_BYTES
        return told, told is not block.wire

    def _drop_oldest(self) -> None:
        block = self._tail.popleft()
        self._size -= len(block.wire)
        kinds = self._told.pop(block.first, {})
        self._told_size -= sum(map(len, kinds.values())) + _ENTRY_BYTES * len(kinds)

    def _wake(self) -> None:
        for reader in tuple(self.readers):
            reader.wake()

    def _clear(self) -> None:
        self._tail.clear()
        self._told.clear()
        self._taken.clear()
        self._size = self._told_size = 0
