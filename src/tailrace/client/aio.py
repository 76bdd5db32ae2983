"""The asynchronous client: carries the bytes of what `requests` and `reconnect` decide."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

import httpx2

from tailrace.client.reconnect import SILENCE_SECONDS, Again, Fail, Watch, WatchedEvent
from tailrace.client.requests import Call, Events, Json, Page, Server, message_of, written

__all__ = ["AsyncClient"]

T = TypeVar("T")
_CONNECT_SECONDS = 10.0
_CHANCE = secrets.SystemRandom().random


class AsyncClient:
    """A client of one server, for asyncio.

    `base_url`: `http(s)://host[:port][/prefix]`. `token`: sent as `Authorization: Bearer`, to
    that server only; None: a server that this user has started on this machine knows them.
    `http`: an httpx2.AsyncClient to send with, which stays open when this one is closed; by
    default one is made, without a bound on connections. `silence`: seconds without a byte after
    which a stream counts as cut. `sleep`: how pauses are made.

    Every method raises ServerUnreachable when nothing answers, and the error of
    `tailrace.errors` that a problem's code names; TailraceError for an unknown code.
    Requests that break off are repeated, at most twice. Raises RequestError for a base URL
    or token that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        http: httpx2.AsyncClient | None = None,
        silence: float = SILENCE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server = Server(base_url, token)
        self._is_ours = http is None
        self._http = http or httpx2.AsyncClient(
            # Loading the certificates costs 60 ms, and plain http has no use for them.
            verify=True if self._server.is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=not self._server.is_loopback,
            limits=httpx2.Limits(),
            timeout=_timeout(SILENCE_SECONDS),
        )
        self._silence = silence
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless they belong to somebody else's `http`."""
        if self._is_ours:
            await self._http.aclose()

    async def operations(self) -> list[Json]:
        """What can be run: name, description, JSON Schema of the input."""
        return await self._send(self._server.operations())

    async def start(
        self,
        operation: str,
        input: Any = None,
        *,
        timeout: float | None = None,
        abandon_after: float | None = None,
        key: str | None = None,
        thread: str | None = None,
    ) -> Json:
        """Start a run and return its snapshot.

        `timeout` and `abandon_after` are seconds. `key` is the Idempotency-Key: the same key
        with the same request returns the same run. By default it is a random one, so that a
        request repeated after a network error starts nothing twice. `thread` is a text of 1 to
        200 characters; of the runs with the same one, only one goes on at a time.

        Raises OperationUnknown, InputInvalid, KeyReused, ThreadBusy.
        """
        call = self._server.start(
            operation,
            input,
            timeout=timeout,
            abandon_after=abandon_after,
            key=secrets.token_hex(16) if key is None else key,
            thread=thread,
        )
        return await self._send(call)

    async def rerun(self, run: str) -> Json:
        """Start a new run with the operation, input, limits and thread of that one; its snapshot.

        A request that breaks off is not repeated: it could start two. Raises RunUnknown, and
        what `start` raises.
        """
        return await self._send(self._server.rerun(run))

    async def run(self, run: str) -> Json:
        """A run's snapshot: state, progress, result or error, times, last_event_id, links.

        Raises RunUnknown.
        """
        return await self._send(self._server.run(run))

    async def runs(
        self,
        *,
        state: str | Iterable[str] | None = None,
        operation: str | None = None,
        thread: str | None = None,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """One page of runs, newest first, as (runs, next): give `next` as `cursor` for the
        following one. `q` is part of an operation's name or of an id.
        """
        call = self._server.runs(
            state=state, operation=operation, thread=thread, q=q, limit=limit, cursor=cursor
        )
        return await self._send(call)

    def watch(
        self,
        run: str,
        *,
        after: str | int = 0,
        types: str | Iterable[str] | None = None,
        patience: float | None = None,
    ) -> AsyncGenerator[WatchedEvent, None]:
        """The events of a run, from `after` on to its end, each once, through any cuts.

        `run`: an id, or the address of its events. `after`: 0 for all, the id of the last
        event one has, "latest" for what comes now. `types`: which events, None for all; the
        terminal one always comes, and so do the control frames `gap` (events that are no
        longer kept), `reset` (events that were lost and will come under other ids) and
        `tick`. `patience`: seconds without a sign of life before it gives up; None, never.

        Leave the loop by `contextlib.aclosing` to free the connection at once. Raises
        CursorMalformed and RunUnknown at the call; StreamRefused, StreamTooLarge,
        ProtocolViolation and (with `patience`) ServerUnreachable from the iteration.
        """
        events = self._server.events(run)
        watch = Watch(
            after=events.after if after == 0 else after,
            types=events.types if types is None else types,
            patience=patience,
        )
        return self._follow(events, watch)

    async def output(
        self, run: str, *, stream: str | None = None, patience: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes a script wrote, live to its end, through any cuts.

        `stream`: "stdout" or "stderr", None for both as they came. See `watch`.
        """
        async with contextlib.aclosing(
            self.watch(run, types=("output",), patience=patience)
        ) as events:
            async for event in events:
                if chunk := written(event, stream):
                    yield chunk

    async def call_tool_streaming(
        self,
        name: str,
        arguments: Any = None,
        *,
        timeout: float | None = None,
        abandon_after: float | None = None,
        patience: float | None = None,
    ) -> AsyncGenerator[Json, None]:
        """Start a run and yield it as the JSON-RPC messages of an MCP tool call, to its end.

        `name`: an operation, such as a tool of an upstream, `market.stream_market_news`. The
        first message says `connected`; then `notifications/progress` and
        `notifications/message` come as the work goes on; the last has the run's id as its `id`,
        and the `result` or the `error`. They are those of `?format=jsonrpc`, each once, through
        any cuts. Leaving the loop leaves the run going; give `abandon_after` seconds to have it
        cancelled then. The run begins with the first step of the loop.

        Raises what `start` and `watch` raise.
        """
        run = await self.start(name, arguments, timeout=timeout, abandon_after=abandon_after)
        async with contextlib.aclosing(self.watch(run["id"], patience=patience)) as events:
            async for event in events:
                yield message_of(run["id"], event)

    async def wait(self, run: str, *, patience: float | None = None) -> Json:
        """Wait for a run's end and return its snapshot, whatever its `state` says then."""
        async with contextlib.aclosing(self.watch(run, types=(), patience=patience)) as events:
            async for _ in events:
                pass
        return await self.run(run)

    async def cancel(self, run: str) -> Json:
        """Ask a run to stop; its snapshot. Raises RunUnknown."""
        return await self._send(self._server.cancel(run))

    async def forget(self, run: str) -> None:
        """Delete a finished run and its events. Raises RunUnknown, RunActive."""
        await self._send(self._server.forget(run))

    async def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = await self._http.request(
                    call.method, call.url, headers=call.headers, content=call.content
                )
            except httpx2.RequestError as error:
                was_sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                pause = call.again(attempt, error, was_sent=was_sent)
            else:
                return call.answer(
                    response.status_code, response.headers, response.content, attempt
                )
            attempt += 1
            await self._sleep(pause)

    async def _follow(self, events: Events, watch: Watch) -> AsyncGenerator[WatchedEvent, None]:
        while True:
            request = watch.request(time.monotonic())
            broken = ""
            try:
                async with self._http.stream(
                    "GET",
                    events.url(request.params),
                    headers={**events.headers, **request.headers},
                    timeout=_timeout(self._silence),
                ) as response:
                    if watch.opened(response.status_code, response.headers, time.time()):
                        async with contextlib.aclosing(response.aiter_bytes()) as chunks:
                            async for chunk in chunks:
                                for event in watch.feed(chunk):
                                    yield event
                                if watch.is_over:
                                    break
            except httpx2.RequestError as error:
                broken = events.reason(error)
            match watch.ended(time.monotonic(), _CHANCE(), broken):
                case Again(seconds):
                    await self._sleep(seconds)
                case Fail(fault):
                    raise fault
                case _:
                    return


def _timeout(silence: float) -> httpx2.Timeout:
    # An address that swallows packets is found out sooner than a stream that fell silent.
    return httpx2.Timeout(silence, connect=min(silence, _CONNECT_SECONDS))
