"""Keeping a log in order: runs that lost their process, notes of who is watched, retention."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from tailrace.errors import LogError, TailraceError
from tailrace.eventlog.contract import EventLog
from tailrace.hub import Hub
from tailrace.outcome import Outcome, settle
from tailrace.protocol.lifecycle import Signal
from tailrace.protocol.runs import RunRecord
from tailrace.runners.script import sweep

_ROUND_SECONDS: Final = 1.0
_SWEEP_EVERY: Final = 60

logger = logging.getLogger("tailrace.upkeep")


class Upkeep:
    """What one process does for its log, again and again."""

    def __init__(self, log: EventLog, hub: Hub) -> None:
        self._log = log
        self._hub = hub

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
        """End the runs whose process is gone. Others may do the same: the log lets one win.

        Raises LogError if it cannot be read who they are.
        """
        orphans = await self._log.orphans()
        if orphans:
            # At once: a server that was killed may have left hundreds, and their watchers
            # and its new requests wait for this.
            survivors, *_ = await asyncio.gather(
                asyncio.to_thread(sweep, *(orphan.id for orphan in orphans)),
                *map(self._lose, orphans),
            )
            if survivors:
                logger.warning("%d processes were left over of lost runs", survivors)

    async def _lose(self, orphan: RunRecord) -> None:
        try:
            # Not patient: a log without space needs to be swept, not to be waited for.
            lost = await settle(self._log, orphan, Outcome(Signal.LOSE), patient=False)
        except TailraceError as error:
            logger.warning("%s cannot be ended yet: %s", orphan.id, error)
            return
        if lost is not None:
            logger.warning("%s was lost with its process", orphan.id)
