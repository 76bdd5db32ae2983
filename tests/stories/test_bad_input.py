"""The story of bad input: whatever is sent, the answer says what is wrong and what to do.

Never a 500, never a traceback, never a silent default; and nothing that is stored is lost.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tests.host import hosted
from tests.refusals import EVENTS, RUN, TABLE, Bad
from tests.stage import Stage, staged
from tests.visitor import Visit

pytestmark = pytest.mark.anyio


def add_operations(stage: Stage) -> None:
    @stage.runs.operation
    def needy(name: str) -> str:
        return name

    @stage.runs.operation
    def anything(value: Any) -> Any:
        return value


@pytest.fixture(params=["memory", "sqlite"], scope="module")
async def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Stage]:
    """One server for the whole table: what one request breaks, the next ones see."""
    place: Path = tmp_path_factory.mktemp("log") / "bad.db"
    async with staged(MemoryLog() if request.param == "memory" else SqliteLog(place)) as stage:
        add_operations(stage)
        key = {"idempotency-key": "used"}
        answer = await stage.visitor.post("/runs", {"operation": "count"}, key)
        await stage.ended(answer.json["id"])
        yield stage


async def going(stage: Stage) -> str:
    """A running run with two events, of the thread `busy`."""
    wish = {"operation": "puppet", "input": {"name": "Ada"}, "thread": "busy"}
    run = str((await stage.visitor.post("/runs", wish)).json["id"])
    await stage.head(run, 2)
    return run


@pytest.fixture(scope="module")
async def run(stage: Stage) -> str:
    return await going(stage)


async def everything(stage: Stage) -> tuple[Any, ...]:
    """All that is stored."""
    runs = (await stage.visitor.get("/runs?limit=200")).json
    paths = [f"/runs/{run['id']}/events?format=json" for run in runs["runs"]]
    return (runs, *[(await stage.visitor.get(path)).json for path in paths])


def is_clear(answer: Visit, bad: Bad) -> None:
    """The problem says what and why and what to do, in few words and none of ours."""
    problem = answer.json
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] in (f"urn:tailrace:{bad.code}", "about:blank")
    assert (problem["status"], problem["code"]) == (bad.status, bad.code)
    assert len(problem["title"]) > 5
    assert len(problem["detail"]) > 15
    assert len(problem["fix"]) > 5
    assert len(answer.body) < 12_000
    for echoed in "x9":
        assert problem["detail"].count(echoed) <= 210, "too much of the input comes back"
    for word in ("Traceback", 'File "', "site-packages", "Error(", "<object", "0x7f"):
        assert word not in answer.text
    for _, value in answer.raw_headers:
        assert not set(b"\r\n\0") & set(value)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", TABLE)
async def test_bad_input_is_refused_clearly_and_costs_nothing(
    stage: Stage, run: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    bad = TABLE[name]
    before = await everything(stage)
    with (
        caplog.at_level(logging.DEBUG, "tailrace"),
        # That it was asked for is written down where somebody wants to know.
        caplog.at_level(logging.WARNING, "tailrace.audit"),
    ):
        answer = await stage.visitor.ask(
            bad.method, bad.target.replace(RUN, run), bad.headers, body=bad.body, chunks=bad.chunks
        )
    assert (answer.status, answer.json["code"]) == (bad.status, bad.code), answer
    is_clear(answer, bad)
    assert caplog.text == ""
    assert await everything(stage) == before
    assert stage.runs.hub.is_idle


async def test_the_run_goes_on_as_if_nothing_had_been_sent(stage: Stage, run: str) -> None:
    stage.finish(run, "fine")
    record = await stage.ended(run)
    assert (record.state, record.result) == ("completed", b'"fine"')
    assert (await stage.visitor.get(EVENTS.replace(RUN, run))).ids == [1, 2, 3]


# --- the same over a socket -----------------------------------------------------------------


async def asked(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            # Whoever is refused early may find the connection closed while still sending.
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
            answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"set-cookie" not in head.lower()
    return int(head.split()[1]), body


def written(bad: Bad, run: str) -> bytes:
    """The request as a client would write it."""
    headers = {"content-type": "application/json", **bad.headers, "connection": "close"}
    body = bad.body or b""
    if bad.chunks is not None:
        headers["transfer-encoding"] = "chunked"
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in bad.chunks)
        body += b"0\r\n\r\n"
    elif bad.method == "POST":
        headers.setdefault("content-length", str(len(body)))
    lines = [f"{bad.method} {bad.target.replace(RUN, run)} HTTP/1.1", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_the_same_over_a_socket(http: str, caplog: pytest.LogCaptureFixture) -> None:
    async with staged() as stage, hosted(stage.runs.asgi, http=http) as port:
        add_operations(stage)
        key = {"idempotency-key": "used"}
        await stage.visitor.post("/runs", {"operation": "count"}, key)
        run = await going(stage)
        wrong = {}
        for name, bad in TABLE.items():
            status, body = await asked(port, written(bad, run))
            # What no header may carry, the server itself refuses (RFC 9110 §5.5).
            own = any(set(value) & set("\r\n\0\x01\x7f") for value in bad.headers.values())
            if not (own and status == 400):
                code = json.loads(body)["code"] if body else None
                if (status, code) != (bad.status, bad.code):
                    wrong[name] = (status, code)
        assert wrong == {}
        assert (await stage.runs.record(run)).last_seq == 2
        assert len((await stage.visitor.get("/runs")).json["runs"]) == 2
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /runs/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nhost: x\r\n",
        b"GET http://other/runs/x HTTP/1.1\r\nhost: x\r\n",
        b"GET /runs/%c0%ae%c0%ae HTTP/1.1\r\nhost: x\r\n",
        b"GET /runs/x\x00 HTTP/1.1\r\nhost: x\r\n",
        b"GET /runs/\xff\xfe HTTP/1.1\r\nhost: x\r\n",
        b"GET /runs/x HTTP/1.1\r\nhost: x\r\nlast-event-id: \xff\r\n",
        b"GET /events?after=%ff HTTP/1.1\r\nhost: x\r\n",
        b"GET /runs?state=%ff&q=%ed%a0%80 HTTP/1.1\r\nhost: x\r\n",
        b"BREW /runs HTTP/1.1\r\nhost: x\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999999999999\r\n",
    ],
)
async def test_what_only_a_socket_can_say(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged() as stage, hosted(stage.runs.asgi) as port:
        status, _ = await asked(port, request_ + b"connection: close\r\n\r\n")
        assert 400 <= status < 500
        assert (await stage.visitor.get("/healthz")).status == 200
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
