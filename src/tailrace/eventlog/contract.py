"""The port every event log implements, and the records that cross it.

A log is the authority: over the order of a run's events, over who may write, and over the
one terminal event. Whatever is decided elsewhere counts only once its append committed.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from tailrace.errors import (
    ProducerGap,
    RunEnded,
    RunUnknown,
    StateMoved,
    ThreadBusy,
    WriterFenced,
)
from tailrace.eventlog.retention import Retention
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import PROGRESS, Draft
from tailrace.protocol.lifecycle import TERMINAL, State
from tailrace.protocol.runs import RunQuery, RunRecord

READ_BYTES: Final = 256 * 1024
"""How much one `read` returns at the most, in bytes, except that it never splits a block."""

# The columns an append may set beside the state. A name outside this set is a bug, and in
# a store that builds SQL from it an injection.
PATCHABLE: Final = frozenset(
    {"started_at", "ended_at", "progress", "result", "error", "attempt", "worker"}
)


@dataclass(frozen=True, slots=True)
class Producer:
    """A remote producer's position: `seq` numbers the first event of the batch from 1."""

    id: str
    epoch: int
    seq: int

    def __post_init__(self) -> None:
        """Raises ValueError: a number below 1 would silently drop the batch's first events."""
        if self.seq < 1 or self.epoch < 0:
            raise ValueError(f"A producer's seq starts at 1 and its epoch at 0, not {self}")


# Not frozen: that would cost every append a microsecond. Nobody changes one all the same.
@dataclass(slots=True)
class Append:
    """Events for one run, and what changes with them, in one transaction.

    `move` is a compare-and-set of the state: (expected, new); one to a terminal state
    comes with the terminal event as the last draft, and a patch of `ended_at`. `fence`,
    where given, must be the run's attempt. `producer` makes a repeated batch harmless.
    """

    run: str
    drafts: Sequence[Draft] = ()
    move: tuple[State, State] | None = None
    patch: dict[str, Any] = field(default_factory=dict)
    fence: int | None = None
    producer: Producer | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a column that may not be patched."""
        if self.patch and not self.patch.keys() <= PATCHABLE:
            raise ValueError(f"{sorted(self.patch.keys() - PATCHABLE)} cannot be patched")


def progressed(drafts: Sequence[Draft]) -> dict[str, Any]:
    """The patch that keeps the snapshot's progress with the events that tell of it."""
    for type_, data in reversed(drafts):
        if type_ == PROGRESS:
            return {"progress": data}
    return {}


class Commit(NamedTuple):
    """What became of an append: events `first`..`last` of the run are durable.

    `first` > `last` where nothing was new: no drafts, or a producer's repetition.
    """

    run: str
    first: int
    last: int
    state: State


Listener = Callable[[Block], None]


@runtime_checkable
class EventLog(Protocol):
    """An ordered, durable log of events for each of many runs.

    One event loop uses an open log. `append` and `create` submit at once, in call order,
    and answer a future that is done when the change is durable, or failed with an error
    of `tailrace.errors`; nothing of a failed append is kept.
    """

    @property
    def worker(self) -> str:
        """The name this process owns runs under while the log is open; others can tell
        whether it is alive.
        """

    @property
    def folder(self) -> Path | None:
        """Where what belongs to its runs may be kept on this machine, as long as the log is;
        None if nothing outlives the process.
        """

    async def open(self) -> None:
        """Make the log ready. Raises LogCorrupt, LogFull, or LogError for a bad place."""

    async def close(self) -> None:
        """Commit what was submitted, then let go of everything."""

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with what is committed of followed runs.

        It is called on the loop with each newly committed block, in order, also when another
        process committed it. Blocks may be missed (never swapped); a listener that sees a
        hole reads. What it raises harms no append.
        """

    def follow(self, run: str, after: int) -> None:
        """Tell the listener of blocks after event `after`, also of one that is there already.

        Calls nest, and each of them has told what it missed, even if it was told before: who
        comes second may know less than who came first. Does nothing on a closed log.
        """

    def unfollow(self, run: str) -> None:
        """Undo one `follow`."""

    def create(self, run: RunRecord) -> Future[RunRecord]:
        """Keep a new run. Answers the run that already has the same (principal, key).

        Fails with ThreadBusy while another run of the same (principal, thread) is active; for
        an id that is taken: it would be another run's history.
        """

    def append(self, append: Append) -> Future[Commit]:
        """Number, commit and tell of events.

        Fails with RunUnknown, RunEnded, WriterFenced, StateMoved, ProducerGap, LogFull,
        LogCorrupt or LogClosed.
        """

    async def get(self, run: str) -> RunRecord | None:
        """The run's snapshot."""

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Runs, newest first unless the query says otherwise."""

    async def read(self, run: str, after: int, limit: int = READ_BYTES) -> list[Block]:
        """Blocks after event `after`, oldest first: about `limit` bytes, at least one if any.

        A first block that starts later than `after` + 1 means that the events between are
        no longer kept. Raises LogCorrupt, once what comes before the damage was read.
        """

    async def forget(self, run: str) -> None:
        """Delete a finished run. Raises RunUnknown, RunActive."""

    async def orphans(self) -> list[RunRecord]:
        """Active runs whose `worker` is no longer alive; not those that nobody owns yet."""

    async def touch(self, runs: Sequence[str], at: float) -> None:
        """Note that these runs are being watched."""

    async def sweep(self, at: float) -> int:
        """Apply the retention rules to finished runs; how many were forgotten."""


class Standing(NamedTuple):
    """The little of a run that admission depends on."""

    state: State
    attempt: int


def admit(
    run: Standing | None, append: Append, position: tuple[int, int] | None
) -> Sequence[Draft]:
    """Decide, without I/O, whether a log may take `append`, and which drafts of it are new.

    `position` is the (epoch, last seq) its producer reached. Every store calls this inside
    its transaction, so that all of them refuse the same things in the same order. Where
    there were drafts and none is new, the store must leave the run exactly as it is.
    """
    if run is None:
        raise RunUnknown(f"There is no run {append.run}.", fix="It may have been forgotten.")
    if append.fence is not None and append.fence != run.attempt:
        raise WriterFenced(
            f"Attempt {append.fence} of {append.run} may not write: attempt {run.attempt} owns it.",
            fix="Stop this worker; the run goes on elsewhere.",
        )
    drafts = _unseen(append, append.producer, position)
    if append.drafts and not drafts:
        # A producer that lost our answer repeats itself. That must change nothing, neither
        # state nor columns, and must succeed though the first time may have ended the run.
        return drafts
    if run.state in TERMINAL and (drafts or append.move):
        raise RunEnded(
            f"{append.run} is {run.state}; nothing can follow its terminal event.",
            fix="Start a new run.",
            state=run.state.value,
        )
    if append.move is not None and append.move[0] is not run.state:
        raise StateMoved(
            f"{append.run} is {run.state}, not {append.move[0]} any more.", state=run.state.value
        )
    return drafts


def busy(thread: str, run: str) -> ThreadBusy:
    """The refusal of a new run of a thread, in which `run` is still active."""
    return ThreadBusy(
        f"{run} of the thread {thread[:80]!r} is still going on.",
        fix="Wait for its end, or cancel it, and ask again.",
        run=run,
    )


def _unseen(
    append: Append, producer: Producer | None, position: tuple[int, int] | None
) -> Sequence[Draft]:
    """The drafts a producer has not sent before (the rule of Durable Streams, and Kafka)."""
    if producer is None:
        return append.drafts
    epoch, last = position or (producer.epoch, 0)
    if producer.epoch < epoch:
        raise WriterFenced(
            f"Producer {producer.id!r} of epoch {producer.epoch} was replaced by epoch {epoch}.",
            fix="Stop this producer.",
        )
    if producer.epoch > epoch:
        last = 0
    if producer.seq > last + 1:
        raise ProducerGap(
            f"Producer {producer.id!r} sent number {producer.seq}, but {last + 1} is next.",
            fix=f"Send the events from number {last + 1} on again.",
            expected=last + 1,
        )
    return append.drafts[last + 1 - producer.seq :]


__all__ = [
    "PATCHABLE",
    "READ_BYTES",
    "Append",
    "Commit",
    "EventLog",
    "Listener",
    "Producer",
    "Retention",
    "Standing",
    "admit",
    "busy",
    "progressed",
]
