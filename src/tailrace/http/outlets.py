"""The two ways to send: through ASGI, and, where the server offers it, to the socket itself.

Through ASGI a send is a coroutine. Where it does nothing but write to a transport it is over
at its first step, so the hub takes that step itself, and no task is needed for each watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from tailrace.http import cut
from tailrace.http.sockets import Sockets
from tailrace.outlet import End, Frame, Outlet, is_gone
from tailrace.pulse import LEAVE_SECONDS

DIRECT: Final = "tailrace.direct"
"""The ASGI extension by which a server hands over the socket of a response."""

Headers = list[tuple[bytes, bytes]]

# What asyncio has for tasks that are not its own: middleware may ask, within `send`, which task
# it is in (`asyncio.timeout` does).
_enter: Final[Any] = asyncio.tasks._enter_task  # noqa: SLF001 - documented as such
_leave: Final[Any] = asyncio.tasks._leave_task  # noqa: SLF001

# How often the loop goes round before a server has had its time to say that a response is over.
_TURNS: Final = 4


Run = Callable[[Callable[[Any], Any], Any], Any]
"""Calls a function with its argument, in some surroundings."""


def _plainly(function: Callable[[Any], Any], given: Any) -> Any:
    return function(given)


# A coroutine may wait for None, which is a turn of the loop.
_NOTHING: Final = object()


class Rest:
    """A coroutine, or what is left of one that was stepped and waits for `awaited`. Whoever
    awaits it, each of its steps is taken by `run`.
    """

    def __init__(self, coroutine: Any, awaited: Any = _NOTHING, run: Run = _plainly) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        self._run = run

    def __await__(self) -> Generator[Any, Any, Any]:
        awaited = self._awaited
        walk = self._coroutine
        # granian's are iterators and no more: they take nothing, and cannot be thrown into.
        send: Callable[[Any], Any] = getattr(walk, "send", lambda _: next(walk))
        go_on, given = send, None
        while True:
            if awaited is _NOTHING:
                try:
                    awaited = self._run(go_on, given)
                except StopIteration as end:
                    return end.value
                finally:
                    # An error that stayed here, in a frame of its own traceback, would keep all
                    # that was to be sent until the collector comes by.
                    given = None
            try:
                given, go_on = (yield awaited), send
            except GeneratorExit:
                getattr(walk, "close", bool)()
                raise
            except BaseException as error:
                throw = getattr(walk, "throw", None)
                if throw is None:
                    raise
                # It is the coroutine's.
                given, go_on = error, throw
            awaited = _NOTHING


def step(awaitable: Awaitable[None], run: Run = _plainly) -> Awaitable[None] | None:
    """Take an awaitable as far as it comes at once: None if that was all, else the rest."""
    coroutine: Any = awaitable.__await__()
    try:
        awaited = run(next, coroutine)
    except StopIteration:
        return None
    return Rest(coroutine, awaited, run)


async def until_gone(receive: Receive) -> None:
    """Wait for the client to leave; a server, or middleware, may also raise to say so."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception as error:
        if not is_gone(error):
            raise


@contextlib.asynccontextmanager
async def listening(receive: Receive, left: Callable[[], None]) -> AsyncIterator[None]:
    """Have `left` called when the client leaves while the block lasts, and at its end."""

    async def listen() -> None:
        try:
            await until_gone(receive)
        finally:
            left()

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def begun(send: Send, status: int, headers: Headers, opening: bytes) -> bool:
    """Send the head of a response and its first bytes; whether both left at once.

    Whoever waits even now, with nothing sent yet, is no plain transport: middleware that hands
    on by a queue, and that may need a task of its own for each send.
    """
    head = step(send({"type": "http.response.start", "status": status, "headers": headers}))
    if head is not None:
        await head
    rest = step(send({"type": "http.response.body", "body": opening, "more_body": True}))
    if rest is not None:
        await rest
    return head is None and rest is None


async def opened(  # noqa: PLR0917 - ASGI's three, and the head
    scope: Scope, receive: Receive, send: Send, status: int, headers: Headers, first: bytes
) -> Outlet:
    """Begin a response, with the first bytes of its body, and find the best way for the rest."""
    offer = scope.get("extensions", {}).get(DIRECT)
    if offer is None:
        return AsgiOutlet(scope, receive, send, steps=await begun(send, status, headers, first))
    # What is handed over does not come back for another request (RFC 9112 §9.6).
    headers = [*headers, (b"connection", b"close")]
    is_plain = False
    taken: tuple[int, bytes] | None = None
    offer["hold"]()
    try:
        is_plain = await begun(send, status, headers, first)
    finally:
        # In any case: what is held must go.
        taken = offer["take"](first if is_plain else b"")
    if taken is None:
        return AsgiOutlet(scope, receive, send, steps=is_plain)
    return Sockets.here().adopt(*taken)


class AsgiOutlet(Outlet):
    """By the server's `send`. The request's own task waits in `listen` for the client to leave."""

    __slots__ = (
        "_context", "_is_bare", "_is_cancelled", "_is_listening", "_receive",
        "_scope", "_send", "_steps", "_task",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, steps: bool) -> None:
        super().__init__()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._steps = steps
        # uvicorn's own method: nobody is between us and the transport who could look around.
        owner = type(getattr(send, "__self__", None))
        self._is_bare = owner.__module__.startswith("uvicorn.")
        self._task: Any = asyncio.current_task()
        # Middleware may look at its context variables within `send`.
        self._context = contextvars.copy_context()
        self._is_listening = False
        self._is_cancelled = False

    def push(self, frame: Frame) -> Awaitable[None] | None:
        """See `outlet.Outlet`."""
        if self.has_left:
            return None
        # The bytes are shared, and not the dict: Starlette's GZip writes into it.
        message = {
            "type": "http.response.body",
            "body": frame.body,
            "more_body": not frame.is_last,
        }
        if not self._steps:
            return self._sent(message)
        try:
            if self._is_bare:
                return step(self._send(message))
            return step(self._send(message), self._within)
        except Exception as error:  # noqa: BLE001 - one response's fault, and the others go on
            if not is_gone(error):
                told = {"message": "A response could not be sent", "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)
            self.left()
        return None

    def _within(self, function: Callable[[Any], Any], given: Any) -> Any:
        """Call in the request's own task and context, as middleware within `send` expects."""
        loop = asyncio.get_running_loop()
        current = asyncio.current_task(loop)
        if current is not None:
            _leave(loop, current)
        _enter(loop, self._task)
        try:
            return self._context.run(function, given)
        finally:
            _leave(loop, self._task)
            if current is not None:
                _enter(loop, current)

    async def _sent(self, message: Message) -> None:
        rest = step(self._send(message), self._context.run)
        if rest is not None:
            await rest

    async def listen(self) -> None:
        """Wait until the client has left, or has it all."""
        if self.has_left:
            return
        self._is_listening = True
        try:
            await until_gone(self._receive)
        except asyncio.CancelledError:
            if not self._is_cancelled or self._task.uncancel():
                raise
        finally:
            self._is_listening = False
            self.left()

    def left(self) -> None:
        """See `outlet.Outlet`."""
        super().left()
        if self._is_listening:
            self._end(_TURNS)

    def close(self, end: End) -> None:
        """See `outlet.Outlet`."""
        if end is End.SHUTDOWN:
            # What was just sent may wait, in the server, for a client that does not read, and
            # the server with it.
            loop = asyncio.get_running_loop()
            loop.call_later(LEAVE_SECONDS, cut.cut_unless_read, self._scope)

    def cut(self) -> None:
        """See `outlet.Outlet`."""
        cut.cut(self._scope, self._receive)

    def _end(self, turns: int) -> None:
        """Have the request's task go. When a response is over, `receive` says so (ASGI, HTTP
        connection scope); granian's does not.
        """
        if not self._is_listening:
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._end, turns - 1)
        else:
            self._is_cancelled = True
            self._task.cancel()
