"""What is wished for when a run is started: checked before anything of it is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

from tailrace.errors import InputInvalid, KeyReused
from tailrace.operations import Operation
from tailrace.protocol.events import loads
from tailrace.protocol.runs import THREAD, RunRecord

_MAX_SECONDS: Final = 366 * 86_400.0
_THREAD: Final = re.compile(THREAD)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


async def wished(
    operation: Operation[Any, Any],
    input: Mapping[str, Any],
    *,
    timeout: float | None = None,
    abandon_after: float | None = None,
    thread: str | None = None,
    **columns: Any,
) -> RunRecord:
    """The record of a new run; None is what the operation has. `columns` are its others.

    Raises InputInvalid, BodyTooLarge, and what the operation's guard does.
    """
    run = RunRecord(
        operation=operation.name,
        input=operation.check(input),
        timeout=_seconds("timeout", timeout, operation.timeout),
        abandon_after=_seconds("abandon_after", abandon_after, operation.abandon_after),
        thread=_thread(thread),
        **columns,
    )
    if operation.traits.guard is not None:
        # It may look at a disk, which may be slow.
        await asyncio.to_thread(operation.traits.guard, loads(run.input))
    return run


def check_same(kept: RunRecord, wished: RunRecord) -> None:
    """Raise KeyReused unless one key has come twice with the same wish."""
    if _wish(kept) != _wish(wished):
        raise KeyReused(
            f"The idempotency key {str(wished.key)[:80]!r} already names {kept.id}, "
            "which was asked for with another operation, input, timeout, abandon_after or thread.",
            fix="Use a new key for a new request.",
        )


def _wish(run: RunRecord) -> tuple[object, ...]:
    return run.operation, run.input, run.timeout, run.abandon_after, run.thread


def _thread(asked: str | None) -> str | None:
    """A thread's name as asked for. Raises InputInvalid unless a log can keep it."""
    # A lone surrogate is in Python's texts alone: no UTF-8 has it, so no log can keep it.
    if asked is not None and (not _THREAD.fullmatch(asked) or _SURROGATE.search(asked)):
        raise InputInvalid(
            f"thread must be a text of 1 to 200 characters, not {asked[:40]!r}.",
            fix="Take a name or an id without control characters, or leave thread out.",
        )
    return asked


def _seconds(name: str, asked: float | None, default: float | None) -> float | None:
    """A duration as asked for. Raises InputInvalid unless it is positive and finite."""
    chosen = default if asked is None else asked
    if chosen is not None and not 0 < chosen <= _MAX_SECONDS:
        raise InputInvalid(
            f"{name} must be a positive number of seconds, at most a year, not {chosen!r}.",
            fix=f"Leave {name} out for the operation's own, or give seconds like 30 or 0.5.",
        )
    return chosen
