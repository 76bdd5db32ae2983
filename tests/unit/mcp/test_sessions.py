import asyncio
from typing import Any

import httpx2
import pytest

from tailrace import Tailrace
from tailrace.errors import LogClosed, TooManyRequests
from tailrace.mcp.asks import Asks
from tailrace.mcp.face import McpFace
from tailrace.mcp.sessions import Sessions, is_opening
from tests.callers import served
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


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


async def test_one_key_does_not_take_all_the_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.mcp.sessions.MOST_FOR_ONE", 2)
    runs = Tailrace("memory:")
    async with served(runs, McpFace(runs)) as port, httpx2.AsyncClient() as http:

        async def begin(who: str) -> httpx2.Response:
            headers = {"accept": "application/json, text/event-stream", "x-who": who}
            return await http.post(f"http://127.0.0.1:{port}/", json=HELLO, headers=headers)

        mine = [await begin("ann") for _ in range(3)]
        assert [one.status_code for one in mine] == [200, 200, 429]
        assert mine[2].headers["retry-after"] == "60"
        assert mine[2].json()["error"]["message"] == "There are 2 MCP sessions of ann already."
        assert (await begin("bob")).status_code == 200
        # Those whom nobody tells apart are many.
        assert [(await begin("")).status_code for _ in range(3)] == [200] * 3
        ended = {"mcp-session-id": mine[0].headers["mcp-session-id"], "x-who": "ann"}
        await http.delete(f"http://127.0.0.1:{port}/", headers=ended)
        assert (await begin("ann")).status_code == 200


async def test_to_begin_sessions_counts() -> None:
    runs = Tailrace("memory:")

    class Rates:
        async def admit(self, scope: Any, need: str) -> None:
            raise TooManyRequests(f"Too often: {need}.", fix="Wait.")

    runs.rates = Rates()
    async with served(runs, McpFace(runs)) as port, httpx2.AsyncClient() as http:
        refused = await http.post(f"http://127.0.0.1:{port}/", json=HELLO)
        assert refused.status_code == 429
        assert refused.json()["error"]["message"] == "Too often: watch."


@pytest.mark.parametrize(
    ("headers", "opens"),
    [
        ([], True),
        ([(b"mcp-protocol-version", b" 2025-11-25 ")], True),
        ([(b"mcp-protocol-version", b"2026-07-28")], False),
        ([(b"mcp-session-id", b"x")], False),
    ],
)
def test_what_begins_a_session(headers: list[tuple[bytes, bytes]], opens: bool) -> None:
    assert is_opening({"headers": headers}) is opens


async def _never(*_: Any) -> Any:
    raise AssertionError
