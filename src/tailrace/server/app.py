"""The server: the app, and its life from start to signal."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import math
import shlex
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.importer import ImportFromStringError, import_from_string

from tailrace.errors import SettingsInvalid
from tailrace.eventlog.contract import Retention
from tailrace.facade import Tailrace
from tailrace.farewell import stopped
from tailrace.http.limits import CAPS, SERVED, Limits
from tailrace.http.origins import Gate
from tailrace.mcp.upstream import Upstream
from tailrace.server import index, journal, launch
from tailrace.server.entrance import Entrance
from tailrace.server.launch import Launch
from tailrace.server.listener import BACKLOG, listen, raise_limit, url
from tailrace.server.protocol import MAX_HALF_OPEN, Protocol
from tailrace.server.settings import Settings

_DRAIN_SECONDS: Final = 2
"""What uvicorn waits beyond the grace of the runs, so that their last events are sent."""

# How long a thread that computes may keep the event loop waiting for its turn. Python's own
# 5 ms make it that much for every event beside a busy thread: 5.3 instead of 0.55 ms.
_SWITCH_SECONDS: Final = 0.0005

_COLLECT: Final = (20_000, 20, 20)


def build(
    settings: Settings, entrance: Entrance | None = None, here: str | None = None
) -> Tailrace:
    """The engine and its app (`.asgi`), as the settings say; nothing is opened yet. Without an
    `entrance` everybody is let in. `here`: where it is reached.

    Raises SettingsInvalid for a log nobody knows how to open, or one that cannot keep scripts
    that survive; NotADirectoryError for a root that is no folder.
    """
    try:
        identify = None if entrance is None else entrance.identify
        handed = (name for where in settings.mcp.values() for name in where.variables)
        own = () if settings.chat is None else settings.chat.masked()
        secrets = journal.registered(dict.fromkeys((*settings.mask, *handed, *own)))
        runs = Tailrace(
            settings.log,
            retention=_retention(settings),
            grace=settings.grace,
            principal=identify,
            limits=_limits(settings),
            link=None if here is None else partial(_seen_at, here),
            secrets=secrets,
        )
    except ValueError as error:
        raise SettingsInvalid(str(error), fix="Give a path, sqlite:PATH, or memory:.") from None
    for where in settings.mcp.values():
        runs.companions.append(Upstream(runs, where).life)
    if settings.allow_root:
        runs.allow_scripts(
            *settings.allow_root,
            concurrency=settings.at_once,
            timeout=settings.timeout,
            survives=settings.survives,
            profiles=settings.profiles,
            **settings.limits,
        )
    if settings.chat is not None:
        runs.chat(**settings.chat.options())
    runs.asgi.include_router(index.router(settings, runs, entrance))
    return runs


def _limits(settings: Settings) -> Limits:
    caps = {name: most for name, most in settings.caps.items() if name in CAPS}
    return SERVED.but(rates=settings.rates, keyed=settings.keyed_rates, caps=caps)


def _retention(settings: Settings) -> Retention | None:
    most = settings.caps.get("run_bytes")
    return None if most is None else Retention(run_bytes=most)


# ------------------------------------------------------------------ its life


class _Server(uvicorn.Server):
    """Starts the engine itself: the lifespan protocol would turn its errors into log lines."""

    def __init__(
        self, config: uvicorn.Config, runs: Tailrace | None, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._runs = runs
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises LogError if the log cannot be opened."""
        if self._runs is not None:
            # Here uvicorn has its signal handlers, and the engine's are chained before them.
            await self._runs.start()
        await super().startup(sockets=sockets)
        _spare_the_collector()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """A second Ctrl-C skips the lifespan's end, but no script may be left behind."""
        await super().shutdown(sockets=sockets)
        if self._runs is not None:
            await self._runs.close()


def _spare_the_collector() -> None:
    """What is here now stays: it need not be looked through again. And each event makes a few
    objects that are soon gone without any cycle; after every 700 of them is too often to look.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def serve(settings: Settings, say: Callable[[str], None] = _say) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; then end streams and runs, and return.

    `say` gets the URL, and ways in, once requests are answered. Raises AddressUnusable,
    SettingsInvalid, LogError.
    """
    # Somebody's own app has its own ways to know who asks, and we none to know of them.
    entrance = Entrance(settings) if settings.app is None else None
    has_keys = entrance is None or entrance.has_keys
    Protocol.max_connections = raise_limit()
    Protocol.max_half_open = settings.caps.get("half_open", MAX_HALF_OPEN)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with (
        listen(settings.host, settings.port, has_keys=has_keys) as listener,
        contextlib.ExitStack() as stack,
    ):
        here = url(listener)
        lines = [f"Tailrace listens at {here}"]
        runs = None
        if entrance is None:
            served = _found(str(settings.app))
        else:
            entrance.launch = _launched(entrance, listener)
            runs = build(settings, entrance, here)
            stack.enter_context(journal.configured(settings.audit, runs.masks))
            served = Gate(runs.asgi, entrance.origins)
            lines += _ways_in(entrance, here)
        config = uvicorn.Config(
            served,
            http=Protocol,
            ws="none" if runs is not None else "auto",
            lifespan="on" if runs is not None else "auto",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever can send X-Forwarded-For could otherwise be anybody.
            proxy_headers=bool(settings.trusted_proxy),
            forwarded_allow_ips=[*map(_mapped, settings.trusted_proxy), *settings.trusted_proxy],
            backlog=BACKLOG,
            timeout_graceful_shutdown=math.ceil(settings.grace) + _DRAIN_SECONDS,
        )
        server = _Server(config, runs, lambda: say("\n".join(lines)))
        with stopped(partial(setattr, server, "should_exit", True)):
            server.run(sockets=[listener])


def _seen_at(here: str, run: str) -> str:
    return f"{here}/runs/{run}/events?format=text"


def _mapped(network: str) -> str:
    """As the peers are called of a socket that is for IPv6 and IPv4 (RFC 4291 §2.5.5.2)."""
    found = ipaddress.ip_network(network)
    if found.version == 6:
        return network
    return f"::ffff:{found.network_address}/{96 + found.prefixlen}"


def _launched(entrance: Entrance, listener: socket.socket) -> Launch | None:
    """A way in for the user who starts this, on this machine alone: by its key whoever hears what
    is said on a network could come in.
    """
    host, port = listener.getsockname()[:2]
    if entrance.is_open or not ipaddress.ip_address(host).is_loopback:
        return None
    try:
        return Launch(launch.ensured(launch.place()), port)
    except SettingsInvalid:
        if entrance.has_keys:
            return None
        raise


def _ways_in(entrance: Entrance, here: str) -> list[str]:
    if entrance.launch is None:
        return []
    key = shlex.quote(str(launch.place()))
    return [
        f"  in a browser  {here}/?login={entrance.launch.link()}",
        f"  with curl     curl -H @{key} {here}/",
    ]


def _found(name: str) -> Any:
    """Somebody's ASGI app, `module:app`, from the folder the command was called in."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_from_string(name)
    except ImportFromStringError as error:
        raise SettingsInvalid(
            f"There is no app {name!r}: {error}",
            fix="Name a module and its app like main:app, in the folder that main.py is in.",
        ) from None


__all__ = ["build", "listen", "serve", "url"]
