"""Running Python: coroutines, plain functions, and generators of both kinds."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from enum import StrEnum
from time import monotonic
from typing import Any, Final, TypeGuard, cast

import orjson

from tailrace.errors import RunCancelled
from tailrace.protocol import events
from tailrace.protocol.items import fields
from tailrace.runners.contract import Sink

logger = logging.getLogger("tailrace.function")

TURN_SECONDS: Final = 0.005
"""How long a generator that never waits may hold the event loop."""

# A bound of what comes on top of a full buffer, which that of an event's bytes makes 4 MiB.
_EBB_ITEMS: Final = 16

Call = Callable[[], Any]
"""A function with its arguments bound."""


class Kind(StrEnum):
    """What a Python callable is, which decides how it is run."""

    COROUTINE = "coroutine"
    FUNCTION = "function"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


def kind(function: Callable[..., Any]) -> Kind:
    """The kind of `function`, or of a callable object's `__call__`."""
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = getattr(function, "func", function)  # functools.partial
        if not inspect.isroutine(function):
            function = type(function).__call__
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(function):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return Kind.FUNCTION


async def run(kind: Kind, call: Call, sink: Sink, name: str) -> Any:
    """Run `call` as its kind demands and answer what it returns.

    Cancelling this coroutine once asks the work to stop; a second time gives it up.
    """
    try:
        return await _RUNNERS[kind](call, sink, name)
    except SystemExit as error:
        # In a task it would end the event loop, and the server with it.
        raise RuntimeError(f"The function raised {error!r}") from error


async def _coroutine(call: Call, sink: Sink, name: str) -> Any:
    del sink, name
    return await cast("Awaitable[Any]", call())


async def _function(call: Call, sink: Sink, name: str) -> Any:
    value = await in_thread(call, sink, name)
    # A coroutine function behind a decorator that knows of none looks like a plain one.
    return await value if inspect.isawaitable(value) else value


async def _async_generator(call: Call, sink: Sink, name: str) -> Any:
    del name
    items = cast("AsyncIterator[Any]", call())
    taken, turn = 0, monotonic()
    async with contextlib.aclosing(items):  # type: ignore[type-var]
        async for item in items:
            yielded(sink, item)
            taken += 1
            # What is there at once is taken at once, but it must not keep the loop from
            # everybody else, nor fill the buffer.
            if taken % _EBB_ITEMS == 0:
                await sink.ebb()
            if monotonic() - turn > TURN_SECONDS:
                await sink.ebb()
                await asyncio.sleep(0)
                turn = monotonic()


async def _generator(call: Call, sink: Sink, name: str) -> Any:
    def exhaust() -> Any:
        items = cast("Iterator[Any]", call())
        try:
            while True:
                try:
                    item = next(items)
                except StopIteration as end:
                    return end.value
                yielded(sink, item)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    return await in_thread(exhaust, sink, name)


_RUNNERS: Final = {
    Kind.COROUTINE: _coroutine,
    Kind.FUNCTION: _function,
    Kind.GENERATOR: _generator,
    Kind.ASYNC_GENERATOR: _async_generator,
}


async def in_thread(call: Call, sink: Sink, name: str) -> Any:
    """Run `call` in a thread of its own, with the present context variables.

    Its own, because a pool is exhausted by a few long runs; a daemon, because a thread
    that ignores its cancelling must not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif isinstance(error, _UNCARRIED):
            # None of them may travel through a future: they would end the loop, or nothing.
            result.set_exception(ThreadStopped(error))
        else:
            result.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(call)
        except BaseException as raised:  # noqa: BLE001 - it is handed to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever waited
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            sink.request_stop()
            try:
                return await result
            except asyncio.CancelledError:
                logger.warning("The thread %s ignores that it should stop, and goes on", name)
                raise
    except ThreadStopped as stopped:
        if isinstance(stopped.cause, RunCancelled | asyncio.CancelledError):
            raise asyncio.CancelledError from None
        raise RuntimeError(f"The function raised {stopped.cause!r}") from stopped.cause


_UNCARRIED: Final = (
    RunCancelled,
    asyncio.CancelledError,
    StopIteration,
    KeyboardInterrupt,
    SystemExit,
)


class ThreadStopped(Exception):
    """Carries what a future cannot."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(repr(cause))
        self.cause = cause


def yielded(sink: Sink, item: Any) -> None:
    """Emit what a generator yielded.

    `(type, payload)` is that event. A `ServerSentEvent` (of FastAPI, of sse-starlette or ours) and
    a dict of its fields with `data` in it keep type and data; ids and retry are the log's,
    and one that has nothing else, or is only a comment, is nothing. Anything else is a `message`.
    """
    recognised = _recognised(item)
    if recognised is not None:
        sink.emit(*recognised)


def is_typed(item: Any) -> TypeGuard[tuple[str, Any]]:
    """Whether it is a `(type, payload)`."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)


def _recognised(item: Any) -> tuple[str, Any] | None:
    if isinstance(item, str):
        return events.MESSAGE, item
    if is_typed(item):
        return item
    if isinstance(item, Mapping) and "data" not in item:
        return events.MESSAGE, item
    found = fields(item)
    if found is None:
        return events.MESSAGE, item
    if isinstance(item, Mapping):
        return found.event or events.MESSAGE, _parsed(item["data"])
    if not found.is_event or (found.data is None and found.comment is not None):
        return None
    # FastAPI's has its data apart from what is text already.
    data = item.data if getattr(item, "raw_data", None) is None else item.raw_data
    is_json = any(base.__name__ == "JSONServerSentEvent" for base in type(item).__mro__)
    return found.event or events.MESSAGE, _parsed(data, is_json=is_json)


def _parsed(data: Any, *, is_json: bool = False) -> Any:
    """People hand sse-starlette the JSON they dumped themselves; in the log it is JSON."""
    if isinstance(data, bytes):
        data = data.decode("utf-8", "replace")
    if isinstance(data, str) and (is_json or data[:1] in ("{", "[")):
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(data)
    return data
