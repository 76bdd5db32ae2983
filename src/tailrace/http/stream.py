"""The streaming response: one run, told live to one watcher, on any ASGI server.

One response, two ways to send (`outlets`). Whichever it is, the head and the first bytes leave
through ASGI, the hub sends the rest, and the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.cohort import Manner
from tailrace.errors import CursorFromFuture, LogError, RunUnknown, TooManyRequests
from tailrace.http import problems
from tailrace.http.outlets import AsgiOutlet, opened
from tailrace.hub import Hub
from tailrace.outlet import Outlet, is_gone
from tailrace.projections.rest import resting
from tailrace.protocol.access import caller
from tailrace.protocol.cursor import Cursor, Kind, Resume
from tailrace.protocol.wire import LAST_EVENT_ID, STREAM_HEADERS
from tailrace.seats import Seat

# What a new connection surely takes at once. One that had to wait would be taken for middleware.
_FIRST_BYTES: Final = 8 * 1024


class Telling(NamedTuple):
    """What a watcher wants: after which cursor, and in the manner that it may share."""

    cursor: Cursor | str
    manner: Manner

    def resting(self) -> Telling:
        """Without the frames that the watcher has of an event, where it has not had all of them."""
        projection = resting(self.manner.projection, self.cursor)
        if projection is self.manner.projection:
            return self
        return self._replace(manner=replace(self.manner, projection=projection))

    def begun(self, start: Resume, epoch: int) -> Cursor:
        """What the watcher has, now that it is decided where it goes on."""
        cursor = self.cursor
        if isinstance(cursor, Cursor) and cursor.frame is not None and start.lost is None:
            return cursor
        return Cursor(epoch, start.after)


class RunStream(Response):
    """A response that streams a run. A client that leaves and comes back with the last id
    it has gets exactly the rest; 204 when there is none and never will be. `is_promised`: there
    is room, as was found before the run was started.
    """

    def __init__(
        self,
        hub: Hub,
        run: str,
        telling: Telling,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        is_promised: bool = False,
    ) -> None:
        # Not by the base class, which builds for a body that is known: this is on the way of
        # everybody who connects.
        self.status_code = status_code
        self.background = None
        self.raw_headers = [
            *((name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()),
            (b"content-type", telling.manner.projection.media_type.encode()),
            *STREAM_HEADERS,
        ]
        self._hub = hub
        self._run = run
        self._telling = telling.resting()
        self._is_promised = is_promised

    @property
    def opening(self) -> bytes:
        """Sent with the headers."""
        return self._telling.manner.projection.opening

    def named(self, cursor: Cursor) -> str:
        """A cursor as the ids of this stream have it."""
        return str(cursor)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            outlet = await self._begin(scope, receive, send)
        except (RunUnknown, CursorFromFuture, LogError, TooManyRequests) as error:
            # Raised before anything was sent: later ones are told within the stream.
            await problems.response(error)(scope, receive, send)
            return
        except Exception as error:
            if not is_gone(error):
                raise
            return
        if isinstance(outlet, AsgiOutlet):
            await outlet.listen()

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> Outlet | None:
        manner = self._telling.manner
        channel, record = await self._hub.hold(self._run)
        seat: Seat | None = None
        try:
            start = await self._hub.start(channel, record, self._telling.cursor)
            if start.kind is Kind.FINISHED:
                await problems.nothing()(scope, receive, send)
                return None
            seats, who = self._hub.seats, caller(scope).name
            if not self._is_promised:
                # All that hold the channel: those that begin now will be watchers in a moment.
                seats.check(who, channel.users)
            seat = seats.take(who)
            # For whoever asked for `latest`: a cut before the first event would otherwise
            # leave them without a cursor to come back with.
            last = self.named(self._telling.begun(start, record.epoch)).encode()
            headers = [*self.raw_headers, (LAST_EVENT_ID.encode(), last)]
            first = self.opening
            ready = (
                None if start.lost else channel.take(start.after, manner.projection, manner.types)
            )
            if ready is not None and len(ready.wire) <= _FIRST_BYTES:
                # Whatever is here already leaves with the opening: to connect costs a send less.
                first += ready.wire
                start = Resume(start.kind, ready.cursor)
            outlet = await opened(scope, receive, send, self.status_code, headers, first)
            self._hub.watch(channel, start, manner, outlet)
            if not outlet.has_left:
                # It frees it when it leaves.
                outlet.seat, seat = seat, None
        finally:
            if seat is not None:
                seat.free()
            self._hub.release(channel)
        return outlet
