"""A generator that was called already, as the work of one run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeGuard, cast

from tailrace.operations import Operation, Starter
from tailrace.run import Run


def is_generated(items: object) -> TypeGuard[AsyncIterable[Any] | Iterable[Any]]:
    """Whether it yields, and is no name of an operation, nor one."""
    return not isinstance(items, str | bytes | Operation) and isinstance(
        items, AsyncIterable | Iterable
    )


def operation(
    items: AsyncIterable[Any] | Iterable[Any], starter: Starter[Run]
) -> Operation[..., Run]:
    """What yields, as an operation without an input, called like the function that made it. It can
    be run once.
    """
    return Operation(_walk(items), starter, name=_name(items), description="")


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
        try:
            async for item in cast("AsyncIterable[Any]", items):
                yield item
        finally:
            await discard(items)

    def walked_in_a_thread() -> Iterator[Any]:
        closing = getattr(items, "close", None)
        with contextlib.ExitStack() as stack:
            if closing is not None:
                stack.callback(closing)
            yield from cast("Iterable[Any]", items)

    return walked if isinstance(items, AsyncIterable) else walked_in_a_thread


def _name(items: object) -> str:
    """What it is called in the list of runs: as its function, else as its class."""
    return str(getattr(items, "__name__", type(items).__name__))
