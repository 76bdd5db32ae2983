"""Running Python in a process of its own, so that busy work slows nobody down.

A new interpreter (never a fork: threads, event loop and SQLite connections do not survive
one) imports the module the function is in and runs it there as `function` would here. Its
events come back ready to be kept. See `child` for the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import reduce
from multiprocessing import spawn
from typing import Any, Final, Protocol

from tailrace.errors import TailraceError
from tailrace.protocol.events import Draft, loads, to_json
from tailrace.runners.child import (
    ASKED,
    RAISED,
    RETURNED,
    STOPPED,
    TAKEN,
    WINDOW_BYTES,
    Job,
    ProcessFailed,
)
from tailrace.runners.sweep import MARK, sweep

# Small enough that taking a chunk of small events does not hold the loop for long.
_CHUNK_BYTES: Final = 64 * 1024
# After the work is over its process may flush, and run what was registered with `atexit`.
_LINGER_SECONDS: Final = 0.25

_VERDICTS: Final = (RETURNED, RAISED, STOPPED)


class Buffer(Protocol):
    """Where the child's events go: the run's outbox."""

    def put(self, draft: Draft, /) -> None:
        """Take an event. Raises TailraceError if nothing more is taken."""

    async def ebb(self) -> None:
        """Wait while too much is pending."""

    async def drain(self) -> None:
        """Wait until everything put so far is kept."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a function is found again: a module, and a name in it."""

    module: str
    name: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Address:
        """The address of `function`. Raises TypeError for one that cannot have any."""
        module = getattr(function, "__module__", None)
        name = getattr(function, "__qualname__", None)
        owner = getattr(function, "__self__", None)
        if not isinstance(module, str) or not isinstance(name, str):
            problem = f"{function!r} is an object without a name of its own"
        elif "<" in name:
            problem = f"{name} is made anew each time the code around it runs"
        elif inspect.ismethod(function) and not inspect.isclass(owner):
            problem = f"{name} is bound to one object"
        else:
            return cls(module, name)
        raise TypeError(
            f"{problem}, so another process cannot find it. "
            "Give process=True to a function that is defined with def at module level."
        )

    def find(self) -> Any:
        """What is there. Raises ImportError or AttributeError, or what its module raises."""
        return reduce(getattr, self.name.split("."), importlib.import_module(self.module))

    def check(self, function: Callable[..., Any]) -> None:
        """Raises ProcessFailed unless `function`, or its operation, is what is there."""
        found: Any = None
        with contextlib.suppress(Exception):
            found = self.find()
        if function not in (found, getattr(found, "function", None)):
            raise ProcessFailed(
                f"{self.module}.{self.name} is not the function of this operation, so its own "
                "process would run another, or none.",
                fix="Define it at module level, under a name that nothing else takes later.",
            )


async def run(job: Job, outbox: Buffer, mark: str) -> Any:
    """Run `job` in a process of its own, and answer what its work returned.

    Cancelling this coroutine once asks the work to stop; a second time kills it. Whatever
    the process started is ended with it, on Linux also what left its process group. `mark`,
    the run's id, is how that is found. What the work raises is raised here as an exception
    of the same name and words. Raises ProcessFailed if the process ends before its work.
    """
    told = pickle.dumps((_likeness(mark), pickle.dumps(job)))
    ours, theirs = socket.socketpair()
    line = _Line(ours, outbox)
    try:
        try:
            process = await _started(theirs, mark)
        finally:
            theirs.close()
        line.begin(told)
        was_asked, code = await _ended(process, line, mark)
    finally:
        line.close()
    return _outcome(line.verdict, code, was_asked=was_asked)


def _likeness(name: str) -> dict[str, Any]:
    likeness = spawn.get_preparation_data(name)
    # A key that refuses to be pickled by any but multiprocessing itself.
    likeness["authkey"] = bytes(likeness["authkey"])
    return likeness


async def _started(theirs: socket.socket, mark: str) -> asyncio.subprocess.Process:
    if sys.platform == "win32":
        raise ProcessFailed(
            "An operation cannot have a process of its own on Windows.", fix="Leave out process=."
        )
    number = theirs.fileno()
    # Our own path, so that Tailrace itself is found there whatever made it importable here.
    path = [place for place in sys.path if isinstance(place, str)]
    code = (
        f"import sys; sys.path[:] = {path!r}; "
        f"from tailrace.runners.child import main; main({number}, {os.getpid()})"
    )
    # The flags this interpreter was started with, as multiprocessing passes them on.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001
    try:
        return await asyncio.create_subprocess_exec(
            spawn.get_executable(), *flags, "-c", code,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, MARK: mark},
            pass_fds=(number,),
            # Away from the terminal's Ctrl-C, and with a group that can be ended as a whole.
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ProcessFailed(f"A process cannot be started: {error.strerror}.") from error


async def _ended(process: asyncio.subprocess.Process, line: _Line, mark: str) -> tuple[bool, int]:
    """See the process to its end; whether it was asked to stop, and its exit code."""
    was_asked = False
    exiting = asyncio.ensure_future(process.wait())
    either = (exiting, line.told)
    try:
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            was_asked = True
            line.send(STOPPED + b"\n")
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((exiting,), timeout=_LINGER_SECONDS)
    finally:
        # No SIGTERM before it: the child is deaf to it, and Python would clean up nothing.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = await exiting
        await asyncio.to_thread(sweep, mark)
        line.read_rest()
    return was_asked, code


class _Line:
    """The parent's end of the socket pair."""

    def __init__(self, ours: socket.socket, outbox: Buffer) -> None:
        ours.setblocking(False)
        self._ours = ours
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._unsent = b""
        self._unread = b""
        self._received = self._credited = 0
        self._is_refused = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._easing: asyncio.Task[None] | None = None
        self.verdict = b""
        self.told: asyncio.Future[None] = self._loop.create_future()

    def begin(self, told: bytes) -> None:
        """Tell the child its job, and listen."""
        self._loop.add_reader(self._ours, self._read)
        self.send(told)

    def send(self, said: bytes) -> None:
        """Say something to the child, as soon as it can be said."""
        is_waiting = bool(self._unsent)
        self._unsent += said
        if not is_waiting:
            self._flush()

    def _flush(self) -> None:
        try:
            self._unsent = self._unsent[self._ours.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            # It is gone, and `_ended` learns of that.
            self._unsent = b""
        if self._unsent:
            self._loop.add_writer(self._ours, self._flush)
        else:
            self._loop.remove_writer(self._ours)

    def _read(self) -> bool:
        """Take what has come, at most a chunk; whether there may be more."""
        try:
            chunk = self._ours.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(self._ours)
            return False
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        if self._received - self._credited >= WINDOW_BYTES // 4 and self._easing is None:
            self._easing = self._go(self._ease())
        return True

    def _take(self, line: bytes) -> None:
        what = line[:1]
        if what in _VERDICTS:
            if not self.told.done():
                self.verdict = line
                self.told.set_result(None)
        elif what == ASKED:
            self._go(self._drain(line))
        elif not self._is_refused:
            type, _, data = line.partition(b" ")
            self._received += len(data)
            try:
                self._outbox.put(Draft(type.decode(), data))
            except TailraceError as error:
                self._refuse(error)

    async def _ease(self) -> None:
        try:
            await self._outbox.ebb()
        except TailraceError as error:
            self._refuse(error)
        self._easing = None
        self._credited = self._received
        self.send(b"%b%d\n" % (TAKEN, self._credited))

    async def _drain(self, line: bytes) -> None:
        try:
            await self._outbox.drain()
        except TailraceError as error:
            self._refuse(error)
        else:
            self.send(line + b"\n")

    def _refuse(self, error: TailraceError) -> None:
        if not self._is_refused:
            self._is_refused = True
            self.send(RAISED + to_json(str(error)) + b"\n")

    def _go(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def read_rest(self) -> None:
        """Take what the child, which is gone, had still said."""
        while self._read():
            pass

    def close(self) -> None:
        """Let go of our end."""
        for task in tuple(self._tasks):
            task.cancel()
        self._loop.remove_reader(self._ours)
        self._loop.remove_writer(self._ours)
        self._ours.close()


def _outcome(verdict: bytes, code: int, *, was_asked: bool) -> Any:
    what, said = verdict[:1], verdict[1:]
    if what == RETURNED:
        return loads(said)["result"]
    if what == RAISED:
        raise _exception(loads(said))
    if what == STOPPED or was_asked:
        raise asyncio.CancelledError
    exit_code = code if code >= 0 else 128 - code
    raise ProcessFailed(_why(code), exit_code=exit_code)


def _exception(told: dict[str, Any]) -> Exception:
    """An exception that says what the one in the child said, under the same name."""
    if "traceback" not in told:
        refusal: type[TailraceError] = type(told["type"], (TailraceError,), {})
        return refusal(told["error"], **told.get("details", {}))
    raised: type[Exception] = type(told["type"], (Exception,), {})
    error = raised(told["error"])
    error.__cause__ = _Traceback(told["traceback"])
    return error


class _Traceback(Exception):
    """The child's traceback, for the log: it is printed as the cause of the exception."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _why(code: int) -> str:
    if code >= 0:
        return f"The process exited with code {code} before its work was done."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " The system does that when memory runs out." if -code == signal.SIGKILL else ""
    return f"The process was ended by {name} before its work was done.{hint}"
