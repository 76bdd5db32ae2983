"""Running a program: by a shim of its own, its output live, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace.errors import PathForbidden, RunLost, ScriptFailed
from tailrace.protocol.masking import Masks
from tailrace.runners.contract import Sink
from tailrace.runners.lifeline import Lifeline
from tailrace.runners.markers import Said
from tailrace.runners.output import Reading
from tailrace.runners.profiles import Profile
from tailrace.runners.shim import KILL, TERMINATE, Job
from tailrace.runners.sweep import MARK, sweep
from tailrace.runners.transcript import Told, Transcript

if sys.platform != "win32":
    import resource

# What a script may see of the server's environment. Everything else may be a secret.
_SHARED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")
_UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
# Nobody interprets colours and cursor movement in a log.
_PLAIN: Final = {"TERM": "dumb", "NO_COLOR": "1"}
# On a terminal they would wait for a key, which nobody can press.
_PAGERS: Final = dict.fromkeys(("PAGER", "GIT_PAGER", "MANPAGER", "SYSTEMD_PAGER"), "cat")

_GIB: Final = 1024**3
# As it was before any server raised it.
_FILES: Final = 1024 if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_NOFILE)[0]

# Within what the supervisor allows for forced work.
_LAST_SECONDS: Final = 0.4


SoFar = Callable[[], Awaitable[Told]]
"""Finds out what the log has of a program's output."""


class Located(NamedTuple):
    """A file below a root. `beneath` is its way there as `shim.Job` has it."""

    path: Path
    beneath: list[Any]


def locate(file: str, roots: Sequence[Path]) -> Located:
    """The real path of `file` below one of `roots`.

    Raises PathForbidden, in the same words whether the file is outside or missing: the
    answer must not tell what exists elsewhere.
    """
    for root in roots:
        # RuntimeError: a symbolic link that leads to itself (until Python 3.13).
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            # Resolved first, compared then: a symbolic link may not lead out of the root.
            path, top = (root / file).resolve(strict=True), root.resolve(strict=True)
            # Not followed: where it was a moment ago there may be a link by now.
            found = path.stat(follow_symlinks=False)
            if path.is_relative_to(top) and stat.S_ISREG(found.st_mode):
                way = [str(top), *path.relative_to(top).parts, found.st_dev, found.st_ino]
                return Located(path, way)
    raise PathForbidden(
        f"{file[:200]!r} is not a file below an allowed folder.",
        fix="Name a file inside the folders the server was started with (--allow-root).",
    )


def environment(
    run: str, own: Mapping[str, str], *, inherit: bool = False, plain: bool = True
) -> dict[str, str]:
    """The environment of a run's program: an allow-list, or all of ours (the terminal), and
    its `own`. `plain`: nobody draws what it writes.
    """
    shared = {
        name: value
        for name, value in os.environ.items()
        if inherit or name in _SHARED or name.startswith("LC_")
    }
    plainly = _PLAIN if plain else {}
    return {**shared, **_UNBUFFERED, **_PAGERS, **plainly, **own, MARK: run}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use; None: no bound of ours.

    `output_bytes`: of all its output, 1 GiB by default. `cpu_seconds`: of each process.
    `file_bytes`: of each file it writes. `processes`: of its user, in all (root has no bound).
    The last three are those of setrlimit(2).
    """

    output_bytes: int | None = _GIB
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    processes: int | None = None

    @property
    def resources(self) -> dict[str, int]:
        """As `shim.Job` has them."""
        wanted = {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NPROC": self.processes,
        }
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be run, and how it is understood.

    `beneath`: see `Located`; without it, it runs in `cwd`. `tail`: the file it writes instead of
    its stdout. `merge`: stderr goes where stdout goes, so that their order is exact. `survives`:
    it goes on when this process ends. `size`: rows and columns of its terminal. `masks`: what its
    output must not show.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    profile: Profile
    cwd: Path | None = None
    beneath: list[Any] | None = None
    tail: str | None = None
    merge: bool = False
    limits: Limits = field(default_factory=Limits)
    survives: bool = False
    size: tuple[int, int] = (24, 80)
    masks: Masks | None = None

    @property
    def job(self) -> Job:
        """What its shim is told."""
        return {
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": str(self.cwd),
            "beneath": self.beneath,
            "pty": self.profile.output == "pty",
            "size": list(self.size),
            "merge": self.merge,
            "tail": self.tail,
            "stop": self.profile.signal,
            "once": self.profile.once,
            "limits": self.limits.resources,
            "files": _FILES,
            "output_bytes": self.limits.output_bytes,
            "survives": self.survives,
            "server": os.getpid(),
        }

    @property
    def reading(self) -> Reading:
        """How its lines are understood."""
        profile = self.profile
        return Reading(
            progress=profile.progress,
            patterns=[re.compile(pattern) for pattern in profile.patterns],
            ignore=None if profile.ignore is None else re.compile(profile.ignore),
            failure=None if profile.failure is None else re.compile(profile.failure),
        )


async def execute(
    sink: Sink, program: Program, folder: Path, told: SoFar | None = None
) -> dict[str, Any]:
    """Run a program to its end and tell its output: `{"exit_code": 0}`, and its own `result` if it
    told one.

    `folder` is where it and its shim are found again; `told` finds out what the log has of its
    output, if it was started before. Cancelled once, the program is asked to stop; cancelled
    again, it is killed with all that it has started. If the sink is released, it is left alone
    instead.

    Raises ScriptFailed for another exit code, too much output, or a program that cannot start;
    RunLost if its shim is gone, or stopped it because its server was; PathForbidden if the
    file is not where it was found.
    """
    run = program.env[MARK]
    try:
        is_new = told is None
        marks = program.masks.marks(run) if program.masks else ()
        line = (
            Lifeline.start(folder, run, program.job, marks) if is_new else Lifeline.attach(folder)
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if is_new:
            raise _unstartable(program, why, 126) from None
        raise RunLost(f"What the program wrote cannot be read: {why}.") from None
    transcript = Transcript(program.reading, masks=program.masks)
    telling = asyncio.create_task(_tell(sink, line, transcript, told))
    try:
        # Nothing is awaited before: whoever is cancelled from now on passes it on.
        await _attended(sink, line, telling)
    finally:
        is_ended = transcript.end is not None or sink.released or not line.is_over
        # Cancelled once more in the middle of it, nobody would collect the shim.
        await asyncio.shield(_leave(line, None if is_ended else run))
    return _outcome(program, transcript.end, transcript.reading, line.complaint())


async def _leave(line: Lifeline, run: str | None) -> None:
    """Let go of a shim. If it was killed, whatever else it has of a `run` is ended."""
    if run is not None:
        await asyncio.to_thread(sweep, run)
    await line.close()


async def _tell(sink: Sink, line: Lifeline, transcript: Transcript, told: SoFar | None) -> None:
    """Tell what comes, to its end."""
    if told is not None:
        transcript.told = await told()

    async def tell(said: list[Said]) -> None:
        for type, payload in said:
            sink.emit(type, payload)
        if said:
            await sink.ebb()

    while transcript.end is None:
        # Asked before the look: what is written later brings a wake-up with it.
        is_last = line.is_over
        while frames := line.read():
            for said in transcript.take(frames):
                await tell(said)
                # Short lines are work: a flood of them must leave everybody else their turn.
                await asyncio.sleep(0)
        if transcript.end is not None or is_last:
            break
        await line.woken(transcript.due(time.time()))
        await tell(transcript.held(time.time()))
    torn = line.spool.torn()
    if torn is not None:
        for said in transcript.take([torn]):
            await tell(said)
    for said in transcript.finish():
        await tell(said)


async def _attended(sink: Sink, line: Lifeline, telling: asyncio.Task[None]) -> None:
    """Wait for the end, and pass on the wish to stop, up to the second, which is an order: what
    cannot be told soon after it is given up, and a third gives it up at once.
    """
    stopped: asyncio.CancelledError | None = None
    orders = [TERMINATE, KILL]
    while not telling.done():
        try:
            await asyncio.wait((telling,), timeout=None if orders else _LAST_SECONDS)
            if not orders:
                # A flood may have left more than can be told while somebody waits for the end.
                telling.cancel()
                await asyncio.wait((telling,))
        except asyncio.CancelledError as error:
            # Where the event loop itself ends, it takes a turn to say that nothing is to be ended.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if sink.released or not orders:
                telling.cancel()
                await asyncio.wait((telling,))
                raise
            line.order(orders.pop(0))
            stopped = error
    if not telling.cancelled() and telling.exception() is not None:
        # A program nobody listens to any more would go on for ever.
        line.order(KILL)
    while not line.is_over:
        await line.woken()
    if not telling.cancelled():
        telling.result()
    if stopped is not None:
        raise stopped


def _outcome(
    program: Program, end: Mapping[str, Any] | None, reading: Reading, complaint: str
) -> dict[str, Any]:
    if end is None:
        raise RunLost(
            "The process that watched over the program is gone, and so was the program"
            f"{f': {complaint}' if complaint else ''}."
        )
    if end.get("reason") == "orphaned":
        raise RunLost("Whoever ran the program was gone, and so it was stopped.")
    if "refused" in end:
        raise PathForbidden(
            f"{program.argv[-1][:200]!r} is not what it was a moment ago: {end['refused']}.",
            fix="Try again, once nobody moves the files about.",
        )
    if "errno" in end:
        raise _unstartable(program, end["error"], 127 if end["errno"] == errno.ENOENT else 126)
    if end["reason"] == "output":
        raise ScriptFailed(
            f"The program wrote more than {program.limits.output_bytes:,} bytes, and was stopped.",
            fix="Have it write less, or raise the limit (output_bytes).",
            exit_code=128 + signal.SIGXFSZ,
        )
    if end["signal"]:
        raise ScriptFailed(_ended_by(end["signal"]), exit_code=128 + end["signal"])
    if end["code"]:
        raise ScriptFailed(f"The program exited with code {end['code']}.", exit_code=end["code"])
    if reading.failure is not None:
        raise ScriptFailed(
            f"The program says that it failed: {reading.failure}",
            exit_code=1,
            failure=reading.failure,
        )
    return {"exit_code": 0, **({"result": reading.result} if reading.has_result else {})}


def _unstartable(program: Program, why: str, exit_code: int) -> ScriptFailed:
    return ScriptFailed(f"{program.argv[0]} cannot be started: {why}.", exit_code=exit_code)


def _ended_by(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"The program was ended by {name}."
