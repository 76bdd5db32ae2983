import asyncio
from typing import Any

import pytest

from tailrace import Tailrace
from tailrace.errors import LogClosed
from tailrace.mcp.asks import Asks
from tailrace.mcp.sessions import Sessions
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


def sessions(runs: Tailrace) -> Sessions:
    return Sessions(runs, idle_seconds=60, most=10, asks=Asks(runs))


async def test_it_opens_and_closes_in_a_task_of_its_own() -> None:
    async with Tailrace("memory:") as runs:
        one = sessions(runs)
        await asyncio.create_task(one.open())
        await soon(asyncio.create_task(one.close()))
        with pytest.raises(LogClosed):
            await one({"type": "http", "headers": []}, _never, _never)


async def test_what_fails_to_open_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Tailrace("memory:") as runs:
        one = sessions(runs)
        await one.open()
        again = Sessions.open(one)
        with pytest.raises(RuntimeError, match="once"):
            await again
        await one.close()


async def test_leaving_ends_it_soon() -> None:
    async with Tailrace("memory:") as runs:
        one = sessions(runs)
        await one.open()
        one.leave()
        one.leave()
        assert one._serving is not None
        await until(one._serving.done, within=2)
        await one.close()


async def test_a_value_with_spaces_around_it_is_the_value() -> None:
    async with Tailrace("memory:") as runs:
        one = sessions(runs)
        await one.open()
        seen: list[Any] = []

        async def look(scope: Any, *_: Any) -> None:
            seen.append(dict(scope["headers"]))

        one._http.handle_request = look  # type: ignore[method-assign, assignment]
        await one({"type": "http", "headers": [(b"mcp-name", b" a\t ")]}, _never, _never)
        assert seen == [{b"mcp-name": b"a"}]
        await one.close()


async def _never(*_: Any) -> Any:
    raise AssertionError
