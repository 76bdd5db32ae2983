"""What a run's work writes with `logging`, as `log` events of that run."""

from __future__ import annotations

import logging

from tailrace.errors import RunCancelled, RunEnded
from tailrace.protocol import events
from tailrace.runners.contract import AMBIENT


class RunLogs(logging.Handler):
    """Turns log records into `log` events of the run that writes them.

        logging.getLogger().addHandler(RunLogs())
        logging.getLogger().setLevel(logging.INFO)

    The logger has the say of what is written at all, and the root logger says WARNING until it is
    told otherwise; `RunLogs(logging.WARNING)` has watchers see less than a file does.

    An event says {level, message, details: {logger}}, and the type and words of an exception; never
    its traceback, which would show every watcher paths and values of the server. Records written
    outside of a run, and Tailrace's own, are passed over. A thread that the work starts by itself
    is outside, unless it runs in a copy of the work's context (`contextvars.copy_context`).

    In a thread that writes more than can be kept, logging waits as `emit` does; nobody else's does.
    """

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]
        """See `logging.Handler`. Takes no lock: whoever waits in `emit` waits for the event loop,
        and that would wait for the lock with the first thing that it logs itself.
        """
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            # From Python 3.12 on a filter may put another record in its place.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`. Raises RunCancelled once, in a thread, where the run should stop:
        as any other event does.
        """
        sink = AMBIENT.get(None)
        if sink is None or record.name.partition(".")[0] == "tailrace":
            return
        try:
            # A formatter appends the traceback; the message is what was said.
            payload = {"level": record.levelname.lower(), "message": record.getMessage()}
            details = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                details["error"] = f"{type(error).__name__}: {error}"
            sink.emit(events.LOG, {**payload, "details": details})
        except RunCancelled:
            raise
        except RunEnded:
            # Work that was given up goes on, and has nobody to tell it to.
            return
        except Exception:  # noqa: BLE001 - as every handler of the library does
            self.handleError(record)
