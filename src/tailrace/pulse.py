"""When a stream is due for a sign of life, and when its watcher has kept it waiting too long.

Nothing here sends or looks at a clock: times, in monotonic seconds, come as arguments.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

from tailrace.protocol.wire import HEARTBEAT_SECONDS, WRITE_DEADLINE_SECONDS

LEAVE_SECONDS: Final = 1.0
"""How long a stalled send may keep a server that goes away, in seconds."""


class Act(StrEnum):
    """What is to be done now."""

    NOTHING = "nothing"
    HEARTBEAT = "heartbeat"
    TICK = "tick"
    CUT = "cut"
    CANCEL = "cancel"


class Pulse:
    """The times of one stream. `tick` is in seconds; None for a stream without ticks. They come
    whatever is sent, or, with `in_silence`, only when nothing was for so long.
    `heartbeat` is the silence, in seconds, after which a sign of life is due. `deadline`: how long
    a send may be held up, in seconds; None: `write_deadline`.
    """

    write_deadline: ClassVar[float] = WRITE_DEADLINE_SECONDS

    __slots__ = (
        "_cut_at",
        "_deadline",
        "_heartbeat",
        "_in_silence",
        "_is_sign",
        "_leaving_since",
        "_sent_at",
        "_tick",
        "_ticked_at",
        "blocked_since",
    )

    def __init__(
        self,
        now: float,
        tick: float | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        *,
        in_silence: bool = False,
        deadline: float | None = None,
    ) -> None:
        self._tick = tick
        self._deadline = self.write_deadline if deadline is None else deadline
        self._in_silence = in_silence
        self._is_sign = False
        self._heartbeat = heartbeat
        self._sent_at = self._ticked_at = now
        self._leaving_since: float | None = None
        self._cut_at: float | None = None
        self.blocked_since: float | None = None

    def sent(self, now: float) -> None:
        """Something was sent, so there is no silence."""
        self._sent_at = now
        # Our own signs break the silence for a proxy, and not for who waits for the work.
        if self._in_silence and not self._is_sign:
            self._ticked_at = now
        self._is_sign = False

    def block(self, now: float) -> None:
        """A send is under way."""
        self.blocked_since = self._sent_at = now

    def unblock(self) -> None:
        """It is over."""
        self.blocked_since = self._cut_at = None

    def leave(self, now: float) -> bool:
        """The server goes away; whether that is news."""
        is_news = self._leaving_since is None
        if is_news:
            self._leaving_since = now
        return is_news

    def beat(self, now: float) -> tuple[Act, float]:
        """What is due at `now`, and when to ask again."""
        if self.blocked_since is not None:
            return self._press(now, self.blocked_since)
        act = Act.NOTHING
        if self._tick is not None and now - self._ticked_at >= self._tick:
            self._ticked_at = self._sent_at = now
            act = Act.TICK
        elif now - self._sent_at >= self._heartbeat:
            self._sent_at = now
            act = Act.HEARTBEAT
        if act is not Act.NOTHING:
            self._is_sign = True
        heartbeat = self._sent_at + self._heartbeat
        return act, heartbeat if self._tick is None else min(
            heartbeat, self._ticked_at + self._tick
        )

    @property
    def deadline(self) -> float | None:
        """When the watcher will have kept the send under way waiting too long."""
        if self.blocked_since is None:
            return None
        deadline = self.blocked_since + self._deadline
        if self._leaving_since is not None:
            return min(deadline, max(self.blocked_since, self._leaving_since) + LEAVE_SECONDS)
        return deadline

    def _press(self, now: float, since: float) -> tuple[Act, float]:
        deadline = self.deadline or since
        if now < deadline:
            return Act.NOTHING, deadline
        if self._cut_at is None:
            self._cut_at = now
            return Act.CUT, now + LEAVE_SECONDS
        if now - self._cut_at < LEAVE_SECONDS:
            return Act.NOTHING, self._cut_at + LEAVE_SECONDS
        # The cut did not reach the connection. A last resort, and not the first one, because
        # granian deadlocks when the send that is cancelled fails at the same time.
        return Act.CANCEL, now + LEAVE_SECONDS


__all__ = ["LEAVE_SECONDS", "Act", "Pulse"]
