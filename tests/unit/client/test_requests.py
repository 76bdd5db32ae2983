"""What is sent, to whom, and how answers are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.client.reconnect import WatchedEvent
from tailrace.client.requests import Page, Server, written
from tailrace.errors import (
    InputInvalid,
    ProtocolViolation,
    RequestError,
    RunUnknown,
    ServerUnreachable,
    TailraceError,
)
from tailrace.protocol.events import to_json
from tests.unit.client.scripted import RUN

BASE = "http://127.0.0.1:4000/tailrace"
JSON = {"content-type": "application/json"}


def server(base: str = BASE, token: str | None = "s3cret") -> Server:
    return Server(base, token)


EVERY_RUN: dict[str, Any] = dict.fromkeys(("state", "operation", "thread", "q", "limit", "cursor"))


def start(input: Any = None, key: str = "k", thread: str | None = None) -> Any:
    return server().start("crunch", input, timeout=None, abandon_after=None, key=key, thread=thread)


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://h", "http://h/operations"),
        ("http://h/", "http://h/operations"),
        ("http://h:80/a/b//", "http://h/a/b/operations"),
        ("https://H.example:443/a?x=1#y", "https://h.example/a/operations"),
        ("http://h:8080", "http://h:8080/operations"),
        ("http://[::1]:4000/", "http://[::1]:4000/operations"),
        ("http://u:p@h/", "http://u:p@h/operations"),
    ],
)
def test_base_urls(base: str, url: str) -> None:
    assert server(base).operations().url == url


@pytest.mark.parametrize(
    "base",
    ["", "localhost:4000", "ftp://h", "http://", "http:///x", "http://h:x", "http://[::1", "//h",
     "http://h:99999", "http://h/a\nb", "http://h/\x00"],
)  # fmt: skip
def test_base_urls_that_are_none(base: str) -> None:
    with pytest.raises(RequestError) as raised:
        server(base)
    assert "http://127.0.0.1:4000" in raised.value.fix


@pytest.mark.parametrize(
    ("base", "is_loopback", "is_secure"),
    [
        ("http://localhost:4000", True, False),
        ("http://127.8.9.1", True, False),
        ("https://[::1]", True, True),
        ("https://localhost.evil.example", False, True),
        ("http://127.0.0.1.nip.io", False, False),
        ("http://10.0.0.1", False, False),
    ],
)
def test_where_the_server_is(base: str, is_loopback: bool, is_secure: bool) -> None:
    assert server(base).is_loopback is is_loopback
    assert server(base).is_secure is is_secure


def test_what_is_appended() -> None:
    asked = server().append(RUN, b'{"events":[]}')
    assert (asked.method, asked.url) == ("POST", f"{BASE}/runs/{RUN}/events")
    assert asked.headers["content-type"] == "application/json"
    assert asked.content == b'{"events":[]}'
    assert asked.reason(OSError("gone")) == f"No answer from {BASE} (OSError: gone)."
    with pytest.raises(RunUnknown):
        server().append("run_7", b"")


def test_no_message_repeats_a_password() -> None:
    asked = server("http://user:pass@h").operations()
    with pytest.raises(ServerUnreachable) as raised:
        asked.again(0, OSError("refused"), was_sent=False)
    assert str(raised.value) == "No answer from http://h (OSError: refused)."
    assert "pass" not in server("http://user:pass@h").events(RUN).shown
    with pytest.raises(RequestError) as refused:
        server("ftp://user:pass@h")
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize("token", ["", "a b", "a\n", "a\r\nx: y", "ä", "\x00"])
def test_tokens_and_keys_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(RequestError, match="token"):
        server(token=token)
    with pytest.raises(RequestError, match="key"):
        start(key=token)


def test_the_token_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert "authorization" not in server(token=None).operations().headers
    assert server().operations().headers["authorization"] == "Bearer s3cret"


# ------------------------------------------------------------------ events


HERE = "http://127.0.0.1:4000"
TRICK = "http://127.0.0.1:4000@evil.example/x"


@pytest.mark.parametrize(
    ("run", "url", "is_trusted"),
    [
        (RUN, f"{BASE}/runs/{RUN}/events?after=0", True),
        (f"/other/runs/{RUN}/events", f"{HERE}/other/runs/{RUN}/events?after=0", True),
        ("HTTP://127.0.0.1:4000/x#top", f"{HERE}/x?after=0", True),
        (f"{HERE}/x?tick=2&a=b%26c", f"{HERE}/x?tick=2&a=b%26c&after=0", True),
        ("http://127.0.0.1:4001/x", "http://127.0.0.1:4001/x?after=0", False),
        ("http://127.0.0.1.evil.example:4000/x", None, False),
        (TRICK, f"{TRICK}?after=0", False),
        ("//evil.example/x", f"{HERE}//evil.example/x?after=0", True),
    ],
)
def test_where_events_are_and_who_gets_the_token(
    run: str, url: str | None, is_trusted: bool
) -> None:
    events = server().events(run)
    assert events.url({"after": "0"}) == (url or f"{run}?after=0")
    assert ("authorization" in events.headers) is is_trusted


def test_what_an_address_asks_for_itself() -> None:
    events = server().events(f"{BASE}/runs/{RUN}/events?after=57&types=log,output&format=text")
    assert (events.after, events.types) == ("57", "log,output")
    assert events.url({}) == f"{BASE}/runs/{RUN}/events"
    assert (server().events(RUN).after, server().events(RUN).types) == ("0", None)


@pytest.mark.parametrize("run", ["", "my-run", "run_short", "..", f"{RUN}/..", "run_" + "A" * 26])
def test_what_is_no_run(run: str) -> None:
    for ask in (server().run, server().cancel, server().rerun, server().forget):
        with pytest.raises(RunUnknown):
            ask(run)
    with pytest.raises(RunUnknown):
        server().events(run)


@pytest.mark.parametrize("run", ["ftp://h/x", "http://", "http:///x"])
def test_what_is_no_address(run: str) -> None:
    with pytest.raises(RequestError):
        server().events(run)


def test_a_client_for_plain_http_has_no_certificates() -> None:
    with pytest.raises(RequestError, match="TLS"):
        server().events("https://h/x")
    assert server("https://h").events("http://h/x").headers == {}
    assert server("https://h").events("https://h/x").headers


# ------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({}, ""),
        ({"state": "running"}, "?state=running"),
        ({"state": ["running", "lost"], "limit": 0}, "?state=running%2Clost&limit=0"),
        ({"thread": "chat 7"}, "?thread=chat+7"),
        ({"operation": "a&b", "q": "é", "cursor": "41"}, "?operation=a%26b&q=%C3%A9&cursor=41"),
    ],
)
def test_listing(options: dict[str, Any], query: str) -> None:
    call = server().runs(**EVERY_RUN | options)
    assert call.url == f"{BASE}/runs{query}"
    assert call.answer(200, JSON, b'{"runs":[{}],"next":null}') == Page([{}], None)


@pytest.mark.parametrize(
    ("input", "content"),
    [
        (None, b'{"operation":"crunch","input":{}}'),
        ({}, b'{"operation":"crunch","input":{}}'),
        ({"a": {1}, "b": None}, b'{"operation":"crunch","input":{"a":[1],"b":null}}'),
    ],
)
def test_starting(input: Any, content: bytes) -> None:
    call = start(input)
    assert call.content == content
    assert call.headers["content-type"] == "application/json"
    assert call.headers["idempotency-key"] == "k"


def test_starting_in_a_thread() -> None:
    assert start(thread="t").content == b'{"operation":"crunch","input":{},"thread":"t"}'


def test_input_that_json_cannot_say() -> None:
    with pytest.raises(InputInvalid, match="input cannot be written as JSON"):
        start({"a": object()})


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"operations":{}}', b'{"operations":null}']
)
def test_answers_of_somebody_else(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="/tailrace/operations") as raised:
        server().operations().answer(200, {"content-type": "text/html; x"}, body)
    assert "text/html" in str(raised.value)
    assert "prefix" in raised.value.fix


def test_a_run_that_is_none() -> None:
    with pytest.raises(ProtocolViolation, match="no type"):
        server().run(RUN).answer(200, {}, b"[]")


def test_a_page_without_a_next_one() -> None:
    call = server().runs(**EVERY_RUN)
    assert call.answer(200, JSON, b'{"runs":[]}') == Page([], None)


def test_gone_counts_as_forgotten_only_for_a_repeated_request() -> None:
    body = to_json({"code": "run-unknown", "detail": "No run."})
    with pytest.raises(RunUnknown):
        server().forget(RUN).answer(404, JSON, body, attempt=0)
    server().forget(RUN).answer(404, JSON, body, attempt=1)
    with pytest.raises(RunUnknown):
        server().cancel(RUN).answer(404, JSON, body, attempt=1)


@pytest.mark.parametrize("status", [100, 301, 400, 500])
def test_other_statuses(status: int) -> None:
    with pytest.raises(TailraceError, match=str(status)):
        server().run(RUN).answer(status, {}, b"")


def test_how_often_a_request_is_sent() -> None:
    call, error = server().run(RUN), OSError("cut.")
    assert call.again(0, error, was_sent=True) == 0.1
    assert call.again(1, error, was_sent=True) == 0.5
    with pytest.raises(ServerUnreachable, match=r"\(OSError: cut\)\.\n") as raised:
        call.again(2, error, was_sent=True)
    assert raised.value.__cause__ is error
    with pytest.raises(ServerUnreachable, match=r"\(OSError\)\.\n"):
        call.again(0, OSError(), was_sent=False)


# ------------------------------------------------------------------ output


GAP = b"\n[tailrace: events 1 to 9 are no longer kept]\n"


@pytest.mark.parametrize(
    ("type", "data", "stream", "expected"),
    [
        ("output", {"stream": "stdout", "text": "é\n"}, None, b"\xc3\xa9\n"),
        ("output", {"stream": "stdout", "text": "\ufffd", "bytes": "/w=="}, "stdout", b"\xff"),
        ("output", {"stream": "stderr", "text": "x"}, "stdout", b""),
        ("complete", {"status": "completed"}, None, b""),
        ("tick", {}, None, b""),
        ("gap", {"from": 1, "to": 9}, "stdout", GAP),
    ],
)
def test_output(type: str, data: dict[str, Any], stream: str | None, expected: bytes) -> None:
    assert written(WatchedEvent("", type, data, ""), stream) == expected
