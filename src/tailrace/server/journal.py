"""What a server writes down: warnings for people, and who did what for programs.

No line has a secret: neither one that was registered, nor what looks like a key. And nothing that a
client sends can begin a line of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SettingsInvalid
from tailrace.http.audit import logger as audit_logger
from tailrace.http.audit import visible
from tailrace.protocol.events import stamp, to_json
from tailrace.protocol.masking import MASK, Masks

FORMAT: Final = "%(asctime)s %(name)s: %(message)s"

_MAX_MESSAGE: Final = 16 * 1024

_NAMES: Final = "ticket|login|token|key|secret|password|passwd|signature"
_HEADERS: Final = "(?:proxy-)?authorization|x-api-key|(?:set-)?cookie"
_HIDDEN: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # In an address or a form, also one that is quoted within another.
    (
        re.compile(
            rf"((?:(?<![A-Za-z0-9])|(?<=%[0-9A-F]{{2}}))(?:[\w.-]{{0,40}}[_.-])?(?:{_NAMES})(?:=|%3D))"
            r"[^\s&;#\"'<>()]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # As Python shows them: b'authorization', b'…'. One may have the other's quotes in it.
    (
        re.compile(
            rf"""((?:{_HEADERS})["']\s*[:,]\s*b?)(["'])(?:\\.|(?!\2)[^\\\r\n])*""", re.IGNORECASE
        ),
        rf"\1\2{MASK}",
    ),
    # As they are sent.
    (
        re.compile(rf"""(\b(?:{_HEADERS})\s*[:=][ \t]*)(?!["' \t])[^\r\n]+""", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    # What `tailrace keys` and the launch key look like, wherever they stand.
    (re.compile(r"\bt[lr]_(?:[a-z2-7]{8}_)?[a-z2-7]{52}", re.ASCII), MASK),
)


def hidden(text: str, masks: Masks) -> str:
    """A text without registered secrets, and without what looks like a key of somebody."""
    text = masks.apply(text)
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    return text


class Discreet(logging.Formatter):
    """Formats as `inner` does, without secrets, and so that a record is one line; a traceback's
    further lines are indented, so that none of them looks like a record.
    """

    def __init__(self, inner: logging.Formatter, masks: Masks) -> None:
        super().__init__()
        self._inner = inner
        self._masks = masks

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        # A copy: other handlers, somebody else's, get it as it was.
        copy = logging.makeLogRecord(record.__dict__)
        copy.msg, copy.args = visible(hidden(_message(record), self._masks), _MAX_MESSAGE), None
        told = record.exc_text
        if record.exc_info and record.exc_info[0] is not None:
            told = self._inner.formatException(record.exc_info)
        copy.exc_info = None
        copy.exc_text = self._indented(told) if told else None
        copy.stack_info = self._indented(record.stack_info) if record.stack_info else None
        return self._masks.apply(self._inner.format(copy))

    def _indented(self, text: str) -> str:
        lines = hidden(text, self._masks).split("\n")
        return "\n".join(f"  {visible(line, _MAX_MESSAGE)}" for line in lines)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().rstrip("\n")
    except Exception:  # noqa: BLE001 - a wrong call; logging would show its arguments as they are
        return str(record.msg)


class Seldom(logging.Filter):
    """Lets a message pass that strangers can cause, at most once in so many seconds."""

    def __init__(self, begins: str, seconds: float = 60.0) -> None:
        super().__init__()
        self._begins = begins
        self._seconds = seconds
        self._next = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if not str(record.msg).startswith(self._begins):
            return True
        if record.created < self._next:
            self._left_out += 1
            return False
        self._next = record.created + self._seconds
        if self._left_out:
            record.msg = f"{record.msg} (and {self._left_out:,} more like it)"
            self._left_out = 0
        return True


class Audit(logging.Formatter):
    """The records of `http.audit` as JSON: one object on one line, with its `time` in UTC."""

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self._masks = masks

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        told: dict[str, Any] = getattr(record, "audit", None) or {
            "message": visible(hidden(_message(record), self._masks), _MAX_MESSAGE)
        }
        line = to_json({"time": stamp(record.created), **told})
        return self._masks.json(line).decode()


class _AuditFile(WatchedFileHandler):
    """A file that only its owner may read. It is opened again once it was rotated; what cannot be
    written is no reason to refuse a request.
    """

    def __init__(self, path: Path) -> None:
        self._has_failed = False
        super().__init__(path, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_private
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # Said once: on a full disk it is the same for each request.
        if not self._has_failed:
            self._has_failed = True
            why = getattr(sys.exc_info()[1], "strerror", None) or "it cannot be written"
            logging.getLogger("tailrace.server").error(
                "%s lacks records of who did what: %s", self.baseFilename, why
            )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def registered(names: Iterable[str], env: Mapping[str, str] = os.environ) -> list[str]:
    """The values of environment variables, which are to be masked. Raises SettingsInvalid for one
    that is not set, or cannot be masked.
    """
    found: list[str] = []
    for name in names:
        try:
            Masks([env[name]])
        except KeyError:
            raise SettingsInvalid(
                f"The variable {name}, whose value is to be masked, is not set.",
                fix=f"Set {name}, or leave it out of mask.",
            ) from None
        except SettingsInvalid as error:
            raise SettingsInvalid(
                f"The value of {name} cannot be masked: {error}", fix=error.fix
            ) from None
        found.append(env[name])
    return found


@contextlib.contextmanager
def configured(audit: Path | None = None, masks: Masks | None = None) -> Iterator[None]:
    """What a server of Tailrace's own app writes, as long as the block lasts.

    Warnings go to stderr, unless logging was set up before (`--debug`); then as it was. Whatever
    writes by then, writes without the secrets of `masks`. `audit`: the file that says who did what,
    by lines of JSON; Path("-"): stderr; None: nobody asked. Raises SettingsInvalid if it
    cannot be written.
    """
    masks = masks or Masks()
    with contextlib.ExitStack() as stack:
        root = logging.getLogger()
        if not root.handlers:
            text = logging.StreamHandler()
            text.setFormatter(logging.Formatter(FORMAT))
            _attach(stack, root, text, logging.WARNING)
        for handler in _outputs():
            _replace(stack, handler, Discreet(handler.formatter or logging.Formatter(), masks))
        seldom = Seldom("Invalid HTTP request received")
        uvicorn = logging.getLogger("uvicorn.error")
        uvicorn.addFilter(seldom)
        stack.callback(uvicorn.removeFilter, seldom)
        if audit is not None:
            written = logging.StreamHandler() if audit == Path("-") else _opened(audit)
            stack.callback(written.close)
            written.setFormatter(Audit(masks))
            _attach(stack, audit_logger, written, logging.INFO)
            stack.callback(setattr, audit_logger, "propagate", audit_logger.propagate)
            # Otherwise --debug would show each of them twice.
            audit_logger.propagate = False
        yield


def _opened(path: Path) -> logging.Handler:
    try:
        return _AuditFile(path)
    except OSError as error:
        raise SettingsInvalid(
            f"Who did what cannot be written to {path}: {error.strerror}.",
            fix="Give audit a file in a folder where the server may write, or - for stderr.",
        ) from None


def _outputs() -> list[logging.Handler]:
    """Of all loggers there are."""
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    found = (h for logger in known if isinstance(logger, logging.Logger) for h in logger.handlers)
    return list(dict.fromkeys(found))


def _attach(
    stack: contextlib.ExitStack, logger: logging.Logger, handler: logging.Handler, level: int
) -> None:
    stack.callback(logger.setLevel, logger.level)
    stack.callback(logger.removeHandler, handler)
    logger.addHandler(handler)
    logger.setLevel(level)


def _replace(
    stack: contextlib.ExitStack, handler: logging.Handler, formatter: logging.Formatter
) -> None:
    stack.callback(handler.setFormatter, handler.formatter)
    handler.setFormatter(formatter)


__all__ = ["FORMAT", "Audit", "Discreet", "Seldom", "configured", "hidden", "registered"]
