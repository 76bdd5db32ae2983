"""GET /events: many runs over one connection."""

import json
import random
from typing import Any

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException

from tailrace.errors import CursorMalformed, InputInvalid, RunUnknown, Unauthorized
from tailrace.facade import Tailrace
from tailrace.http import many
from tailrace.http.many import MAX_RUNS, chosen_runs, positions
from tailrace.protocol.access import ADMIN, RUN, SCOPES, WATCH, Access
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import TERMINAL_TYPES
from tailrace.protocol.runs import run_id
from tailrace.protocol.sse import ServerSentEvent
from tests.stage import Stage
from tests.visitor import Visit, Visitor

OPENING = b": tailrace\nretry: 1000\n"
A, B = run_id(b"a" * 16), run_id(b"b" * 16)


@pytest.fixture(autouse=True)
def discovered_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_DISCOVER_SECONDS", 0.01)


class Ledger:
    """All that a client has received, over all of its connections."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[int, str, Any]]] = {}
        self.last_id = ""

    def take(self, frames: list[ServerSentEvent]) -> None:
        for frame in frames:
            told = json.loads(frame.data)
            known = self.events.setdefault(told["run"], [])
            known.append((int(told["id"]), frame.event, told["data"]))
            self.last_id = frame.id

    def of(self, run: str) -> list[int]:
        return [number for number, _, _ in self.events.get(run, [])]


async def whole(visitor: Visitor, run: str) -> list[tuple[int, str, Any]]:
    """What the run's own stream has."""
    page = (await visitor.get(f"/runs/{run}/events?format=json&limit=10000")).json
    return [(int(event["id"]), event["type"], event["data"]) for event in page["events"]]


def has(visit: Visit, run: str, text: str) -> bool:
    return any(run in event.data and text in event.data for event in visit.events)


# --- reading what is asked -------------------------------------------------------------------


def test_runs_are_named_or_all_are_meant() -> None:
    assert chosen_runs(None) is None
    assert chosen_runs(f"{B},{A},{B}") == [B, A]


@pytest.mark.parametrize("text", ["", ",", f"{A},", "x", f"{A} ,{B}", A.upper(), "../etc"])
def test_other_names_are_unknown_runs(text: str) -> None:
    with pytest.raises(RunUnknown):
        chosen_runs(text)


def test_one_stream_carries_so_many() -> None:
    names = [run_id(number.to_bytes(16, "big")) for number in range(MAX_RUNS + 1)]
    assert chosen_runs(",".join(names[:-1])) == names[:-1]
    with pytest.raises(InputInvalid):
        chosen_runs(",".join(names))


def test_a_vector() -> None:
    assert positions("") is None
    assert positions("12~") == (12, {})
    assert positions(f"12~{A}:57,{B}:1-3") == (12, {A: Cursor(0, 57), B: Cursor(1, 3)})


@pytest.mark.parametrize(
    "text",
    ["x", "12", "~", f"12~{A}", f"12~{A}:", f"12~{A}:x", f"12~{A}:57,", f"12~{A}:57 ", f"~{A}:57",
     f"-1~{A}:57", "12~run_x:57", f"12~{A}:57\n", f"\u0661~{A}:57", f"12~{A}:{'9' * 41}",
     f"12~{A}:{'9' * 19}", f"{'9' * 19}~", "57", f"12~{A}:1.2.3"],
)  # fmt: skip
def test_other_vectors_are_malformed(text: str) -> None:
    with pytest.raises(CursorMalformed) as caught:
        positions(text)
    assert len(str(caught.value)) < 200


# --- telling ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_named_runs_to_their_ends(stage: Stage, visitor: Visitor) -> None:
    done, going = await stage.done(), await stage.start(name="second")
    visit = visitor.open("GET", f"/events?runs={done},{going}")
    await visit.until(lambda v: has(v, going, "second"))
    assert (visit.status, visit.chunks[0]) == (200, OPENING)
    assert visit.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert visit.headers["cache-control"] == "no-cache, no-transform"
    assert visit.headers["x-accel-buffering"] == "no"
    assert "content-length" not in visit.headers
    stage.finish(going)
    await visit.over()
    assert visit.is_complete
    assert visit.body.endswith(b"\n\n: end\n")
    assert b"\r" not in visit.body
    ledger = Ledger()
    ledger.take(visit.events)
    for run in (done, going):
        assert ledger.events[run] == await whole(visitor, run)
    # With the last id of it all, nothing is left and nothing will ever come.
    headers = {"last-event-id": ledger.last_id}
    over = await visitor.get(f"/events?runs={done},{going}", headers)
    assert (over.status, over.body) == (204, b"")
    over = await visitor.get(f"/events?runs={done},{going}&after={ledger.last_id}")
    assert over.status == 204


@pytest.mark.anyio
async def test_all_that_goes_on_and_all_that_comes(stage: Stage, visitor: Visitor) -> None:
    done, going = await stage.done(), await stage.start(name="going")
    async with visitor.visit("GET", "/events") as visit:
        await visit.until(lambda v: has(v, going, "going"))
        coming = await stage.start(name="coming")
        await visit.until(lambda v: has(v, coming, "coming"))
        brief = await stage.done("count", rows=3)
        await visit.until(lambda v: has(v, brief, "completed"))
        ledger = Ledger()
        ledger.take(visit.events)
        assert done not in ledger.events
        assert ledger.of(coming) == [1, 2]
        assert ledger.events[brief] == await whole(visitor, brief)
    assert stage.runs.hub.is_idle
    assert stage.runs.hub.channels == 0


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["header", "query"])
async def test_what_ended_and_what_began_while_away(
    stage: Stage, visitor: Visitor, where: str
) -> None:
    one, two, three = [await stage.start(name=f"number {n};") for n in range(3)]
    ledger = Ledger()
    async with visitor.visit("GET", "/events") as visit:
        await visit.until(lambda v: all(has(v, run, "number") for run in (one, two, three)))
        stage.finish(one)
        await visit.until(lambda v: has(v, one, "completed"))
        ledger.take(visit.events)
    # Away: one goes on, one ends, one begins, and one both begins and ends.
    stage.emit(two, "log", message="while away")
    stage.finish(three)
    await stage.ended(three)
    began = await stage.start(name="began")
    brief = await stage.done("count", rows=2)
    await stage.head(two, 3)
    await stage.head(began, 2)
    headers = {"last-event-id": ledger.last_id} if where == "header" else {}
    query = "" if where == "header" else f"?after={ledger.last_id}"
    async with visitor.visit("GET", f"/events{query}", headers) as visit:
        await visit.until(
            lambda v: has(v, two, "while away") and has(v, three, "completed")
            and has(v, began, "began") and has(v, brief, "completed")
        )  # fmt: skip
        ledger.take(visit.events)
    for run in (one, two, three, began, brief):
        assert ledger.events[run] == await whole(visitor, run)


@pytest.mark.anyio
async def test_cuts_at_any_frame_lose_and_repeat_nothing(stage: Stage, visitor: Visitor) -> None:
    """A client that is cut after each single frame, while the runs go on, begin and end."""
    chance = random.Random(7)
    ledger = Ledger()
    open_ = [await stage.start(name=f"first {n}") for n in range(3)]
    everything = list(open_)
    lasts: dict[str, str] = {}
    for step in range(25):
        async with visitor.visit("GET", "/events", {"last-event-id": ledger.last_id}) as visit:
            if step % 5 == 4 and len(open_) > 1:
                stage.finish(open_.pop(chance.randrange(len(open_))))
            if step % 6 == 5:
                open_.append(await stage.start(name=f"later {step}"))
                everything.append(open_[-1])
            run = chance.choice(open_)
            stage.emit(run, "log", message=f"step {step}.")
            lasts[run] = f"step {step}."
            await visit.until(lambda v: len(v.events) >= 1, "told something")
            # What came beyond the first frame was lost on the way.
            ledger.take(visit.events[:1])
    for run in open_:
        stage.finish(run)
        await stage.ended(run)

    def is_all(visit: Visit) -> bool:
        now = {json.loads(e.data)["run"] for e in visit.events if e.event in TERMINAL_TYPES}
        before = {run for run in everything if ledger.events.get(run, [(0, "", "")])[-1][1] in
                  TERMINAL_TYPES}  # fmt: skip
        return now | before == set(everything)

    async with visitor.visit("GET", "/events", {"last-event-id": ledger.last_id}) as visit:
        await visit.until(is_all, "told of all ends")
        ledger.take(visit.events)
    for run in everything:
        assert ledger.events[run] == await whole(visitor, run)


@pytest.mark.anyio
async def test_a_first_visit_without_runs_waits_for_some(stage: Stage, visitor: Visitor) -> None:
    async with visitor.visit("GET", "/events") as visit:
        await visit.told(OPENING)
        stage.beat(16)
        await visit.told(b": keep-alive\n")
        run = await stage.start(name="first")
        await visit.until(lambda v: has(v, run, "first"))


@pytest.mark.anyio
async def test_the_server_goes_away_with_many(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start(name="Ada")
    visit = visitor.open("GET", "/events")
    await visit.until(lambda v: has(v, run, "Ada"))
    stage.runs.hub.drain()
    await visit.over()
    assert visit.body.endswith(b"\n\nretry: 500\n: end\n")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"/events?runs={A}", 404, "run-unknown"),
        ("/events?runs=", 404, "run-unknown"),
        ("/events?runs=x", 404, "run-unknown"),
        ("/events?after=57", 400, "cursor-malformed"),
        (f"/events?after=1~{A}", 400, "cursor-malformed"),
        ("/events?after=" + "9" * 5000, 400, "cursor-malformed"),
    ],
)
async def test_what_is_refused(visitor: Visitor, target: str, status: int, code: str) -> None:
    answer = await visitor.get(target)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["fix"]


@pytest.mark.anyio
async def test_a_run_forgotten_while_away_is_left_out(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start(name="Ada")
    async with visitor.visit("GET", "/events") as visit:
        await visit.until(lambda v: has(v, run, "Ada"))
        cut = visit.last_id
    stage.finish(run)
    await stage.ended(run)
    await visitor.ask("DELETE", f"/runs/{run}")
    async with visitor.visit("GET", "/events", {"last-event-id": cut}) as visit:
        other = await stage.start(name="Bob")
        await visit.until(lambda v: has(v, other, "Bob"))
        assert not has(visit, run, "")


@pytest.mark.anyio
async def test_a_cursor_ahead_of_its_run_is_refused_at_once(stage: Stage, visitor: Visitor) -> None:
    run = await stage.done()
    for target in ("/events", f"/events?runs={run}"):
        answer = await visitor.get(target, {"last-event-id": f"1~{run}:99"})
        assert (answer.status, answer.json["code"]) == (400, "cursor-from-future")


@pytest.mark.anyio
async def test_more_runs_than_one_stream_carries_are_told_in_their_order(
    stage: Stage, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "MAX_RUNS", 2)
    runs = [await stage.start(name=f"number {number}") for number in range(5)]
    ledger = Ledger()

    def told(visit: Visit, known: list[str]) -> bool:
        return {json.loads(event.data)["run"] for event in visit.events} >= set(known)

    async with visitor.visit("GET", "/events") as visit:
        await visit.until(lambda v: told(v, runs[:2]))
        stage.finish(runs[0])
        # Room for one more, and only for one.
        await visit.until(lambda v: told(v, runs[:3]))
        ledger.take(visit.events)
    assert set(ledger.events) == set(runs[:3])
    for run in runs[1:]:
        stage.finish(run)
        await stage.ended(run)
    headers = {"last-event-id": ledger.last_id}
    async with visitor.visit("GET", "/events", headers) as visit:
        await visit.until(lambda v: all(has(v, run, "completed") for run in runs[1:]))
        ledger.take(visit.events)
    for run in runs:
        assert ledger.events[run] == await whole(visitor, run)


# --- whoever is not known any more -----------------------------------------------------------


class Door:
    """Says who asks, until it says otherwise."""

    def __init__(self) -> None:
        self.found: Access | Exception = Access.of("ada")

    def __call__(self, request: Request) -> Access:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def quick() -> int:
    return 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Unauthorized("The key was revoked."), "unauthorized"),
        (HTTPException(401, "The session is over."), "unauthorized"),
        (Access.of("ada", [RUN]), "scope-missing"),
    ],
    ids=["revoked", "host", "no-scope"],
)
async def test_whoever_is_refused_by_now_sees_no_new_runs(
    refusal: Access | Exception, code: str
) -> None:
    door = Door()
    async with Tailrace("memory:", principal=door) as runs:
        runs.operation(quick)
        visitor = Visitor(runs.asgi)
        visit = visitor.open("GET", "/events")
        await visit.told(OPENING)
        known, _ = await runs.submit("quick", {}, principal="ada")
        await visit.until(lambda v: has(v, known.id, "completed"))
        door.found = refusal
        hidden, _ = await runs.submit("quick", {}, principal="ada")
        await visit.over()
    assert visit.is_complete
    assert hidden.id not in visit.text
    last = visit.events[-1]
    assert (last.event, json.loads(last.data)["code"]) == ("error", code)
    assert not runs.hub.connections


@pytest.mark.anyio
async def test_whose_runs_are_seen_is_asked_again() -> None:
    door = Door()
    door.found = Access.of("root", [*SCOPES])
    assert ADMIN in SCOPES
    async with Tailrace("memory:", principal=door) as runs:
        runs.operation(quick)
        async with Visitor(runs.asgi).visit("GET", "/events") as visit:
            theirs, _ = await runs.submit("quick", {}, principal="ada")
            await visit.until(lambda v: has(v, theirs.id, "completed"))
            door.found = Access.of("root", [WATCH])
            asked = len(visit.chunks)
            hidden, _ = await runs.submit("quick", {}, principal="ada")
            own, _ = await runs.submit("quick", {}, principal="root")
            await visit.until(lambda v: has(v, own.id, "completed"))
            assert len(visit.chunks) > asked
            assert hidden.id not in visit.text
