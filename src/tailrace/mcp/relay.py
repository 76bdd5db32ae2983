"""A run's events as the notifications of one call: progress, and what it logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast, get_args

import mcp_types as types

from tailrace.mcp.asker import Context, connection
from tailrace.protocol.events import LOG, OUTPUT, PROGRESS, Event
from tailrace.protocol.jsonrpc import level, number

_LEVELS: Final[tuple[str, ...]] = get_args(types.LoggingLevel)
_HAIR: Final = 2.0**-40
_LEVEL: Final = "tailrace.level"
_MODERN_LEVEL: Final = "io.modelcontextprotocol/logLevel"


class Steps:
    """Progress that only ever grows, as MCP demands, of work that may begin again at 0."""

    def __init__(self) -> None:
        self._last: float | None = None

    def next(self, told: Mapping[str, Any]) -> tuple[float, float | None, str | None]:
        """A `progress` event's payload as (progress, total, message)."""
        current, total = number(told.get("current")), number(told.get("total"))
        percent = number(told.get("percent"))
        if current is None and percent is not None:
            current, total = percent, 100.0
        words = [str(told[key]) for key in ("step", "message") if told.get(key) is not None]
        return self._raised(current), total, ": ".join(words) or None

    def _raised(self, current: float | None) -> float:
        last = self._last
        if last is None:
            self._last = current or 0.0
        elif current is not None and current > last:
            self._last = current
        else:
            # Shown, it is the same number.
            self._last = last + max(abs(last), 1.0) * _HAIR
        return self._last


class Relay:
    """Tells one call of its run."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._steps = Steps()
        self._least = least(ctx)

    async def begin(self, run: str) -> None:
        """Progress 0, at once: what says nothing has no headers for 15 s, and a client, or a
        proxy before it, may give up.
        """
        await self._ctx.session.report_progress(*self._steps.next({"current": 0, "message": run}))

    async def tell(self, event: Event) -> None:
        """Tell an event, if it is for the client."""
        if event.type == PROGRESS:
            await self._ctx.session.report_progress(*self._steps.next(event.payload))
        elif event.type == LOG:
            told = event.payload
            await self._log(level(told), told.get("message"), told)
        elif event.type == OUTPUT and self._least == "debug":
            await self._log("debug", event.payload.get("text"), {}, event.payload.get("stream"))

    async def _log(
        self, level: str, message: Any, told: Mapping[str, Any], logger: str | None = None
    ) -> None:
        if self._least is None or _LEVELS.index(level) < _LEVELS.index(self._least):
            return
        details = told.get("details")
        params = types.LoggingMessageNotificationParams(
            level=cast("types.LoggingLevel", level),
            logger=logger,
            data=message if details is None else {"message": message, "details": details},
        )
        # Not session.send_log_message, which warns that the protocol will give logging up.
        await self._ctx.session.send_notification(
            types.LoggingMessageNotification(params=params),
            related_request_id=self._ctx.request_id,
        )


def least(ctx: Context) -> str | None:
    """The least level that the client wants to be told of; None for nothing at all."""
    if _is_modern(ctx):
        # By 2026-07-28 a request says so for itself, and nothing may be sent unasked.
        asked = (ctx.meta or {}).get(_MODERN_LEVEL)
        return asked if asked in _LEVELS else None
    return str(connection(ctx).state.get(_LEVEL, "info"))


def _is_modern(ctx: Context) -> bool:
    return ctx.protocol_version >= "2026"


async def set_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    """`logging/setLevel`, of the versions up to 2025-11-25: for the session."""
    connection(ctx).state[_LEVEL] = params.level
    return types.EmptyResult()
