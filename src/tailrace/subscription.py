"""One watcher's reader: a cursor that pulls.

There is no queue. A subscription knows how far its watcher has come; what it gets next is
looked up when it is ready for more: in the run's tail, or further back in the log. So the
step from history to live has no seam, and a slow watcher costs nobody anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from tailrace.channel import CHUNK_BYTES, Channel, pieces
from tailrace.eventlog.contract import EventLog
from tailrace.outlet import End
from tailrace.projections.contract import Projection, Types
from tailrace.protocol import events
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Kind, Resume

# Shared, because an empty one takes 600 bytes. Nobody adds to it.
_NOTHING: Final[deque[Block]] = deque(maxlen=0)


class Subscription:
    """Yields bytes to send, in order, until the run's end or until it is closed.

    After the iteration, `end` says why it is over. `interject` slips a control frame in.
    Whoever reads many of them uses `take` and `pull`, and is told by `woken` which of them
    to look at.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        log: EventLog,
        channel: Channel,
        start: Resume,
        projection: Projection,
        types: Types = None,
        woken: Callable[[Subscription], None] | None = None,
    ) -> None:
        self.run = channel.run
        self.channel = channel
        self.projection = projection
        self.cursor = start.after
        self.epoch = 0
        self.end: End | None = None
        self._log = log
        self._types = types
        self._woken = woken
        self._waiting: asyncio.Future[None] | None = None
        self._aside: list[bytes] = []
        self._ahead = _NOTHING
        if start.lost is not None:
            type_ = events.RESET if start.kind is Kind.RESET else events.GAP
            self._aside.append(self._lost(type_, *start.lost))

    def wake(self) -> None:
        """There may be something new."""
        if self._woken is not None:
            self._woken(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self, end: End) -> None:
        """Stop after what was already handed out; the watcher can come back for the rest."""
        if self.end is None:
            self.end = end
            self.wake()

    def part(self) -> None:
        """`close`, with nobody to tell it to, and let go of what was read for them."""
        self._woken = None
        self._ahead = _NOTHING
        self._aside = []
        self.close(End.LEFT)

    def interject(self, frame: bytes) -> None:
        """Send something that is no event of the run."""
        # Where nothing may stand between the bytes (`output`) a keep-alive is empty, and an
        # empty chunk would look like the end of what there is.
        if frame:
            self._aside.append(frame)
            self.wake()

    def aside(self) -> list[bytes]:
        """What was interjected and is not handed out yet."""
        aside, self._aside = self._aside, []
        return aside

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks, each about CHUNK_BYTES at the most."""
        while self.end is None:
            chunk = await self.pull()
            if chunk:
                yield chunk
            elif self.end is None:
                await self._wait()

    async def pull(self) -> bytes:
        """What there is for the watcher now; nothing when it has it all, or at the end.

        Raises LogError if the log cannot be read.
        """
        while self.end is None:
            chunk = self.take()
            if chunk is None:
                chunk = await self._read()
            if chunk:
                return chunk
            if not self.is_ready:
                break
            # Much may have happened meanwhile: look again. A log in memory does not suspend,
            # and a filter may pass nothing of a long history.
            await asyncio.sleep(0)
        return b""

    def take(self) -> bytes | None:
        """What there is at once; None if it has to be read from the log, with `pull`. Nothing
        when the watcher has it all, at the end, and where a filter let nothing through.
        """
        if self._aside:
            return b"".join(self.aside())
        if self.is_over:
            self.end = self.end or End.FINISHED
            return b""
        taken = self.channel.take(self.cursor, self.projection, self._types)
        if taken is None:
            return None
        self.cursor = taken.cursor
        # Within the tail again: what was read of the log is behind.
        self._ahead = _NOTHING
        return taken.wire

    def fork(self, woken: Callable[[Subscription], None]) -> Subscription:
        """Another reader, where this one is."""
        start = Resume(Kind.LIVE, self.cursor)
        forked = Subscription(self._log, self.channel, start, self.projection, self._types, woken)
        forked.epoch, forked.end = self.epoch, self.end
        return forked

    @property
    def has_aside(self) -> bool:
        """Whether something was interjected and is not handed out yet."""
        return bool(self._aside)

    @property
    def is_over(self) -> bool:
        """Whether the watcher has the run to its end."""
        return self.channel.ended and self.cursor >= self.channel.head

    @property
    def is_ready(self) -> bool:
        """Whether there is something to be had at once, be it the end."""
        return self.is_behind or self.has_aside or self.is_over or self.end is not None

    @property
    def is_behind(self) -> bool:
        """Whether there is more to have at once."""
        return self.cursor < self.channel.head

    async def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    async def _read(self) -> bytes:
        if not self._ahead:
            blocks = await self._log.read(self.run, self.cursor, CHUNK_BYTES)
            found = [piece for block in blocks for piece in pieces(block)]
            self.channel.recall(found)
            self._ahead = deque(found)
        if not self._ahead:
            lost = self._lost(events.GAP, self.cursor + 1, self.channel.head)
            self.cursor = self.channel.head
            return lost
        parts: list[bytes] = []
        size = 0
        while self._ahead and size < CHUNK_BYTES:
            block = self._ahead.popleft()
            if block.first > self.cursor + 1:
                parts.append(self._lost(events.GAP, self.cursor + 1, block.first - 1))
            parts.append(self.projection.tell(block, self._types))
            size += len(parts[-1])
            self.cursor = block.last
            if parts[-1] is not block.wire:
                # It had to be encoded: others have their turn now.
                break
        return b"".join(parts)

    def _lost(self, type: str, first: int, last: int) -> bytes:
        return self.projection.control(type, {"run": self.run, "from": first, "to": last})
