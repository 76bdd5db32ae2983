"""Learning that the server is about to go, in time to end streams properly.

ASGI tells it too late: `lifespan.shutdown` comes after the open requests are over, and an
open stream is a request that is not over. So there are two ways to learn it. The signal that
stops a server is chained: we hear it, then the server does. And where no signal comes (uvicorn
in a thread, the workers of hypercorn) the server's own object shows it; it is looked for among
what this loop's tasks are doing. Nothing of the server is replaced or patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopped(stop: Callable[[], None]) -> Iterator[None]:
    """Have a signal call `stop` and nothing else: uvicorn raises it again after its end, which
    would make a proper stop look like a death. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop()

    numbers = [*_SIGNALS]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # The terminal is closed. By default that would kill us, and leave the scripts behind.
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def chained(
    hear: Callable[[], None], end: Callable[[], Awaitable[None]] | None = None
) -> Iterator[None]:
    """Have `hear` called on the running loop before the present handler of SIGTERM and
    SIGINT is; where there is none, have `end` awaited before the signal ends the process.
    Does nothing outside the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(hear)
        previous = before.get(signal.Signals(number))
        if callable(previous):
            previous(number, frame)
        elif previous is signal.SIG_DFL:
            # Nobody else wants to stop properly. A second signal is not kept waiting.
            signal.signal(number, signal.SIG_DFL)
            if end is None or loop.is_closed():
                signal.raise_signal(number)
            else:
                loop.call_soon_threadsafe(finish, number, end)

    def finish(number: int, end: Callable[[], Awaitable[None]]) -> None:
        # The programs of our runs have sessions of their own, and would outlive us.
        ending = asyncio.ensure_future(end())
        endings.add(ending)
        ending.add_done_callback(lambda _: signal.raise_signal(number))

    endings: set[asyncio.Future[None]] = set()
    for number in _SIGNALS:
        before[number] = signal.getsignal(number)
        # Python's own Ctrl-C raises KeyboardInterrupt into whatever runs; in a notebook the
        # program goes on after it, and so must the streams.
        if before[number] not in (signal.SIG_IGN, signal.default_int_handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in before.items():
            # Whoever took the signal over in the meantime keeps it.
            if signal.getsignal(number) is handle:
                signal.signal(number, previous)


class _Known(NamedTuple):
    """A server's object: its class, and the coroutine and variable that it is found in."""

    module: str
    name: str
    coroutine: str
    variable: str
    ends: Callable[[Any], bool]


def _uvicorn_ends(server: Any) -> bool:
    # After its maximum of requests uvicorn ends without should_exit; what it does first is
    # to stop listening.
    listeners = getattr(server, "servers", ())
    return bool(server.should_exit) or not all(one.is_serving() for one in listeners)


_KNOWN: Final = (
    _Known("uvicorn", "Server", "serve", "self", _uvicorn_ends),
    _Known(
        "hypercorn.asyncio.worker_context", "WorkerContext", "worker_serve", "context",
        lambda context: bool(context.terminated.is_set()),
    ),
)  # fmt: skip

# A few, because the first look may come while the server starts.
_SEARCHES: Final = 8


class Sign:
    """Looks at one kind of server, where this loop is in one."""

    def __init__(self, known: _Known) -> None:
        self._known = known
        self._server: weakref.ref[Any] | None = None
        self._searched = 0

    def __call__(self) -> bool:
        """Whether the server was told to exit."""
        if self._server is None:
            module = sys.modules.get(self._known.module)
            if module is None or self._searched >= _SEARCHES:
                return False
            self._searched += 1
            server = _find(self._known, getattr(module, self._known.name))
            if server is None:
                return False
            self._server = weakref.ref(server)
        server = self._server()
        return server is not None and self._known.ends(server)


def signs() -> Sequence[Callable[[], bool]]:
    """What to look at now and then: whether the server of this loop is about to go."""
    return [Sign(known) for known in _KNOWN]


def _find(known: _Known, kind: type) -> Any:
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            # The name first: to ask a coroutine for its frame makes one, which stays with it,
            # and the tasks of watchers are many.
            code = getattr(coroutine, "cr_code", None)
            if code is not None and code.co_name == known.coroutine:
                frame = coroutine.cr_frame
                found = None if frame is None else frame.f_locals.get(known.variable)
                if isinstance(found, kind):
                    return found
            coroutine = getattr(coroutine, "cr_await", None)
    return None
