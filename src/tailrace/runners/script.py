"""Running a program: its own process group, its output live, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tailrace.errors import PathForbidden, ScriptFailed
from tailrace.protocol import events
from tailrace.protocol.output import CHUNK_BYTES, Decoder
from tailrace.runners.contract import Sink

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
_LAST_WORDS_SECONDS: Final = 0.5


def locate(file: str, roots: Sequence[Path]) -> Path:
    """The real path of `file` below one of `roots`.

    Raises PathForbidden, in the same words whether the file is outside or missing: the
    answer must not tell what exists elsewhere.
    """
    for root in roots:
        with contextlib.suppress(OSError, ValueError):
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
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        raise ScriptFailed(
            f"{argv[0]} cannot be started: {getattr(error, 'strerror', None) or error}.",
            exit_code=code,
        ) from None
    pipes = {"stdout": process.stdout, "stderr": process.stderr}
    readers = [asyncio.create_task(_tell(sink, name, pipe)) for name, pipe in pipes.items() if pipe]
    try:
        await _ended(process)
    finally:
        # Whatever the program left behind would hold its pipes open, and outlive the run.
        _signal_group(process.pid, signal.SIGKILL)
        sweep(env[MARK])
        await _finish(readers)
    code = process.returncode or 0
    if code:
        raise ScriptFailed(_why(code), exit_code=code if code > 0 else 128 - code)
    return {"exit_code": 0}


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        await process.wait()
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


async def _tell(sink: Sink, stream: str, reader: asyncio.StreamReader) -> None:
    decoder = Decoder(stream)
    while chunk := await reader.read(CHUNK_BYTES):
        payload = decoder.feed(chunk)
        if payload is not None:
            sink.emit(events.OUTPUT, payload)
        await sink.ebb()
        # What is written meanwhile comes with the next event: lines of a chatty program
        # gather, the first one after a silence goes at once.
        await asyncio.sleep(_LINGER_SECONDS)
    last = decoder.end()
    if last is not None:
        sink.emit(events.OUTPUT, last)


async def _finish(readers: Sequence[asyncio.Task[None]]) -> None:
    """Let the readers come to the end of what was written."""
    _, unfinished = await asyncio.wait(readers, timeout=_LAST_WORDS_SECONDS)
    while unfinished:
        # A backlog takes its time; only a pipe that some survivor holds open is given up.
        before = len(unfinished)
        _, unfinished = await asyncio.wait(unfinished, timeout=_LAST_WORDS_SECONDS)
        if len(unfinished) == before:
            break
    for reader in unfinished:
        reader.cancel()
    for reader in readers:
        with contextlib.suppress(asyncio.CancelledError):
            await reader


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


def sweep(run: str) -> int:
    """Kill every process that still carries the run's mark (Linux); how many there were.

    This finds those that left their process group by setsid or a double fork.
    """
    mark = f"{MARK}={run}".encode()
    found = 0
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in place.read_bytes().split(b"\0"):
                os.kill(int(place.parent.name), signal.SIGKILL)
                found += 1
    return found
