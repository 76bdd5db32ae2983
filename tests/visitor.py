"""A visitor of an ASGI app, in this process: asks, reads for as long as it likes, and leaves."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Self

from tailrace.protocol.sse import Decoder, ServerSentEvent
from tailrace.testing.exchange import HOST, Exchange, Sent, asked

WAIT_SECONDS: Final = 5.0
"""Bound of every wait, so that a hang is a failure."""

PEER: Final = ("127.0.0.1", 50000)


class Visit(Exchange):
    """One request and as much of its answer as has come. Its `chunks` are the sends."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        names = [name for name, _ in self.raw_headers]
        assert len(names) == len(set(names)), f"a header twice: {self.raw_headers}"
        return {name.decode(): value.decode() for name, value in self.raw_headers}

    @property
    def events(self) -> list[ServerSentEvent]:
        return Decoder().feed(self.body)

    @property
    def ids(self) -> list[int]:
        """The numbers of the run's own events, in the order they came."""
        return [int(event.id) for event in self.events]

    @property
    def last_id(self) -> str:
        return self.events[-1].id if self.events else ""

    async def until(self, done: Callable[[Self], Any], what: str = "so") -> Self:
        """Wait for a condition; fails when the answer is over before, or too slow."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not done(self):
                    assert not self.is_over, f"over before it was {what}: {self}"
                    await self.more()
        except TimeoutError:
            raise AssertionError(f"not {what} in time: {self}") from None
        return self

    async def told(self, text: bytes) -> Self:
        return await self.until(lambda visit: text in visit.body, f"told {text!r}")

    async def over(self) -> Self:
        """Wait for the app to return, and raise what it raised."""
        await self.until(lambda visit: visit.is_over, "over")
        await self.task
        return self

    def go_on(self) -> None:
        """Read again."""
        self.resume()

    def leave(self) -> None:
        """Close the connection."""
        self.drop()

    def __repr__(self) -> str:
        return f"<Visit {self.status} {len(self.body)} bytes: …{self.body[-300:]!r}>"


class Visitor:
    """Makes requests of an app, as a server would hand them over."""

    def __init__(self, app: Any, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    def open(
        self,
        method: str,
        target: str,
        headers: Sent = (),
        *,
        json: Any = None,
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
    ) -> Visit:
        """Send a request. `chunks` go without a Content-Length."""
        sent = [*(headers.items() if isinstance(headers, Mapping) else headers)]
        if body is not None and not any(name.lower() == "content-type" for name, _ in sent):
            sent.append(("content-type", "application/json"))
        scope, whole = asked(
            method, target, sent, json=json, content=body, root_path=self._root_path
        )
        scope["client"] = PEER
        if any(name.lower() == "host" for name, _ in sent):
            # Also one that is there twice.
            scope["headers"].insert(0, (b"host", HOST.encode()))
        return Visit(self._app, scope, chunks or whole)

    @contextlib.asynccontextmanager
    async def visit(
        self, method: str, target: str, headers: Sent = (), **sent: Any
    ) -> AsyncIterator[Visit]:
        """A request whose answer may have no end; the visitor leaves with the block."""
        visit = self.open(method, target, headers, **sent)
        try:
            yield visit
        finally:
            visit.leave()
            await visit.over()

    async def ask(self, method: str, target: str, headers: Sent = (), **sent: Any) -> Visit:
        """A request whose answer has an end, which is waited for."""
        visit = self.open(method, target, headers, **sent)
        try:
            await visit.over()
        finally:
            visit.leave()
            visit.task.cancel()
        assert visit.is_complete, f"the app returned without an end: {visit}"
        return visit

    async def get(self, target: str, headers: Sent = ()) -> Visit:
        return await self.ask("GET", target, headers)

    async def post(self, target: str, value: Any = None, headers: Sent = ()) -> Visit:
        return await self.ask("POST", target, headers, json=value)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()
