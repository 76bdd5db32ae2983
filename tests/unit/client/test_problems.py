"""Refusals read back as the errors they were made of."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import errors
from tailrace.client.problems import problem, refusal, retry_after, unreachable
from tailrace.errors import InputInvalid, LogFull, RunUnknown, StateMoved, TailraceError
from tailrace.protocol.events import to_json

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TailraceError) and kind is not StateMoved
]


def made(status: int, headers: dict[str, str] | None = None, **document: Any) -> TailraceError:
    return problem(status, headers or {}, to_json(document))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_itself(kind: type[TailraceError]) -> None:
    error = made(kind.status, code=kind.code, detail="Why.", fix="How.", title="What", errors=[1])
    assert type(error) is kind
    assert (str(error), error.fix, error.details) == ("Why.", "How.", {"errors": [1]})


def test_an_error_with_a_constructor_of_its_own() -> None:
    error = made(409, code="state-moved", detail="Moved.", fix="Again.", state="running")
    assert isinstance(error, StateMoved)
    assert error.state == "running"
    assert type(made(409, code="state-moved", detail="Moved.")) is TailraceError


@pytest.mark.parametrize("name", ["self", "message", "args", "fix", "status", "type"])
def test_members_that_collide_with_pythons_names(name: str) -> None:
    body = to_json({"code": "run-unknown", "detail": "No run.", name: "x"})
    error = problem(404, {}, body)
    assert type(error) is RunUnknown
    assert str(error) == "No run."


@pytest.mark.parametrize("code", ["teapot", "http", "", 7, None, ["run-unknown"]])
def test_codes_nobody_knows(code: Any) -> None:
    error = made(418, code=code, detail="I am one.", fix="Coffee.")
    assert type(error) is TailraceError
    assert (str(error), error.fix) == ("I am one.", "Coffee.")
    assert error.details.get("code") == code
    assert error.details["status"] == 418


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b"\xff", b"{", b"null"])
@pytest.mark.parametrize(
    ("status", "said", "fix"),
    [
        (401, "The server answered 401 Unauthorized.", "token"),
        (404, "The server answered 404 Not Found.", "prefix"),
        (599, "The server answered 599.", "later"),
        (418, "The server answered 418 I'm a Teapot.", ""),
        (302, "The server answered 302 Found.", "https://elsewhere/"),
    ],
)
def test_answers_that_are_no_problem_document(
    body: bytes, status: int, said: str, fix: str
) -> None:
    error = problem(status, {"location": "https://elsewhere/"}, body)
    assert type(error) is TailraceError
    assert str(error) == said
    assert fix in error.fix
    assert error.details == {"status": status}


def test_the_words_of_a_proxy_without_its_escapes() -> None:
    headers = {"content-type": "text/plain; charset=utf-8"}
    error = problem(502, headers, b"no healthy\r\n upstream\x1b[2J" + b"!" * 1000)
    assert str(error).startswith("The server answered 502 Bad Gateway: no healthy upstream[2J!")
    assert "\x1b" not in str(error)
    assert len(str(error)) < 250
    assert str(problem(502, headers, b"")) == "The server answered 502 Bad Gateway."


def test_a_title_where_there_is_no_detail() -> None:
    assert str(made(507, code="log-full", title="Full")) == "Full"
    assert type(made(507, code="log-full", title="Full")) is LogFull
    assert str(made(507, code="log-full")) == "The server answered 507 Insufficient Storage."


def test_a_refused_stream_has_it_all() -> None:
    body = to_json({"code": "input-invalid", "detail": "types?", "fix": "f", "errors": [1]})
    error = refusal(422, {}, body)
    assert (str(error), error.fix) == ("types?", "f")
    assert error.details == {"errors": [1], "status": 422, "code": "input-invalid"}
    assert type(error.__cause__) is InputInvalid
    assert refusal(422, {}, b"").details == {"status": 422}


def test_nobody_there() -> None:
    error = unreachable("No answer.")
    assert (str(error), error.code) == ("No answer.", "server-unreachable")
    assert error.fix == "Start one with `tailrace serve`, or give --url."


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 5000, 3600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thursday, 01-Jan-70 00:01:40 GMT", 90.0),
        ("Thu Jan  1 00:01:40 1970", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Thu, 01 Jan 1970 25:00:00 GMT", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(text, 10.0) == seconds
