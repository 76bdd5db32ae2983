"""A life: it begins with the first thing asked of it, in one event loop, and ends once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from tailrace.errors import LogClosed


async def beside(
    stack: contextlib.AsyncExitStack, context: contextlib.AbstractAsyncContextManager[Any]
) -> None:
    """Enter a context in a task of its own, where the stack's end has it left: some must be left
    in the task that they were entered in (anyio's task groups), and whoever begins a life is
    seldom who ends it. Raises what the entering raises.
    """
    loop = asyncio.get_running_loop()
    entered: asyncio.Future[None] = loop.create_future()
    leaving = asyncio.Event()

    async def stay() -> None:
        try:
            async with context:
                entered.set_result(None)
                await leaving.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    staying = asyncio.create_task(stay())

    async def leave() -> None:
        leaving.set()
        await staying

    try:
        await entered
    except BaseException:
        staying.cancel()
        raise
    stack.push_async_callback(leave)


class Lifetime:
    """Whatever `begin` opens and leaves on the stack, from a start to a close. `abandon` is told
    when the event loop it was opened in has ended with it still open.
    """

    def __init__(
        self,
        begin: Callable[[contextlib.AsyncExitStack], Awaitable[None]],
        abandon: Callable[[], None],
    ) -> None:
        self._begin = begin
        self._abandon = abandon
        self._changing: asyncio.Lock | None = None
        self._open: contextlib.AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_owned = False
        """Whether somebody has undertaken to close it."""

    @property
    def is_open(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._open is not None

    async def start(self) -> None:
        """Begin, unless it has begun.

        Raises LogClosed if it goes on in another event loop, and what `begin` does.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move(loop)
        if self._open is not None:
            return
        self._changing = self._changing or asyncio.Lock()
        async with self._changing:
            if self._open is None:
                async with contextlib.AsyncExitStack() as stack:
                    await self._begin(stack)
                    self._open = stack.pop_all()

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to `loop`. A test client makes one for each request, and ends it with the
        engine still in it; whatever ran there can only be found lost by the next start.
        """
        if self._open is not None:
            if self._loop is not None and not self._loop.is_closed():
                raise LogClosed(
                    "This engine works in another event loop.",
                    fix="Use an engine of its own for each event loop, or its HTTP face.",
                )
            self._open.pop_all()
            self._open = None
            self._abandon()
        self._changing = None
        self._loop = loop

    async def close(self) -> None:
        """End, if it has begun."""
        self.is_owned = False
        # Until it is over it counts as begun: what runs ask of the engine in their grace must
        # not start it again.
        if self._changing is None:
            return
        async with self._changing:
            if self._open is not None:
                try:
                    await self._open.aclose()
                finally:
                    self._open = None
        # The next start may be in another event loop.
        self._changing = None
