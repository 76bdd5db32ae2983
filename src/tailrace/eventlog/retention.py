"""How long runs are kept, decided without I/O.

Two rules that know nothing of each other: a run that grows beyond its bound loses its
oldest events (a watcher who missed them is told so by a `gap`), and finished runs are
forgotten, oldest first, by age, count and total size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """The bounds; None switches one off.

    `max_age`: seconds since a run ended (default 30 days). `max_runs`: finished runs.
    `max_bytes`: of events, over all finished runs. `run_events`, `run_bytes`: of one run,
    finished or not (default 1 GiB).
    """

    max_age: float | None = 30 * DAY
    max_runs: int | None = 10_000
    max_bytes: int | None = 20 * 1024**3
    run_events: int | None = None
    run_bytes: int | None = 1024**3

    def __post_init__(self) -> None:
        """Raises ValueError for a bound that would keep nothing or less."""
        for name in self.__slots__:
            bound = getattr(self, name)
            if bound is not None and bound <= 0:
                raise ValueError(f"Retention.{name} must be positive or None, not {bound!r}")


class Ended(NamedTuple):
    """What the rules need to know of a finished run."""

    id: str
    ended_at: float
    size: int


def expired(rules: Retention, runs: Iterable[Ended], now: float) -> list[str]:
    """The ids of the finished runs that must go."""
    size = 0
    newest_first = sorted(runs, key=lambda run: run.ended_at, reverse=True)
    for kept, run in enumerate(newest_first):
        size += run.size
        if (
            (rules.max_age is not None and now - run.ended_at > rules.max_age)
            or (rules.max_runs is not None and kept >= rules.max_runs)
            or (rules.max_bytes is not None and size > rules.max_bytes)
        ):
            return [older.id for older in newest_first[kept:]]
    return []


class Stretch(NamedTuple):
    """The place and size of one block."""

    first: int
    last: int
    size: int


def crowded(rules: Retention, events: int, size: int) -> bool:
    """Whether a run has outgrown its own bounds."""
    return (rules.run_events is not None and events > rules.run_events) or (
        rules.run_bytes is not None and size > rules.run_bytes
    )


def trimmed(
    rules: Retention, blocks: Sequence[Stretch], size: int, last: int | None = None
) -> tuple[int, int]:
    """The first sequence number to keep of a crowded run, and the bytes that go.

    `blocks` are all of the run, or the oldest of them; then `last` is its newest event.

    Whole blocks go, the oldest first, until a tenth below the bound: cutting on every
    append would make each of them pay. The newest block always stays, because it may hold
    the terminal event.
    """
    want_events = None if rules.run_events is None else rules.run_events * 0.9
    want_size = None if rules.run_bytes is None else rules.run_bytes * 0.9
    keep, dropped = blocks[0].first, 0
    for block, following in itertools.pairwise(blocks):
        left = (blocks[-1].last if last is None else last) - block.first + 1
        if (want_events is None or left <= want_events) and (
            want_size is None or size - dropped <= want_size
        ):
            break
        keep = following.first
        dropped += block.size
    return keep, dropped
