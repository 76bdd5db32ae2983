"""The file that API keys are kept in: who may read it, what it must say, and how it changes.

It is refused rather than guessed at: whatever is wrong with it, "no keys" would be the worst
way to read it. It changes as a whole, by a rename, with one writer at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from tailrace.errors import SettingsInvalid
from tailrace.protocol.access import SCOPES
from tailrace.protocol.events import stamp

if sys.platform != "win32":
    import fcntl

END_OF_TIME: Final = 253_402_300_800.0
"""The year 10000, which RFC 3339 cannot say."""

MAX_PRINCIPAL: Final = 128
"""Bound of a principal, in characters."""

_VERSION: Final = 1
_ELSEWHERE: Final = "name another file, with --file or TAILRACE_KEYS."

_ID: Final = re.compile(r"[a-z2-7]{8}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Neither is there on Windows. A FIFO in the file's place must not hold up whoever opens it, and
# a link in the lock's place, in a folder of everybody's, must not make us create its target.
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key. `id` is public and names it; `principal` owns the runs it starts.

    Times are in seconds since 1970; `expires_at` is None for one that stays good.
    """

    id: str
    name: str
    scopes: frozenset[str]
    principal: str
    sha256: str = field(repr=False)
    created_at: float
    expires_at: float | None

    def is_expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def shown(self) -> dict[str, Any]:
        """What may be shown of it, for JSON: all but the hash; times as RFC 3339."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": [scope for scope in SCOPES if scope in self.scopes],
            "principal": self.principal,
            "created_at": stamp(self.created_at),
            "expires_at": None if self.expires_at is None else stamp(self.expires_at),
        }


class Content(NamedTuple):
    """The keys by id, oldest first, and the mark of the file they were in; None: no file."""

    mark: tuple[int, ...] | None
    keys: Mapping[str, Key]


class KeyFile:
    """The file at `path`. All of it raises SettingsInvalid for what cannot be done with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> tuple[int, ...] | None:
        """What is another whenever the file changes; None: there is no file."""
        try:
            return _marked(self.path.stat())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from None

    def read(self) -> Content:
        """What is in it. Refuses one that other users may open, or that says anything unknown."""
        try:
            with open(self.path, "rb", opener=_open) as file:
                status = os.fstat(file.fileno())
                self._check_file(status)
                content = file.read()
        except FileNotFoundError:
            return Content(None, {})
        except OSError as error:
            raise self._unreadable(error) from None
        try:
            return Content(_marked(status), _parsed(content))
        except ValueError as error:
            raise SettingsInvalid(
                f"The key file {self.path} cannot be used: {error}.",
                fix="Restore it from a copy, or move it away and create the keys anew.",
            ) from None

    def _unreadable(self, error: OSError) -> SettingsInvalid:
        return SettingsInvalid(
            f"The key file {self.path} cannot be read: {error.strerror}.",
            fix=f"Make it readable for whoever runs this, or {_ELSEWHERE}",
        )

    def _check_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise SettingsInvalid(
                f"The key file {self.path} is not a plain file.",
                fix=f"Move it away, or {_ELSEWHERE}",
            )
        mode = stat.S_IMODE(status.st_mode)
        # Whoever can change it can let anybody in; whoever can read it learns who comes here.
        if sys.platform != "win32" and mode & 0o077:
            raise SettingsInvalid(
                f"The key file {self.path} is open to other users: its mode is {mode:04o}.",
                fix=f"chmod 600 {shlex.quote(str(self.path))}, "
                "and revoke the keys you do not know: tailrace keys ls",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, in all processes. On Windows, that is left to luck."""
        try:
            place = self._place()
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A file of its own, for the keys' is replaced, and never removed: who waits for the
            # lock of a removed one would share it with nobody.
            lock = place.with_name(f".{place.name}.lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
            try:
                if sys.platform != "win32":
                    # Not lockf: its locks are the process's, and would let a second thread in.
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SettingsInvalid(
                f"The keys in {self.path} cannot be changed: {error.strerror}.",
                fix=f"Check the folder, or {_ELSEWHERE}",
            ) from None

    def write(self, keys: Iterable[Key]) -> None:
        """Put these into it, for whoever has it `locked`. A crash leaves the old or the new."""
        place = self._place()
        document = {
            "version": _VERSION,
            "keys": [{**key.shown(), "sha256": key.sha256} for key in keys],
        }
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        new = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            new.replace(place)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _sync_folder(place.parent)

    def _place(self) -> Path:
        # A link is somebody's choice of a place: the rename must not put a file over it.
        return self.path.resolve()


# ------------------------------------------------------------------ the file


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _NONBLOCK)


def _marked(status: os.stat_result) -> tuple[int, ...]:
    # The mode, because chmod leaves the time as it was.
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)


def _sync_folder(folder: Path) -> None:
    # Not every file system syncs folders, and the keys are in place whether it does or not.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------ what it says


def _parsed(content: bytes) -> dict[str, Key]:
    """Raises ValueError, which says what is wrong and quotes nothing."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON (line {error.lineno})") from None
    if type(document) is not dict or "version" not in document:
        raise ValueError("it is no list of keys")
    if type(document["version"]) is not int or document["version"] != _VERSION:
        raise ValueError(f"its version is not {_VERSION}, the one this Tailrace knows")
    if document.keys() != {"version", "keys"} or type(document["keys"]) is not list:
        raise ValueError("it is no list of keys")
    keys: dict[str, Key] = {}
    names: set[str] = set()
    for number, record in enumerate(document["keys"], 1):
        try:
            key = _key(record)
        except ValueError as error:
            raise ValueError(f"in key {number}, {error}") from None
        if key.id in keys or key.name in names:
            raise ValueError(f"key {number} has the id or the name of another")
        keys[key.id] = key
        names.add(key.name)
    return keys


def _key(record: Any) -> Key:
    # An unknown field could be a limit, set by hand, that would be passed over.
    if type(record) is not dict or record.keys() != _FORM.keys():
        raise ValueError(f"the fields are not {', '.join(_FORM)}")
    wrong = next((name for name, is_good in _FORM.items() if not is_good(record[name])), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is not as it should be")
    ends = record["expires_at"]
    return Key(
        id=record["id"],
        name=record["name"],
        scopes=frozenset(record["scopes"]),
        principal=record["principal"],
        sha256=record["sha256"],
        created_at=instant(record["created_at"]),
        expires_at=None if ends is None else instant(ends),
    )


def is_name(value: Any) -> bool:
    """Whether a key can have this name: 1 to 64 letters, digits, dots, dashes, underscores."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _fits(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _are_scopes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(scope in SCOPES for scope in value)


def is_principal(value: Any) -> bool:
    """Whether it can name who owns a run."""
    # It is shown in terminals, and compared: no character of it may be invisible.
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_PRINCIPAL
        and value.isprintable()
        and value == value.strip()
    )


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and 0 <= instant(value) < END_OF_TIME
    except ValueError:
        return False


def instant(stamped: str) -> float:
    """RFC 3339 as seconds since 1970. Raises ValueError for what is no time, or has no zone."""
    moment = datetime.fromisoformat(stamped)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.timestamp()


_FORM: Final[Mapping[str, Callable[[Any], bool]]] = {
    "id": _fits(_ID),
    "name": is_name,
    "scopes": _are_scopes,
    "principal": is_principal,
    "created_at": _is_time,
    "expires_at": lambda value: value is None or _is_time(value),
    "sha256": _fits(_SHA256),
}


__all__ = [
    "END_OF_TIME",
    "MAX_PRINCIPAL",
    "Content",
    "Key",
    "KeyFile",
    "instant",
    "is_name",
    "is_principal",
]
