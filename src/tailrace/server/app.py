"""The server: the app, the socket it listens at, and its life from start to signal."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse

from tailrace.errors import AddressUnusable, SettingsInvalid
from tailrace.facade import Tailrace
from tailrace.server.settings import Settings

_BACKLOG: Final = 2048

# The kernel buffers 4 MB for each watcher that does not read, unless told otherwise: 100 of
# them pinned 395 MB. The log keeps what they miss, so there is no need to.
_SEND_BUFFER: Final = 64 * 1024

_DRAIN_SECONDS: Final = 2
"""What uvicorn waits beyond the grace of the runs, so that their last events are sent."""

_SCRIPTS: Final = ("*.py", "*.sh")

# What a Host header may bring into the commands of the index, which people paste into a shell.
_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?", re.ASCII)

_INDEX: Final = """\
Tailrace: run anything long, watch it live, lose nothing.

What can be run:

  curl {base}/operations

Start a run and watch it:

  curl -N {base}/runs -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \
-d '{body}'

The runs so far (add /RUN_ID/events?format=text to watch one of them, from its beginning):

  curl {base}/runs

The endpoints: {base}/docs
"""


def build(settings: Settings) -> Tailrace:
    """The engine and its app (`.asgi`), as the settings say; nothing is opened yet.

    Raises SettingsInvalid for a log nobody knows how to open, NotADirectoryError for a root
    that is no folder.
    """
    try:
        runs = Tailrace(settings.log, grace=settings.grace)
    except ValueError as error:
        raise SettingsInvalid(str(error), fix="Give a path, sqlite:PATH, or memory:.") from None
    if settings.allow_root:
        runs.allow_scripts(*settings.allow_root)
    body = _example(settings.allow_root)

    async def index(request: Request) -> PlainTextResponse:
        base = str(request.base_url).rstrip("/")
        if _ADDRESS.fullmatch(base) is None:
            base = f"http://{_bracketed(settings.host)}:{settings.port}"
        return PlainTextResponse(
            _INDEX.format(base=base, body=body), headers={"x-content-type-options": "nosniff"}
        )

    runs.asgi.add_api_route("/", index, methods=["GET"], include_in_schema=False)
    return runs


def _example(roots: Sequence[Path]) -> str:
    """A body for POST /runs that works here, where there is a script to show it with."""
    for root in roots:
        for pattern in _SCRIPTS:
            for script in sorted(root.glob(pattern)):
                if re.fullmatch(r"[A-Za-z0-9._-]+", script.name, re.ASCII):
                    return f'{{"operation": "script", "input": {{"file": "{script.name}"}}}}'
    return '{"operation": "NAME", "input": {}}'


# ------------------------------------------------------------------ the address


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at a loopback address; port 0 has one chosen.

    Raises AddressUnusable: for an address that others than this machine can reach (there
    are no keys yet), one that is taken, and one that is not this machine's.
    """
    family, address = _resolved(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listener.bind(address)
        # At once: until somebody listens, another process may bind the same port as well.
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unusable(host, port, error) from None
    return listener


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise AddressUnusable(
            f"{host!r} is no address of this machine.", fix="Use --host 127.0.0.1."
        ) from None
    # IPv4 first, because that is what people type: `localhost` is often ::1 as well.
    found.sort(key=lambda entry: entry[0] is not socket.AF_INET)
    family, _, _, _, address = found[0]
    # What is looked at is what will be bound, not the name.
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise AddressUnusable(
            f"{host} can be reached from other machines, and there are no keys yet: "
            "whoever reaches it could start and read everything.",
            fix=f"Use --host 127.0.0.1, and from elsewhere `ssh -L {port}:127.0.0.1:{port} HOST`.",
        )
    return family, address


def _unusable(host: str, port: int, error: OSError) -> AddressUnusable:
    place = f"{_bracketed(host)}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            said, fix = "another program listens there", "Stop it, or use --port 0 or another."
        case errno.EACCES:
            said, fix = "ports below 1024 need privileges", "Use --port 4000, or another above."
        case errno.EADDRNOTAVAIL:
            said, fix = "this machine has no such address", "Use --host 127.0.0.1."
        case _:
            said, fix = error.strerror or str(error), "Use another --host or --port."
    return AddressUnusable(f"Tailrace cannot listen at {place}: {said}.", fix=fix)


def url(listener: socket.socket) -> str:
    """Where a client finds what listens: `http://127.0.0.1:4000`."""
    host, port = listener.getsockname()[:2]
    return f"http://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# ------------------------------------------------------------------ its life


class _Server(uvicorn.Server):
    """Starts the engine itself: the lifespan protocol would turn its errors into log lines."""

    def __init__(self, config: uvicorn.Config, runs: Tailrace, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._runs = runs
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises LogError if the log cannot be opened."""
        # Here uvicorn has its signal handlers, and the engine's are chained before them.
        await self._runs.start()
        await super().startup(sockets=sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """A second Ctrl-C skips the lifespan's end, but no script may be left behind."""
        await super().shutdown(sockets=sockets)
        await self._runs.close()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def serve(settings: Settings, say: Callable[[str], None] = _say) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; then end streams and runs, and return.

    `say` gets one line, with the URL, once requests are answered. Raises AddressUnusable,
    SettingsInvalid, LogError.
    """
    runs = build(settings)
    with listen(settings.host, settings.port) as listener:
        here = url(listener)
        config = uvicorn.Config(
            runs.asgi,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever can send X-Forwarded-For could otherwise be anybody.
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(settings.grace) + _DRAIN_SECONDS,
        )
        server = _Server(config, runs, lambda: say(f"Tailrace listens at {here}"))
        with _stopped_by_signals(server):
            server.run(sockets=[listener])


@contextlib.contextmanager
def _stopped_by_signals(server: _Server) -> Iterator[None]:
    """Have a signal stop the server and nothing else: uvicorn raises it again after its end,
    which would make a proper stop look like a death.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.should_exit = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # The terminal is closed. By default that would kill us, and leave the scripts behind.
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["build", "listen", "serve", "url"]
