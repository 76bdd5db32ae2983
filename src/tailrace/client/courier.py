"""Carries what a `Sender` decides, in a thread of its own: whoever emits waits for no network."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import secrets
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import httpx2

from tailrace.client.reconnect import SILENCE_SECONDS
from tailrace.client.requests import Server
from tailrace.client.sender import Sender
from tailrace.errors import BufferFull, RunEnded, ServerUnreachable, TailraceError
from tailrace.protocol.events import Draft
from tailrace.protocol.lifecycle import State

__all__ = ["Courier"]

_CONNECT_SECONDS: Final = 10.0
_PARTING_SECONDS: Final = 1.0
_REPORT_EVERY: Final = 20
_CHANCE: Final = secrets.SystemRandom().random

logger = logging.getLogger("tailrace.client")

_CARRIES: Final = contextvars.ContextVar("tailrace_carries", default=False)
"""Whether what is said here is about the sending itself."""


def _is_of_work(record: logging.LogRecord) -> bool:
    # Whoever listens to logs may hold a lock while it waits for room among the events, and only
    # the courier's thread makes room. What listens and emits would have it send for ever, too.
    del record
    return not _CARRIES.get()


# A filter of a logger, unlike one of what listens to it, comes before every lock.
for _part in ("", ".connection", ".http11", ".http2", ".proxy", ".socks"):
    logging.getLogger(f"httpcore2{_part}" if _part else "httpx2").addFilter(_is_of_work)


class Courier:
    """The way of one producer's events to a run's server. All of it may be used from any thread,
    after `begin`, and in the process that made it.

    `http` is sent with, and left open; by default a client is made. `stopped` is called once, in
    the courier's thread, when the run is asked to stop or over.
    """

    def __init__(
        self,
        server: Server,
        run: str,
        sender: Sender,
        stopped: Callable[[], None],
        http: httpx2.Client | None = None,
    ) -> None:
        self._server = server
        self._run = run
        self._sender = sender
        self._stopped: Callable[[], None] | None = stopped
        self._http = http
        self._alone()
        self._is_begun = self._is_forked = self._is_over = False
        self._is_fit = False
        """Whether it is begun, and not in a forked process."""
        # Nothing of the work's context: it has a run, which must not hear of its own sending.
        self._thread = threading.Thread(
            target=contextvars.Context().run,
            args=(self._carry,),
            name=f"tailrace-attach-{run}",
            daemon=True,
        )
        self._speaker: threading.Thread | None = None
        _ALL.add(self)

    def _alone(self) -> None:
        """Have nobody who waits."""
        self._lock = threading.Lock()
        # Something for the thread to do, and something done by it.
        self._more = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def begin(self) -> None:
        """Start the thread. Raises TailraceError the second time, and in a forked process."""
        if self._is_forked:
            raise self._unfit()
        with self._lock:
            if self._is_begun:
                raise TailraceError(
                    f"This attachment to {self._run} has had its block.",
                    fix="Call attach(…) again: each `with` takes one of its own.",
                )
            self._is_begun = self._is_fit = True
        self._thread.start()

    def forked(self) -> None:
        """Be of no use in the process that was forked from the one that made it."""
        # Its thread has stayed there, maybe with the lock, and so have those who wait: to wake
        # their loops would be to write to the other process's sockets. And a producer's name is
        # for one of the two: what both number from 1 is told of one of them only.
        self._alone()
        self._is_forked = True
        self._is_fit = False

    def put(self, draft: Draft, *, may_wait: bool) -> None:
        """Take an event. While there is no room it blocks, or raises BufferFull unless it
        `may_wait`. What is said of the sending itself is dropped. Raises what `Sender.put` does.
        """
        if not self._is_fit:
            raise self._unfit()
        if _CARRIES.get():
            return
        sender = self._sender
        with self._lock:
            while sender.is_full and sender.error is None:
                if not may_wait:
                    raise BufferFull(
                        f"{sender.held:,} events of {self._run} are waiting to be kept.",
                        fix="Await run.ebb() now and then, so that the server can catch up.",
                    )
                self._changed.wait()
            sender.put(draft)
            if sender.held == 1:
                self._more.notify()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything put so far is kept, `timeout` seconds at most.

        Raises ServerUnreachable if that is not enough, and the error that ended the sending; but
        nothing where the run was cancelled, which takes no more.
        """
        if not self._is_fit:
            raise self._unfit()
        with self._lock:
            mark = self._hurry()
            if not self._changed.wait_for(lambda: self._is_done(mark), timeout):
                raise self._overdue(timeout)
            self._check_sent(mark)

    async def drain(self, timeout: float | None = None) -> None:
        """`flush`, for coroutines."""
        if not self._is_fit:
            raise self._unfit()
        with self._lock:
            mark = self._hurry()
        try:
            async with asyncio.timeout(timeout):
                await self._until(lambda: self._is_done(mark))
        except TimeoutError:
            raise self._overdue(timeout) from None
        self._check_sent(mark)

    async def ebb(self) -> None:
        """Wait only while much is held."""
        sender = self._sender
        if sender.is_high and self._is_fit:
            await self._until(lambda: not sender.is_high or sender.error is not None)

    def close(self) -> None:
        """Send nothing more."""
        if not self._is_fit:
            return
        with self._lock:
            self._is_over = True
            if self._sender.error is None:
                self._sender.fail(self._left())
            self._more.notify()
            self._let_go()
        # It may be in the midst of a question that nobody wants answered any more.
        self._thread.join(_PARTING_SECONDS)

    @property
    def held(self) -> int:
        """How many events are not kept yet."""
        return self._sender.held

    # --- whoever waits ---------------------------------------------------------------

    def _unfit(self) -> TailraceError:
        if self._is_forked:
            return TailraceError(
                f"This process was forked from the one that is attached to {self._run}.",
                fix="Attach in the process that emits.",
            )
        return TailraceError(
            f"Nothing is sent to {self._run} yet: its block has not begun.",
            fix="Use it in a with block: `with tailrace.attach(…) as run:`.",
        )

    def _left(self) -> TailraceError:
        return TailraceError(
            f"The block that was attached to {self._run} has been left.",
            fix="Emit within the block, or attach again.",
        )

    def _hurry(self) -> int:
        self._more.notify()
        return self._sender.hurry()

    def _is_done(self, mark: int) -> bool:
        return self._sender.kept >= mark or self._sender.error is not None

    def _check_sent(self, mark: int) -> None:
        error = self._sender.error
        if self._sender.kept >= mark or error is None:
            return
        # A run that was cancelled takes no more: nobody is to blame.
        if not isinstance(error, RunEnded) or error.details.get("state") != State.CANCELLED.value:
            raise error

    def _overdue(self, timeout: float | None) -> ServerUnreachable:
        trouble = self._sender.trouble
        said = f": {trouble}" if trouble is not None else "."
        return ServerUnreachable(
            f"After {timeout:g} s some events of {self._run} are not kept ({self.held:,}){said}",
            fix="See whether the server answers, or give it more time (timeout=…).",
        )

    async def _until(self, reached: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if reached():
                    return
                change = loop.create_future()
                self._waiting.append((loop, change))
            await change

    def _let_go(self) -> None:
        self._changed.notify_all()
        waiting, self._waiting = self._waiting, []
        for loop, change in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever waited
                loop.call_soon_threadsafe(_settle, change)

    # --- the thread ------------------------------------------------------------------

    def _carry(self) -> None:
        _CARRIES.set(True)
        try:
            with self._client() as http:
                while (content := self._next()) is not None:
                    self._send(http, content)
        except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
            self._fail(error)

    def _next(self) -> bytes | None:
        """What to send; None when there will be nothing more."""
        with self._lock:
            while not self._is_over and self._sender.error is None:
                step = self._sender.step(time.monotonic())
                if isinstance(step, bytes):
                    return step
                self._more.wait(step)
        return None

    def _send(self, http: httpx2.Client, content: bytes) -> None:
        # Each time anew: the header that says who asks may be another by now.
        call = self._server.append(self._run, content)
        try:
            response = http.request(
                call.method, call.url, headers=call.headers, content=call.content
            )
        except httpx2.RequestError as error:
            reason = call.reason(error)
            with self._lock:
                self._sender.unanswered(reason, time.monotonic(), _CHANCE())
                self._let_go()
        else:
            with self._lock:
                self._sender.answered(
                    response.status_code,
                    response.headers,
                    response.content,
                    now=time.monotonic(),
                    wall_clock=time.time(),
                    chance=_CHANCE(),
                )
                self._let_go()
        self._report()

    def _fail(self, error: Exception) -> None:
        fault = error
        if not isinstance(fault, TailraceError):
            fault = TailraceError(f"Nothing can be sent: {type(error).__name__}: {error}")
            fault.__cause__ = error
        with self._lock:
            self._sender.fail(fault)
            self._let_go()
        self._report()

    def _report(self) -> None:
        sender = self._sender
        if sender.is_stopped and self._stopped is not None:
            self._stopped()
            self._stopped = None
        if sender.held and sender.losses % _REPORT_EVERY == 1:
            self._warn("%s: events wait (%d): %s", self._run, sender.held, sender.trouble)

    def _warn(self, said: str, *of: object) -> None:
        # In a thread that may wait: what listens may be held by somebody who waits for this one.
        if self._speaker is None or not self._speaker.is_alive():
            context = contextvars.copy_context()
            self._speaker = threading.Thread(
                target=context.run, args=(logger.warning, said, *of), daemon=True
            )
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                self._speaker.start()

    @contextlib.contextmanager
    def _client(self) -> Iterator[httpx2.Client]:
        if self._http is not None:
            yield self._http
            return
        server = self._server
        with httpx2.Client(
            verify=_context(is_secure=server.is_secure),
            trust_env=not server.is_loopback,
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=_CONNECT_SECONDS),
        ) as http:
            yield http


@cache
def _context(*, is_secure: bool) -> ssl.SSLContext:
    # Loading the certificates costs 60 ms: once a process, for those who attach for each job;
    # and plain http has no use for them.
    return httpx2.create_ssl_context() if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_ALL: Final[weakref.WeakSet[Courier]] = weakref.WeakSet()


def _forked() -> None:
    for courier in tuple(_ALL):
        courier.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)


def _settle(change: asyncio.Future[None]) -> None:
    if not change.done():
        change.set_result(None)
