import asyncio
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from tailrace import Limits, RunContext, Tailrace
from tailrace.errors import LogClosed, TooManyRequests
from tailrace.mcp.face import McpFace, seat
from tailrace.seats import Seats
from tests.callers import ERAS, LEGACY, MODERN, client, served, text
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

_HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
_HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def app(**options: Any) -> tuple[Tailrace, McpFace]:
    runs = Tailrace("memory:", limits=options.pop("limits", None))

    @runs.operation
    async def hang(run: RunContext) -> None:
        run.progress(1)
        await asyncio.Event().wait()

    return runs, McpFace(runs, **options)


def test_until_somebody_asks_the_sdk_is_not_imported() -> None:
    code = (
        "import sys; from tailrace import Tailrace; from tailrace.mcp.face import McpFace; "
        "McpFace(Tailrace('memory:')); assert 'mcp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_what_is_not_http_is_refused() -> None:
    _, face = app()
    with pytest.raises(RuntimeError, match="websocket"):
        await face({"type": "websocket"}, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_the_version_is_agreed_on(version: str) -> None:
    runs, face = app()
    hello = {**_HELLO, "params": {**_HELLO["params"], "protocolVersion": version}}  # type: ignore[dict-item]
    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        answer = await http.post(f"http://127.0.0.1:{port}/", json=hello, headers=_HEADERS)
        told = answer.text.partition("data: ")[2]
        assert f'"protocolVersion":"{version}"' in told
        assert answer.headers["mcp-session-id"]


async def test_a_session_is_whose_it_is() -> None:
    runs, face = app()
    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/"
        opened = await http.post(url, json=_HELLO, headers={**_HEADERS, "x-who": "ann"})
        session = {**_HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        for who, status in (("ann", 200), ("bob", 404), ("", 404)):
            headers = {**session, "x-who": who} if who else session
            assert (await http.post(url, json=ping, headers=headers)).status_code == status


async def test_an_idle_session_ends() -> None:
    runs, face = app(idle_seconds=0.1)
    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/"
        opened = await http.post(url, json=_HELLO, headers=_HEADERS)
        headers = {**_HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert (await http.post(url, json=ping, headers=headers)).status_code == 200
        async with asyncio.timeout(5):
            # Each question keeps it alive, so there is a pause that is long enough.
            while (await http.post(url, json=ping, headers=headers)).status_code != 404:
                await asyncio.sleep(0.3)


async def test_there_are_not_more_sessions_than_may_be() -> None:
    runs, face = app(most_sessions=2)
    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/"
        for status in (200, 200, 503):
            answer = await http.post(url, json=_HELLO, headers=_HEADERS)
            assert answer.status_code == status


async def test_the_name_it_is_asked_by_is_not_its_concern() -> None:
    runs, face = app()
    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        headers = {**_HEADERS, "host": "runs.example.com", "origin": "https://app.example.com"}
        answer = await http.post(f"http://127.0.0.1:{port}/", json=_HELLO, headers=headers)
        assert answer.status_code == 200


async def test_streams_take_seats() -> None:
    runs, face = app(limits=Limits(streams_each=1))
    async with served(runs, face) as port, client(port, MODERN, "ann") as mcp:
        call = asyncio.create_task(mcp.call_tool("hang"))
        await until(lambda: runs.executing)
        async with httpx2.AsyncClient() as http:
            headers = {**_HEADERS, "x-who": "ann"}
            refused = await http.post(f"http://127.0.0.1:{port}/", json=_HELLO, headers=headers)
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
            assert refused.json()["error"]["data"]["code"] == "too-many-requests"
            headers["x-who"] = "bob"
            other = await http.post(f"http://127.0.0.1:{port}/", json=_HELLO, headers=headers)
            assert other.status_code == 200
        call.cancel()
        await until(lambda: not runs.hub.seats.taken)


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_goes_away_says_so(era: str) -> None:
    runs, face = app()
    async with served(runs, face) as port, client(port, era) as mcp:
        call = asyncio.create_task(mcp.call_tool("hang"))
        await until(lambda: runs.executing)
        runs.hub.drain()
        result = await soon(call, 2)
        assert result.is_error
        assert text(result).startswith("The server goes away")
        # Its end is the engine's to decide, not that of a client which has not left.
        assert runs.executing == 1
        await until(lambda: not runs.hub.connections, within=3)
        async with httpx2.AsyncClient() as http:
            late = await http.post(f"http://127.0.0.1:{port}/", json=_HELLO, headers=_HEADERS)
            assert late.status_code == 503


async def test_a_face_lives_as_often_as_its_engine() -> None:
    runs, face = app()
    for _ in range(2):
        async with served(runs, face) as port, client(port, LEGACY) as mcp:
            assert (await mcp.list_tools()).tools


async def test_what_the_log_says_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, face = app()

    async def closed() -> None:
        raise LogClosed("Not now.")

    async with served(runs, face) as port, httpx2.AsyncClient() as http:
        monkeypatch.setattr(runs, "start", closed)
        answer = await http.post(f"http://127.0.0.1:{port}/", json=_HELLO, headers=_HEADERS)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == -32603


async def test_a_caller_has_one_bucket_whichever_face_it_asks() -> None:
    """Whoever has an IPv6 address has 2**64 of them."""
    runs, _ = app()
    runs.hub.seats = Seats(each=1)
    with (
        seat(runs, {"type": "http", "client": ("2001:db8::1", 5)}),
        pytest.raises(TooManyRequests),
        seat(runs, {"type": "http", "client": ("2001:db8::2", 5)}),
    ):
        pass
