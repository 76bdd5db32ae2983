import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.eventlog.contract import Retention
from tailrace.http import playback
from tests.stage import Stage, Tale, staged
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

OPENING = b": tailrace\nretry: 1000\n"


class Sleeper:
    """Sleeps without taking time. `slept` is how long; `hook` is called with each sum."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.hook: Any = None

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= playback._SLICE_SECONDS
        self.slept += seconds
        if self.hook is not None:
            self.hook(self.slept)
        await asyncio.sleep(0)


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    sleeper = Sleeper()
    monkeypatch.setattr(playback, "asyncio", SimpleNamespace(sleep=sleeper.sleep))
    return sleeper


async def timed(visit: Visit, sleeper: Sleeper) -> list[tuple[int, float]]:
    """The events of a playback, and when each of them came."""
    seen: list[tuple[int, float]] = []

    def look(so_far: float) -> None:
        seen.extend((id_, so_far) for id_ in visit.ids[len(seen) :])

    sleeper.hook = lambda slept: look(slept - playback._SLICE_SECONDS)
    await visit.over()
    look(sleeper.slept)
    return seen


@pytest.mark.parametrize("speed", [1, 4, 0.5])
async def test_the_pauses_are_those_recorded(
    stage: Stage, visitor: Visitor, sleeper: Sleeper, speed: float
) -> None:
    run = await stage.written(
        [("log", {}, 1), ("log", {}, 3), ("log", {}, 3), ("log", {}, 11)], ends=12
    )
    visit = visitor.open("GET", f"/runs/{run}/events?speed={speed:g}")
    seen = await timed(visit, sleeper)
    assert visit.status == 200
    assert [id_ for id_, _ in seen] == [1, 2, 3, 4, 5]
    for (_, at), due in zip(seen, [0, 2, 2, 10, 11], strict=True):
        assert at == pytest.approx(due / speed, abs=2 * playback._SLICE_SECONDS)
    assert sleeper.slept == pytest.approx(11 / speed)


@pytest.mark.parametrize("query", ["", "&format=text", "&format=typed", "&format=ndjson"])
async def test_the_bytes_are_those_of_a_replay(
    stage: Stage, visitor: Visitor, sleeper: Sleeper, query: str
) -> None:
    run = await stage.written([("log", {"n": n}, n) for n in range(5)], ends=6)
    played = await visitor.get(f"/runs/{run}/events?speed=10{query}")
    plain = await visitor.get(f"/runs/{run}/events?x{query}")
    assert played.body == plain.body
    assert sorted(played.raw_headers) == sorted(plain.raw_headers)


async def test_a_playback_resumes_and_filters(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    told: list[Tale] = [
        ("log", {}, 1),
        ("progress", {}, 2),
        ("log", {}, 5),
        ("log", {}, 6),
    ]
    run = await stage.written(told, ends=8)
    visit = visitor.open("GET", f"/runs/{run}/events?speed=1&types=log", {"last-event-id": "1"})
    await visit.over()
    assert visit.ids == [3, 4, 5]
    assert sleeper.slept == pytest.approx(3)


async def test_a_playback_goes_on_in_the_midst_of_an_event(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    told: list[Tale] = [("log", {}, 1), ("thinking_start", {"part": "1.0"}, 2), ("log", {}, 3)]
    run = await stage.written(told, ends=4)
    target = f"/runs/{run}/events?speed=10&format=ag-ui"
    whole = (await visitor.get(target)).events
    answer = await visitor.get(target, {"last-event-id": "2.1"})
    assert [event.id for event in whole] == ["1.1", "1", "2.1", "2", "3", "4"]
    assert answer.events == whole[3:]
    assert answer.headers["last-event-id"] == "2.1"


async def test_a_run_that_goes_on_has_no_timing_yet(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    answer = await visitor.get(f"/runs/{run}/events?speed=4")
    assert (answer.status, answer.json["code"]) == (409, "run-active")
    assert answer.json["fix"]


async def test_a_gap_comes_before_the_first_event(sleeper: Sleeper) -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        run = await stage.written([("log", {"n": n}, 1) for n in range(9)], ends=1)
        first = (await stage.runs.record(run)).first_seq
        path = f"/runs/{run}/events"
        answer = await stage.visitor.get(f"{path}?speed=4")
        assert answer.body == (await stage.visitor.get(path)).body
        assert answer.events[0].event == "gap"
        assert json.loads(answer.events[0].data) == {"run": run, "from": 1, "to": first - 1}


async def test_silence_has_its_keep_alives(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    run = await stage.written([("log", {}, 0)], ends=100)
    sleeper.hook = lambda slept: stage.beat(16 * slept) if slept in (10, 20) else None
    answer = await visitor.get(f"/runs/{run}/events?speed=1")
    assert answer.body.count(b": keep-alive\n") == 2
    assert answer.ids == [1, 2]


async def test_ticks_in_a_playback(stage: Stage, visitor: Visitor, sleeper: Sleeper) -> None:
    run = await stage.written([("log", {}, 0)], ends=3)
    sleeper.hook = lambda slept: stage.beat(5) if slept == 1 else None
    answer = await visitor.get(f"/runs/{run}/events?speed=1&tick=2")
    assert [event.event for event in answer.events] == ["log", "tick", "complete"]


async def test_a_watcher_may_leave_in_a_pause(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    run = await stage.written([("log", {}, 0)], ends=1000)
    visit = visitor.open("GET", f"/runs/{run}/events?speed=0.01")
    sleeper.hook = lambda slept: visit.leave() if slept == 2 else None
    await visit.over()
    assert visit.ids == [1]
    assert not visit.is_complete
    assert sleeper.slept < 10
    assert stage.runs.hub.is_idle


async def test_the_server_may_go_away_in_a_pause(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    run = await stage.written([("log", {}, 0)], ends=1000)
    sleeper.hook = lambda slept: stage.runs.hub.drain() if slept == 2 else None
    answer = await visitor.get(f"/runs/{run}/events?speed=0.01")
    assert answer.body.endswith(b"\n\nretry: 500\n: end\n")
    assert answer.ids == [1]
    assert sleeper.slept < 10


async def test_a_run_may_be_forgotten_while_it_is_played(
    stage: Stage, visitor: Visitor, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await stage.written([("log", {}, 0), ("log", {}, 1)], ends=2)
    read = stage.log.read

    async def once(*asked: Any) -> Any:
        blocks = await read(*asked)
        await visitor.ask("DELETE", f"/runs/{run}")
        return blocks[:2]

    monkeypatch.setattr(stage.log, "read", once)
    answer = await visitor.get(f"/runs/{run}/events?speed=1")
    assert [event.event for event in answer.events] == ["log", "log", "gap"]
    assert json.loads(answer.events[-1].data) == {"run": run, "from": 3, "to": 3}
    assert answer.body.endswith(b": end\n")


@pytest.mark.parametrize(
    "stamp",
    ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+00:00", "yesterday", "", 1e300, None, 12, [],
     "0001-01-01", "9999-12-31"],
)  # fmt: skip
async def test_a_producer_may_stamp_as_it_likes(
    stage: Stage, visitor: Visitor, sleeper: Sleeper, stamp: Any
) -> None:
    told = [("log", {}, 1), ("log", {"timestamp": stamp}, 2), ("log", {}, 3)]
    run = await stage.written(told, ends=4)
    answer = await visitor.get(f"/runs/{run}/events?speed=1")
    assert answer.ids == [1, 2, 3, 4]
    assert sleeper.slept == pytest.approx(3, abs=0.01)


async def test_time_does_not_run_backwards(
    stage: Stage, visitor: Visitor, sleeper: Sleeper
) -> None:
    run = await stage.written([("log", {}, 5), ("log", {}, 2), ("log", {}, 6)], ends=7)
    answer = await visitor.get(f"/runs/{run}/events?speed=1")
    assert answer.ids == [1, 2, 3, 4]
    assert sleeper.slept == pytest.approx(2)
