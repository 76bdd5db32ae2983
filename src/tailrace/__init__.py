"""Tailrace: run anything long, watch it live, lose nothing.

    from tailrace import RunContext, Tailrace

    runs = Tailrace("runs.db")

    @runs.operation
    async def crunch(run: RunContext, rows: int = 100) -> dict:
        async for row in run.track(range(rows), "Crunching"):
            ...
        return {"rows": rows}

    app = FastAPI(lifespan=runs.lifespan)
    app.mount("/tailrace", runs.asgi)

Everything public is here and in `tailrace.errors`. Names are imported at their first use:
a terminal command must not pay for the web framework, nor a client for the server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tailrace.agent.tools import tool
    from tailrace.attached import Attachment, attach
    from tailrace.client import AsyncClient, Client
    from tailrace.errors import RunCancelled, TailraceError
    from tailrace.eventlog.contract import EventLog
    from tailrace.eventlog.memory import MemoryLog
    from tailrace.eventlog.retention import Retention
    from tailrace.eventlog.sqlite import SqliteLog
    from tailrace.facade import Tailrace
    from tailrace.http.eventsource import EventSourceResponse, JSONEventSourceResponse
    from tailrace.http.items import JSONServerSentEvent, ServerSentEvent
    from tailrace.http.limits import Limits
    from tailrace.operations import Operation
    from tailrace.protocol.access import Access
    from tailrace.protocol.events import Event
    from tailrace.protocol.lifecycle import State
    from tailrace.protocol.runs import RunRecord
    from tailrace.run import Run, RunContext, current
    from tailrace.runners.bars import tqdm
    from tailrace.runners.logs import RunLogs
    from tailrace.runners.progress import ProgressLogger

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AsyncClient",
    "Attachment",
    "Client",
    "Event",
    "EventLog",
    "EventSourceResponse",
    "JSONEventSourceResponse",
    "JSONServerSentEvent",
    "Limits",
    "MemoryLog",
    "Operation",
    "ProgressLogger",
    "Retention",
    "Run",
    "RunCancelled",
    "RunContext",
    "RunLogs",
    "RunRecord",
    "ServerSentEvent",
    "SqliteLog",
    "State",
    "Tailrace",
    "TailraceError",
    "attach",
    "current",
    "tool",
    "tqdm",
]

_HOMES: Final = {
    "Access": "tailrace.protocol.access",
    "AsyncClient": "tailrace.client",
    "Attachment": "tailrace.attached",
    "Client": "tailrace.client",
    "Event": "tailrace.protocol.events",
    "EventLog": "tailrace.eventlog.contract",
    "EventSourceResponse": "tailrace.http.eventsource",
    "JSONEventSourceResponse": "tailrace.http.eventsource",
    "JSONServerSentEvent": "tailrace.http.items",
    "Limits": "tailrace.http.limits",
    "MemoryLog": "tailrace.eventlog.memory",
    "Operation": "tailrace.operations",
    "ProgressLogger": "tailrace.runners.progress",
    "Retention": "tailrace.eventlog.retention",
    "Run": "tailrace.run",
    "RunCancelled": "tailrace.errors",
    "RunContext": "tailrace.run",
    "RunLogs": "tailrace.runners.logs",
    "RunRecord": "tailrace.protocol.runs",
    "ServerSentEvent": "tailrace.http.items",
    "SqliteLog": "tailrace.eventlog.sqlite",
    "State": "tailrace.protocol.lifecycle",
    "Tailrace": "tailrace.facade",
    "TailraceError": "tailrace.errors",
    "attach": "tailrace.attached",
    "current": "tailrace.run",
    "tool": "tailrace.agent.tools",
    "tqdm": "tailrace.runners.bars",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tailrace' has no attribute {name!r}")
    return globals().setdefault(name, getattr(importlib.import_module(home), name))


def __dir__() -> list[str]:
    """Also the names that are not imported yet."""
    return sorted({*globals(), *__all__})
