"""The inside of a process of its own: what it is told to do, and how it tells what comes of it.

Both ends speak lines over a socket pair. One that begins with a letter is an event:

    child → parent    TYPE JSON    an event as it will be kept
                      ?N           say when everything up to here is kept
                      =JSON        the work returned `result`
                      !JSON        the work raised `error` of `type`
                      ~            the work stopped, as it was asked to or by itself
    parent → child    a pickle     how to become like the parent, and the job
                      +N           N bytes of events, in all, were taken
                      ?N           they are kept
                      !JSON        nothing more is taken; why
                      ~            stop
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from io import BufferedReader
from multiprocessing import current_process, spawn
from typing import Any, Final

from tailrace.errors import RunCancelled, RunEnded, TailraceError
from tailrace.protocol.events import COMPLETE, Draft, draft, loads, to_json
from tailrace.protocol.problems import carried, said
from tailrace.runners.contract import Sink

WINDOW_BYTES: Final = 1024 * 1024
"""How much of its events a child may have on the way before `put` blocks."""

ASKED: Final = b"?"
RETURNED: Final = b"="
RAISED: Final = b"!"
STOPPED: Final = b"~"
TAKEN: Final = b"+"

_TRACEBACK_CHARACTERS: Final = 64 * 1024
_PR_SET_PDEATHSIG: Final = 1

Work = Callable[[], Coroutine[Any, Any, Any]]
Job = Callable[["Uplink"], tuple[Sink, Work]]
"""Makes, in the child, the run's context and its work; it is pickled on its way there."""


class ProcessFailed(TailraceError):
    """A process of its own could not be made ready, or ended before its work did;
    `details` may have `exit_code`, as a shell would give it.
    """

    code = "process-failed"
    title = "The process failed"


class Uplink:
    """The child's end of the run's buffer: as an `Outbox`, but the log is in the parent.

    `put` blocks in every thread while too much is on its way, also on the event loop: in a
    process of its own nobody else waits for that loop. Made in the main thread.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._home = threading.get_ident()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._more = threading.Condition(lock)
        self._pending: list[Draft | bytes] = []
        self._is_sending = False
        self._put = self._taken = 0
        self._asked = self._kept = 0
        self._error: TailraceError | None = None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._stop: Callable[[], None] | None = None

    def begin(self, stream: BufferedReader) -> None:
        """Send and hear, in threads of their own: busy work holds neither up for long."""
        for loop in (self._send, lambda: self._hear(stream)):
            threading.Thread(target=loop, name="tailrace-uplink", daemon=True).start()

    @property
    def is_high(self) -> bool:
        """Whether producers should wait."""
        return self._put - self._taken > WINDOW_BYTES

    @property
    def is_foreign_thread(self) -> bool:
        """Whether the caller is not on the thread of the work's event loop."""
        return threading.get_ident() != self._home

    def put(self, draft: Draft) -> None:
        """Take an event. Raises RunEnded once nothing more is taken."""
        with self._changed:
            while self.is_high and self._error is None:
                self._changed.wait()
            self._refuse_if_over()
            self._put += len(draft.data)
            self._push(draft)

    async def ebb(self) -> None:
        """Wait only while too much is on its way."""
        if self.is_high:
            await self._until(lambda: not self.is_high)

    async def drain(self) -> None:
        """Wait until everything put so far is kept. Raises RunEnded."""
        with self._changed:
            self._refuse_if_over()
            self._asked += 1
            mark = self._asked
            self._push(b"%b%d\n" % (ASKED, mark))
        await self._until(lambda: self._kept >= mark)

    def stops(self, stop: Callable[[], None]) -> None:
        """Call `stop`, in another thread, when the work should stop."""
        self._stop = stop

    def finish(self, verdict: bytes) -> None:
        """Say what became of the work, after everything it told, and take nothing more."""
        with self._changed:
            self._push(verdict + b"\n")
            self._error = RunEnded("The run has ended; nothing more can be emitted.")
            while self._pending or self._is_sending:
                self._changed.wait()
        self._let_go()

    def _push(self, told: Draft | bytes) -> None:
        self._pending.append(told)
        if len(self._pending) == 1:
            self._more.notify()

    def _refuse_if_over(self) -> None:
        if self._error is not None:
            raise self._error

    async def _until(self, reached: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                self._refuse_if_over()
                if reached():
                    return
                change = loop.create_future()
                self._waiting.append((loop, change))
            await change

    def _let_go(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for loop, change in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever waited
                loop.call_soon_threadsafe(_settle, change)

    def _send(self) -> None:
        while True:
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()
                while not self._pending:
                    self._more.wait()
                batch, self._pending = self._pending, []
                self._is_sending = True
            try:
                self._end.sendall(b"".join(map(_line, batch)))
            except OSError:
                perish()

    def _hear(self, stream: BufferedReader) -> None:
        with contextlib.suppress(OSError):
            for line in stream:
                self._heed(line[:1], line[1:])
        perish()

    def _heed(self, what: bytes, said: bytes) -> None:
        if what == STOPPED:
            # Before the work has begun nobody can say how long its imports take.
            (self._stop or perish)()
            return
        with self._changed:
            if what == TAKEN:
                self._taken = int(said)
            elif what == ASKED:
                self._kept = int(said)
            elif what == RAISED:
                self._error = self._error or RunEnded(loads(said))
        self._let_go()


def _line(told: Draft | bytes) -> bytes:
    if isinstance(told, bytes):
        return told
    # A type has no blanks and its JSON no line breaks: `draft` has looked.
    return b"%b %b\n" % (told.type.encode(), told.data)


def _settle(change: asyncio.Future[None]) -> None:
    if not change.done():
        change.set_result(None)


def perish() -> Any:
    """End at once, with everything this process has started that did not leave its group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def returned(value: Any) -> bytes:
    """What is said of a result. Raises EventInvalid or EventTooLarge if it cannot be kept."""
    return RETURNED + draft(COMPLETE, {"result": value}, time.time()).data


def raised(error: BaseException) -> bytes:
    """What is said of an exception. It is not pickled: it may hold anything, and the parent
    need not know its class. The traceback is for the parent's own log.
    """
    told: dict[str, Any] = {"error": said(error), "type": type(error).__name__}
    if isinstance(error, TailraceError) and not isinstance(error, ProcessFailed):
        with contextlib.suppress(TailraceError):
            to_json(error.details)
            told["details"] = error.details
    else:
        lines = traceback.format_exception(error)
        told["traceback"] = carried("".join(lines)[-_TRACEBACK_CHARACTERS:])
    return RAISED + to_json(told)


def main(descriptor: int, parent: int) -> None:
    """What the new interpreter calls: one job, told over `descriptor`, then the end."""
    _die_with(parent)
    _deafen()
    # What this process starts must not hold the line open, or speak on it.
    os.set_inheritable(descriptor, False)
    end = socket.socket(fileno=descriptor)
    stream = end.makefile("rb")
    likeness, job = pickle.load(stream)  # noqa: S301 - only the parent has the other end
    uplink = Uplink(end)
    uplink.begin(stream)
    try:
        sink, work = _prepared(likeness, job, uplink)
        asyncio.run(_live(uplink, sink, work))
    except BaseException as error:  # noqa: BLE001 - it is handed to the parent
        uplink.finish(raised(error))


def _prepared(likeness: dict[str, Any], job: bytes, uplink: Uplink) -> tuple[Sink, Work]:
    """Become like the parent (its import path, its main module) and find the work.

    Raises ProcessFailed for whatever an import raises.
    """
    # Until this is done multiprocessing refuses to start anything, and so does `process.run`:
    # a module that starts work when it is imported would start itself again and again.
    bootstrapping: Any = current_process()
    bootstrapping._inheriting = True  # noqa: SLF001
    try:
        spawn.prepare(likeness)
        made: Job = pickle.loads(job)  # noqa: S301 - as above
        return made(uplink)
    except BaseException as error:
        raise ProcessFailed(
            f"The process could not be made ready: {type(error).__name__}: {said(error)}"
        ) from error
    finally:
        del bootstrapping._inheriting  # noqa: SLF001


async def _live(uplink: Uplink, sink: Sink, work: Work) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work())

    def stop() -> None:
        sink.request_stop()
        loop.call_soon_threadsafe(task.cancel)

    uplink.stops(stop)
    await asyncio.wait((task,))
    # Before the loop is closed: it would wait for every thread that something left in it.
    uplink.finish(_verdict(task))


def _verdict(task: asyncio.Task[Any]) -> bytes:
    if task.cancelled():
        return STOPPED
    error = task.exception()
    if isinstance(error, RunCancelled):
        return STOPPED
    try:
        return returned(task.result()) if error is None else raised(error)
    except TailraceError as unkeepable:
        return raised(unkeepable)


def _die_with(parent: int) -> None:
    """End when the parent does, even while C code holds the lock that `_hear` needs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        perish()


def _deafen() -> None:
    """A terminal, or systemd, tells every process of a service to stop. The work is told by
    the parent, in its order. With SIG_IGN the programs it starts would be deaf as well.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=hear)
