"""A client of an ASGI app in the same process, which can read streams that have no end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp

from tailrace.protocol.events import loads
from tailrace.protocol.wire import EVENT_STREAM, LAST_EVENT_ID
from tailrace.testing.bounds import WITHIN_SECONDS
from tailrace.testing.drops import Drop
from tailrace.testing.exchange import asked
from tailrace.testing.lifespan import Lifespan
from tailrace.testing.reading import clipped
from tailrace.testing.stream import Stream
from tailrace.testing.watch import Watch


class Answer:
    """An answer that has come to its end."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The body, decoded. Raises AssertionError for a body that is no JSON."""
        try:
            return loads(self.body)
        except ValueError:
            raise AssertionError(f"This is no JSON: {self!r}") from None

    def __repr__(self) -> str:
        """As it is shown in errors."""
        return f"<Answer {self.status} {clipped(self.text)}>"


class StreamClient:
    """Asks an app as a server would hand it requests, without a socket.

        async with StreamClient(app) as client:          # startup, and shutdown at the end
            async with client.stream("GET", "/numbers") as stream:
                assert stream.status == 200
                assert (await stream.next()).json == {"number": 1}

    Works with any ASGI app; the client and the app share an event loop. The app may send 64 KiB
    ahead of what is read. `headers` go with each request. `within`: how many real seconds a wait
    may take, unless it is said where one waits. `raises`: what the app raises is raised in the
    test, too; False: one sees what a client would see.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: Mapping[str, str] | None = None,
        root_path: str = "",
        within: float = WITHIN_SECONDS,
        raises: bool = True,
    ) -> None:
        self.app = app
        self._headers = dict(headers or {})
        self._root_path = root_path
        self._within = within
        self._raises = raises
        self._lifespan = Lifespan(app)

    async def __aenter__(self) -> Self:
        """Run the app's startup. Raises what it raises."""
        await self._lifespan.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Run its shutdown."""
        await self._lifespan.stop()

    # --- streams -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        target: str,
        *,
        drop: Drop | None = None,
        within: float | None = None,
        **sent: Any,
    ) -> AsyncIterator[Stream]:
        """A request whose answer may have no end. The block begins with the answer's head; at its
        end the client leaves, and the app must return.

        `drop`: see `drop_after`. What is `sent`: `headers`, `params` (added to the query), and
        `json` or `content`. Raises AssertionError for an answer that does not begin, or an app that
        goes on without its client; and what the app raises.
        """
        stream = self._opened(method, target, drop, within, sent)
        try:
            await stream.opened()
            yield stream
        except BaseException:
            await stream.end(is_failing=True)
            raise
        await stream.end()

    @contextlib.asynccontextmanager
    async def watch(
        self,
        target: str,
        *,
        drop: Drop | None = None,
        pace: float = 0.0,
        within: float | None = None,
        last_event_id: str = "",
        **sent: Any,
    ) -> AsyncIterator[Watch]:
        """Watch an address as an EventSource does: see `Watch`. The first connection is made by the
        first read. `drop`: how each connection breaks, or the first ones.
        """
        fixed = {"accept": EVENT_STREAM, "cache-control": "no-store", **sent.pop("headers", {})}

        def connect(last_event_id: str, number: int) -> Stream:
            headers = {**fixed, LAST_EVENT_ID: last_event_id} if last_event_id else fixed
            fault = drop if drop is not None and drop.applies(number) else None
            return self._opened("GET", target, fault, within, {**sent, "headers": headers})

        watch = Watch(connect, within=self._bound(within), pace=pace, last_event_id=last_event_id)
        try:
            yield watch
        except BaseException:
            await watch.leave(is_failing=True)
            raise
        await watch.leave()

    def _opened(
        self,
        method: str,
        target: str,
        drop: Drop | None,
        within: float | None,
        sent: dict[str, Any],
    ) -> Stream:
        headers = {**self._headers, **sent.pop("headers", {})}
        scope, body = asked(
            method, target, headers, root_path=self._root_path, state=self._lifespan.state, **sent
        )
        return Stream(
            self.app,
            scope,
            body,
            within=self._bound(within),
            raises=self._raises,
            drop=drop,
            last_event_id=Headers(headers).get(LAST_EVENT_ID, ""),
        )

    def _bound(self, within: float | None) -> float:
        return self._within if within is None else within

    # --- plain requests ------------------------------------------------------------------

    async def request(
        self, method: str, target: str, *, within: float | None = None, **sent: Any
    ) -> Answer:
        """An answer that has an end. What is `sent`: `headers`, `params`, `json` or `content`.

        Raises AssertionError if it does not end in time, and what the app raises.
        """
        async with self.stream(method, target, within=within, **sent) as stream:
            await stream.finished()
        return Answer(stream.status, stream.headers, stream.body)

    async def get(self, target: str, **sent: Any) -> Answer:
        """See `request`."""
        return await self.request("GET", target, **sent)

    async def post(self, target: str, **sent: Any) -> Answer:
        """See `request`."""
        return await self.request("POST", target, **sent)

    async def put(self, target: str, **sent: Any) -> Answer:
        """See `request`."""
        return await self.request("PUT", target, **sent)

    async def delete(self, target: str, **sent: Any) -> Answer:
        """See `request`."""
        return await self.request("DELETE", target, **sent)


__all__ = ["Answer", "StreamClient"]
