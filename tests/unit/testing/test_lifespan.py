from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from tailrace.testing import lifespan
from tailrace.testing.lifespan import Lifespan

pytestmark = pytest.mark.anyio


def app(said: list[str], *, starts: bool = True, stops: bool = True) -> Starlette:
    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        if not starts:
            raise ZeroDivisionError("at startup")
        said.append("up")
        yield {"pool": 3}
        said.append("down")
        if not stops:
            raise ZeroDivisionError("at shutdown")

    return Starlette(lifespan=life)


async def test_an_app_is_started_up_and_shut_down() -> None:
    said: list[str] = []
    life = Lifespan(app(said))
    await life.start()
    assert said == ["up"]
    assert life.state == {"pool": 3}
    await life.stop()
    assert said == ["up", "down"]


async def test_what_goes_wrong_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="at startup"):
        await Lifespan(app([], starts=False)).start()
    life = Lifespan(app([], stops=False))
    await life.start()
    with pytest.raises(ZeroDivisionError, match="at shutdown"):
        await life.stop()


async def test_what_only_says_that_it_fails_is_raised_too() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.raises(AssertionError, match="startup failed: no disk"):
        await Lifespan(failing).start()


async def test_an_app_may_know_no_lifespan() -> None:
    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    life = Lifespan(plain)
    await life.start()
    await life.stop()


async def test_an_app_may_stop_answering_at_its_shutdown() -> None:
    async def brief(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    life = Lifespan(brief)
    await life.start()
    await life.stop()


async def test_a_startup_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespan, "LIFESPAN_SECONDS", 0.05)
    ended: list[int] = []

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    with pytest.raises(AssertionError, match=r"After 0.05 s the app's startup is still not over"):
        await Lifespan(stuck).start()
    await asyncio.sleep(0)
    assert ended == [1]
