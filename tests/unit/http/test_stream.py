"""GET /runs/{id}/events and its kin, as they go over the wire."""

import json

import pytest

from tailrace.eventlog.contract import Retention
from tailrace.projections import STREAMS
from tailrace.protocol.wire import HEARTBEAT_SECONDS
from tests.stage import Stage, Tale, staged
from tests.turns import THINKING
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio

OPENING = b": tailrace\nretry: 1000\n"
KEEP_ALIVE = b": keep-alive\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"last-event-id", b"0"),
]
LAST = HEARTBEAT_SECONDS + 1


async def test_the_head_and_the_whole_body(stage: Stage, visitor: Visitor) -> None:
    run = await stage.written([("log", {"message": "hi"}, 1)], ends=2)
    answer = await visitor.get(f"/runs/{run}/events")
    assert answer.status == 200
    assert sorted(answer.raw_headers) == sorted(STREAM_HEADERS), "and no content-length"
    assert answer.body == OPENING + (
        b'id: 1\nevent: log\ndata: {"message":"hi","timestamp":"2023-11-14T22:13:21.000Z"}\n\n'
        b'id: 2\nevent: complete\ndata: {"status":"completed",'
        b'"timestamp":"2023-11-14T22:13:22.000Z"}\n\n'
        b": end\n"
    )
    assert answer.chunks[0] == OPENING
    assert answer.chunks[-1] == b": end\n"


@pytest.mark.parametrize("name", STREAMS)
async def test_something_is_sent_before_the_work_does_anything(name: str) -> None:
    async with staged(idle=True) as stage:
        run = await stage.start()
        async with stage.visitor.visit("GET", f"/runs/{run}/events?format={name}") as visit:
            await visit.until(lambda v: v.body)
            assert visit.body == STREAMS[name].opening != b""
        assert (await stage.runs.record(run)).last_seq == 0


async def test_a_post_answers_with_the_stream_before_the_work_does_anything() -> None:
    async with staged(idle=True) as stage:
        async with stage.visitor.visit(
            "POST", "/runs", {"accept": "text/event-stream"}, json={"operation": "puppet"}
        ) as visit:
            await visit.until(lambda v: v.body)
            assert visit.status == 201
            assert visit.body == OPENING
            here = visit.headers["location"]
            assert visit.headers["content-location"] == f"{here}/events"
            head = {"location", "content-location"}
            others = [(n, v) for n, v in visit.raw_headers if n.decode() not in head]
            assert sorted(others) == sorted(STREAM_HEADERS)
        assert (await stage.visitor.get(here)).json["state"] == "queued"


async def test_a_post_streams_to_the_end_and_a_repeat_resumes(
    stage: Stage, visitor: Visitor
) -> None:
    asked = {"operation": "puppet", "input": {"name": "Ada"}}
    key = {"idempotency-key": "mine", "accept": "text/event-stream"}
    async with visitor.visit("POST", "/runs?types=log", key, json=asked) as visit:
        await visit.told(b"I am Ada")
        assert visit.status == 201
        run = visit.headers["location"].rpartition("/")[2]
        cut = visit.last_id
    stage.emit(run, "log", message="while away")
    # A client that knows only its own request repeats it, with what it has.
    again = visitor.open("POST", "/runs", {**key, "last-event-id": cut}, json=asked)
    await again.told(b"while away")
    stage.finish(run)
    await again.over()
    assert again.status == 200
    assert again.ids == [3, 4]
    over = await visitor.post("/runs", asked, {**key, "last-event-id": "4"})
    assert over.status == 204
    assert len((await visitor.get("/runs")).json["runs"]) == 1


@pytest.mark.parametrize(
    ("query", "where"), [("", "/events"), ("?format=text", "/events?format=text")]
)
async def test_where_a_posted_stream_is(visitor: Visitor, query: str, where: str) -> None:
    answer = await visitor.post(
        f"/runs{query}", {"operation": "count"}, {"accept": "text/event-stream"}
    )
    assert answer.headers["content-location"] == answer.headers["location"] + where
    again = await visitor.get(answer.headers["content-location"])
    assert again.body == answer.body


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "media", "first"),
    [
        ("events", "text/event-stream; charset=utf-8", b'id: 1\nevent: log\ndata: {"message"'),
        ("text", "text/event-stream; charset=utf-8", b"id: 1\ndata: [info] hi\n\n"),
        ("typed", "text/event-stream; charset=utf-8", b'id: 1\ndata: {"type":"log","message"'),
        ("ndjson", "application/x-ndjson", b'{"id":"1","type":"log","data":{"message":"hi"'),
    ],
)
async def test_every_format(
    stage: Stage, visitor: Visitor, name: str, media: str, first: bytes
) -> None:
    run = await stage.written([("log", {"message": "hi"}, 1)], ends=2)
    answer = await visitor.get(f"/runs/{run}/events?format={name}")
    assert (answer.status, answer.headers["content-type"]) == (200, media)
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert "content-length" not in answer.headers
    assert answer.body.removeprefix(STREAMS[name].opening).startswith(first)
    assert b"\r" not in answer.body
    if name != "ndjson":
        assert answer.ids == [1, 2]
        assert answer.body.endswith(b"\n\n: end\n")
    by_accept = await visitor.get(
        f"/runs/{run}/events", {"accept": f"application/json;q=0.1, {media}"}
    )
    assert by_accept.body == (answer if media.endswith("ndjson") else await visitor.get(
        f"/runs/{run}/events"
    )).body  # fmt: skip


async def test_ndjson_is_json_on_every_line(stage: Stage, visitor: Visitor) -> None:
    run = await stage.done("count", rows=3)
    answer = await visitor.get(f"/runs/{run}/events?format=ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    assert [line["id"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert [line["type"] for line in lines] == ["start", *["progress"] * 3, "complete"]


# --- cursors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "header", "ids"),
    [
        ("", None, [1, 2, 3, 4]),
        ("?after=", None, [1, 2, 3, 4]),
        ("?after=0", None, [1, 2, 3, 4]),
        ("?after=2", None, [3, 4]),
        ("", "3", [4]),
        ("?after=1", "3", [4]),
        ("?after=latest", "3", [4]),
        ("?after=3", "", [4]),
        ("?after=0-2", None, [3, 4]),
        # One frame of event 3 was received, and in this format it has no more.
        ("?after=3.1", None, [4]),
        ("?after=3.0", None, [3, 4]),
    ],
)
async def test_where_a_watcher_goes_on(
    stage: Stage, visitor: Visitor, query: str, header: str | None, ids: list[int]
) -> None:
    run = await stage.written([("log", {"n": n}, n) for n in range(3)], ends=4)
    headers = {} if header is None else {"last-event-id": header}
    answer = await visitor.get(f"/runs/{run}/events{query}", headers)
    assert (answer.status, answer.ids) == (200, ids)


async def test_a_cut_between_two_frames_of_an_event(stage: Stage, visitor: Visitor) -> None:
    said: list[Tale] = [(type_, payload, n) for n, (type_, payload) in enumerate(THINKING[:-1])]
    run = await stage.written(said, ends=len(said))
    target = f"/runs/{run}/events?format=ag-ui"
    whole = (await visitor.get(target)).events
    assert [event.id for event in whole[:6]] == ["1", "2", "3", "4.1", "4", "5"]
    for cut, event in enumerate(whole[:-1], 1):
        again = await visitor.get(target, {"last-event-id": event.id})
        assert again.events == whole[cut:]
        assert again.headers["last-event-id"] == event.id, "to be cut again costs nothing"
    last = await visitor.get(target, {"last-event-id": whole[-1].id})
    assert last.status == 204


async def test_watchers_with_and_without_a_part_of_an_event(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    stage.emit(run, "thinking_start", part="1.0")
    await stage.head(run, 3)
    target = f"/runs/{run}/events?format=ag-ui&after="
    async with (
        visitor.visit("GET", f"{target}2") as whole,
        visitor.visit("GET", f"{target}3.1") as rest,
    ):
        stage.emit(run, "thinking_chunk", part="1.0", chunk="hm")
        for visit in (whole, rest):
            await visit.told(b'"hm"')
        assert [event.id for event in whole.events] == ["3.1", "3", "4"]
        assert rest.events == whole.events[1:]


async def test_a_part_of_an_event_that_is_gone() -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        run = await stage.written([("thinking_start", {"part": f"{n}.0"}, 1) for n in range(9)])
        first = (await stage.runs.record(run)).first_seq
        target = f"/runs/{run}/events?format=ag-ui&after=2.1"
        async with stage.visitor.visit("GET", target) as visit:
            await visit.until(lambda v: len(v.events) > 4)
            gap, *rest = visit.events
            assert json.loads(gap.data)["value"] == {"run": run, "from": 2, "to": first - 1}
            assert rest[0].id == f"{first}.1"
            assert visit.headers["last-event-id"] == str(first - 1)


@pytest.mark.parametrize("name", STREAMS)
async def test_nothing_is_left_at_the_last_event(stage: Stage, visitor: Visitor, name: str) -> None:
    run = await stage.written(ends=1)
    for query, headers in (
        ("after=1", {}),
        ("after=latest", {}),
        ("after=0", {"last-event-id": "1"}),
        ("after=1&speed=2", {}),
        ("after=1&types=log", {}),
    ):
        answer = await visitor.get(f"/runs/{run}/events?format={name}&{query}", headers)
        assert (answer.status, answer.body) == (204, b""), query
        assert "content-type" not in answer.headers


@pytest.mark.parametrize("query", ["after=3", "after=1-1", "after=999999999999999999"])
async def test_a_cursor_from_the_future(stage: Stage, visitor: Visitor, query: str) -> None:
    run = await stage.written(ends=1)
    for format_ in ("events", "ndjson", "json"):
        answer = await visitor.get(f"/runs/{run}/events?{query}&format={format_}")
        assert (answer.status, answer.json["code"]) == (400, "cursor-from-future")


async def test_latest_means_from_now_on(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    await stage.head(run, 2)
    async with visitor.visit("GET", f"/runs/{run}/events?after=latest") as visit:
        await visit.told(OPENING)
        # Where that is, for whoever is cut before the first event.
        assert visit.headers["last-event-id"] == "2"
        stage.emit(run, "log", message="now")
        await visit.told(b"now")
        assert visit.ids == [3]


async def test_any_number_of_cuts_lose_and_repeat_nothing(stage: Stage, visitor: Visitor) -> None:
    run = await stage.start()
    whole = visitor.open("GET", f"/runs/{run}/events")
    cursor, frames = "0", b""
    for n in range(12):
        async with visitor.visit("GET", f"/runs/{run}/events", {"last-event-id": cursor}) as visit:
            stage.emit(run, "log", message=f"number {n};")
            await visit.told(b"number %d;" % n)
            frames += visit.body.removeprefix(OPENING)
            cursor = visit.last_id
    stage.finish(run)
    end = await visitor.get(f"/runs/{run}/events?after={cursor}")
    await whole.over()
    assert whole.body == OPENING + frames + end.body.removeprefix(OPENING)
    assert whole.ids == list(range(1, 16))


async def test_trimmed_history_is_a_gap() -> None:
    async with staged(retention=Retention(run_events=4)) as stage:
        run = await stage.written([("log", {"n": n}, n) for n in range(9)], ends=10)
        first = (await stage.runs.record(run)).first_seq
        assert first > 1
        for format_, told in (
            ("events", f'event: gap\ndata: {{"run":"{run}","from":1,"to":{first - 1}}}\n\n'),
            ("text", f"data: [events 1 to {first - 1} are no longer kept]\n\n"),
        ):
            answer = await stage.visitor.get(f"/runs/{run}/events?format={format_}")
            body = answer.text.removeprefix(OPENING.decode())
            assert body.startswith(told)
            assert f"\nid: {first}\n" in body
        page = (await stage.visitor.get(f"/runs/{run}/events?format=json")).json
        assert page["gap"] == {"from": 1, "to": first - 1}
        assert page["events"][0]["id"] == str(first)


# --- filters ---------------------------------------------------------------------------------


async def test_a_filter_lets_its_types_and_the_end_through(stage: Stage, visitor: Visitor) -> None:
    told: list[Tale] = [
        ("log", {}, 1),
        ("progress", {}, 2),
        ("log", {}, 3),
        ("x:y", {}, 4),
    ]
    run = await stage.written(told, ends=5)
    for types, ids in (
        ("log", [1, 3, 5]),
        ("log,x:y", [1, 3, 4, 5]),
        ("start", [5]),
        ("complete", [5]),
        ("nobody.emits.this", [5]),
    ):
        answer = await visitor.get(f"/runs/{run}/events?types={types}")
        assert answer.ids == ids, types
