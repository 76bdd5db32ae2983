from collections.abc import Mapping
from typing import Any

import pytest
from starlette.datastructures import Headers

from tailrace.errors import CursorMalformed, FormatUnknown, InputInvalid, TailraceError
from tailrace.http.asking import FORMATS, MAX_PAGE, Asked, asked, cursor
from tailrace.protocol.cursor import LATEST, Cursor
from tailrace.protocol.runs import run_id

RUN, OTHER = run_id(bytes(16)), run_id(b"x" * 16)
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def ask(
    query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, **how: Any
) -> Asked:
    return asked(Headers(headers or {}), query or {}, **how)


def told_as(wish: Asked) -> str:
    return "json" if wish.projection is None else wish.projection.name


def test_no_wishes_mean_everything_as_events() -> None:
    wish = ask()
    assert wish.cursor == Cursor(0, 0)
    assert told_as(wish) == "events"
    assert (wish.types, wish.speed, wish.tick, wish.limit) == (None, None, None, 1000)


def test_all_wishes_at_once() -> None:
    wish = ask(
        {
            "after": "1-57", "format": "ndjson", "types": "log,x:y", "speed": "2.5",
            "tick": "2", "limit": "7",
        }
    )  # fmt: skip
    assert wish.cursor == Cursor(1, 57)
    assert told_as(wish) == "ndjson"
    assert wish.types == frozenset({"log", "x:y"})
    assert (wish.speed, wish.tick, wish.limit) == (2.5, 2.0, 7)


@pytest.mark.parametrize(
    ("header", "after", "expected"),
    [
        (None, None, Cursor(0, 0)),
        ("7", None, Cursor(0, 7)),
        (None, "7", Cursor(0, 7)),
        ("9", "7", Cursor(0, 9)),
        ("", "7", Cursor(0, 7)),
        (None, "", Cursor(0, 0)),
        (None, "latest", LATEST),
        ("9", "latest", Cursor(0, 9)),
        ("3.2", None, Cursor(0, 3, 2)),
    ],
)
def test_the_header_wins_over_the_query(
    header: str | None, after: str | None, expected: Cursor | str
) -> None:
    query = {} if after is None else {"after": after}
    assert ask(query, {} if header is None else {"Last-Event-ID": header}).cursor == expected
    assert cursor(query, header) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "-1",
        "1-",
        "1.",
        " 1",
        "1 ",
        "1\n",
        "0x1",
        "1_0",
        "\u0661",
        "1\0",
        "9" * 19,
        "LATEST",
        "1e3",
    ],
)
def test_a_malformed_cursor_is_refused_wherever_it_stands(text: str) -> None:
    with pytest.raises(CursorMalformed):
        ask({"after": text})
    with pytest.raises(CursorMalformed):
        cursor({"after": "1"}, text)
    with pytest.raises(CursorMalformed):
        cursor({"after": text}, "1")


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_by_name_wins_over_accept(name: str) -> None:
    assert told_as(ask({"format": name}, {"accept": "image/png"})) == name


@pytest.mark.parametrize("name", ["", "EVENTS", "sse", "output", "events ", "x" * 500])
def test_an_unknown_format_is_refused_and_the_others_named(name: str) -> None:
    with pytest.raises(FormatUnknown) as caught:
        ask({"format": name})
    assert len(str(caught.value)) < 200
    assert caught.value.fix


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "events"),
        (",", "events"),
        ("*/*", "events"),
        ("text/*", "events"),
        ("text/event-stream", "events"),
        ("Text/Event-Stream", "events"),
        ("text/event-stream;charset=utf-8", "events"),
        ("application/json", "json"),
        ("application/x-ndjson", "ndjson"),
        ("application/*", "json"),
        (CHROME, "events"),
        # By weight, …
        ("application/json;q=0.5, application/x-ndjson;q=0.9", "ndjson"),
        ("text/event-stream;q=0.1, application/json ; q=0.2", "json"),
        ("application/json; q=1.000, text/event-stream; Q=0.999", "json"),
        # … then as listed.
        ("application/x-ndjson, text/event-stream", "ndjson"),
        ("application/json, text/event-stream", "json"),
        ("text/event-stream, application/json", "events"),
        ("application/x-ndjson, */*", "ndjson"),
        # The most specific range decides, wherever it stands (RFC 9110 §12.5.1).
        ("text/event-stream;q=0, */*", "json"),
        ("*/*, text/event-stream;q=0", "json"),
        ("*/*;q=0.5, application/json;q=0.1", "events"),
        ("application/*;q=0, */*", "events"),
        ("application/*;q=0.2, application/x-ndjson;q=0.1, text/*;q=0", "json"),
        # A weight outside the grammar accepts nothing.
        ("application/json;q=2, application/x-ndjson;q=0.1", "ndjson"),
        ("application/json;q=nan, application/x-ndjson;q=0.1", "ndjson"),
    ],
)
def test_what_an_accept_header_prefers(accept: str, expected: str) -> None:
    assert told_as(ask(headers={"accept": accept})) == expected


def test_accept_headers_add_up() -> None:
    headers = Headers(
        raw=[(b"accept", b"application/json;q=0.1"), (b"accept", b"application/x-ndjson")]
    )
    assert told_as(asked(headers, {})) == "ndjson"


@pytest.mark.parametrize(
    "accept",
    ["image/png", "text/plain", "json", "*", "text/event-stream;q=0", "*/*;q=0", "*/*;q=-1",
     "*/*;q=", "x" * 5000],
)  # fmt: skip
def test_what_nothing_offered_satisfies_is_refused(accept: str) -> None:
    with pytest.raises(FormatUnknown) as caught:
        ask(headers={"accept": accept})
    assert len(str(caught.value)) < 200
    assert "text/event-stream" in caught.value.fix


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", "json"), ("*/*", "json"), ("text/event-stream", "events"), ("text/*", "events"),
     ("application/json, text/plain, */*", "json"), ("application/json, text/event-stream", "json"),
     ("text/event-stream, */*;q=0.1", "events"), ("application/x-ndjson", "ndjson")],
)  # fmt: skip
def test_another_default_for_whoever_has_no_preference(accept: str, expected: str) -> None:
    assert told_as(ask(headers={"accept": accept}, default="json")) == expected


# --- the rest --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("speed", ["0.01", "1", "1000", "4.5", "1.0", "12.345678901234567"]),
        ("tick", ["0.25", "3600", "2"]),
        ("limit", ["1", str(MAX_PAGE), "007"]),
    ],
)
def test_numbers_in_their_bounds(name: str, good: list[str]) -> None:
    for text in good:
        assert getattr(ask({name: text}), name) == float(text)


NO_NUMBERS = [
    "",
    "0",
    "-1",
    "nan",
    "inf",
    "1e2",
    "1_0",
    "\u0661",
    " 1",
    "+1",
    "0x1",
    "1" * 400,
    "1;2",
]


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("name", ["speed", "tick", "limit"])
def test_other_numbers_are_refused(name: str, text: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        ask({name: text})
    assert str(caught.value).startswith(f"{name}=")
    assert len(str(caught.value)) < 200
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "text"),
    [("speed", "0.009"), ("speed", "1001"), ("tick", "0.2"), ("tick", "3601"), ("limit", "1.5"),
     ("limit", "10001")],
)  # fmt: skip
def test_numbers_out_of_their_bounds(name: str, text: str) -> None:
    with pytest.raises(InputInvalid):
        ask({name: text})


@pytest.mark.parametrize("text", ["log", "log,progress", "a.b:c/d-e_1", ",".join("ab" * 16)])
def test_types(text: str) -> None:
    assert ask({"types": text}).types == frozenset(text.split(","))


@pytest.mark.parametrize(
    "text", ["", ",", "log,", "1log", "lög", "a b", "log\r\nx: y", "x" * 65, ",".join("a" * 33)]
)
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        ask({"types": text})
    assert "\n" not in str(caught.value)


def test_no_refusal_lacks_a_way_out() -> None:
    for query in ({"after": "x"}, {"format": "x"}, {"types": ""}, {"tick": "x"}):
        with pytest.raises(TailraceError) as caught:
            ask(query)
        assert caught.value.fix
        assert caught.value.status in (400, 406, 422)


def test_an_id_may_name_the_run_that_is_asked_for() -> None:
    assert cursor({}, "run_a:57.1", "run_a") == Cursor(0, 57, 1)
    assert cursor({"after": "run_a:57"}, None, "run_a") == Cursor(0, 57)
    for last, run in (("run_b:57", "run_a"), ("run_a:57", None), (":57", "run_a")):
        with pytest.raises(CursorMalformed):
            cursor({}, last, run)


@pytest.mark.parametrize(
    ("query", "last", "expected"),
    [
        ({}, f"{RUN}:57.2", Cursor(0, 57, 2)),
        ({}, "57", Cursor(0, 57)),
        ({}, f"{OTHER}:57", Cursor(0, 0)),
        ({"after": f"{OTHER}:57"}, None, Cursor(0, 0)),
        # A browser sends the newer one in its header.
        ({"after": f"{OTHER}:57"}, f"{RUN}:3", Cursor(0, 3)),
        ({"after": f"{RUN}:57"}, f"{OTHER}:3", Cursor(0, 0)),
        ({"after": "latest"}, None, LATEST),
    ],
)
def test_whoever_has_had_another_run_begins(
    query: dict[str, str], last: str | None, expected: Cursor | str
) -> None:
    assert cursor(query, last, RUN, changes=True) == expected
    sent = {} if last is None else {"last-event-id": last}
    assert ask(query, sent, run=RUN, changes=True).cursor == expected


@pytest.mark.parametrize("text", ["x:57", f"{OTHER}:x", f"{OTHER}:", f"{RUN}:1,{OTHER}:2", ":5"])
def test_what_is_no_id_is_refused_there_as_well(text: str) -> None:
    with pytest.raises(CursorMalformed) as refused:
        cursor({}, text, RUN, changes=True)
    assert refused.value.fix


def test_elsewhere_an_id_of_another_run_is_refused() -> None:
    with pytest.raises(CursorMalformed):
        cursor({}, f"{OTHER}:57", RUN)
