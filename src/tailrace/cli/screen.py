"""The terminal: bytes to stdout and stderr, and one status line that is erased again."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from tailrace.cli.render import Look, Sieve, plain, waiting
from tailrace.projections.text import line
from tailrace.protocol import events
from tailrace.protocol.output import raw

_REDRAW_SECONDS: Final = 0.125
_ERASE: Final = "\r\x1b[2K"


class Screen:
    """Where everything goes that a command shows. Its methods may be used from any thread.

    `draws`: whether there is a terminal to draw a status line on. `out` and `err` are file
    descriptors. Writing raises BrokenPipeError when nobody reads any more.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        env: Mapping[str, str] = os.environ,
        out: int = 1,
        err: int = 2,
    ) -> None:
        self._out, self._err = out, err
        out_is_tty, err_is_tty = os.isatty(out), os.isatty(err)
        is_dumb = env.get("TERM", "dumb") in ("dumb", "")
        self.draws = err_is_tty and not is_dumb and not quiet
        self.out_is_tty = out_is_tty
        encoding = (getattr(sys.stderr, "encoding", None) or "ascii").lower()
        self.look = Look(
            # https://no-color.org: "when present and not an empty string".
            colour=self.draws and not env.get("NO_COLOR"),
            unicode=encoding.startswith("utf"),
        )
        self._encoding = encoding
        self._quiet = quiet
        # What is written to the same terminal as the status line must not run into it.
        self._shared = {out: out_is_tty, err: err_is_tty}
        self._lock = threading.Lock()
        self._status = ""
        self._is_at_start = True

    def write(self, stream: str, content: bytes) -> None:
        """Write to `stderr`, or to stdout for any other name."""
        fd = self._err if stream == "stderr" else self._out
        with self._lock:
            if content and self._shared[fd]:
                self._erase()
                self._is_at_start = content.endswith(b"\n")
            _write(fd, content)

    def uncolour(self, stream: str) -> None:
        """Back to the terminal's own colours, where `stream` goes to one."""
        fd = self._err if stream == "stderr" else self._out
        if self._shared[fd]:
            with self._lock:
                _write(fd, b"\x1b[0m")

    def note(self, text: str) -> None:
        """A line on stderr; nothing when it is to be quiet."""
        if self._quiet:
            return
        with self._lock:
            self._erase()
            lead = ""
            if self._shared[self._err]:
                lead = "" if self._is_at_start else "\n"
                self._is_at_start = True
            _write(self._err, f"{lead}{text}\n".encode(self._encoding, "replace"))

    @contextlib.contextmanager
    def status(self, tell: Callable[[int], str]) -> Iterator[None]:
        """Show what `tell(columns)` says, eight times a second, while the block lasts."""
        if not self.draws:
            yield
            return
        over = threading.Event()

        def draw() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(_REDRAW_SECONDS):
                    self._draw(tell)

        # A daemon: a terminal that takes nothing must not keep the process from ending.
        thread = threading.Thread(target=draw, name="tailrace-status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1.0)
            # The terminal may be gone; what is over is not to fail for it.
            with self._lock, contextlib.suppress(OSError):
                self._erase()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the terminal; 24 and 80 where there is none."""
        for fd in (self._out, self._err):
            with contextlib.suppress(OSError):
                columns, rows = os.get_terminal_size(fd)
                # Both are 0 where nobody has said how large it is.
                return rows or 24, columns or 80
        return 24, 80

    def _draw(self, tell: Callable[[int], str]) -> None:
        try:
            columns = os.get_terminal_size(self._err).columns or 80
        except OSError:
            columns = 80
        text = tell(columns - 1)
        with self._lock:
            # Not behind an unfinished line: a prompt, or a progress bar of the program's own.
            if self._is_at_start and text != self._status:
                _write(self._err, f"{_ERASE}{text}".encode(self._encoding, "replace"))
                self._status = text

    def _erase(self) -> None:
        if self._status:
            self._status = ""
            _write(self._err, _ERASE.encode())


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Somebody who shares the file has set O_NONBLOCK on it.
            select.select((), (fd,), ())


class Telling:
    """Shows a run's events: its output as it is, everything else as lines on stderr.

    `quiet`: no such lines; `without`: none for these types. `exact`: the output's bytes as
    they are; otherwise whatever could play tricks on a terminal is taken out. `progress` is
    the newest progress payload, for the status line, or its place in the queue.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        quiet: bool = False,
        exact: bool = False,
        without: Collection[str] = (),
    ) -> None:
        self.progress: Mapping[str, Any] | None = None
        self._without = {*events.TERMINAL_TYPES, *without}
        self._screen = screen
        self._quiet = quiet
        self._exact = exact
        self._sieves: dict[str, Sieve] = {}

    def event(self, type: str, payload: Mapping[str, Any]) -> None:
        """Show one event. Of a terminal event nothing is shown: `ending` tells it better."""
        if type == events.OUTPUT:
            self._output(payload)
        elif type == events.PROGRESS and self._screen.draws:
            self.progress = payload
        elif type == events.STATUS and self._screen.draws and (told := waiting(payload)):
            self.progress = {"message": told}
        else:
            if type == events.START:
                # It waits no more.
                self.progress = None
            if type not in self._without:
                self._line(type, payload)

    def close(self) -> None:
        """Switch off a colour that was left on."""
        for stream, sieve in self._sieves.items():
            if sieve.coloured:
                self._screen.uncolour(stream)
        self._sieves.clear()

    def _output(self, payload: Mapping[str, Any]) -> None:
        stream = "stderr" if payload.get("stream") == "stderr" else "stdout"
        if self._exact:
            self._screen.write(stream, raw(payload))
            return
        sieve = self._sieves.setdefault(stream, Sieve())
        text = sieve.feed(str(payload.get("text", "")))
        self._screen.write(stream, text.encode(errors="replace"))

    def _line(self, type: str, payload: Mapping[str, Any]) -> None:
        if not self._quiet:
            try:
                said = line(type, payload)
            except (TypeError, ValueError, AttributeError):
                # A payload of a known type in a shape of its own.
                said = f"[{type}]"
            self._screen.note(plain(said))


__all__ = ["Screen", "Telling"]
