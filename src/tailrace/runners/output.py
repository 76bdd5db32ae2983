"""What a program's text says: how far it is, what it logs, what comes of it. Pure.

Progress is recognised in what tools print anyway (`forms`). What a program wants to be sure of it
prints as a marker, at the very start of a line (`markers`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from tailrace.errors import SettingsInvalid
from tailrace.protocol.events import PROGRESS, RESULT
from tailrace.runners.forms import COUNTED, FORMS_OF, KINDS, first, meaning, tells
from tailrace.runners.markers import LINE, MARKER, Said, marked

PAUSE_SECONDS: Final = 0.05
"""How far apart two progresses are told."""

_GLIMPSE: Final = 1024
# Colours and movements of the cursor (CSI), titles and links (OSC); and the beginning of one.
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\))")
_ESCAPE_BEGUN: Final = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+|\][^\x07\x1b]*+\x1b?)?\Z")


class Reading:
    """What the text of one program says, line by line.

    `progress`: some of KINDS. `patterns`: further forms, looked for first, with groups named
    current, total, percent, step, message; a match without current and percent, or with
    something else than a number there, tells nothing. `ignore`: lines that begin so say nothing.
    `failure`: what a line has if the program failed. Patterns see lines without colours, and
    also the beginning of a line that a bar is redrawn in.

    Afterwards `failure` is the last text that matched, and `result` the last marker's value, if
    `has_result`. Times are seconds of any clock that does not go back. Raises SettingsInvalid
    for an unknown kind; no text raises anything.
    """

    def __init__(
        self,
        *,
        progress: Sequence[str] = ("bar", "count", "step"),
        patterns: Sequence[re.Pattern[str]] = (),
        ignore: re.Pattern[str] | None = None,
        failure: re.Pattern[str] | None = None,
    ) -> None:
        if unknown := set(progress).difference(KINDS):
            raise SettingsInvalid(
                f"{min(unknown)!r} is no kind of progress.", fix=f"Use some of {', '.join(KINDS)}."
            )
        self.failure: str | None = None
        self.result: Any = None
        self.has_result = False
        self._patterns = tuple(patterns)
        self._bars = FORMS_OF["bar"] if "bar" in progress else []
        self._counts = [form for k in KINDS[1:] if k in progress for form in FORMS_OF[k]]
        self._ignore = ignore
        self._failing = failure
        # Then a whole piece can be seen at once to tell nothing.
        self._is_plain = not patterns and failure is None
        self._lines: dict[str, _Lines] = {}
        self._pace = _Pace()
        self._told: dict[str, Any] | None = None
        self._held: dict[str, Any] | None = None
        self._next = -math.inf

    def feed(self, stream: str, text: str, at: float) -> list[Said]:
        """What the next piece of a stream says, wherever it was cut off."""
        said: list[Said] = []
        lines = self._lines.setdefault(stream, _Lines())
        if self._is_plain and "\r" not in text and not tells(text) and not tells(lines.rest):
            lines.skip(text)
            return self._tell(at) if at >= self._next else said
        for line in lines.feed(text):
            if line:
                self._read(line, at, said)
        # A bar that begins with its CR shows its newest state in a line that has no end yet.
        if lines.is_redrawn and 0 < len(lines.rest) <= _GLIMPSE:
            self._glimpse(lines.rest, at, said)
        return said + self._tell(at) if at >= self._next else said

    def due(self, at: float) -> float | None:
        """When to call `held`: not before `at`; None while nothing is held back."""
        return None if self._held is None else max(at, self._next)

    def held(self, at: float) -> list[Said]:
        """The progress that was held back, if any."""
        return self._tell(at)

    def end(self, at: float) -> list[Said]:
        """What the lines without an end say, and the progress that was held back."""
        said: list[Said] = []
        for lines in self._lines.values():
            rest, lines.rest = lines.rest, ""
            if rest:
                self._read(rest, at, said)
        return said + self._tell(at)

    def _read(self, line: str, at: float, said: list[Said]) -> None:
        if len(line) >= LINE:
            line = line[:LINE]
            if (marker := MARKER.match(line)) and marker[1] == "result":
                # Only its beginning is there; of a message that is enough.
                said += [*self._tell(at), marked("result", marker[2], "its line is too long")]
                return
        if "\x1b" in line:
            line = _ESCAPE.sub("", line)
        if self._ignore is not None and self._ignore.match(line):
            return
        if self._failing is not None and (failed := self._failing.search(line)):
            self.failure = failed[0]
        if line.startswith("::") and (marker := MARKER.match(line)):
            event = marked(marker[1], (marker[2] or "").rstrip())
            if event[0] == PROGRESS:
                self._note(event[1], at, said)
                return
            if event[0] == RESULT:
                self.result, self.has_result = event[1]["result"], True
            said += [*self._tell(at), event]
        elif payload := self._find(line):
            self._note(payload, at, said)

    def _glimpse(self, rest: str, at: float, said: list[Said]) -> None:
        if "\x1b" in rest:
            rest = _ESCAPE.sub("", _ESCAPE_BEGUN.sub("", rest))
        if rest.startswith("::") or (self._ignore is not None and self._ignore.match(rest)):
            return
        if payload := self._find(rest, is_whole=False):
            self._note(payload, at, said)

    def _find(self, line: str, *, is_whole: bool = True) -> dict[str, Any] | None:
        for pattern in self._patterns:
            if found := pattern.search(line):
                return meaning(found, is_whole=is_whole)
        if not tells(line):
            return None
        if payload := first(self._bars, line, is_whole=is_whole):
            return payload
        return first(self._counts, line, is_whole=is_whole) if COUNTED.search(line) else None

    def _note(self, payload: dict[str, Any], at: float, said: list[Said]) -> None:
        is_told = payload == self._told
        self._pace.add(payload, at)
        self._held = None if is_told else payload
        # The end of a bar is told at once, but only of one that was told before: a loop of bars
        # that are too short to be seen would else tell the end of each.
        if at >= self._next or (self._pace.is_full and self._pace.is_watched):
            said += self._tell(at)

    def _tell(self, at: float) -> list[Said]:
        if (told := self._held) is None:
            return []
        self._told = {key: value for key, value in told.items() if key != "eta_seconds"}
        self._held = None
        self._next = at + PAUSE_SECONDS
        self._pace.is_watched = not self._pace.is_full
        return [(PROGRESS, told)]


class _Lines:
    """The lines of one stream, cut out of pieces. They end in LF, CR LF, or CR alone."""

    def __init__(self) -> None:
        self.rest = ""
        self.is_redrawn = False  # whether CR alone is in front of the rest

    def feed(self, text: str) -> list[str]:
        """Those that have ended, and an empty one in each CR LF."""
        if "\r" in text:
            self.is_redrawn = text.rfind("\r") > text.rfind("\n")
            text = text.replace("\r", "\n")
        elif "\n" in text:
            self.is_redrawn = False
        lines = text.split("\n")
        lines[0] = self.rest + lines[0]
        self.rest = lines.pop()[:LINE]
        return lines

    def skip(self, text: str) -> None:
        """The same for a piece without CR, whose lines nobody wants."""
        _, end, rest = text.rpartition("\n")
        self.rest = (rest if end else self.rest + rest)[:LINE]
        if end:
            self.is_redrawn = False


class _Pace:
    """How fast the newest bar goes. A new one begins where another total, another step or less
    than before is told.
    """

    def __init__(self) -> None:
        self._bar: tuple[Any, Any] | None = None
        self.first = self._last = self._since = 0.0
        self.is_full = False
        self.is_watched = False  # whether it was told, and not yet its end

    def add(self, payload: dict[str, Any], at: float) -> None:
        """Take a progress, and give it its `eta_seconds` once there is a pace."""
        value, whole = payload.get("current"), payload.get("total")
        if value is None or (whole is None and "percent" in payload):
            value, whole = payload["percent"], 100
        bar = (whole, payload.get("step"))
        if bar != self._bar or value < self._last:
            self._bar, self.first, self._since = bar, value, at
            self.is_watched = False
        self._last = value
        self.is_full = whole is not None and value >= whole
        done, elapsed = value - self.first, at - self._since
        if whole is not None and done > 0 and elapsed > 0:
            payload["eta_seconds"] = round(elapsed * max(whole - value, 0) / done, 1)
