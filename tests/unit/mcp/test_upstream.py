"""An upstream's life, beside that of its engine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from mcp_types import Tool

from tailrace.engine import Engine
from tailrace.errors import SettingsInvalid
from tailrace.mcp import toolbox, upstream
from tailrace.mcp.address import address
from tailrace.mcp.upstream import Upstream
from tests.markets import APP, ERAS, Market, market
from tests.processes import free_port
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=ERAS)
def shop(request: pytest.FixtureRequest) -> Iterator[Market]:
    with market(request.param) as one:
        yield one


def joined(engine: Engine, url: str) -> Engine:
    engine.companions.append(Upstream(engine, address("market", {"url": url})).life)
    return engine


async def test_its_tools_are_there_while_the_engine_is(shop: Market) -> None:
    engine = joined(Engine("memory:"), shop.url)
    for _ in range(2):
        async with engine:
            await until(lambda: engine.operations.find("market.pair"), "listed")
            pair = engine.operations.get("market.pair")
            assert pair.parameters["required"] == ["a", "b"]
            run = await pair.start(a=1, b=2)
            assert await soon(run.result()) == {"sum": 3}
        assert list(engine.operations) == []


async def test_a_dead_one_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "_FIRST_SECONDS", 0.01)
    shop = Market("modern", {})
    engine = joined(Engine("memory:"), shop.url)
    began = time.monotonic()
    async with engine:
        assert time.monotonic() - began < 1
        assert list(engine.operations) == []
        try:
            shop.launch()
            await until(lambda: engine.operations.find("market.pair"), "asked again", 20)
        finally:
            shop.kill()
        assert engine.operations.find("market.pair") is not None, "it stays"


async def test_a_program_has_tools_too() -> None:
    engine = Engine("memory:")
    given = {"command": [sys.executable, APP], "env": ["MARKET_TEST"]}
    one = Upstream(engine, address("local", given), {"MARKET_TEST": "there"})
    engine.companions.append(one.life)
    async with engine:
        await until(lambda: engine.operations.find("local.environment"), "listed")
        environment = engine.operations.get("local.environment")
        run = await environment.start(name="MARKET_TEST")
        assert await soon(run.result()) == {"result": "there"}
    assert list(engine.operations) == []


async def test_a_program_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine("memory:")
    engine.companions.append(Upstream(engine, address("local", {"command": ["/no/such"]})).life)
    async with engine:
        await until(lambda: "The upstream local cannot be started" in caplog.text)


async def test_an_engine_that_ends_before_anything_was_asked() -> None:
    async with joined(Engine("memory:"), f"http://127.0.0.1:{free_port()}/mcp"):
        pass


async def test_tools_that_come_later() -> None:
    with market() as shop:
        async with joined(Engine("memory:"), shop.url) as engine:
            await until(lambda: engine.operations.find("market.grow"), "listed")
            await soon((await engine.operations.get("market.grow").start()).wait())
            await until(lambda: engine.operations.find("market.grown"), "listed again")


async def test_tools_of_one_that_tells_nobody(
    shop: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolbox, "REFRESH_SECONDS", 0.01)
    listed: list[int] = []
    offer = toolbox.Toolbox._offer

    def noted(self: toolbox.Toolbox, tools: Iterable[Tool]) -> None:
        listed.append(1)
        offer(self, tools)

    monkeypatch.setattr(toolbox.Toolbox, "_offer", noted)
    async with joined(Engine("memory:"), shop.url):
        await until(lambda: len(listed) > 3, "listed again")


def test_a_key_must_be_there_at_the_start() -> None:
    keyed = address("market", {"url": "http://127.0.0.1:1/mcp", "key_env": "MARKET_KEY"})
    with pytest.raises(SettingsInvalid, match="MARKET_KEY, that is not set"):
        Upstream(Engine("memory:"), keyed, {})
    Upstream(Engine("memory:"), keyed, {"MARKET_KEY": "hunter2"})


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "find_spec", lambda _: None)
    with pytest.raises(SettingsInvalid, match="needs the MCP SDK") as refused:
        Upstream(Engine("memory:"), address("market", {"url": "http://127.0.0.1:1/mcp"}))
    assert "tailrace[mcp]" in refused.value.fix


def test_to_have_one_costs_no_import() -> None:
    code = (
        "import sys, tailrace.mcp.upstream, tailrace.mcp.address\n"
        "sys.exit('mcp.client' in sys.modules or 'mcp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Path(str(upstream.__file__)).name == "upstream.py"
