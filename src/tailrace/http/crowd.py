"""The way that a crowd takes: to watch a run, with nothing unusual in the request.

FastAPI's analysis of a request is most of what it costs to connect. Whoever asks for anything
else, or wrongly, goes the long way, and gets the same answer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from tailrace.engine import Engine
from tailrace.errors import TailraceError, TooManyRequests
from tailrace.http import problems
from tailrace.http.access import identified, mounted
from tailrace.http.asking import Asked, asked
from tailrace.http.audit import audited
from tailrace.http.runs import check_seats, told
from tailrace.http.stream import RunStream
from tailrace.protocol.access import WATCH, Access
from tailrace.protocol.wire import LAST_EVENT_ID

_PATH: Final = re.compile(r"/runs/([^/]+)/events")
_ROUTE: Final = "/runs/{run}/events"
_LAST: Final = LAST_EVENT_ID.encode()


class Crowd:
    """The short way to one engine's runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer, if the request is one of these; whether it was."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return False
        match = _PATH.fullmatch(mounted(scope)[1])
        if match is None:
            return False
        accept = last = b""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept = b"%b,%b" % (accept, value) if accept else value
            elif name == _LAST:
                last = value
        wish = _wish(scope["query_string"], accept, last)
        if wish is None or wish.projection is None:
            return False
        access: Access | None = None
        try:
            access = await identified(self._engine, scope)
            access.check(WATCH)
            if self._engine.rates is not None:
                await self._engine.rates.admit(scope, WATCH)
            record = await self._engine.watchable(match[1], access.sees)
            check_seats(self._engine, scope, record.id)
        except TooManyRequests as error:
            # Whoever asks too often shall not have the long way for it.
            audited(access, "GET", _ROUTE, match[1], error.status, scope.get("client"))
            await problems.response(error)(scope, receive, send)
            return True
        except Exception:  # noqa: BLE001 - the long way tells of it, also of a fault
            return False
        audited(access, "GET", _ROUTE, record.id, 200, scope.get("client"))
        telling = told(record, wish, wish.projection, wish.cursor)
        await RunStream(self._engine.hub, record.id, telling)(scope, receive, send)
        return True


# A crowd says the same; those that come back differ in their last id.
@lru_cache(maxsize=1024)
def _wish(query: bytes, accept: bytes, last: bytes) -> Asked | None:
    headers = Headers(raw=[(b"accept", accept), (_LAST, last)])
    try:
        wish = asked(headers, QueryParams(query))
    except TailraceError:
        return None
    return wish if wish.projection is not None and wish.speed is None else None
