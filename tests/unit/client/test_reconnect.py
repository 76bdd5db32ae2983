"""The reconnect decision, rule by rule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from tailrace.client import reconnect
from tailrace.client.reconnect import Again, Fail, Request, Stop, Watch, WatchedEvent
from tailrace.errors import (
    CursorFromFuture,
    CursorMalformed,
    ProtocolViolation,
    RunUnknown,
    ServerUnreachable,
    StreamRefused,
    StreamTooLarge,
    TailraceError,
)
from tailrace.protocol.events import to_json
from tailrace.protocol.sse import encode, retry
from tests.unit.client.scripted import CLOSING, OPENING, control, event, events

STREAM = {"content-type": "text/event-stream; charset=utf-8"}
NOW = 1_000.0
WALL = 1_795_000_000.0  # Wed, 18 Nov 2026 11:06:40 GMT
END = event(4, "complete")


def opened(watch: Watch, now: float = NOW, position: str | None = None) -> Watch:
    watch.request(now)
    headers = STREAM if position is None else STREAM | {"last-event-id": position}
    assert watch.opened(200, headers, WALL)
    return watch


def told(watch: Watch, *chunks: bytes) -> list[str]:
    return [e.id or e.type for chunk in chunks for e in watch.feed(chunk)]


def answered(
    status: int,
    *,
    watch: Watch | None = None,
    body: bytes = b"",
    chance: float = 0.5,
    **headers: str,
) -> reconnect.Decision:
    watch = watch or Watch()
    watch.request(NOW)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if watch.opened(status, named, WALL):
        watch.feed(body)
    return watch.ended(NOW, chance)


def broken(watch: Watch, now: float = NOW, chance: float = 1.0) -> reconnect.Decision:
    watch.request(now)
    return watch.ended(now, chance, "No answer.")


def failure(decision: reconnect.Decision) -> TailraceError:
    assert isinstance(decision, Fail)
    return decision.error


# ------------------------------------------------------------------ what is asked for


@pytest.mark.parametrize(
    ("options", "params", "cursor"),
    [
        ({}, {"after": "0"}, None),
        ({"after": 0}, {"after": "0"}, None),
        ({"after": "latest"}, {"after": "latest"}, None),
        ({"after": 57}, {}, "57"),
        ({"after": "1-58"}, {}, "1-58"),
        ({"after": "57.2"}, {}, "57.2"),
        ({"types": ["progress", "log"]}, {"after": "0", "types": "log,progress"}, None),
        ({"types": "log"}, {"after": "0", "types": "log"}, None),
        ({"types": []}, {"after": "0", "types": "complete"}, None),
    ],
)
def test_the_first_request(
    options: dict[str, Any], params: dict[str, str], cursor: str | None
) -> None:
    request = Watch(**options).request(NOW)
    assert request.params == params
    assert request.headers.get("last-event-id") == cursor
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("after", ["", "-1", "x", "1-", "٣", "9" * 19, "Latest"])
def test_a_cursor_outside_the_grammar(after: str) -> None:
    with pytest.raises(CursorMalformed):
        Watch(after=after)


def test_later_requests_go_on_from_the_last_event() -> None:
    watch = opened(Watch(types=["log"]))
    assert told(watch, events(1, 3), event(4)[:-1]) == ["1", "2", "3"]
    assert watch.cursor == "3"
    watch.ended(NOW, 0.5, "cut")
    request = watch.request(NOW)
    assert request.headers["last-event-id"] == "3"
    assert request.params == {"types": "log"}
    assert isinstance(request, Request)


# ------------------------------------------------------------------ what ends it


@dataclass
class Rule:
    """What a response brings, and what follows."""

    name: str
    body: bytes
    told: list[str]
    decision: reconnect.Decision | type[TailraceError]
    broken: str = ""
    options: dict[str, Any] = field(default_factory=dict)


RULES = [
    Rule("complete", events(1, 3) + END, ["1", "2", "3", "4"], Stop("complete")),
    Rule("error", event(1, "error", reason="failed"), ["1"], Stop("error")),
    Rule("cancelled", event(1, "cancelled"), ["1"], Stop("cancelled")),
    Rule("end, then a cut", event(1, "complete"), ["1"], Stop("complete"), broken="cut"),
    Rule("nothing after the end", event(1, "error") + event(2), ["1"], Stop("error")),
    Rule("clean end with nothing", OPENING + CLOSING, [], Again(1.0)),
    Rule("clean end", OPENING + events(1, 2), ["1", "2"], Again(1.0)),
    Rule("server going away", events(1, 1) + retry(500), ["1"], Again(0.5)),
    Rule("retry 0 after an event", retry(0) + events(1, 1), ["1"], Again(0.0)),
    Rule("retry 0 after nothing", retry(0), [], Again(0.1)),
    Rule("retry beyond reason", retry(10**14) + events(1, 1), ["1"], Again(3600.0)),
    Rule("cut", events(1, 1), ["1"], Again(0.5), broken="cut"),
    Rule("cut with another retry", retry(4000), [], Again(2.0), broken="cut"),
    Rule("cut with retry 0", retry(0), [], Again(0.05), broken="cut"),
    Rule("partial event", event(1)[:-1], [], Again(1.0)),
    Rule("empty", b"", [], Again(1.0)),
    Rule("too large", b"data: " + b"x" * 2**24, [], StreamTooLarge),
    Rule("too large after an event", event(1) + b"data: " + b"x" * 2**24, ["1"], StreamTooLarge),
    Rule("hole", event(1) + event(3) + event(4), ["1"], Again(0.5)),
    Rule("hole with a filter", event(1) + event(3), ["1", "3"], Again(1.0), options={"types": "a"}),
    Rule("hole at the start", event(2), [], Again(0.5)),
    Rule("no JSON", event(1) + encode("x", id="2"), ["1"], Again(0.5)),
    Rule("no object", event(1) + encode("[1]", id="2"), ["1"], Again(0.5)),
    Rule("no cursor", event(1) + event("abc"), ["1"], Again(0.5)),
    Rule("a frame of an event", event(1) + event("2.1"), ["1"], Again(0.5)),
    Rule("repeats", events(1, 2) + events(1, 3), ["1", "2", "3"], Again(1.0)),
    Rule("old ones only", events(1, 2) + event(3), ["3"], Again(1.0), options={"after": 2}),
    Rule("the old end only", END, [], Again(1.0), options={"after": 4}),
    Rule("the old end twice", END + END, [], Again(1.0), options={"after": 4}),
    Rule("later kinds of frames", control("weather") + event(1), ["1"], Again(1.0)),
    Rule("end without an id", event(1) + control("complete"), ["1"], Again(1.0)),
    Rule(
        "gap",
        control("gap", **{"from": 1, "to": 4}) + event(5),
        ["gap", "5"],
        Again(1.0),
    ),
    Rule("gap that is not one", control("gap", **{"from": 1, "to": "4"}), [], Again(0.5)),
    Rule("gap behind a hole", event(1) + control("gap", **{"from": 3, "to": 4}), ["1"], Again(0.5)),
    Rule(
        "reset",
        control("reset", **{"from": 3, "to": 5}) + event("1-3") + event("1-4", "complete"),
        ["reset", "1-3", "1-4"],
        Stop("complete"),
        options={"after": 5},
    ),
    Rule(
        "fault in the stream",
        event(1) + control("error", status=503, code="log-closed", detail="!") + event(2),
        ["1"],
        Again(0.5),
    ),
    Rule(
        "refusal in the stream",
        event(1) + control("error", status=404, code="run-unknown", detail="gone"),
        ["1"],
        StreamRefused,
    ),
    Rule(
        "odd status in the stream",
        control("error", status=200, code="?", detail="odd"),
        [],
        StreamRefused,
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules(rule: Rule) -> None:
    watch = opened(Watch(**rule.options))
    assert told(watch, rule.body) == rule.told
    decision = watch.ended(NOW, 0.5, rule.broken)
    if isinstance(rule.decision, type):
        assert type(failure(decision)) is rule.decision
    else:
        assert decision == rule.decision


@pytest.mark.parametrize("rule", RULES[:14], ids=lambda rule: rule.name)
def test_rules_hold_byte_by_byte(rule: Rule) -> None:
    watch = opened(Watch(**rule.options))
    assert told(watch, *(rule.body[n : n + 1] for n in range(len(rule.body)))) == rule.told
    assert watch.ended(NOW, 0.5, rule.broken) == rule.decision


def test_an_event_in_full() -> None:
    watch = opened(Watch())
    (one,) = watch.feed(b'id: 1\nevent: log\ndata: {"a":\ndata: 1}\n\n')
    assert one == WatchedEvent("1", "log", {"a": 1}, '{"a":\n1}')
    assert not one.terminal
    assert len({one, one}) == 1


@pytest.mark.parametrize(
    "type", ["complete", "error", "cancelled", "start", "gap", "tick", "completed"]
)
def test_which_types_are_terminal(type: str) -> None:
    is_terminal = type in ("complete", "error", "cancelled")
    assert WatchedEvent("1", type, {}, "{}").terminal is is_terminal


# ------------------------------------------------------------------ statuses


@pytest.mark.parametrize(
    ("status", "retry_after", "decision"),
    [
        (204, "", Stop("204")),
        (429, "", Again(0.5)),
        (429, "7", Again(7.0)),
        (503, "7", Again(7.0)),
        (503, " 7 ", Again(7.0)),
        (503, "0", Again(0.1)),
        (503, "-3", Again(0.5)),
        (503, "soon", Again(0.5)),
        (503, "99999999999", Again(3600.0)),
        (503, "Wed, 18 Nov 2026 11:06:45 GMT", Again(5.0)),
        (503, "Wed, 18 Nov 2026 11:06:00 GMT", Again(0.1)),
        (500, "", Again(0.5)),
        (502, "", Again(0.5)),
        (504, "", Again(0.5)),
        (507, "", Again(0.5)),
        (599, "", Again(0.5)),
        (408, "", Again(0.5)),
        (425, "", Again(0.5)),
    ],
)
def test_statuses_worth_another_attempt(
    status: int, retry_after: str, decision: reconnect.Decision
) -> None:
    assert answered(status, retry_after=retry_after) == decision


@pytest.mark.parametrize(
    "status", [201, 206, 301, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 422, 451]
)
def test_statuses_that_are_final(status: int) -> None:
    error = failure(answered(status))
    assert type(error) is StreamRefused
    assert error.details["status"] == status
    assert str(status) in str(error)


def test_a_problem_is_told_in_its_own_words() -> None:
    document = {"status": 404, "code": "run-unknown", "detail": "No run.", "fix": "Look."}
    error = failure(answered(404, body=to_json(document)))
    assert type(error) is StreamRefused
    assert (str(error), error.fix) == ("No run.", "Look.")
    assert error.details == {"status": 404, "code": "run-unknown"}
    assert type(error.__cause__) is RunUnknown


def test_a_cursor_from_another_run() -> None:
    document = {"status": 400, "code": "cursor-from-future", "detail": "Ahead.", "fix": "0"}
    assert type(failure(answered(400, body=to_json(document))).__cause__) is CursorFromFuture


@pytest.mark.parametrize("type", ["text/html", "application/json", "", "text/event-streams"])
def test_something_else_than_a_stream(type: str) -> None:
    watch = Watch()
    watch.request(NOW)
    assert not watch.opened(200, {"content-type": type}, WALL)
    assert watch.is_over
    assert watch.feed(b"endless") == []
    error = failure(watch.ended(NOW, 0.5))
    assert isinstance(error, StreamRefused)
    assert "text/event-stream" in str(error)


@pytest.mark.parametrize("type", ["Text/Event-Stream", "text/event-stream ;charset=utf-8"])
def test_what_is_a_stream(type: str) -> None:
    watch = Watch()
    watch.request(NOW)
    assert watch.opened(200, {"content-type": type}, WALL)


def test_an_endless_refusal_is_not_read_to_its_end() -> None:
    watch = Watch()
    watch.request(NOW)
    assert watch.opened(404, {}, WALL)
    chunks = 0
    while not watch.is_over:
        watch.feed(b"x" * 4096)
        chunks += 1
    assert chunks == 17
    assert isinstance(watch.ended(NOW, 0.5), Fail)


def test_a_refusal_that_breaks_off_is_still_one() -> None:
    watch = Watch()
    watch.request(NOW)
    watch.opened(403, {}, WALL)
    assert isinstance(watch.ended(NOW, 0.5, "cut"), Fail)


# ------------------------------------------------------------------ pauses


def test_back_off_doubles_up_to_the_cap_and_has_full_jitter() -> None:
    watch = Watch()
    assert [broken(watch) for _ in range(8)] == [Again(min(30.0, 2.0**n)) for n in range(8)]
    assert broken(watch, chance=0.0) == Again(0.0)
    assert broken(watch, chance=0.25) == Again(7.5)


def test_ten_thousand_losses() -> None:
    watch = Watch()
    for _ in range(10_000):
        assert isinstance(broken(watch), Again)
    assert broken(watch) == Again(30.0)


def test_back_off_starts_at_the_servers_retry() -> None:
    watch = opened(Watch())
    watch.feed(retry(3000))
    assert watch.ended(NOW, 1.0, "cut") == Again(3.0)
    assert broken(watch) == Again(6.0)


def test_an_event_ends_a_losing_streak() -> None:
    watch = Watch()
    for _ in range(5):
        broken(watch)
    opened(watch).feed(event(1))
    assert watch.ended(NOW, 1.0, "cut") == Again(1.0)


@pytest.mark.parametrize("body", [OPENING, event(1), control("tick"), b"data"])
def test_what_is_nothing_new_does_not(body: bytes) -> None:
    watch = Watch(after=1)
    for _ in range(3):
        broken(watch)
    opened(watch).feed(body)
    assert watch.ended(NOW, 1.0, "cut") == Again(8.0)


def test_a_stream_that_stood_long_does() -> None:
    watch = Watch()
    for _ in range(5):
        broken(watch)
    opened(watch).feed(OPENING)
    assert watch.ended(NOW + 30, 1.0, "cut") == Again(1.0)


# ------------------------------------------------------------------ patience


def test_without_a_limit_it_never_gives_up() -> None:
    watch = Watch()
    assert all(isinstance(broken(watch, NOW + n * 1e6), Again) for n in range(50))


def test_patience_ends() -> None:
    watch = Watch(patience=10)
    assert broken(watch, NOW) == Again(1.0)
    assert broken(watch, NOW + 9.5) == Again(0.5)
    error = failure(broken(watch, NOW + 10))
    assert type(error) is ServerUnreachable
    assert "tailrace serve" in error.fix


def test_a_sign_of_life_renews_patience() -> None:
    watch = Watch(patience=10)
    broken(watch, NOW)
    opened(watch, NOW + 5).feed(OPENING)
    assert watch.ended(NOW + 300, 1.0, "cut") == Again(1.0)
    assert isinstance(broken(watch, NOW + 309), Again)
    assert isinstance(broken(watch, NOW + 310), Fail)


@pytest.mark.parametrize("seconds", [0, 0.0])
def test_no_patience_at_all(seconds: float) -> None:
    assert type(failure(broken(Watch(patience=seconds)))) is ServerUnreachable
    watch = opened(Watch(patience=seconds))
    watch.feed(event(1))
    assert type(failure(watch.ended(NOW, 0.5))) is StreamRefused


def test_a_server_that_asks_for_more_patience_than_there_is() -> None:
    error = failure(answered(503, watch=Watch(patience=5), retry_after="6"))
    assert type(error) is StreamRefused
    assert answered(503, watch=Watch(patience=5), retry_after="5") == Again(5.0)


def test_faults_told_in_the_stream_are_no_sign_of_life() -> None:
    watch = Watch(patience=10)
    fault = OPENING + control("error", status=500, code="log-corrupt", detail="Damaged.")
    opened(watch, NOW).feed(fault)
    assert isinstance(watch.ended(NOW, 0.5), Again)
    opened(watch, NOW + 10).feed(fault)
    error = failure(watch.ended(NOW + 10, 0.5))
    assert str(error) == "Damaged."


# ------------------------------------------------------------------ disorder


def test_disorder_at_one_place_fails_at_the_third_time() -> None:
    watch = Watch()
    for wait in (1.0, 2.0):
        assert told(opened(watch), event(2)) == []
        assert watch.ended(NOW, 1.0) == Again(wait)
    opened(watch).feed(event(2))
    error = failure(watch.ended(NOW, 1.0))
    assert type(error) is ProtocolViolation
    assert "'log' with id '2'" in str(error)


def test_disorder_at_different_places_does_not() -> None:
    watch = Watch()
    for n in range(1, 20, 2):
        assert told(opened(watch), event(n), event(n + 2)) == [str(n)]
        assert watch.ended(NOW, 0.0) == Again(0.0)
        assert told(opened(watch), event(n + 1)) == [str(n + 1)]
        assert watch.ended(NOW, 0.0) == Again(1.0)


# ------------------------------------------------------------------ latest


def test_latest_takes_the_first_event_as_it_comes() -> None:
    watch = opened(Watch(after="latest"))
    assert told(watch, event(58), event(59), event(59), event(60)) == ["58", "59", "60"]
    assert watch.cursor == "60"


def test_latest_loses_nothing_where_the_server_says_where_it_starts() -> None:
    watch = opened(Watch(after="latest"), position="57")
    assert watch.cursor == "57"
    watch.ended(NOW, 0.5, "cut")
    assert watch.request(NOW).headers["last-event-id"] == "57"


@pytest.mark.parametrize("position", ["", "latest", "x"])
def test_latest_where_the_server_does_not(position: str) -> None:
    watch = opened(Watch(after="latest"), position=position)
    watch.ended(NOW, 0.5, "cut")
    assert watch.request(NOW).params == {"after": "latest"}


# ------------------------------------------------------------------ control frames and cuts


def test_a_gap_cut_before_its_next_event_is_told_once() -> None:
    gap = control("gap", **{"from": 3, "to": 5})
    watch = opened(Watch())
    assert told(watch, events(1, 2), gap) == ["1", "2", "gap"]
    watch.ended(NOW, 0.5, "cut")
    assert watch.request(NOW).headers["last-event-id"] == "2"
    watch.opened(200, STREAM, WALL)
    assert told(watch, gap, event(6)) == ["6"]


def test_a_reset_cut_before_its_next_event_is_told_once() -> None:
    reset = control("reset", **{"from": 58, "to": 60})
    watch = opened(Watch(after=60))
    assert told(watch, reset) == ["reset"]
    watch.ended(NOW, 0.5, "cut")
    assert watch.request(NOW).headers["last-event-id"] == "60"
    watch.opened(200, STREAM, WALL)
    assert told(watch, reset, event("1-58"), event(59), event("1-59")) == ["1-58", "1-59"]


def test_control_frames_have_no_id_even_after_an_event() -> None:
    watch = opened(Watch())
    _, tick, gap = watch.feed(
        event(1) + control("tick", elapsed_seconds=2) + control("gap", **{"from": 2, "to": 3})
    )
    assert (tick.id, tick.data) == ("", {"elapsed_seconds": 2})
    assert gap == WatchedEvent("", "gap", {"from": 2, "to": 3}, '{"from": 2, "to": 3}')


# ------------------------------------------------------------------ purity


def test_importing_it_costs_no_network_stack() -> None:
    program = (
        "import sys, tailrace.client, tailrace.client.reconnect, tailrace.client.requests\n"
        "print([m for m in ('httpx2', 'asyncio', 'ssl', 'anyio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_package_offers_its_names() -> None:
    import tailrace.client

    for name in tailrace.client.__all__:
        assert getattr(tailrace.client, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        _ = tailrace.client.Nothing
