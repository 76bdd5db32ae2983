"""Keeping a log in order: runs that lost their process, notes of who is watched, retention."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Any, Final

from tailrace import time
from tailrace.errors import Conflict, LogError, TailraceError
from tailrace.eventlog.contract import Append, EventLog
from tailrace.hub import Hub
from tailrace.operations import Traits
from tailrace.outcome import Outcome, settle
from tailrace.protocol import events
from tailrace.protocol.events import draft
from tailrace.protocol.lifecycle import Signal, State
from tailrace.protocol.runs import RunRecord
from tailrace.registry import Operations
from tailrace.runners.sweep import sweep

_ROUND_SECONDS: Final = 1.0
_SWEEP_EVERY: Final = 60
_DID: Final = {State.QUEUED: "queued", State.RUNNING: "ran", State.CANCELLING: "ran"}

logger = logging.getLogger("tailrace.upkeep")


class _Fate(Enum):
    """What becomes of a run whose process is gone."""

    GOES_ON = auto()
    STARTS = auto()
    ENDS = auto()
    UNKNOWN = auto()


class Upkeep:
    """What one process does for its log, again and again. `submit` has a run executed."""

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        operations: Operations,
        submit: Callable[[str], Awaitable[None]],
    ) -> None:
        self._log = log
        self._hub = hub
        self._operations = operations
        self._submit = submit

    async def keep(self) -> None:
        """Go round until cancelled. A round that fails does not end the care."""
        rounds = 0
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            rounds += 1
            try:
                await self.reap()
                watched = self._hub.watched()
                if watched:
                    await self._log.touch(watched, time.time())
                if rounds % _SWEEP_EVERY == 0:
                    await self._log.sweep(time.time())
            except LogError as error:
                logger.warning("The log could not be kept in order: %s", error)
            except Exception:
                logger.exception("The log could not be kept in order")

    async def reap(self) -> None:
        """Take up the runs whose process is gone where that can be done, and end the others.
        Other processes may do the same: the log lets one win.

        Raises LogError if it cannot be read who they are.
        """
        orphans = await self._log.orphans()
        if not orphans:
            return
        # At once: a server that was killed may have left hundreds, and their watchers and its
        # new requests wait for this.
        fates = await asyncio.gather(*map(self._fate, orphans))
        of = {fate: [o for o, found in zip(orphans, fates, strict=True) if found is fate]
              for fate in _Fate}  # fmt: skip
        await asyncio.gather(*map(self._take_up, of[_Fate.GOES_ON]), self._end(of[_Fate.ENDS]))
        # Later, so that those who go on have their slots by then.
        await asyncio.gather(*map(self._take_up, of[_Fate.STARTS]))

    async def _fate(self, orphan: RunRecord) -> _Fate:
        traits = self._traits(orphan)
        if orphan.state is State.QUEUED:
            # It was never started, so nothing can happen twice. But whoever can only go on with
            # such runs cannot start one.
            known = self._operations.find(orphan.operation)
            if known is not None and (known.traits.survives or known.traits.resumes):
                return _Fate.STARTS
            return _Fate.ENDS if traits.resumes is None else _Fate.UNKNOWN
        if traits.resumes is None:
            return _Fate.ENDS
        try:
            goes_on = await asyncio.to_thread(traits.resumes, orphan.id)
        except Exception:
            # Nobody can tell, so nothing is ended that perhaps goes on. The next round asks again.
            logger.exception("Whether %s goes on cannot be found out", orphan.id)
            return _Fate.UNKNOWN
        if goes_on is None:
            return _Fate.UNKNOWN
        return _Fate.GOES_ON if goes_on else _Fate.ENDS

    async def _take_up(self, orphan: RunRecord) -> None:
        """Make it a run of this process, in a new attempt, and have it executed."""
        state, now = orphan.state, time.time()
        reason = f"taken up again: the process that {_DID[state]} it is gone"
        told = draft(events.STATUS, {"status": state.value, "reason": reason}, now)
        patch: dict[str, Any] = {"worker": self._log.worker, "attempt": orphan.attempt + 1}
        if state is State.QUEUED:
            patch["progress"] = None
        take_over = Append(
            orphan.id, (told,), move=(state, state), patch=patch, fence=orphan.attempt
        )
        try:
            await self._log.append(take_over)
            await self._submit(orphan.id)
        except Conflict:
            # Another process was quicker, or it is asked to stop: then the next round sees it.
            return
        except TailraceError as error:
            logger.warning("%s cannot be taken up yet: %s", orphan.id, error)
            return
        logger.info("%s is taken up again; the process that %s it is gone", orphan.id, _DID[state])

    async def _end(self, orphans: Sequence[RunRecord]) -> None:
        lost = await asyncio.gather(*map(self._lose, orphans))
        left = [
            orphan.id
            for orphan, is_lost in zip(orphans, lost, strict=True)
            # What another process has taken up meanwhile must not be killed.
            if is_lost or self._traits(orphan).resumes is None
        ]
        survivors = await asyncio.to_thread(sweep, *left) if left else 0
        for orphan, is_lost in zip(orphans, lost, strict=True):
            ended = self._traits(orphan).ended
            if is_lost and ended is not None:
                await asyncio.to_thread(ended, orphan.id)
        if survivors:
            logger.warning("%d processes were left over of lost runs", survivors)

    async def _lose(self, orphan: RunRecord) -> bool:
        """Whether it is this process that has ended it."""
        try:
            # Not patient: a log without space needs to be swept, not to be waited for.
            lost = await settle(
                self._log, orphan, Outcome(Signal.LOSE), fence=orphan.attempt, clock=time.time,
                patient=False,
            )  # fmt: skip
        except TailraceError as error:
            logger.warning("%s cannot be ended yet: %s", orphan.id, error)
            return False
        if lost is not None:
            logger.warning("%s was lost with its process", orphan.id)
        return lost is not None

    def _traits(self, run: RunRecord) -> Traits:
        operation = self._operations.heir(run.operation)
        return Traits() if operation is None else operation.traits
