"""The MCP face behind the server's door: who asks is asked of MCP clients as of all others."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.closed import House
from tests.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_script_as_a_tool(house: House, mode: str) -> None:
    ada = await asyncio.to_thread(house.key, "ada", "run,watch")
    bob = await asyncio.to_thread(house.key, "bob", "run,watch")
    await eventually(lambda: house.ask("GET", "/runs", x_api_key=bob)[0] == 200, "it is known")
    url = f"http://127.0.0.1:{house.port}/mcp"
    told: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async def ask(key: str, tool: str, **given: str) -> tuple[bool, str, str]:
        async with (
            httpx2.AsyncClient(headers={"x-api-key": key}, timeout=20) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            answer = await client.call_tool(tool, given, progress_callback=hear)
            run = str((answer.meta or {}).get("tailrace/run", ""))
            return bool(answer.is_error), str(answer.content), run

    async with asyncio.timeout(60):
        is_error, content, run = await ask(ada, "script", file="hello.sh")
        assert not is_error
        assert "hello" in content
        assert told[0] == 0
        assert told == sorted(set(told))
        # It is a run like any other, and nobody else's.
        assert house.ask("GET", f"/runs/{run}", x_api_key=ada)[1]["state"] == "completed"
        assert house.ask("GET", f"/runs/{run}", x_api_key=bob)[0] == 404
        assert (await ask(ada, "run_get", run=run))[0] is False
        assert (await ask(bob, "run_get", run=run))[0] is True
    answer = httpx2.post(url, json={}, trust_env=False)
    assert answer.status_code == 401
    foreign = {"x-api-key": ada, "origin": "https://evil.example"}
    assert httpx2.post(url, json={}, headers=foreign, trust_env=False).status_code == 403
