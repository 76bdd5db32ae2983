"""A generator that was called already, as the work of one run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, TypeGuard, cast

from pydantic import BaseModel

from tailrace.operations import Operation, Starter
from tailrace.protocol.items import Reader
from tailrace.run import Run
from tailrace.runners.contract import AMBIENT
from tailrace.runners.function import is_typed

# They may be iterated, but nobody who gives one means what it would yield.
_WHOLE = (str, bytes, bytearray, memoryview, Mapping, BaseModel, type)


def is_generated(items: object) -> TypeGuard[AsyncIterable[Any] | Iterable[Any]]:
    """Whether it yields, and is no name of an operation, nor one. Raises TypeError for what is none
    of the three.
    """
    if isinstance(items, str | Operation):
        return False
    if isinstance(items, AsyncIterable):
        return True
    # A future is iterable, for `await` alone.
    if isinstance(items, Iterable) and not isinstance(items, (*_WHOLE, Awaitable)):
        return True
    raise TypeError(_instead(items))


def _instead(given: object) -> str:
    """What to do."""
    name = getattr(given, "__name__", type(given).__name__)
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        return f"{name} is a function that makes a generator: call it, stream({name}(), request)."
    if inspect.iscoroutine(given):
        # Or Python says that it was forgotten, which is not what is wrong.
        given.close()
    if isinstance(given, Awaitable):
        return (
            f"{name} was called already, and yields nothing: make the function an operation "
            f"(@runs.operation), and stream({name}, request, input)."
        )
    if callable(given):
        return (
            f"{name} is no operation: put @runs.operation before it, or give what yields, such as "
            "a generator that was called."
        )
    return (
        "A stream is made of an operation, of the name of one, or of what yields, such as a "
        f"generator that was called; not of {type(given).__name__}."
    )


def operation(
    items: AsyncIterable[Any] | Iterable[Any], starter: Starter[Run]
) -> Operation[..., Run]:
    """What yields, as an operation without an input. It can be run once. It is called like the
    function that made it, with the brackets of a call: an operation of that function is another.

    Its run tells what is yielded as `EventSourceResponse` would (see `items.Reader`); a tuple
    `(type, payload)` is that event.
    """
    return Operation(_walk(items), starter, name=f"{_name(items)}()", description="")


async def discard(items: AsyncIterable[Any] | Iterable[Any]) -> None:
    """Let go of what was never begun, so that nobody is told it was forgotten."""
    for name in ("aclose", "close"):
        close = getattr(items, name, None)
        if close is not None:
            closing = close()
            if inspect.isawaitable(closing):
                await closing
            return


def _walk(items: AsyncIterable[Any] | Iterable[Any]) -> Callable[[], Any]:
    async def walked() -> AsyncIterator[Any]:
        read = _reader()
        try:
            async for item in cast("AsyncIterable[Any]", items):
                for event in read(item):
                    yield event
        finally:
            await discard(items)

    def walked_in_a_thread() -> Iterator[Any]:
        read = _reader()
        closing = getattr(items, "close", None)
        with contextlib.ExitStack() as stack:
            if closing is not None:
                stack.callback(closing)
            for item in cast("Iterable[Any]", items):
                yield from read(item)

    return walked if isinstance(items, AsyncIterable) else walked_in_a_thread


def _reader() -> Callable[[Any], Iterable[tuple[str, Any]]]:
    reader, sink = Reader(), AMBIENT.get(None)

    def read(item: Any) -> Iterable[tuple[str, Any]]:
        if is_typed(item):
            return (item,)
        found = tuple(reader.read(item))
        if not found and sink is not None:
            # Whoever emits nothing would not learn, in a thread, that it should stop.
            sink.check()
        return found

    return read


def _name(items: object) -> str:
    """What it is called in the list of runs: as its function, else as its class."""
    return str(getattr(items, "__name__", type(items).__name__))
