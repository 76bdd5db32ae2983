"""How programs are run and understood, as tables: by the ending of a file's name.

The ones that come with Tailrace are below; a settings file adds its own, or replaces them:

    [profiles.julia]
    extensions = [".jl"]
    command = ["/opt/julia/bin/julia", "--project", "{file}", "{args}"]
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Final, Literal, get_args

from tailrace.errors import InputInvalid, PathForbidden, SettingsInvalid
from tailrace.runners.forms import KINDS
from tailrace.runners.sweep import MARK

Source = Literal["pty", "pipe", "file"]

PROGRAM: Final = "program"
"""The profile of a file that is executable by itself."""

_FILE: Final = "{file}"
_ARGS: Final = "{args}"
_PYTHON: Final = "{python}"
_STEM: Final = "{stem}"
_STOPS: Final = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")

_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9_+-]{1,20}|", re.ASCII)
_GROUPS: Final = frozenset({"current", "percent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of program.

    `extensions`: of the files it is for, with the dot. `command`: the argv; `{file}` and
    `{args}` stand for the script and its arguments, `{python}` for the interpreter Tailrace runs
    on; the first word may name several programs with `|` between, of which the first one found
    is taken. `output`: where it writes: `pty` (stdout is a terminal, so that nothing waits in
    a buffer), `pipe` (for what is known not to buffer), or `file`, which `log` names
    (`{stem}`: the script's name without its ending).
    `failure`: a regular expression; a line that has it means that the program failed, whatever
    its exit code says. `ignore`: lines that begin so tell nothing.
    `stop`: the signal that asks it to end; `once`: never twice, and only to the program itself.
    `progress`: which known forms to look for (bar, count, step, percent); `patterns`: regular
    expressions with groups named current, total, percent, step, message.
    `env`: variables for it.
    """

    name: str
    extensions: tuple[str, ...] = ()
    command: tuple[str, ...] = (_FILE, _ARGS)
    output: Source = "pty"
    log: str | None = None
    failure: str | None = None
    ignore: str | None = None
    stop: str = "TERM"
    once: bool = False
    progress: tuple[str, ...] = ("bar", "count", "step")
    patterns: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def argv(self, file: str, args: Sequence[str], path: str | None = None) -> list[str]:
        """The words of the command; the first is looked up in `path` where it is a choice."""
        first, *others = self.command
        # Before anything is put in: a file's name may have all these signs as well.
        choice = first.split("|")
        if len(choice) > 1:
            first = next((name for name in choice if shutil.which(name, path=path)), choice[0])
        words: list[str] = []
        for word in (first, *others):
            if word == _ARGS:
                words += args
            else:
                words.append(word.replace(_PYTHON, sys.executable).replace(_FILE, file))
        return words

    def tail(self, file: str) -> str | None:
        """The file the output is in, beside the script; None if it is not in a file."""
        if self.output != "file" or self.log is None:
            return None
        return self.log.replace(_STEM, PurePath(file).stem)

    @property
    def signal(self) -> int:
        """The number of `stop`."""
        return int(signal.Signals[f"SIG{self.stop}"])


SHIPPED: Final = (
    # Python is told by PYTHONUNBUFFERED not to buffer.
    Profile(
        name="python",
        extensions=(".py",),
        command=(_PYTHON, _FILE, _ARGS),
        output="pipe",
    ),
    # A shell flushes, but what it starts may not.
    Profile(name="shell", extensions=(".sh",), command=("bash|sh", _FILE, _ARGS)),
    # Rscript flushes each write. The pattern is that of txtProgressBar, styles 1 and 3.
    Profile(
        name="r",
        extensions=(".R", ".r"),
        command=("Rscript", _FILE, _ARGS),
        output="pipe",
        patterns=(r"^\s*\|[= ]*\|\s*(?P<percent>\d{1,3})%",),
    ),
    Profile(name="julia", extensions=(".jl",), command=("julia", _FILE, _ARGS)),
    # In batch mode Stata prints nothing, writes a log into the folder it runs in, and exits with
    # 0 whatever happened; a failure is the line `r(601);`. A second Break corrupts it. In the
    # log, what begins with `. `, `> ` or, within loops, `  2. ` are the commands, repeated.
    Profile(
        name="stata",
        extensions=(".do",),
        command=("stata-mp|stata-se|stata", "-b", "-q", "do", _FILE, _ARGS),
        output="file",
        log="{stem}.log",
        failure=r"^r\(\d+\);",
        ignore=r"[.>] | +\d+\. ",
        stop="INT",
        once=True,
    ),
    Profile(name=PROGRAM, extensions=("",)),
)


class Profiles:
    """Those that are known, by name and by ending."""

    def __init__(self, profiles: Iterable[Profile] = ()) -> None:
        """`profiles`, and the shipped ones that they do not replace."""
        self._known = {profile.name: profile for profile in (*SHIPPED, *profiles)}
        self._by_extension = {
            extension: profile for profile in self for extension in profile.extensions
        }

    def __iter__(self) -> Iterator[Profile]:
        """In order; later ones win an ending."""
        return iter(self._known.values())

    def anyhow(self, path: PurePath) -> Profile:
        """`of`, for whoever may run what the system runs: whatever is executable."""
        try:
            return self.of(path)
        except PathForbidden:
            if os.access(path, os.X_OK):
                return self[PROGRAM]
            raise

    def __contains__(self, name: object) -> bool:
        """By name."""
        return name in self._known

    def __getitem__(self, name: str) -> Profile:
        """Raises InputInvalid for an unknown name."""
        try:
            return self._known[name]
        except KeyError:
            raise InputInvalid(
                f"There is no profile {name[:40]!r}.", fix=f"Use one of {', '.join(self._known)}."
            ) from None

    def of(self, path: PurePath, *, is_known: bool = False) -> Profile:
        """The profile for a file. `is_known`: it was run before, and may be gone.

        Raises PathForbidden for a file that is nothing to run, unless it is known.
        """
        known = self._by_extension
        profile = known.get(path.suffix) or known.get(path.suffix.lower())
        if is_known:
            return profile or self[PROGRAM]
        if profile is None or (profile.name == PROGRAM and not os.access(path, os.X_OK)):
            endings = ", ".join(filter(None, known))
            ending = f"{path.suffix} is no known ending" if path.suffix else "it has no ending"
            raise PathForbidden(
                f"{path.name} is nothing that can be run: {ending}.",
                fix=f"Use one of {endings}, or add a profile for it. "
                "A file without an ending must be executable.",
            )
        return profile


def read(tables: Mapping[str, Any]) -> Profiles:
    """The profiles of a settings file: its table `profiles`, read from TOML.

    One with the name of a shipped profile changes what it says and keeps the rest. Raises
    SettingsInvalid, naming the place.
    """
    shipped = {profile.name: profile for profile in SHIPPED}
    made: list[Profile] = []
    for name, table in tables.items():
        where = f"profiles.{name}"
        if not isinstance(table, Mapping):
            raise _wrong(where, "must be a table")
        base = shipped.get(name)
        given = {} if base is None else {f.name: getattr(base, f.name) for f in fields(base)}
        for key, value in table.items():
            check = _CHECKS.get(key)
            if check is None:
                raise _wrong(f"{where}.{key}", f"is not one of {', '.join(_CHECKS)}")
            given[key] = check(f"{where}.{key}", value)
        profile = Profile(**{**given, "name": name})
        if profile.output == "file" and profile.log is None:
            raise _wrong(where, 'has output = "file", and needs a log = "{stem}.log"')
        if profile.output != "file" and "log" in table:
            raise _wrong(where, 'has a log, and needs output = "file" for it to be read')
        made.append(profile)
    return Profiles(made)


def _wrong(where: str, what: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"{where} {what}.",
        fix='A profile looks like: extensions = [".x"], command = ["x", "{file}"]',
    )


def _words(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(w, str) and "\0" not in w for w in value):
        raise _wrong(where, "must be a list of strings")
    return tuple(value)


def _extensions(where: str, value: Any) -> tuple[str, ...]:
    words = _words(where, value)
    if not all(map(_EXTENSION.fullmatch, words)):
        raise _wrong(where, 'must be endings like ".py"')
    return words


def _command(where: str, value: Any) -> tuple[str, ...]:
    words = _words(where, value)
    if not words or not any(_FILE in word for word in words):
        raise _wrong(where, 'must be words, one of them with "{file}"')
    if any(_ARGS in word and word != _ARGS for word in words):
        raise _wrong(where, 'must have "{args}" as a word of its own, for there may be several')
    return words


def _output(where: str, value: Any) -> Source:
    if value not in get_args(Source):
        raise _wrong(where, f"must be one of {', '.join(get_args(Source))}")
    chosen: Source = value
    return chosen


def _log(where: str, value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value
        or PurePath(value).name != value
        or value == ".."
        or "\0" in value
    ):
        raise _wrong(where, "must be a file's name, without folders")
    return value


def _pattern(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "must be a regular expression")
    try:
        re.compile(value)
    except re.error as error:
        raise _wrong(where, f"is no regular expression: {error}") from None
    return value


def _patterns(where: str, value: Any) -> tuple[str, ...]:
    words = tuple(_pattern(where, word) for word in _words(where, value))
    if not all(_GROUPS & re.compile(word).groupindex.keys() for word in words):
        raise _wrong(where, "must have a group (?P<current>…) or (?P<percent>…) each")
    return words


def _stop(where: str, value: Any) -> str:
    name = value.upper().removeprefix("SIG") if isinstance(value, str) else value
    if name not in _STOPS:
        raise _wrong(where, f"must be one of {', '.join(_STOPS)}")
    return str(name)


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "must be true or false")
    return value


def _kinds(where: str, value: Any) -> tuple[str, ...]:
    words = _words(where, value)
    if not set(words) <= set(KINDS):
        raise _wrong(where, f"must be some of {', '.join(KINDS)}")
    return words


def _env(where: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(text, str) and "\0" not in name + text and name and "=" not in name
        for name, text in value.items()
    ):
        raise _wrong(where, "must be a table of strings")
    if MARK in value:
        raise _wrong(where, f"must not have {MARK}, by which a run's processes are found")
    return dict(value)


_CHECKS: Final = {
    "extensions": _extensions,
    "command": _command,
    "output": _output,
    "log": _log,
    "failure": _pattern,
    "ignore": _pattern,
    "stop": _stop,
    "once": _flag,
    "progress": _kinds,
    "patterns": _patterns,
    "env": _env,
}
