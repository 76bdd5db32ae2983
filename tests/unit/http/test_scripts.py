"""GET and POST /run_file: a script by one request, and how one comes back to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from tailrace.cohort import Cohort
from tailrace.facade import Tailrace
from tailrace.http.limits import Limits
from tailrace.projections import STREAMS
from tailrace.protocol.access import Access
from tailrace.protocol.runs import RunQuery, run_id
from tailrace.protocol.sse import Decoder
from tests.stage import Stage, staged
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

OPENING = b": tailrace\nretry: 1000\n"
NOBODY = run_id(b"nobody knows me.")
# It goes on once there is a file `go` beside it.
WAITS = "echo one\nuntil [ -e go ]; do sleep 0.01; done\necho two\n"

Write = Callable[..., str]


@pytest.fixture
def write(stage: Stage, tmp_path: Path) -> Write:
    stage.runs.allow_scripts(tmp_path)

    def write(text: str, name: str = "it.sh") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return f"/run_file?file_path={name}"

    return write


def said(visit: Visit) -> list[str]:
    """The messages, without the elapsed time."""
    return [event.data for event in visit.events if not event.data.endswith(" s]")]


def named(visit: Visit) -> str:
    return visit.headers["tailrace-run"]


async def started(stage: Stage) -> list[str]:
    return [record.id for record in await stage.runs.find(RunQuery())]


# --- the stream --------------------------------------------------------------------------------


async def test_a_script_from_its_start_to_its_end(
    stage: Stage, visitor: Visitor, write: Write
) -> None:
    answer = await visitor.get(write("echo hello\n"))
    run = named(answer)
    assert answer.status == 200
    assert answer.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
        "content-location": f"/runs/{run}/events?format=text",
        "tailrace-run": run,
        "last-event-id": f"{run}:0",
    }
    assert answer.body.startswith(OPENING + f"id: {run}:0\n\n".encode())
    assert said(answer) == ["Starting execution of it.sh…", "hello", "*** Execution completed ***"]
    assert [event.id for event in answer.events] == [f"{run}:{n}" for n in (1, 2, 3)]
    assert answer.body.endswith(b"\n\n: end\n")
    there = await visitor.get(answer.headers["content-location"])
    assert [event.data for event in there.events] == said(answer)
    assert there.ids == [1, 2, 3]
    assert await started(stage) == [run]


async def test_how_a_script_fails(visitor: Visitor, write: Write) -> None:
    last = said(await visitor.get(write("echo no >&2\nexit 3\n")))[-1]
    assert last.startswith("*** Execution failed: ")
    assert "code 3" in last
    last = said(await visitor.get(write("sleep 60\n") + "&timeout=0.1"))[-1]
    assert last.startswith("*** Execution timed out: ")


async def test_a_script_is_cancelled_by_the_run_that_is_named(
    visitor: Visitor, write: Write
) -> None:
    async with visitor.visit("GET", write(WAITS)) as visit:
        await visit.told(b"data: one\n")
        assert (await visitor.post(f"/runs/{named(visit)}/cancel")).status == 202
        await visit.over()
        assert said(visit)[-1] == "*** Execution cancelled: requested ***"


async def test_lines_end_as_they_like(visitor: Visitor, write: Write) -> None:
    answer = await visitor.get(write(r"printf 'a\r\nid: 9\rb\n\ndata: c\n'" + "\n"))
    assert "\n".join(said(answer)[1:-1]) == "a\nid: 9\nb\n\ndata: c"
    assert b"\r" not in answer.body
    assert len({event.id for event in answer.events}) == len(answer.events)


async def test_arguments_come_in_their_order(visitor: Visitor, write: Write) -> None:
    target = write('for each in "$@"; do echo "<$each>"; done\n')
    answer = await visitor.get(f"{target}&args=b%20c&args=--a&args=&args=%24HOME")
    assert "\n".join(said(answer)[1:-1]) == "<b c>\n<--a>\n<>\n<$HOME>"


async def test_what_else_is_asked_for(stage: Stage, visitor: Visitor, write: Write) -> None:
    answer = await visitor.get(
        write("echo oops >&2\n") + "&stderr=merge&timeout=7&abandon_after=9.5"
    )
    record = await stage.runs.record(named(answer))
    assert json.loads(record.input)["stderr"] == "merge"
    assert (record.timeout, record.abandon_after) == (7, 9.5)
    refused = await visitor.get(write("") + "&profile=nobodys")
    assert refused.status in (403, 422)
    assert await started(stage) == [record.id]


@pytest.mark.parametrize(("query", "tick"), [("", 2.0), ("&tick=5", 5.0)])
async def test_the_time_is_told_in_silence(
    stage: Stage, visitor: Visitor, write: Write, query: str, tick: float
) -> None:
    async with visitor.visit("GET", write(WAITS) + query) as visit:
        await visit.told(b"data: one\n")
        (cohort,) = [timed for timed in stage.runs.hub.clock._wheel if isinstance(timed, Cohort)]
        assert (cohort.manner.tick, cohort.manner.in_silence) == (tick, True)
        stage.beat(tick - 0.5)
        assert b" s]" not in visit.body
        stage.beat(tick + 0.5)
        await visit.told(b" s]\n\n")


# --- coming back -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("by", ["header", "query"])
async def test_whoever_comes_back_gets_the_rest_and_starts_nothing(  # noqa: PLR0917 - fixtures
    stage: Stage, visitor: Visitor, write: Write, tmp_path: Path, method: str, by: str
) -> None:
    target = write(WAITS)

    def again(last: str) -> Visit:
        if by == "query":
            return visitor.open(method, f"{target}&after={last}")
        return visitor.open(method, target, {"last-event-id": last})

    async with visitor.visit(method, target) as visit:
        await visit.told(b"data: one\n")
        run = named(visit)
    rest = again(visit.last_id)
    await rest.told(OPENING)
    (tmp_path / "go").touch()
    await rest.over()
    assert rest.status == 200
    assert named(rest) == run
    assert rest.headers["last-event-id"] == visit.last_id
    assert said(rest) == ["two", "*** Execution completed ***"]
    whole = await visitor.get(f"/runs/{run}/events?format=text")
    assert said(visit) + said(rest) == [event.data for event in whole.events]
    over = await again(rest.last_id).over()
    assert (over.status, over.body) == (204, b"")
    assert await started(stage) == [run]


@pytest.mark.parametrize("name", ["text", "events", "typed"])
async def test_who_is_cut_before_the_first_event_has_an_id_already(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "it.sh").touch()
    async with staged(idle=True) as stage:
        stage.runs.allow_scripts(tmp_path)
        target = f"/run_file?file_path=it.sh&format={name}"
        async with stage.visitor.visit("GET", target) as visit:
            run = named(await visit.until(lambda visit: visit.body))
            decoder = Decoder()
            assert decoder.feed(visit.body) == []
            assert decoder.last_event_id == f"{run}:0"
        async with stage.visitor.visit("GET", target, {"last-event-id": f"{run}:0"}) as again:
            await again.until(lambda visit: visit.body)
            assert named(again) == run
        assert await started(stage) == [run]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    "last",
    ["57", "0", "latest", "nonsense", ":5", "run_x:5", f"{NOBODY}", f"{NOBODY}:", f"{NOBODY}:x",
     f"{NOBODY}:latest", f"{NOBODY}:1:1", f"12~{NOBODY}:57"],
)  # fmt: skip
async def test_an_id_that_names_no_run_starts_nothing(  # noqa: PLR0917 - each a case
    stage: Stage, visitor: Visitor, write: Write, method: str, name: str, last: str
) -> None:
    target = f"{write('')}&format={name}"
    for answer in (
        await visitor.ask(method, target, {"last-event-id": last}),
        await visitor.ask(method, f"{target}&after={last}"),
    ):
        assert (answer.status, answer.json["code"]) == (400, "cursor-malformed")
        assert answer.json["fix"]
    assert await started(stage) == []


async def test_a_run_that_is_not_there(stage: Stage, visitor: Visitor, write: Write) -> None:
    answer = await visitor.get(write(""), {"last-event-id": f"{NOBODY}:5"})
    assert (answer.status, answer.json["code"]) == (404, "run-unknown")
    assert await started(stage) == []


async def test_the_header_overrules_the_query(visitor: Visitor, write: Write) -> None:
    target = write("echo one\necho two\n")
    run = named(await visitor.get(target))
    target += f"&after={run}:0"
    assert (await visitor.get(target, {"last-event-id": ""})).events[0].id == f"{run}:1"
    assert (await visitor.get(target, {"last-event-id": f"{run}:1"})).events[0].id == f"{run}:2"
    future = await visitor.get(target, {"last-event-id": f"{run}:99"})
    assert (future.status, future.json["code"]) == (400, "cursor-from-future")


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["events", "typed", "ndjson"])
async def test_other_formats(visitor: Visitor, write: Write, name: str) -> None:
    answer = await visitor.get(f"{write('echo hello')}&format={name}")
    there = answer.headers["content-location"]
    assert there == f"/runs/{named(answer)}/events?format={name}"
    assert answer.headers["last-event-id"] == f"{named(answer)}:0"
    told = (await visitor.get(there)).body
    if name != "ndjson":
        opening = STREAMS[name].opening
        lead = opening + f"id: {named(answer)}:0\n\n".encode()
        told = lead + told.removeprefix(opening).replace(b"id: ", f"id: {named(answer)}:".encode())
    assert answer.body == told


@pytest.mark.parametrize(
    ("accept", "query", "shown"),
    [
        ("", "", "text"),
        ("*/*", "", "text"),
        ("text/event-stream", "", "text"),
        ("application/x-ndjson", "", "ndjson"),
        ("text/event-stream;q=0.5, application/x-ndjson", "", "ndjson"),
        ("application/x-ndjson", "&format=text", "text"),
    ],
)
async def test_text_unless_asked_otherwise(
    visitor: Visitor, write: Write, accept: str, query: str, shown: str
) -> None:
    answer = await visitor.get(write("") + query, {"accept": accept} if accept else {})
    assert answer.status == 200
    assert answer.headers["content-location"].endswith(f"?format={shown}")


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 422, "input-invalid"),
        ("file_path=nothing.sh", 403, "path-forbidden"),
        ("file_path=../it.sh", 403, "path-forbidden"),
        ("file_path=/etc/passwd", 403, "path-forbidden"),
        ("file_path=", 403, "path-forbidden"),
        ("file_path=it.sh&timeout=0", 422, "input-invalid"),
        ("file_path=it.sh&timeout=nan", 422, "input-invalid"),
        ("file_path=it.sh&timeout=soon", 422, "input-invalid"),
        ("file_path=it.sh&abandon_after=-1", 422, "input-invalid"),
        ("file_path=it.sh&tick=0", 422, "input-invalid"),
        ("file_path=it.sh&tick=inf", 422, "input-invalid"),
        ("file_path=it.sh&stderr=both", 422, "input-invalid"),
        ("file_path=it.sh&format=xml", 406, "format-unknown"),
        ("file_path=it.sh&format=json", 406, "format-unknown"),
        ("file_path=it.sh&format=", 406, "format-unknown"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_refused_before_any_stream(  # noqa: PLR0917 - each a case
    stage: Stage, visitor: Visitor, write: Write, method: str, query: str, status: int, code: str
) -> None:
    write("")
    answer = await visitor.ask(method, f"/run_file?{query}")
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["fix"]
    assert await started(stage) == []


async def test_nothing_is_acceptable(stage: Stage, visitor: Visitor, write: Write) -> None:
    for accept in ("image/png", "application/json"):
        answer = await visitor.get(write(""), {"accept": accept})
        assert (answer.status, answer.json["code"]) == (406, "format-unknown")
    assert await started(stage) == []


async def test_a_server_without_scripts(visitor: Visitor) -> None:
    for method in ("GET", "POST"):
        answer = await visitor.ask(method, "/run_file?file_path=it.sh")
        assert (answer.status, answer.json["code"]) == (404, "operation-unknown")
        assert "--allow-root" in answer.json["fix"]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
async def test_other_methods(visitor: Visitor, write: Write, method: str) -> None:
    answer = await visitor.ask(method, write(""))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"


# --- POST --------------------------------------------------------------------------------------


async def test_a_body_says_all_that_a_query_can(
    stage: Stage, visitor: Visitor, write: Write
) -> None:
    write('for each in "$@"; do echo "<$each>"; done\n')
    asked = {"file_path": "it.sh", "args": ["a b", "c"], "timeout": 7, "tick": 5, "stderr": None}
    answer = await visitor.post("/run_file", asked)
    assert answer.status == 200
    assert "\n".join(said(answer)[1:-1]) == "<a b>\n<c>"
    assert (await stage.runs.record(named(answer))).timeout == 7
    answer = await visitor.post("/run_file", {"file_path": "it.sh", "format": "ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"


async def test_numbers_among_the_arguments(visitor: Visitor, write: Write) -> None:
    write('for each in "$@"; do echo "<$each>"; done\n')
    answer = await visitor.post("/run_file", {"file_path": "it.sh", "args": ["--n", 3, 0.5]})
    assert "\n".join(said(answer)[1:-1]) == "<--n>\n<3>\n<0.5>"


@pytest.mark.parametrize(
    ("target", "body", "status", "code"),
    [
        ("/run_file?file_path=it.sh", {"file_path": "it.sh"}, 422, "input-invalid"),
        ("/run_file?tick=3", {"file_path": "it.sh"}, 422, "input-invalid"),
        ("/run_file", {}, 422, "input-invalid"),
        ("/run_file", [], 422, "input-invalid"),
        ("/run_file", {"file_path": 5}, 422, "input-invalid"),
        ("/run_file", {"file_path": "it.sh", "timeout": "5"}, 422, "input-invalid"),
        ("/run_file", {"file_path": "it.sh", "args": "a"}, 422, "input-invalid"),
        ("/run_file", {"file_path": "it.sh", "args": [True]}, 422, "input-invalid"),
        ("/run_file", {"file_path": "it.sh", "colour": "red"}, 422, "input-invalid"),
        ("/run_file", {"file_path": "it.sh", "format": "xml"}, 406, "format-unknown"),
        ("/run_file", {"file_path": "../it.sh"}, 403, "path-forbidden"),
    ],
)
async def test_a_body_that_is_refused(  # noqa: PLR0917 - each a case
    stage: Stage, visitor: Visitor, write: Write,
    target: str, body: Any, status: int, code: str,
) -> None:  # fmt: skip
    write("")
    answer = await visitor.post(target, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert await started(stage) == []


async def test_a_form_is_no_body(stage: Stage, visitor: Visitor, write: Write) -> None:
    write("")
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await visitor.ask("POST", "/run_file", form, body=b"file_path=it.sh")
    assert (answer.status, answer.json["code"]) == (415, "body-not-json")
    assert await started(stage) == []


async def test_a_repeated_post_answers_the_same_run(
    stage: Stage, visitor: Visitor, write: Write
) -> None:
    target, key = write("echo once\n"), {"idempotency-key": "mine"}
    first = await visitor.ask("POST", target, key)
    again = await visitor.ask("POST", target, key)
    assert (again.status, again.body) == (200, first.body)
    assert await started(stage) == [named(first)]
    other = await visitor.ask("POST", f"{target}&args=x", key)
    assert (other.status, other.json["code"]) == (422, "idempotency-key-reused")


# --- in a host ---------------------------------------------------------------------------------


async def test_in_somebodys_app(stage: Stage, write: Write) -> None:
    host = FastAPI()
    host.mount("/mounted", stage.runs.asgi)
    host.include_router(stage.runs.router, prefix="/a b")
    target = write("")
    for lead, shown in (("/mounted", "/mounted"), ("/a%20b", "/a%20b")):
        answer = await Visitor(host).get(lead + target)
        assert answer.status == 200
        there = answer.headers["content-location"]
        assert there == f"{shown}/runs/{named(answer)}/events?format=text"
        assert (await Visitor(host).get(there)).ids[0] == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_page_of_another_site_starts_anything(
    stage: Stage, visitor: Visitor, write: Write, site: str, method: str
) -> None:
    target = write("echo hello")
    answer = await visitor.ask(method, target, headers={"sec-fetch-site": site})
    assert (answer.status, answer.json["code"]) == (403, "origin-forbidden")
    assert await started(stage) == []


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_our_own_pages_may(visitor: Visitor, write: Write, site: str) -> None:
    answer = await visitor.get(write("echo hello"), headers={"sec-fetch-site": site})
    assert answer.status == 200


async def test_to_come_back_is_to_watch(tmp_path: Path) -> None:
    """An `EventSource` that is refused once never comes again."""
    (tmp_path / "it.sh").write_text("echo hello\n")
    limits = Limits(rates={"run": "1/minute"}, keyed={"run": "1/minute"})

    def scopes(request: Request) -> Access:
        return Access.of("ada", request.headers["x-scopes"].split(","))

    runs = Tailrace(tmp_path / "x.db", principal=scopes, limits=limits)
    runs.allow_scripts(tmp_path)
    async with runs:
        visitor = Visitor(runs.asgi)
        may = {"x-scopes": "run,watch"}
        path = "/run_file?file_path=it.sh"
        run = named(await visitor.get(path, may))
        assert (await visitor.get(path, may)).status == 429
        for _ in range(3):
            back = await visitor.get(path, {"x-scopes": "watch", "last-event-id": f"{run}:1"})
            assert [event.id for event in back.events] == [f"{run}:2", f"{run}:3"]
        assert (await visitor.get(path, {"x-scopes": "watch"})).status == 403
