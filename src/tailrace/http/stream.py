"""The streaming response: one run, told live to one watcher, on any ASGI server.

One response, two ways to send (`outlets`). Whichever it is, the head and the first bytes leave
through ASGI, the hub sends the rest, and the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.cohort import Manner
from tailrace.errors import CursorFromFuture, LogError, RunUnknown
from tailrace.http import problems
from tailrace.http.outlets import AsgiOutlet, opened
from tailrace.hub import Hub, begins
from tailrace.projections.contract import Projection, Types
from tailrace.protocol.cursor import Cursor, Kind
from tailrace.protocol.wire import LAST_EVENT_ID, STREAM_HEADERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How a watcher wants to be told: after which cursor, in which format, which types,
    and with a `tick` of the elapsed time every so many seconds since `began`.
    """

    cursor: Cursor | str
    projection: Projection
    types: Types = None
    tick: float | None = None
    began: float | None = None

    @property
    def manner(self) -> Manner:
        """All but the cursor: what watchers may have in common."""
        return Manner(self.projection, self.types, self.tick, self.began)


class RunStream(Response):
    """A response that streams a run. A client that leaves and comes back with the last id
    it has gets exactly the rest; 204 when there is none and never will be.
    """

    def __init__(
        self,
        hub: Hub,
        run: str,
        telling: Telling,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, telling.projection.media_type)
        del self.headers["content-length"]
        self.raw_headers += STREAM_HEADERS
        self._hub = hub
        self._run = run
        self._telling = telling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        manner = self._telling.manner
        try:
            async with self._hub.channel(self._run) as (channel, record):
                start = begins(self._telling.cursor, record, channel.head)
                if start.kind is Kind.FINISHED:
                    await Response(status_code=204)(scope, receive, send)
                    return
                # For whoever asked for `latest`: a cut before the first event would otherwise
                # leave them without a cursor to come back with.
                self.headers[LAST_EVENT_ID] = str(Cursor(record.epoch, start.after))
                outlet = await opened(
                    scope, receive, send,
                    self.status_code, self.raw_headers, manner.projection.opening,
                )  # fmt: skip
                self._hub.watch(channel, start, manner, outlet)
        except (RunUnknown, CursorFromFuture, LogError) as error:
            # Raised before anything was sent: later ones are told within the stream.
            await problems.response(error)(scope, receive, send)
            return
        except OSError:
            # The server's way to say that the client is gone (granian, hypercorn).
            return
        if isinstance(outlet, AsgiOutlet):
            await outlet.listen()
