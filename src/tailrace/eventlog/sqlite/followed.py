"""Which runs are followed, and how far the listener was told of each.

Wishes come from the event loop; all else happens on the writer thread, between its commits,
so that the blocks of one run are told in their order.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tailrace.errors import LogCorrupt
from tailrace.eventlog.contract import READ_BYTES
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.ledger import Appended
from tailrace.eventlog.sqlite.writer import Settle, Verdict
from tailrace.protocol.blocks import Block

_ASKED: Final = 500

Tell = Callable[[Sequence[Block], Sequence[tuple[Settle, Verdict]]], None]


class Followed:
    """The writer's lookout. `tell` carries blocks, and outcomes, to the event loop."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._wishes: deque[tuple[str, int | None]] = deque()
        self._heads: dict[str, int] = {}

    def wish(self, run: str, after: int | None) -> None:
        """From the event loop: tell of `run` after event `after`, or no more."""
        self._wishes.append((run, after))

    @property
    def is_watching(self) -> bool:
        """Whether anybody follows a run."""
        return bool(self._heads or self._wishes)

    def heed(self, connection: sqlite3.Connection) -> None:
        """Take in the wishes; tell whoever is behind what it missed."""
        wishes: dict[str, int | None] = {}
        while self._wishes:
            run, after = self._wishes.popleft()
            known = wishes[run] if run in wishes else self._heads.get(run)
            # Whoever comes second may know less than was told already: told again, it is no
            # news to the first, but without it the second would wait for the next event.
            wishes[run] = after if after is None or known is None else min(known, after)
        for run, after in wishes.items():
            self._heads.pop(run, None)
            if after is not None:
                self._heads[run] = after
        self._tell_news(connection, [run for run in wishes if run in self._heads])

    def deliver(self, outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        """After the commit, and never before it: seen means kept."""
        appended = (outcome.block for _, outcome in outcomes if isinstance(outcome, Appended))
        blocks = [block for block in appended if block is not None] if self._heads else []
        self._tell(self._untold(blocks), outcomes)

    def look_around(self, connection: sqlite3.Connection) -> None:
        """Tell what others committed."""
        self._tell_news(connection, list(self._heads))

    def _tell_news(self, connection: sqlite3.Connection, runs: Sequence[str]) -> None:
        for run in self._moved(connection, runs):
            # One run's damage must not cost the others their wake-up. Nothing is hidden by
            # it: whoever reads the run is told.
            with contextlib.suppress(LogCorrupt, sqlite3.DatabaseError):
                blocks = self._untold(self._news(connection, run))
                if blocks:
                    self._tell(blocks, ())

    def _moved(self, connection: sqlite3.Connection, runs: Sequence[str]) -> Sequence[str]:
        """Which of `runs` may have news: one question for many, because with each commit of
        another process most of them have none.
        """
        moved: list[str] = []
        try:
            for some in (runs[at : at + _ASKED] for at in range(0, len(runs), _ASKED)):
                marks = ", ".join("?" * len(some))
                sql = f"SELECT id, last_seq FROM runs WHERE id IN ({marks})"
                heads = connection.execute(sql, some).fetchall()
                moved += [run for run, head in heads if head > self._heads[run]]
        except sqlite3.DatabaseError:
            # Damage somewhere: each of them alone, so that only those that have it suffer.
            return runs
        return moved

    def _news(self, connection: sqlite3.Connection, run: str) -> Sequence[Block]:
        try:
            blocks = schema.read(connection, run, self._heads[run], READ_BYTES)
        except LogCorrupt:
            blocks = []
        else:
            if sum(len(block.wire) for block in blocks) < READ_BYTES:
                return blocks
        # Too much to hold here, or damaged: the newest block shows the listener a hole, and
        # it reads what it needs.
        return [*blocks, *schema.newest(connection, run)]

    def _untold(self, blocks: Sequence[Block]) -> list[Block]:
        untold = []
        for block in blocks:
            head = self._heads.get(block.run)
            if head is not None and block.last > head:
                self._heads[block.run] = block.last
                untold.append(block.after(head))
        return untold
