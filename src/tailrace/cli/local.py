"""A program run from a terminal: in this process, attended from its start to its end.

The log decides as it does everywhere: the program's output is written to it first, and what
is shown here is read back from it. A reader that takes its time (`| less`) holds up nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tailrace import builtin
from tailrace.cli import render
from tailrace.cli.screen import Screen, Telling
from tailrace.engine import Engine
from tailrace.projections import stream
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import START, STATUS, loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tailrace.run import RunContext
from tailrace.runners.script import sweep

_OPERATION: Final = "command"


class Attended:
    """One program, run for whoever sits at the terminal.

    Ctrl-C (SIGINT), SIGTERM and SIGHUP cancel the run; a further Ctrl-C kills the program, one
    more leaves at once. `as_json`: the exact events on stdout, instead of the output.
    `title`: what the status line calls it.
    """

    def __init__(
        self, engine: Engine, screen: Screen, *, as_json: bool = False, title: str = ""
    ) -> None:
        self._title = title or _OPERATION
        self._engine = engine
        self._screen = screen
        # That it was started and is being stopped, whoever sits there knows.
        self._telling = Telling(screen, quiet=not screen.draws, exact=True, without=(START, STATUS))
        self._as_json = as_json
        self._run = ""
        self._began = time.monotonic()
        self._work: asyncio.Task[Any] | None = None
        self._signals: list[int] = []
        self._cancelling: asyncio.Task[RunRecord] | None = None

    async def run(self, argv: Sequence[str], *, timeout: float | None = None) -> int:
        """Run a program to its end; the exit code.

        Raises LogError, InputInvalid; OSError, after the program was stopped, when what is
        shown cannot be written (BrokenPipeError: nobody reads it any more).
        """
        self._engine.operation(name=_OPERATION)(self._operation(Path.cwd()))
        async with self._engine:
            # After the engine's own, which would only end streams, and there are none.
            self._listen()
            shown = {"argv": list(argv)}
            record, _ = await self._engine.submit(_OPERATION, shown, timeout=timeout)
            self._run = record.id
            if self._screen.draws:
                self._screen.note(record.id)
            if self._signals:
                self._cancel("interrupted")
            try:
                with self._screen.status(self._status):
                    await self._show()
            finally:
                if self._cancelling is not None:
                    await self._cancelling
            record = await self._engine.record(record.id)
        return self._ended(record)

    def _operation(self, cwd: Path) -> Any:
        program = builtin.command(cwd)

        async def command(run: RunContext, argv: list[str]) -> dict[str, Any]:
            """Run a program and tell its output."""
            self._work = asyncio.current_task()
            return await program(run, argv)

        return command

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

    def _ended(self, record: RunRecord) -> int:
        error = loads(record.error)
        took = None
        if record.ended_at is not None:
            took = record.ended_at - (record.started_at or record.created_at)
        said = str((error or {}).get("error", ""))
        self._screen.note(
            render.ending(
                self._screen.look, record.id, record.state, took, events=record.last_seq, said=said
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
                # The runner answers a second cancelling with SIGKILL; but if the first is still
                # on its way, the two become one.
                self._work.cancel()
                asyncio.get_running_loop().run_in_executor(None, sweep, self._run)
            case _:
                sweep(self._run)
                os._exit(128 + number)

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
    argv: Sequence[str],
    engine: Engine,
    screen: Screen,
    *,
    timeout: float | None = None,
    as_json: bool = False,
    debug: bool = False,
    title: str = "",
) -> int:
    """Run `argv` in the current folder and show it; the exit code. See `Attended.run`.

    What the engine has to say is shown without tracebacks, unless `debug`.
    """
    logger = logging.getLogger("tailrace")
    notes = logging.NullHandler() if debug else _Notes(screen)
    logger.addHandler(notes)
    try:
        attended = Attended(engine, screen, as_json=as_json, title=title)
        return asyncio.run(attended.run(argv, timeout=timeout))
    finally:
        logger.removeHandler(notes)


__all__ = ["Attended", "attend"]
