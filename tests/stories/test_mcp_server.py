"""An MCP server whose calls are runs: watched elsewhere, ended with their clients, and still
there after the server.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client

from tests.conformance.mcp.run import ROOT, served
from tests.waiting import soon

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


@contextlib.asynccontextmanager
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=30) as client:
        yield client


async def asked(client: httpx2.AsyncClient, url: str, method: str, **params: Any) -> Any:
    """A request of 2026-07-28 by a client that knows tasks."""
    params["_meta"] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": _TASKS,
    }
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        "mcp-name": params.get("name") or params.get("taskId") or "",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await client.post(url, json=body, headers=headers)
    told = answer.json()
    return told.get("result") or told["error"]


async def executing(client: httpx2.AsyncClient, url: str) -> list[dict[str, Any]]:
    answer = await client.get(url.replace("/mcp", "/runs"), params={"state": "running"})
    found: list[dict[str, Any]] = answer.json()["runs"]
    return found


async def until_executing(client: httpx2.AsyncClient, url: str, count: int) -> float:
    began = time.monotonic()
    async with asyncio.timeout(10):
        while len(await executing(client, url)) != count:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_a_call_is_watched_by_others_while_it_goes_on(era: str) -> None:
    told: list[Any] = []
    begun = asyncio.Event()

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        begun.set()

    with served() as (url, _):
        async with http() as browser, Client(url, mode=era) as mcp:
            call = asyncio.create_task(
                mcp.call_tool("test_tool_with_progress", progress_callback=tell)
            )
            await soon(begun.wait())
            run = told[0][2].partition(",")[0]
            events = f"{url.replace('/mcp', '/runs')}/{run}/events"
            watched = await browser.get(events, params={"format": "ndjson"})
            result = await call
    seen = [json.loads(line) for line in watched.text.splitlines() if line]
    assert [one["type"] for one in seen] == ["start", *["progress"] * 3, "complete"]
    assert [number for number, _, _ in told[1:]] == pytest.approx([0, 50, 100])
    assert result.meta is not None
    assert result.meta["tailrace/run"] == run


async def test_of_twenty_killed_clients_no_call_is_left() -> None:
    code = (
        "import asyncio, sys; from mcp.client import Client\n"
        "async def main():\n"
        "    async with Client(sys.argv[1], mode='2026-07-28') as mcp:\n"
        "        await asyncio.gather(*(mcp.call_tool('slow_compute', {'seconds': 600})"
        " for _ in range(20)))\n"
        "asyncio.run(main())"
    )
    with served() as (url, _):
        async with http() as client:
            killed = subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT)
            try:
                # 10 s in all for the client's imports, too.
                await until_executing(client, url, 20)
            finally:
                killed.kill()
                killed.wait()
            assert await until_executing(client, url, 0) < 2


async def test_a_task_is_still_known_after_the_server_was_killed(tmp_path: Path) -> None:
    log = str(tmp_path / "runs.db")
    async with http() as client:
        with served(log) as (url, process):
            done = await asked(
                client, url, "tools/call", name="slow_compute", arguments={"seconds": 0.5}
            )
            made = await asked(
                client, url, "tools/call", name="slow_compute", arguments={"seconds": 600}
            )
            async with asyncio.timeout(10):
                while True:
                    first = await asked(client, url, "tasks/get", taskId=done["taskId"])
                    if first["status"] == "completed":
                        break
                    await asyncio.sleep(0.05)
            process.kill()
        with served(log) as (url, _):
            again = await asked(client, url, "tasks/get", taskId=done["taskId"])
            lost = await asked(client, url, "tasks/get", taskId=made["taskId"])
    assert again["result"] == first["result"]
    assert lost["status"] == "failed"
    assert "lost" in lost["error"]["message"]


async def test_a_server_that_stops_does_not_wait_for_its_clients() -> None:
    with served() as (url, process):
        async with Client(url, mode="legacy") as old, Client(url, mode="2026-07-28") as new:
            calls = [
                asyncio.create_task(one.call_tool("slow_compute", {"seconds": 600}))
                for one in (old, new)
            ]
            async with new.listen(tools_list_changed=True) as news, http() as client:
                await until_executing(client, url, 2)
                began = time.monotonic()
                process.terminate()
                for call in calls:
                    result = await soon(call, 5)
                    assert result.is_error
                assert [event async for event in news] == []
            await asyncio.to_thread(process.wait, 10)
            assert time.monotonic() - began < 8
