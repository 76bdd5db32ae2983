"""Carries what a `Sender` decides, in a thread of its own: whoever emits waits for no network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import httpx2

from tailrace.client.reconnect import SILENCE_SECONDS
from tailrace.client.requests import Server
from tailrace.client.sender import Sender
from tailrace.errors import BufferFull, ServerUnreachable, TailraceError
from tailrace.protocol.events import Draft

__all__ = ["Courier"]

_CONNECT_SECONDS: Final = 10.0
_PARTING_SECONDS: Final = 1.0
_REPORT_EVERY: Final = 20
_CHANCE: Final = secrets.SystemRandom().random

logger = logging.getLogger("tailrace.client")


class Courier:
    """The way of one producer's events to a run's server. All of it may be used from any thread.

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
        self._lock = threading.Lock()
        # Something for the thread to do, and something done by it.
        self._more = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._is_over = False
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._carry, name=f"tailrace-attach-{run}", daemon=True
        )

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, draft: Draft, *, may_wait: bool) -> None:
        """Take an event. While there is no room it blocks, or raises BufferFull unless it
        `may_wait`. Raises the error that ended the sending.
        """
        self._check_home()
        sender = self._sender
        with self._lock:
            while sender.is_full and sender.error is None:
                if not may_wait or threading.current_thread() is self._thread:
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

        Raises ServerUnreachable if that is not enough, and the error that ended the sending.
        """
        self._check_home()
        with self._lock:
            mark = self._hurry()
            if not self._changed.wait_for(lambda: self._is_done(mark), timeout):
                raise self._overdue(timeout)
            self._check_sent(mark)

    async def drain(self, timeout: float | None = None) -> None:
        """`flush`, for coroutines."""
        self._check_home()
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
        if sender.is_high:
            await self._until(lambda: not sender.is_high or sender.error is not None)

    def close(self) -> None:
        """Send nothing more."""
        if os.getpid() != self._pid:
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

    def _check_home(self) -> None:
        if os.getpid() != self._pid:
            # Threads do not survive a fork: what is put here would never be sent.
            raise TailraceError(
                f"This process was forked from the one that is attached to {self._run}.",
                fix="Attach in the process that emits.",
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
        if self._sender.kept < mark and self._sender.error is not None:
            raise self._sender.error

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
        # Not under the lock: what listens to logs may emit what it hears.
        sender = self._sender
        if sender.is_stopped and self._stopped is not None:
            self._stopped()
            self._stopped = None
        if sender.held and sender.losses % _REPORT_EVERY == 1:
            logger.warning("%s: events wait (%d): %s", self._run, sender.held, sender.trouble)

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


def _settle(change: asyncio.Future[None]) -> None:
    if not change.done():
        change.set_result(None)
