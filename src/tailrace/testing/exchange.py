"""One request of an ASGI app, in this process, and its answer as far as it has come: it may have
no end.
"""

from __future__ import annotations

import asyncio
import json as json_
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlencode

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

HOST: Final = "testserver"

# What RFC 3986 reserves stays as it is, and what is quoted already.
_SAFE: Final = ":/?#[]@!$&'()*+,;=%"

# A generator that never waits would spin for ever once its client has left, and nobody, not even a
# bound, would have a turn.
_SPIN: Final = 100

Sent = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers, or what a query holds."""


class Exchange:
    """Asks `app`, in a task of its own, and takes what it sends. It behaves as uvicorn does.

    `chunks` are the bodies that were sent, `is_complete` tells that the last one came, `is_over`
    that the app has returned, `has_left` that the client is gone. `room`: how many bytes the app
    may send that nobody has asked for yet (`want`), as a socket has a buffer; None: any number.
    """

    def __init__(
        self, app: ASGIApp, scope: Scope, body: Iterable[bytes] = (), *, room: int | None = None
    ) -> None:
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.is_complete = False
        self.is_over = False
        self.has_left = False
        self._request = [*body] or [b""]
        self._room = room
        self._ahead = 0
        self._dropped = 0
        self._is_stalled = False
        self._end = asyncio.Event()
        self._news = asyncio.Event()
        self._may_send = asyncio.Event()
        self._may_send.set()
        name = f"{scope['method']} {scope['path']}"
        self.task = asyncio.create_task(self._run(app, scope), name=name)

    # --- towards the app -------------------------------------------------------------

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        finally:
            self.is_over = True
            self._news.set()

    async def receive(self) -> Message:
        """ASGI."""
        if self._request and not self._end.is_set():
            body = self._request.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._request)}
        await self._end.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI. Waits while the client does not read; what comes after it has left is dropped.

        Raises AssertionError for what no server would take.
        """
        await self._may_send.wait()
        if self.has_left:
            self._dropped += 1
            if not self._dropped % _SPIN:
                await asyncio.sleep(0)
            return
        if message["type"] == "http.response.start":
            if self.status:
                raise AssertionError("The app has begun two answers to one request.")
            self.status = message["status"]
            self.raw_headers = [*message.get("headers", ())]
        else:
            if not self.status:
                raise AssertionError("The app has sent a body before its http.response.start.")
            if self.is_complete:
                raise AssertionError("The app has sent more after the end of its answer.")
            body = bytes(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
            self.take(body)
            if self.is_complete:
                self._end.set()
            self._ahead += len(body)
            self._allow()
        self._news.set()

    def take(self, chunk: bytes) -> None:
        """Keep a part of the answer's body."""
        self.chunks.append(chunk)

    @property
    def transport(self) -> Exchange:
        """What a streaming response looks for that cuts a client that does not read."""
        return self

    @staticmethod
    def get_extra_info(name: str) -> None:
        """See asyncio.BaseTransport: there is no socket."""
        del name

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self.drop()

    # --- the client ------------------------------------------------------------------

    @property
    def headers(self) -> Headers:
        """The answer's headers, whatever the case of a name."""
        return Headers(raw=self.raw_headers)

    @property
    def body(self) -> bytes:
        """The answer's body so far."""
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        """The same as text."""
        return self.body.decode("utf-8", "replace")

    def stall(self) -> None:
        """Read nothing more: the app's next send waits."""
        self._is_stalled = True
        self._allow()

    def resume(self) -> None:
        """Read again."""
        self._is_stalled = False
        self._allow()

    def drop(self) -> None:
        """Close the connection: the app learns of it by `http.disconnect`."""
        self.has_left = True
        self._end.set()
        self._allow()
        self._news.set()

    def more(self) -> Awaitable[Any]:
        """To be awaited: whatever comes after this call, the head, a part of the body, the end."""
        self._news.clear()
        self._ahead = 0
        self._allow()
        return self._news.wait()

    def _allow(self) -> None:
        is_full = self._room is not None and self._ahead > self._room
        if self.has_left or not (self._is_stalled or is_full):
            self._may_send.set()
        else:
            self._may_send.clear()


def asked(
    method: str,
    target: str,
    headers: Sent = (),
    *,
    params: Sent = (),
    json: Any = None,
    content: str | bytes | None = None,
    root_path: str = "",
    state: Mapping[str, Any] | None = None,
) -> tuple[Scope, list[bytes]]:
    """An ASGI scope and the body that goes with it, as uvicorn would hand them over.

    `target`: a path with its query, to which `params` are added. Raises ValueError for an address
    that is no path, and for a body given twice.
    """
    if not target.startswith("/"):
        raise ValueError(
            f"{target!r} is no path: give what follows the host, like /events?after=3."
        )
    if json is not None and content is not None:
        raise ValueError("A request has one body: give json or content.")
    fields = [(name.lower(), value) for name, value in _pairs(headers)]
    sent = {name for name, _ in fields}
    if json is not None:
        content = json_.dumps(json)
        if "content-type" not in sent:
            fields.append(("content-type", "application/json"))
    body = content.encode() if isinstance(content, str) else content
    if body is not None and "content-length" not in sent:
        fields.append(("content-length", str(len(body))))
    if "host" not in sent:
        fields.insert(0, ("host", HOST))
    path, _, query = quote(target, safe=_SAFE).partition("?")
    query = "&".join(filter(None, (query, urlencode(_pairs(params)))))
    scope: Scope = {
        "type": "http",
        # What uvicorn says. From 2.4 on, Starlette does not listen for a client that leaves.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method.upper(),
        "root_path": root_path,
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields],
        # No port, so that nobody can find a socket of somebody else by it, and cut that.
        "client": ("127.0.0.1", 0),
        "server": (HOST, 80),
        "state": dict(state or {}),
    }
    return scope, [] if body is None else [body]


def _pairs(given: Sent) -> list[tuple[str, str]]:
    return [*(given.items() if isinstance(given, Mapping) else given)]


__all__ = ["HOST", "Exchange", "Sent", "asked"]
