"""Tools of another MCP server as runs: relayed, watched by many, cancelled, and survived."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.client import AsyncClient
from tailrace.engine import Engine
from tailrace.mcp.address import Address, address
from tailrace.mcp.upstream import Upstream
from tailrace.protocol.lifecycle import State
from tailrace.run import Run
from tests.markets import ERAS, Market, market
from tests.processes import Served, eventually, serving
from tests.waiting import soon, until
from tests.watching import Watcher, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

CALLS = 150
CANCELS = 20
WATCHERS = 100
BURST = 2000


@pytest.fixture(params=ERAS)
def shop(request: pytest.FixtureRequest) -> Iterator[Market]:
    with market(request.param) as one:
        yield one


@pytest.fixture
async def engine(shop: Market) -> AsyncIterator[Engine]:
    async with joined(shop) as engine:
        await listed(engine)
        yield engine


@pytest.fixture
def served(shop: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("TAILRACE_TEST_MARKET", shop.url)
    with serving("tailrace", tmp_path / "log.db") as one:
        offers(one)
        yield one


def joined(shop: Market) -> Engine:
    engine = Engine("memory:")
    engine.companions.append(Upstream(engine, address("market", {"url": shop.url})).life)
    return engine


async def listed(engine: Engine) -> None:
    await until(lambda: engine.operations.find("market.hold"), "the tools are known", 20)


def offers(served: Served) -> None:
    from tests.processes import until as until_here

    def names() -> set[str]:
        return {one["name"] for one in served.ask("GET", "/operations")[1]["operations"]}

    until_here(lambda: "market.count" in names(), "the tools are offered", 20)


async def begin(engine: Engine, tool: str, timeout: float | None = None, **given: Any) -> Run:
    record, _ = await engine.submit(f"market.{tool}", given, timeout=timeout)
    return engine.run(record.id)


async def ending(run: Run, within: float = 30) -> tuple[State, dict[str, Any]]:
    record = await soon(run.wait(), within)
    return record.state, json.loads(record.error or b"{}")


def frames(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Ids and messages, as a browser would have them."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n") if ": " in line)
        if "data" in fields:
            found.append((fields.get("id", ""), json.loads(fields["data"])))
    return found


def target(served: Served, run: str) -> str:
    return f"{served.events_of(run)}?format=jsonrpc"


# --- what is relayed -------------------------------------------------------------------


async def test_a_call_as_json_rpc(served: Served, shop: Market) -> None:
    run = served.start("market.count", n=3, every=0.05)
    async with watchers() as party:
        first = await Watcher.open(served.port, target(served, run))
        party.append(first)
        await first.over()
        told = frames(bytes(first.body))
        assert [id for id, _ in told] == ["1", "2", "3", "4", "5", "6"]
        progress = [message["params"] for _, message in told[:-1]]
        assert {message["method"] for _, message in told[:-1]} == {"notifications/progress"}
        assert progress[0] == {"progressToken": run, "progress": 0, "message": "connected"}
        assert [(p["progress"], p["total"]) for p in progress[1:]] == [(n, 3) for n in range(4)]
        assert json.loads(progress[-1]["message"])["number"] == 3
        assert told[-1][1] == {
            "jsonrpc": "2.0",
            "id": run,
            "result": {
                "content": [{"type": "text", "text": "counted 3"}],
                "structuredContent": {"result": "counted 3"},
                "isError": False,
            },
        }
        again = await Watcher.open(served.port, target(served, run), headers={"last-event-id": "3"})
        party.append(again)
        await again.over()
        assert frames(bytes(again.body)) == told[3:]
    assert shop.seen("began") == 1


async def test_a_client_gets_the_same_frames(served: Served) -> None:
    async with AsyncClient(f"http://127.0.0.1:{served.port}") as client:
        told = [frame async for frame in client.call_tool_streaming("market.count", {"n": 3})]
        run = told[-1]["id"]
        async with watchers() as party:
            party.append(await Watcher.open(served.port, target(served, run)))
            await party[0].over()
            assert told == [message for _, message in frames(bytes(party[0].body))]
        (*_, error) = [frame async for frame in client.call_tool_streaming("market.fail")]
        assert error["error"]["code"] == -32000
        assert "The exchange is closed." in error["error"]["message"]


async def test_a_hundred_watch_one_call(served: Served, shop: Market) -> None:
    run = served.start("market.count", n=40, every=0.05)
    async with watchers() as party:
        for _ in range(WATCHERS):
            party.append(await Watcher.open(served.port, target(served, run)))
        await asyncio.gather(*(watcher.over() for watcher in party))
        bodies = {json.dumps(frames(bytes(watcher.body))) for watcher in party}
        delays = [
            at - json.loads(message["params"]["message"])["sent"]
            for at, message in arrived(party[0])
            if "sent" in message.get("params", {}).get("message", "")
        ]
    assert len(bodies) == 1
    assert shop.seen("began") == 1
    median = statistics.median(delays) * 1000
    print(f"{shop.era}: tool to browser, one of {WATCHERS}: median {median:.1f} ms")
    assert len(delays) > 20
    assert median < 25


def arrived(watcher: Watcher) -> Iterator[tuple[float, dict[str, Any]]]:
    """Messages, and when their last byte was there."""
    end = 0
    for block in bytes(watcher.body).split(b"\n\n")[:-1]:
        end += len(block) + 2
        told = frames(block)
        at = next(at for at, size in watcher.arrivals if size >= end)
        if told:
            yield at, told[0][1]


async def test_a_burst_comes_in_order(engine: Engine) -> None:
    run = await begin(engine, "burst", n=BURST)
    assert await soon(run.result(), 60) == {"result": f"told {BURST}"}
    told = [event.payload["current"] async for event in run.events() if event.type == "progress"]
    assert told == list(range(BURST))


async def test_a_tool_may_be_silent(engine: Engine) -> None:
    run = await begin(engine, "silent", seconds=20)
    assert await soon(run.result(), 40) == {"result": "was silent"}


async def test_calls_do_not_disturb_each_other(engine: Engine, shop: Market) -> None:
    dropped = [await begin(engine, "hold") for _ in range(30)]
    await eventually(lambda: shop.seen("began") == len(dropped), "all of them go on", 60)
    # Not one of them ends before all are there.
    kept = [await begin(engine, "meet", n=CALLS) for _ in range(CALLS)]
    for run in dropped:
        await run.cancel()
    ends = [await ending(run, 60) for run in kept]
    assert {state for state, _ in ends} == {State.COMPLETED}
    assert {(await ending(run))[0] for run in dropped} == {State.CANCELLED}
    await eventually(lambda: shop.seen("ended") == CALLS + len(dropped), "none goes on there")


# --- what is stopped -------------------------------------------------------------------


async def test_a_cancelled_call_stops_the_tool(engine: Engine, shop: Market) -> None:
    runs = [await begin(engine, "hold") for _ in range(CANCELS)]
    await eventually(lambda: shop.seen("began") == CANCELS, "all of them go on", 30)
    for run in runs:
        await run.cancel()
    took = await eventually(lambda: shop.seen("cancelled") == CANCELS, "all are cancelled", 5)
    print(f"{shop.era}: {CANCELS} of {CANCELS} tools had stopped after {took:.2f} s")
    assert {(await ending(run))[0] for run in runs} == {State.CANCELLED}
    assert took < 1


async def test_so_does_one_that_takes_too_long(engine: Engine, shop: Market) -> None:
    run = await begin(engine, "hold", timeout=1.0)
    state, error = await ending(run)
    assert (state, error["reason"]) == (State.TIMED_OUT, "timed_out")
    await eventually(lambda: shop.seen("cancelled") == 1, "the tool is cancelled", 2)


async def test_and_one_whose_server_is_stopped(served: Served, shop: Market) -> None:
    served.start("market.hold")
    await eventually(lambda: shop.seen("began") == 1, "it goes on")
    served.terminate()
    served.wait(10)
    await eventually(lambda: shop.seen("cancelled") == 1, "the tool is cancelled", 2)


async def test_and_one_that_hears_nothing(engine: Engine, shop: Market) -> None:
    """Its run ends within grace and a second all the same; it learns of it once it listens."""
    run = await begin(engine, "hold")
    await eventually(lambda: shop.seen("began") == 1, "it goes on")
    shop.send(signal.SIGSTOP)
    try:
        await run.cancel()
        began = time.monotonic()
        assert (await ending(run))[0] is State.CANCELLED
        assert time.monotonic() - began < 6.5
    finally:
        shop.send(signal.SIGCONT)
    await eventually(lambda: shop.seen("cancelled") == 1, "the tool is cancelled", 5)


async def test_silence_beyond_what_is_allowed(shop: Market) -> None:
    quiet = Address(name="market", url=shop.url, silence=1.0)
    engine = Engine("memory:")
    engine.companions.append(Upstream(engine, quiet).life)
    async with engine:
        await listed(engine)
        state, error = await ending(await begin(engine, "silent", seconds=30))
    assert state is State.LOST
    if shop.era == "modern":
        assert error["error"].startswith("The upstream market has sent nothing for 1 s")
        await eventually(lambda: shop.seen("cancelled") == 1, "the tool is cancelled", 2)


# --- what is survived ------------------------------------------------------------------


async def test_the_upstream_is_killed_and_comes_back(engine: Engine, shop: Market) -> None:
    runs = [await begin(engine, "hold") for _ in range(5)]
    await eventually(lambda: shop.seen("began") == 5, "all of them go on")
    shop.kill()
    for run in runs:
        state, error = await ending(run)
        assert state is State.LOST
        assert error["error"].startswith("The upstream market was gone before hold had answered")
    lone = await begin(engine, "pair", a=1, b=2)
    state, error = await ending(lone)
    assert error["error"].startswith("The upstream market does not answer at http://127.0.0.1")
    patient = await begin(engine, "pair", a=1, b=2)
    shop.launch()
    # Begun while nobody was there, and answered once somebody is.
    assert await soon(patient.result(), 20) == {"sum": 3}
    assert await soon((await begin(engine, "pair", a=3, b=4)).result()) == {"sum": 7}


async def test_our_server_is_killed(
    shop: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_TEST_MARKET", shop.url)
    log = tmp_path / "log.db"
    with serving("tailrace", log) as served:
        offers(served)
        run = served.start("market.hold")
        await eventually(lambda: shop.seen("began") == 1, "it goes on")
        served.kill()
    with serving("tailrace", log, port=served.port) as again:
        await eventually(lambda: again.show(run)["ended_at"] is not None, "it has ended", 5)
        assert again.show(run)["state"] == "lost"
        async with watchers() as party:
            party.append(await Watcher.open(again.port, target(again, run)))
            await party[0].over()
            (*_, (_, last)) = frames(bytes(party[0].body))
        assert (last["id"], last["error"]["code"]) == (run, -32002)
        if shop.era == "modern":
            # Before 2026-07-28 a connection that ends says nothing.
            await eventually(lambda: shop.seen("cancelled") == 1, "the tool is cancelled", 2)


async def test_an_upstream_that_is_not_there_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Market("modern", {})
    monkeypatch.setenv("TAILRACE_TEST_MARKET", shop.url)
    with serving("tailrace", tmp_path / "log.db") as served:
        began = time.monotonic()
        assert served.ask("POST", "/runs", {"operation": "market.pair"})[0] == 404
        assert time.monotonic() - began < 1
        try:
            shop.launch()
            await asyncio.to_thread(offers, served)
        finally:
            shop.kill()
