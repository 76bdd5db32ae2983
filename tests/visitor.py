"""A visitor of an ASGI app, in this process: asks, reads for as long as it likes, and leaves."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Self
from urllib.parse import unquote_to_bytes

from tailrace.protocol.sse import Decoder, ServerSentEvent

WAIT_SECONDS: Final = 5.0
"""Bound of every wait, so that a hang is a failure."""

Sent = Mapping[str, str] | Iterable[tuple[str, str]]


class Visit:
    """One request and as much of its answer as has come. Its `chunks` are the sends."""

    def __init__(self, app: Any, scope: dict[str, Any], chunks: Iterable[bytes]) -> None:
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.is_complete = False
        self.is_over = False
        self._request = [*chunks] or [b""]
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self.task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.is_over = True
            self._news.set()

    async def _receive(self) -> dict[str, Any]:
        if self._request and not self._left.is_set():
            body = self._request.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._request)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._may_send.wait()
        if self._left.is_set():
            return  # as uvicorn does
        if message["type"] == "http.response.start":
            assert not self.status, "two answers"
            self.status = message["status"]
            self.raw_headers = [*message["headers"]]
        else:
            assert self.status, "a body without a head"
            assert not self.is_complete, "more body after its end"
            self.chunks.append(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        self._news.set()

    # --- for tests -------------------------------------------------------------------

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def headers(self) -> dict[str, str]:
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
                    self._news.clear()
                    await self._news.wait()
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

    def stall(self) -> None:
        """Read nothing more."""
        self._may_send.clear()

    def go_on(self) -> None:
        """Read again."""
        self._may_send.set()

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()
        self._may_send.set()

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
        path, _, query = target.partition("?")
        sent = [*(headers.items() if isinstance(headers, Mapping) else headers)]
        if json is not None:
            body = encoded(json)
        if body is not None:
            if not any(name.lower() == "content-type" for name, _ in sent):
                sent.append(("content-type", "application/json"))
            if not any(name.lower() == "content-length" for name, _ in sent):
                sent.append(("content-length", str(len(body))))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "root_path": self._root_path,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [
                (b"host", b"testserver"),
                *((name.lower().encode(), value.encode("latin-1")) for name, value in sent),
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
            "state": {},
        }
        return Visit(self._app, scope, chunks or ([] if body is None else [body]))

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
