"""Which log is kept where."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from tailrace.eventlog.contract import EventLog
from tailrace.eventlog.masked import MaskedLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.masking import Masks


def default_log() -> Path:
    """Where runs are kept unless said otherwise: the platform's folder for state."""
    return Path(platformdirs.user_state_path("tailrace", appauthor=False)) / "tailrace.db"


def open_log(
    place: str | Path | EventLog | None, retention: Retention | None, masks: Masks | None = None
) -> EventLog:
    """The log at `place`: None (the default file), a path, `sqlite:PATH`, or `memory:`. What
    is in `masks` is not kept there.

    Raises ValueError for a scheme that is not known.
    """
    log = _found(place, retention)
    return MaskedLog(log, masks) if masks else log


def _found(place: str | Path | EventLog | None, retention: Retention | None) -> EventLog:
    if place is None:
        return SqliteLog(default_log(), retention)
    if isinstance(place, Path):
        return SqliteLog(place, retention)
    if not isinstance(place, str):
        return place
    scheme, colon, rest = place.partition(":")
    if place == "memory:":
        return MemoryLog(retention)
    if scheme == "sqlite" and rest:
        return SqliteLog(rest.removeprefix("//"), retention)
    if colon and rest.startswith("//"):
        raise ValueError(f"There is no event log for {scheme}://; use a path, or memory:")
    return SqliteLog(place, retention)
