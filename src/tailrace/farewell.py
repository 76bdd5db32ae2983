"""Learning that the server is about to go, in time to end streams properly.

ASGI tells it too late: `lifespan.shutdown` comes after the open requests are over, and an
open stream is a request that is not over. So there are two signs. The signal that stops a
server is chained: we hear it, then the server does. And a uvicorn that runs in this loop
shows its own `should_exit`, which is also set where no signal comes (a server in a thread).
Nothing of the server is replaced or patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def chained(hear: Callable[[], None]) -> Iterator[None]:
    """Have `hear` called on the running loop before the present handler of SIGTERM and
    SIGINT is. Does nothing outside the main thread, where Python allows no handlers.
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
            # Nobody else wants to stop properly: let the signal do what it does by default.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

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


class UvicornSign:
    """Looks at the uvicorn `Server` of this loop, where there is one."""

    def __init__(self) -> None:
        self._server: weakref.ref[Any] | None = None
        self._searched = 0

    def __call__(self) -> bool:
        """Whether the server was told to exit."""
        if self._server is None:
            # A few times, because the first look may come while the server starts.
            if self._searched >= _SEARCHES or "uvicorn" not in sys.modules:
                return False
            self._searched += 1
            server = _find(sys.modules["uvicorn"].Server)
            if server is None:
                return False
            self._server = weakref.ref(server)
        server = self._server()
        return server is not None and bool(server.should_exit)


_SEARCHES: Final = 8


def _find(kind: type) -> Any:
    """The object of `kind` whose method one of the loop's tasks is waiting in."""
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            owner = None if frame is None else frame.f_locals.get("self")
            if isinstance(owner, kind):
                return owner
            coroutine = getattr(coroutine, "cr_await", None)
    return None
