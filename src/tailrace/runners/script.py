"""Running a program: its own process group, its output live, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Final

from tailrace.errors import PathForbidden, ScriptFailed
from tailrace.protocol import events
from tailrace.protocol.output import CHUNK_BYTES, Decoder
from tailrace.runners.contract import Sink

if sys.platform != "win32":
    import fcntl
    import termios

MARK: Final = "TAILRACE_RUN"
"""The environment variable by which a run's processes can be found, wherever they hide."""

# What a script may see of the server's environment. Everything else may be a secret.
_SHARED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")
# Python buffers what it writes into a pipe in blocks of 8 KiB unless told otherwise; nobody
# interprets colours and cursor movement in a log.
_FORCED: Final = {"PYTHONUNBUFFERED": "1", "TERM": "dumb", "NO_COLOR": "1"}

_INTERPRETERS: Final[dict[str, tuple[str, ...]]] = {
    ".py": (sys.executable,),
    ".sh": ("/bin/sh",),
}

_LINGER_SECONDS: Final = 0.01
_LAST_WORDS_SECONDS: Final = 0.01
_LOOKS: Final = 20
_LOOK_SECONDS: Final = 0.001


def locate(file: str, roots: Sequence[Path]) -> Path:
    """The real path of `file` below one of `roots`.

    Raises PathForbidden, in the same words whether the file is outside or missing: the
    answer must not tell what exists elsewhere.
    """
    for root in roots:
        # RuntimeError: a symbolic link that leads to itself (until Python 3.13).
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            # Resolved first, compared then: a symbolic link may not lead out of the root.
            path = (root / file).resolve(strict=True)
            if path.is_relative_to(root.resolve()) and path.is_file():
                return path
    raise PathForbidden(
        f"{file[:200]!r} is not a file below an allowed folder.",
        fix="Name a file inside the folders the server was started with (--allow-root).",
    )


def command(path: Path, args: Sequence[str]) -> list[str]:
    """The argv that runs `path`: by its interpreter, or itself if it is executable.

    Raises PathForbidden for a file that is neither.
    """
    interpreter = _INTERPRETERS.get(path.suffix.lower())
    if interpreter is not None:
        return [*interpreter, str(path), *args]
    if not os.access(path, os.X_OK):
        raise PathForbidden(
            f"{path.name} is not executable, and {path.suffix or 'no suffix'} has no interpreter.",
            fix=f"Make it executable, or use one of {', '.join(_INTERPRETERS)}.",
        )
    return [str(path), *args]


def environment(run: str, *, inherit: bool = False) -> dict[str, str]:
    """The environment of a run's program: an allow-list, or all of ours (the terminal)."""
    shared = {
        name: value
        for name, value in os.environ.items()
        if inherit or name in _SHARED or name.startswith("LC_")
    }
    forced = {"PYTHONUNBUFFERED": "1"} if inherit else _FORCED
    return {**shared, **forced, MARK: run}


async def execute(
    sink: Sink, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]
) -> dict[str, Any]:
    """Run a program to its end and tell its output; `{"exit_code": 0}`.

    Cancelled once, it sends SIGTERM to the process group and waits; cancelled again,
    SIGKILL. Raises ScriptFailed for another exit code, or a program that cannot start.
    """
    pipes = [_Pipe(sink, "stdout"), _Pipe(sink, "stderr")]
    try:
        process = await _started(argv, pipes, cwd, env)
        for pipe in pipes:
            pipe.read(on_failure=partial(_signal_group, process.pid, signal.SIGKILL))
        code = await _ended(process)
    finally:
        try:
            # Whatever the program left behind would hold its pipes open, and outlive the run.
            await asyncio.to_thread(sweep, env[MARK])
            await asyncio.gather(*(pipe.finish() for pipe in pipes))
        finally:
            for pipe in pipes:
                pipe.close()
    if code:
        raise ScriptFailed(_why(code), exit_code=code if code > 0 else 128 - code)
    return {"exit_code": 0}


async def _started(
    argv: Sequence[str], pipes: Sequence[_Pipe], cwd: Path, env: Mapping[str, str]
) -> asyncio.subprocess.Process:
    try:
        for pipe in pipes:
            await pipe.open()
        return await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipes[0].end,
            stderr=pipes[1].end,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise ScriptFailed(
            f"{argv[0]} cannot be started: {getattr(error, 'strerror', None) or error}.",
            exit_code=code,
        ) from None
    finally:
        # The program has its own; with ours open the pipes would never end.
        for pipe in pipes:
            pipe.hand_over()


async def _ended(process: asyncio.subprocess.Process) -> int:
    try:
        return await process.wait()
    except asyncio.CancelledError:
        _signal_group(process.pid, signal.SIGTERM)
        # A stopped process cannot act on SIGTERM.
        _signal_group(process.pid, signal.SIGCONT)
        try:
            await process.wait()
        except asyncio.CancelledError:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
        raise
    finally:
        _signal_group(process.pid, signal.SIGKILL)


class _Counting(asyncio.StreamReaderProtocol):
    """Knows how much has come."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


class _Pipe:
    """One stream of a program, told as it comes.

    A pipe of our own, because asyncio's `Process.wait` waits for the pipes it made, and
    whoever the program has left behind can hold those open for ever.
    """

    def __init__(self, sink: Sink, stream: str) -> None:
        self._sink = sink
        self._stream = stream
        self._reader = asyncio.StreamReader()
        self._protocol = _Counting(self._reader)
        self._transport: asyncio.ReadTransport | None = None
        self._ours: FileIO | None = None
        self._read_bytes = 0
        self._telling: asyncio.Task[None] | None = None
        self.end = -1

    async def open(self) -> None:
        """Make the pipe; `end` is where to write."""
        ours, self.end = os.pipe()
        self._ours = os.fdopen(ours, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: self._protocol, self._ours
        )

    def hand_over(self) -> None:
        """The program has `end` now, or never will."""
        if self.end >= 0:
            os.close(self.end)

    def read(self, on_failure: Callable[[], None]) -> None:
        """Tell what is written. A program nobody listens to any more would wait for ever."""

        def done(telling: asyncio.Task[None]) -> None:
            if not telling.cancelled() and telling.exception() is not None:
                on_failure()

        self._telling = asyncio.create_task(self._tell())
        self._telling.add_done_callback(done)

    async def _tell(self) -> None:
        decoder = Decoder(self._stream)
        try:
            while chunk := await self._next():
                payload = decoder.feed(chunk)
                if payload is not None:
                    self._sink.emit(events.OUTPUT, payload)
                await self._sink.ebb()
                if len(chunk) < CHUNK_BYTES:
                    # What is written meanwhile comes with the next event: lines of a chatty
                    # program gather, the first one after a silence goes at once.
                    await asyncio.sleep(_LINGER_SECONDS)
        finally:
            last = decoder.end()
            if last is not None:
                self._sink.emit(events.OUTPUT, last)

    async def _next(self) -> bytes:
        chunk = await self._reader.read(CHUNK_BYTES)
        self._read_bytes += len(chunk)
        return chunk

    async def finish(self) -> None:
        """Come to the end of what is written by now, however long the log takes to keep it.
        What some survivor, who holds the pipe open, writes from now on is given up.
        """
        if self._telling is None:
            return
        written = self._protocol.received + self._waiting
        while not self._telling.done():
            if self._read_bytes >= written:
                self._telling.cancel()
            await asyncio.wait((self._telling,), timeout=_LAST_WORDS_SECONDS)
        if not self._telling.cancelled():
            await self._telling

    @property
    def _waiting(self) -> int:
        """The bytes in the pipe."""
        if self._ours is None or self._ours.closed:
            return 0
        (count,) = struct.unpack("i", fcntl.ioctl(self._ours, termios.FIONREAD, bytes(4)))
        return int(count)

    def close(self) -> None:
        """Let go of our end."""
        if self._telling is not None:
            self._telling.cancel()
        if self._transport is not None:
            self._transport.close()


def _why(code: int) -> str:
    if code > 0:
        return f"The program exited with code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"The program was ended by {name}."


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def sweep(*runs: str) -> int:
    """Kill every process that still carries a mark of these runs (Linux); how many there were.

    This finds those that left their process group by setsid or a double fork.
    """
    marks = {f"{MARK}={run}".encode() for run in runs}
    known: set[int] = set()
    killed: set[int] = set()
    for _ in range(_LOOKS):
        processes = _processes()
        # Somebody who ended before we could look may have left a child that we did not see,
        # and so may one that forks while we look. Only the first look is never sure.
        is_sure = bool(known)
        found: set[int] = set()
        for process in processes:
            environ = _read(process, "environ")
            if not marks.isdisjoint(environ.split(b"\0")):
                found.add(process)
            elif not environ and (process not in known or _is_starting(process)):
                is_sure = False
        found -= killed
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if is_sure and not found:
            break
        known = set(processes)
        killed |= found
        time.sleep(_LOOK_SECONDS)
    return len(killed)


def _processes() -> list[int]:
    """The newest first: they are the quickest to be gone."""
    with contextlib.suppress(OSError):
        names = [place.name for place in Path("/proc").iterdir()]
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)
    return []


def _read(process: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/{name}").read_bytes()
    return b""


def _is_starting(process: int) -> bool:
    """Whether it is within execve: for a moment the kernel shows neither the old environment
    nor the new one. Its own threads, and the dead, have no program.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/exe").readlink()
        return not _read(process, "cmdline")
    return False
