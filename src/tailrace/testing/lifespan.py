"""An app's lifespan, in this process: its startup, and its shutdown."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from tailrace.testing.bounds import soon

LIFESPAN_SECONDS: Final = 30.0
"""How long a startup, or a shutdown, may take."""


class Lifespan:
    """Runs it in a task of its own, as a server does. `state` is what the app puts there for its
    requests. An app that knows no lifespan is left alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answered: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        """Start up. Raises what the app raises; AssertionError if it says that it has failed, or
        says nothing in time.
        """
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        self._task = asyncio.create_task(self._run(scope), name="lifespan")
        await self._ask("startup")

    async def stop(self) -> None:
        """Shut down. Raises as `start` does."""
        if not self._task.done():
            await self._ask("shutdown")
            await soon(self._task, LIFESPAN_SECONDS)

    async def _run(self, scope: Scope) -> None:
        await self._app(scope, self._asked.get, self._answered.put)

    async def _ask(self, what: str) -> None:
        self._asked.put_nowait({"type": f"lifespan.{what}"})
        answering = asyncio.ensure_future(self._answered.get())
        try:
            await soon(_first(answering, self._task), LIFESPAN_SECONDS)
        except TimeoutError:
            self._task.cancel()
            said = f"After {LIFESPAN_SECONDS:g} s the app's {what} is still not over."
            raise AssertionError(said) from None
        finally:
            is_answered = answering.done()
            answering.cancel()
        if not is_answered:
            # It has returned, or raised, without a word: it knows no lifespan.
            self._task.exception()
        elif (answer := answering.result())["type"] == f"lifespan.{what}.failed":
            await soon(self._task, LIFESPAN_SECONDS)
            raise AssertionError(f"The app's {what} failed: {answer.get('message', '')}")


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


__all__ = ["LIFESPAN_SECONDS", "Lifespan"]
