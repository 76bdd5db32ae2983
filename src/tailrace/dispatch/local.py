"""Runs execute here: one asyncio task for each."""

from __future__ import annotations

import asyncio
import logging

from tailrace.dispatch.contract import Execute
from tailrace.errors import LogClosed

logger = logging.getLogger("tailrace.dispatch")


class LocalDispatcher:
    """A `Dispatcher` for one process."""

    def __init__(self) -> None:
        self._execute: Execute | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self, execute: Execute) -> None:
        """See the contract."""
        self._execute = execute
        # Those of an event loop that has ended will not come to their end any more.
        self._tasks = {task for task in self._tasks if not task.get_loop().is_closed()}

    async def submit(self, run: str) -> None:
        """See the contract. Raises LogClosed after `close`."""
        if self._execute is None:
            raise LogClosed("Nothing executes runs here any more.", fix="Start the engine.")
        task = asyncio.create_task(self._run(self._execute, run), name=f"tailrace-{run}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """See the contract."""
        self._execute = None
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s broke down", task.get_name(), exc_info=task.exception())

    @staticmethod
    async def _run(execute: Execute, run: str) -> None:
        await execute(run)
