"""What a tool of another server tells while it works, as events of the run that called it."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from mcp_types import LoggingMessageNotificationParams

from tailrace.errors import EventInvalid, EventTooLarge, TailraceError
from tailrace.protocol.events import to_json
from tailrace.run import RunContext

# Beyond it a float is no exact whole number.
_EXACT = 2.0**53


class Feed:
    """The callbacks of one call.

    The SDK runs each notification in a task of its own: a callback that waits would be
    overtaken by the next. Putting an event into the run's outbox waits for nothing, and the
    outbox keeps the order; who appends is one.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._is_open = True
        self.has_heard = False
        """Whether anything has come: then the call has arrived there."""
        self.fault: TailraceError | None = None
        """Why nothing more can be kept."""
        self.scope = anyio.CancelScope()
        """Around the call: left early when nothing more can be kept."""

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """A `progress` event."""
        self._put(lambda: self._run.progress(_whole(progress), _whole(total), message))

    async def log(self, told: LoggingMessageNotificationParams) -> None:
        """A `log` event; what is no text is told as JSON."""
        said = told.data if isinstance(told.data, str) else to_json(told.data).decode()
        details = {} if told.logger is None else {"logger": told.logger}
        self._put(lambda: self._run.log(said, told.level, **details))

    def close(self) -> None:
        """The answer is there: what comes after it is dropped, as the protocol has it."""
        self._is_open = False

    def _put(self, emit: Callable[[], None]) -> None:
        self.has_heard = True
        if not self._is_open:
            return
        try:
            emit()
        except (EventTooLarge, EventInvalid) as error:
            self._run.log(f"A notification of the tool was left out: {error}", "warning")
        except TailraceError as error:
            self.fault = error
            self.close()
            self.scope.cancel()


def _whole(number: float | None) -> float | None:
    """The SDK makes all numbers fractions; `3.0 of 10.0` is not what was sent."""
    if number is not None and abs(number) < _EXACT and number == int(number):
        return int(number)
    return number
