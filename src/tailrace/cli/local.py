"""A program run from a terminal: in this process, attended from its start to its end.

The log decides as it does everywhere: the program's output is written to it first, and what
is shown here is read back from it. A reader that takes its time (`| less`) holds up nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tailrace.builtin import COMMAND, SCRIPT, Terminal, Work
from tailrace.cli import render
from tailrace.cli.remote import address
from tailrace.cli.screen import Screen, Telling
from tailrace.engine import Engine
from tailrace.errors import SettingsInvalid
from tailrace.operations import Traits
from tailrace.projections import stream
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import RESULT, START, STATUS, loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tailrace.runners.sweep import sweep

_KILL_SECONDS: Final = 1.0


def title(given: Mapping[str, Any]) -> str:
    """What a run is called, from its input: the name of the file, or of the command."""
    return Path(given["file"] if "file" in given else given["argv"][0]).name


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise SettingsInvalid(
            f"The current folder is not there any more: {error.strerror}.", fix="Go to another one."
        ) from None


class Attended:
    """One program, run for whoever sits at the terminal.

    Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel the run; a further Ctrl-C kills the program, one
    more leaves at once. `as_json`: the exact events on stdout, instead of the output.
    """

    def __init__(self, engine: Engine, screen: Screen, *, as_json: bool = False) -> None:
        self._title = ""
        self._engine = engine
        self._screen = screen
        # That it was started and is being stopped, whoever sits there knows, and the last line
        # tells what came of it.
        self._telling = Telling(
            screen, quiet=not screen.draws, exact=True, without=(START, STATUS, RESULT)
        )
        self._as_json = as_json
        self._run = ""
        self._began = time.monotonic()
        self._work: asyncio.Task[Any] | None = None
        self._signals: list[int] = []
        self._cancelling: asyncio.Task[RunRecord] | None = None
        self._killing: asyncio.Task[None] | None = None

    async def run(
        self, operation: str, given: Mapping[str, Any], *, timeout: float | None = None
    ) -> int:
        """Run a program to its end, in the current folder; the exit code. `operation` is
        `script` (given a file, args) or `command` (given its argv).

        Raises LogError, InputInvalid; OSError, after the program was stopped, when what is
        shown cannot be written (BrokenPipeError: nobody reads it any more).
        """
        self._title = title(given)
        self._offer()
        async with self._engine:
            # After the engine's own, which would only end streams, and there are none.
            self._listen()
            record, _ = await self._engine.submit(operation, given, timeout=timeout)
            self._run = record.id
            if self._screen.draws:
                self._screen.note(record.id)
            if self._signals:
                self._cancel("interrupted")
            try:
                with self._screen.status(self._status):
                    await self._show()
            finally:
                for task in (self._cancelling, self._killing):
                    if task is not None:
                        await task
            record = await self._engine.record(record.id)
        return await self._ended(record)

    def _offer(self) -> None:
        terminal = Terminal(
            spools=self._engine.spools,
            cwd=_here(),
            plain=not self._screen.out_is_tty,
            size=self._screen.size,
        )
        for name, program in ((SCRIPT, terminal.script), (COMMAND, terminal.command)):
            traits = Traits(title=title, ended=self._engine.spools.clear)
            self._engine.offer(self._known(program), name=name, traits=traits)

    def _known(self, program: Work) -> Work:
        """The same, and its task is known: a second Ctrl-C is for it alone."""

        @functools.wraps(program)
        async def known(*args: Any, **kwargs: Any) -> dict[str, Any]:
            self._work = asyncio.current_task()
            return await program(*args, **kwargs)

        return known

    async def _show(self) -> None:
        broken: OSError | None = None
        reading = self._engine.hub.subscribe(self._run, Cursor(0, 0), stream("ndjson"))
        async with reading as (reader, _):
            chunks = aiter(reader)
            async with contextlib.aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    if broken is not None:
                        continue
                    try:
                        # In a thread: a full pipe must not keep Ctrl-C from being heard.
                        await asyncio.to_thread(self._tell, chunk)
                    except OSError as error:
                        broken = error
                        self._cancel("its output cannot be shown")
        if broken is not None:
            raise broken

    def _tell(self, chunk: bytes) -> None:
        if self._as_json:
            self._screen.write("stdout", chunk)
            return
        for told in chunk.split(b"\n"):
            if told:
                event = loads(told)
                self._telling.event(event["type"], event["data"])

    def _status(self, columns: int) -> str:
        elapsed = time.monotonic() - self._began
        told: Mapping[str, Any] | None = self._telling.progress
        if self._signals:
            told = {"message": "stopping"}
        return render.status(self._screen.look, self._title, elapsed, told, columns)

    async def _ended(self, record: RunRecord) -> int:
        error = loads(record.error)
        took = None
        if record.ended_at is not None:
            took = record.ended_at - (record.started_at or record.created_at)
        where = await address(record.id) if self._screen.draws else None
        self._screen.note(
            render.ending(
                self._screen.look,
                record.id,
                record.state,
                took,
                events=record.last_seq,
                address=where,
                said=str((error or {}).get("error", "")),
                result=loads(record.result),
            )
        )
        if record.state is State.CANCELLED and self._signals:
            return 128 + self._signals[0]
        return render.exit_code(record.state, error)

    # --- stopping ----------------------------------------------------------------------

    def _listen(self) -> None:
        if sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Ignored by whoever started us: `nohup`, or a shell's background job.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if self._signals and number != signal.SIGINT:
            # A terminal that is closed says so twice, itself and through its shell.
            return
        self._signals.append(number)
        if not self._run:
            return
        match len(self._signals):
            case 1:
                self._cancel("interrupted")
                if self._screen.draws:
                    self._screen.note("Stopping it; Ctrl-C again kills it.")
            case 2 if self._work is not None:
                self._killing = asyncio.create_task(self._kill(self._work))
            case _:
                sweep(self._run)
                os._exit(128 + number)

    async def _kill(self, work: asyncio.Task[Any]) -> None:
        """A second cancelling is an order to its shim, which knows all that it has started."""
        work.cancel()
        await asyncio.wait((work,), timeout=_KILL_SECONDS)
        if not work.done():
            # The two came at once and became one, or the shim is not to be reached.
            await asyncio.to_thread(sweep, self._run)

    def _cancel(self, reason: str) -> None:
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._engine.cancel(self._run, reason))


# ------------------------------------------------------------------ warnings of the engine


class _Notes(logging.Handler):
    """Shows what the engine has to say as one line each, without tracebacks."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._screen.note(f"tailrace: {record.getMessage()}")


def attend(
    operation: str,
    given: Mapping[str, Any],
    engine: Engine,
    screen: Screen,
    *,
    timeout: float | None = None,
    as_json: bool = False,
    debug: bool = False,
) -> int:
    """Run a program in the current folder and show it; the exit code. See `Attended.run`.

    What the engine has to say is shown without tracebacks, unless `debug`.
    """
    logger = logging.getLogger("tailrace")
    notes = logging.NullHandler() if debug else _Notes(screen)
    logger.addHandler(notes)
    try:
        attended = Attended(engine, screen, as_json=as_json)
        return asyncio.run(attended.run(operation, given, timeout=timeout))
    finally:
        logger.removeHandler(notes)


__all__ = ["Attended", "attend", "title"]
