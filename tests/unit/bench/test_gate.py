"""That the bench of the gate measures what it says."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from bench.gate import (
    ASKS,
    KINDS,
    Figure,
    Kind,
    housed,
    lines,
    per_event,
    pieces,
    requests,
    watched,
)

pytestmark = pytest.mark.anyio


async def test_every_request_of_every_kind() -> None:
    figures = await requests(streets=1, rounds=1, count=2)
    assert figures.keys() == ASKS.keys()
    for name, figure in figures.items():
        assert all(len(costs) == 1 and costs[0] > 0 for costs in figure.costs.values())
        assert len(lines(name, figure)) == len(KINDS)


async def test_the_pieces() -> None:
    found = await pieces(count=3)
    assert len(found) == 6
    assert all(took >= 0 for took in found.values())


async def test_events() -> None:
    figure = await per_event(streets=1, rounds=1, events=300)
    assert all(costs[0] > 0 for costs in figure.costs.values())


async def test_the_gate_is_there(tmp_path: Path) -> None:
    async with housed(KINDS["the whole gate"], tmp_path) as house:
        assert house.statuses == {201}
        house.headers = [(b"host", b"127.0.0.1:4000")]
        await house.ask(ASKS["GET /runs/{id}"])
        house.headers = [(b"host", b"evil.example")]
        await house.ask(ASKS["GET /runs/{id}"])
        assert house.statuses == {201, 401, 403}


async def test_it_is_written_down_only_where_it_is_said(tmp_path: Path) -> None:
    for name in ("and rates", "and rates, audit"):
        (tmp_path / name).mkdir()
        async with housed(KINDS[name], tmp_path / name) as house:
            with house.noted():
                await house.ask(ASKS["POST /runs"])
    assert not (tmp_path / "and rates" / "audit.jsonl").exists()
    text = (tmp_path / "and rates, audit" / "audit.jsonl").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1


async def test_a_stream_is_what_is_asked_for(tmp_path: Path) -> None:
    async with housed(Kind(), tmp_path) as house:
        assert b"event: start\n" in await house.ask(ASKS["GET /runs/{id}/events"])


async def test_an_event_takes_as_many_sends_with_the_gate(tmp_path: Path) -> None:
    """And the gate is in none of them: the app has the server's own `send`."""
    sends = {}
    for name in ("no gate", "the whole gate"):
        (tmp_path / name).mkdir()
        async with housed(KINDS[name], tmp_path / name) as house:
            _, sends[name] = await watched(house, 2000)
    assert sends["no gate"] > 10
    assert sends["the whole gate"] == pytest.approx(sends["no gate"], rel=0.3)


async def test_send_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async with housed(KINDS["the whole gate"], tmp_path) as house:
        seen: list[object] = []
        inner = house.app._app

        async def spy(scope: object, receive: object, send: object) -> None:
            seen.extend((receive, send))
            await inner(scope, receive, send)

        house.app._app = spy
        await house.ask(ASKS["GET /runs/{id}"])
        assert [inspect.getmodule(each) for each in seen] == [inspect.getmodule(Figure)] * 2


def test_what_is_added_is_of_each_round_by_itself() -> None:
    figure = Figure()
    for kind in KINDS:
        figure.costs[kind] = [10.0, 100.0, 20.0]
    figure.costs["the whole gate"] = [12.0, 103.0, 22.0]
    assert figure.added("the whole gate") == 2
    assert figure.added("no gate") == 0
