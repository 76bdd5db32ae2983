from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.http import cut
from tailrace.testing.exchange import Exchange, asked
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

HEAD: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-one", b"1")]}


def body(chunk: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def sending(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def exchange(app: ASGIApp, **options: Any) -> Exchange:
    return Exchange(app, asked("GET", "/")[0], **options)


# --- what is asked ---------------------------------------------------------------------


def headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def test_a_scope_is_as_a_server_makes_it() -> None:
    scope, chunks = asked("get", "/a%20b/ü?x=1&y=ä", {"X-Key": "k"}, params={"z": "2 3"})
    assert chunks == []
    assert scope["method"] == "GET"
    assert scope["path"] == "/a b/ü"
    assert scope["raw_path"] == b"/a%20b/%C3%BC"
    assert scope["query_string"] == b"x=1&y=%C3%A4&z=2+3"
    assert headers(scope) == {b"host": b"testserver", b"x-key": b"k"}
    assert scope["type"] == "http"
    assert scope["client"][1] == 0, "a port might be that of somebody's socket"


def test_a_body_is_json_or_what_is_given() -> None:
    scope, chunks = asked("POST", "/", json={"rows": 3})
    assert json.loads(chunks[0]) == {"rows": 3}
    assert headers(scope)[b"content-type"] == b"application/json"
    assert headers(scope)[b"content-length"] == str(len(chunks[0])).encode()
    scope, chunks = asked("POST", "/", {"Content-Type": "text/plain"}, content="ü")
    assert chunks == [b"\xc3\xbc"]
    assert headers(scope)[b"content-type"] == b"text/plain"
    scope, chunks = asked("POST", "/", {"content-length": "9", "host": "here"}, content=b"a")
    assert headers(scope) == {b"content-length": b"9", b"host": b"here"}


def test_what_goes_along_is_a_copy() -> None:
    state = {"pool": 1}
    scope, _ = asked("GET", "/", root_path="/app", state=state)
    assert scope["root_path"] == "/app"
    assert scope["state"] == state
    assert scope["state"] is not state


@pytest.mark.parametrize("target", ["http://testserver/", "events", ""])
def test_an_address_is_a_path(target: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        asked("GET", target)


def test_a_body_is_given_once() -> None:
    with pytest.raises(ValueError, match="one body"):
        asked("POST", "/", json={}, content="x")


# --- what is answered --------------------------------------------------------------------


async def test_an_answer_is_kept_as_it_comes() -> None:
    one = exchange(sending(HEAD, body(b"a"), body(b"", more=False)))
    await soon(one.task)
    assert (one.status, one.headers["X-One"], one.text) == (200, "1", "a")
    assert one.chunks == [b"a", b""]
    assert one.is_complete
    assert one.is_over
    assert not one.has_left


async def test_a_request_comes_in_its_parts_and_then_nothing_until_the_end() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([await receive(), await receive()])
        await send(HEAD)
        await send(body(b"", more=False))
        heard.append(await receive())

    one = Exchange(app, asked("POST", "/")[0], [b"a", b"b"])
    await soon(one.task)
    assert heard == [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([body(b"a")], "before its http.response.start"),
        ([HEAD, HEAD], "two answers"),
        ([HEAD, body(b"", more=False), body(b"a")], "after the end"),
    ],
)
async def test_what_no_server_takes_is_refused(messages: list[Message], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        await soon(exchange(sending(*messages)).task)


async def test_who_leaves_is_gone_and_gets_nothing_more() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD)
        await receive()
        heard.append((await receive())["type"])
        await send(body(b"too late"))

    one = exchange(app)
    await until(lambda: one.status)
    one.drop()
    await soon(one.task)
    assert heard == ["http.disconnect"]
    assert one.body == b""


async def test_an_app_that_never_waits_does_not_spin_when_its_client_has_left() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD)
        while True:
            await send(body(b"x"))

    one = exchange(app, room=10)
    await until(lambda: one.body)
    one.drop()
    await turns()
    one.task.cancel()
    await asyncio.wait((one.task,))
    assert one.task.cancelled()


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await send(HEAD)
    while True:
        await send(body(b"x" * 10))
        await asyncio.sleep(0)


async def test_a_stalled_client_holds_the_app_up() -> None:
    one = exchange(endless)
    await until(lambda: len(one.chunks) > 3)
    one.stall()
    await turns()
    before = len(one.chunks)
    await turns()
    assert len(one.chunks) == before
    one.resume()
    await until(lambda: len(one.chunks) > before + 3)
    one.stall()
    one.drop()
    one.task.cancel()
    await asyncio.wait((one.task,))


async def test_the_app_may_be_so_far_ahead_and_no_further() -> None:
    one = exchange(endless, room=35)
    await turns(30)
    assert len(one.body) == 40
    await soon(one.more())
    await turns(30)
    assert len(one.body) == 80
    one.stall()
    more = asyncio.ensure_future(one.more())
    await turns(30)
    assert not more.done(), "who is stalled reads nothing, whatever is asked for"
    one.resume()
    await soon(more)
    one.drop()
    one.task.cancel()
    await asyncio.wait((one.task,))


async def test_news_that_come_at_once_are_not_missed() -> None:
    one = exchange(sending(HEAD))
    awaited = one.more()
    await turns()
    await soon(awaited)
    assert one.is_over


async def test_who_cuts_a_client_that_does_not_read_reaches_it() -> None:
    one = exchange(endless)
    one.stall()
    cut.cut(asked("GET", "/")[0], one.receive)
    assert one.has_left
    assert one.get_extra_info("socket") is None
    one.task.cancel()
    await asyncio.wait((one.task,))
