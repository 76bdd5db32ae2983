"""What the terminal shows, as text. Pure: no terminal, no clock."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tailrace.errors import TailraceError
from tailrace.protocol.events import to_json
from tailrace.protocol.lifecycle import State

_RESULT_COLUMNS: Final = 120

# ------------------------------------------------------------------ exit codes

OWN_FAULT: Final = 125
"""Tailrace's own fault, as `env`, `timeout` and `docker run` say it."""

TIMED_OUT: Final = 124
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_BY_STATE: Final[dict[str, int]] = {
    State.TIMED_OUT: TIMED_OUT,
    State.CANCELLED: INTERRUPTED,
    State.LOST: OWN_FAULT,
}


def exit_code(state: str, error: Mapping[str, Any] | None) -> int:
    """What a process exits with that followed a run to `state`.

    A failed run's program decides (`error["exit_code"]`, as shells give it), otherwise 1;
    124 timed_out, 130 cancelled, 125 lost, 0 completed or still active.
    """
    if state == State.FAILED:
        code = (error or {}).get("exit_code")
        # Not isinstance: True is an int to Python. Beyond 255 the kernel would cut it, to 0 even.
        return code if type(code) is int and 0 < code <= 255 else 1
    return _BY_STATE.get(state, 0)


# ------------------------------------------------------------------ numbers


def duration(seconds: float | None) -> str:
    """`0.3 s`, `1 min 05 s`, `2 h 03 min`, `4 d 02 h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {smaller}"
    return f"{whole} s"


_UNITS: Final = (
    ("d", 86_400, "h", 3600),
    ("h", 3600, "min", 60),
    ("min", 60, "s", 1),
)


def age(seconds: float) -> str:
    """`now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`."""
    if seconds < 1:
        return "now"
    for unit, size, _, _ in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def _number(value: Any) -> float | None:
    """A number that a payload brings; anybody may have written it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def fraction(progress: Mapping[str, Any] | None) -> float | None:
    """How far a `progress` payload says the work is: 0 to 1, or None."""
    told = progress or {}
    percent, current, total = (_number(told.get(key)) for key in ("percent", "current", "total"))
    if percent is None and current is not None and total:
        percent = 100 * current / total
    return None if percent is None else min(max(percent / 100, 0.0), 1.0)


def amount(progress: Mapping[str, Any] | None) -> str:
    """The same for a table: `45%`, a count where there is no total, or nothing."""
    part = fraction(progress)
    if part is not None:
        return f"{part:.0%}"
    current = _number((progress or {}).get("current"))
    return "" if current is None else f"{current:g}"


# ------------------------------------------------------------------ lines


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can draw."""

    colour: bool = False
    unicode: bool = True

    def mark(self, *, good: bool) -> str:
        """✓ or ✗."""
        sign = ("✓" if good else "✗") if self.unicode else ("ok" if good else "!!")
        return self.paint(sign, 32 if good else 31)

    def paint(self, text: str, code: int) -> str:
        """`text` in a colour (an SGR code), where colours are wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    @property
    def dot(self) -> str:
        """What stands between two facts."""
        return " · " if self.unicode else " - "


def status(
    look: Look, operation: str, elapsed: float, progress: Mapping[str, Any] | None, width: int
) -> str:
    """The line that tells how a run is getting on, at most `width` columns."""
    words = [plain(operation)]
    part = fraction(progress)
    if part is not None:
        words.append(_bar(look, part))
    told = progress or {}
    rest = _number(told.get("eta_seconds"))
    if rest is not None and rest >= 0:
        words.append(f"ETA {duration(rest)}")
    said = told.get("message") or told.get("step")
    if said:
        words.append(plain(str(said)))
    elif part is None and amount(told):
        words.append(amount(told))
    spinner = (_SPINNER if look.unicode else _ASCII_SPINNER)[int(elapsed * 8) % 8]
    head = f"{spinner} {duration(elapsed)}"
    return look.paint(clip(look.dot.join([head, *words]), width), 2)


_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧"
_ASCII_SPINNER: Final = "|/-\\|/-\\"
_BAR: Final = 20


def _bar(look: Look, part: float) -> str:
    done = round(part * _BAR)
    full, empty = ("█", "░") if look.unicode else ("#", ".")
    return f"{full * done}{empty * (_BAR - done)} {part:>4.0%}"


def waiting(status: Mapping[str, Any]) -> str | None:
    """`queued, next`, `queued, 3rd`, from a `status` payload; None for one that tells of no
    place in a queue.
    """
    place = status.get("position")
    if status.get("status") != State.QUEUED or type(place) is not int or place < 1:
        return None
    if place == 1:
        return "queued, next"
    ending = "th" if place % 100 in (11, 12, 13) else _ORDINALS.get(place % 10, "th")
    return f"queued, {place:,}{ending}"


_ORDINALS: Final = {1: "st", 2: "nd", 3: "rd"}


def ending(
    look: Look,
    run: str,
    state: str,
    seconds: float | None,
    *,
    events: int,
    address: str | None = None,
    said: str = "",
    result: Any = None,
) -> str:
    """The last line: `✓ run_x 12.3 s · 1,204 events · http://…/runs/run_x · {"rows":2}`, and
    what went wrong. `result` is the run's: that of a program has its own in it.
    """
    facts = [f"{run} {duration(seconds)}", f"{events:,} event{'' if events == 1 else 's'}"]
    if address:
        facts.append(plain(address))
    if state != State.COMPLETED:
        facts.append(state.replace("_", " "))
        if said:
            facts.append(plain(said))
    elif isinstance(result, Mapping) and {"exit_code", "result"} <= result.keys():
        facts.append(clip(plain(to_json(result["result"]).decode()), _RESULT_COLUMNS))
    return f"{look.mark(good=state == State.COMPLETED)} {look.dot.join(facts)}"


def fault(error: TailraceError) -> str:
    """Two lines: what went wrong and why; what to do about it."""
    fix = plain(error.fix) or "`tailrace --debug …` shows where it happened."
    return f"tailrace: {plain(str(error))}\n          {fix}\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lines with aligned columns; the first row is the heading."""
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        + "\n"
        for row in rows
    )


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """As much of `text` as fits into `width` columns. A line that wraps cannot be erased."""
    if _width(text) <= width:
        return text
    kept: list[str] = []
    left = max(width - 1, 0)
    for character in text:
        left -= _columns(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


# ------------------------------------------------------------------ foreign text

_CONTROL: Final = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CSI: Final = re.compile(r"[0-?]*[ -/]*")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m", re.ASCII)
_INTERMEDIATE: Final = re.compile(r"[ -/]*")
_STRING_END: Final = re.compile(r"[\x07\x18\x1a\x1b\x9c\n]")
# SOS, DCS, PM, APC, OSC (ECMA-48 §8.3), after ESC and as one character.
_STRINGS: Final = "PX^_]"
_C1_STRINGS: Final = "\x90\x98\x9d\x9e\x9f"

_MAX_HELD: Final = 256


class Sieve:
    """Lets through what remote text may do to a terminal: colours, tabs, line ends.

    Everything else is dropped: titles, clipboard writes and links (OSC), device strings
    (DCS), the 8-bit controls (C1), cursor movement, and every other escape. A sequence may
    be split between two pieces. `coloured` tells whether a colour is still on.
    """

    def __init__(self) -> None:
        self.coloured = False
        self._held = ""
        self._in_string = False

    def feed(self, text: str) -> str:
        """What may be shown of the next piece."""
        text = self._held + text
        self._held = ""
        kept: list[str] = []
        at = 0
        while at < len(text):
            if self._in_string:
                at = self._skip_string(text, at)
                continue
            found = _CONTROL.search(text, at)
            if found is None:
                kept.append(text[at:])
                break
            kept.append(text[at : found.start()])
            end = self._end(text, found.start())
            if end is None:
                self._held = text[found.start() :]
                break
            sequence = text[found.start() : end]
            if _COLOURS.fullmatch(sequence):
                kept.append(sequence)
                self.coloured = sequence not in ("\x1b[m", "\x1b[0m")
            at = end
        return "".join(kept)

    def _skip_string(self, text: str, at: int) -> int:
        found = _STRING_END.search(text, at)
        if found is None:
            return len(text)
        self._in_string = False
        # An escape begins the terminator, or another sequence. A line feed is none of it, but
        # a string that is never ended must not swallow the rest of the log.
        return found.start() if found.group() in "\x1b\n" else found.end()

    def _end(self, text: str, at: int) -> int | None:
        """Where the control at `at` ends; None if the rest of it is yet to come."""
        if text[at] == "\x9b":
            return _csi_end(text, at + 1)
        if text[at] in _C1_STRINGS:
            self._in_string = True
        if text[at] != "\x1b":
            return at + 1
        if at + 1 == len(text):
            return None
        if text[at + 1] == "[":
            return _csi_end(text, at + 2)
        if text[at + 1] in _STRINGS:
            self._in_string = True
            return at + 2
        final = _skip(_INTERMEDIATE, text, at + 1)
        if final == len(text):
            return None if final - at < _MAX_HELD else final
        return final + 1 if "0" <= text[final] <= "~" else final


def _csi_end(text: str, at: int) -> int | None:
    final = _skip(_CSI, text, at)
    if final == len(text):
        return None if final - at < _MAX_HELD else final
    return final + 1 if "@" <= text[final] <= "~" else final


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def plain(text: str) -> str:
    """Foreign text as a part of one line of ours: no escapes, no line ends."""
    shown = _COLOURS.sub("", Sieve().feed(text)).replace("\b", "")
    return " ".join(shown.split())


__all__ = [
    "BROKEN_PIPE",
    "INTERRUPTED",
    "OWN_FAULT",
    "TIMED_OUT",
    "Look",
    "Sieve",
    "age",
    "amount",
    "clip",
    "duration",
    "ending",
    "exit_code",
    "fault",
    "fraction",
    "plain",
    "status",
    "table",
    "waiting",
]
