"""Clients for Python: start runs, watch them live through cuts and restarts, read them.

    with Client("http://127.0.0.1:4000") as client:
        run = client.start("crunch", {"rows": 100})
        for event in client.watch(run["id"]):
            print(event.type, event.data)

`AsyncClient` is the same with `await` and `async for`. The names load on first use, so that
whoever imports this package without making a client does not pay for an HTTP stack.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tailrace.client.aio import AsyncClient
    from tailrace.client.reconnect import WatchedEvent
    from tailrace.client.sync import Client

__all__ = ["AsyncClient", "Client", "WatchedEvent"]

_HOMES: Final = {"AsyncClient": "aio", "Client": "sync", "WatchedEvent": "reconnect"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
