"""A run's place for events, for tests of what tells it something."""

from __future__ import annotations

from typing import Any

from tailrace.runners.contract import Sink


class Recorder(Sink):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        self._tell_once()
        self.told.append((type, dict(payload) if payload is not None else fields))

    async def ebb(self) -> None:
        """There is room."""

    async def drain(self) -> None:
        """All is kept."""
