"""The port of a dispatcher. It carries nothing but ids: the log has all the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

Execute = Callable[[str], Awaitable[None]]
"""Executes a run to its end; never raises for what the run did."""


class Dispatcher(Protocol):
    """Has queued runs executed, at least once each. The log makes sure it is only once."""

    def bind(self, execute: Execute) -> None:
        """What to call, in whichever process it is, for each run."""

    async def submit(self, run: str) -> None:
        """Have a run executed, soon."""

    async def close(self) -> None:
        """Take no more; return when nothing executes here."""
