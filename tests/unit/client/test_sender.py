from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.client import sender as senders
from tailrace.client.sender import (
    FULL_BYTES,
    FULL_EVENTS,
    LINGER_SECONDS,
    MAX_BYTES,
    MAX_EVENTS,
    POLL_SECONDS,
    Sender,
)
from tailrace.errors import (
    EventTooLarge,
    LogClosed,
    ProducerGap,
    ProtocolViolation,
    RequestError,
    RunEnded,
    RunUnknown,
    ServerUnreachable,
    TailraceError,
    TooManyRequests,
    WriterFenced,
)
from tailrace.http import shapes
from tailrace.protocol.events import MAX_EVENT_BYTES, Draft
from tailrace.protocol.wire import MAX_BODY_BYTES

NOW = 1000.0


class Desk:
    """A sender, with a clock of its own."""

    def __init__(self, **given: Any) -> None:
        self.now = NOW
        self.sender = Sender(given.pop("producer", "worker-7"), now=NOW, **given)

    def put(self, *numbers: int, text: str = "") -> None:
        for number in numbers:
            self.sender.put(Draft("row", b'{"n":%d,"text":"%b"}' % (number, text.encode())))

    def step(self) -> bytes | float | None:
        return self.sender.step(self.now)

    def sent(self) -> dict[str, Any]:
        """The request that is due."""
        content = self.step()
        assert isinstance(content, bytes), content
        assert self.step() is None, "there is one request at a time"
        told: dict[str, Any] = json.loads(content)
        return told

    def numbers(self) -> list[int]:
        return [event["data"]["n"] for event in self.sent()["events"]]

    def answer(
        self,
        status: int = 200,
        code: str = "",
        *,
        state: str = "running",
        chance: float = 1.0,
        body: bytes | None = None,
        **more: Any,
    ) -> None:
        document = {"appended": 0, "last_event_id": "1", "state": state}
        if code:
            document = {"code": code, "detail": "Because.", "fix": "Mend it.", **more}
        self.sender.answered(
            status,
            {"retry-after": str(more["after"])} if "after" in more else {},
            json.dumps(document).encode() if body is None else body,
            now=self.now,
            wall_clock=0.0,
            chance=chance,
        )

    def cut(self, chance: float = 1.0) -> None:
        self.sender.unanswered("No answer.", self.now, chance)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- what is sent --------------------------------------------------------------------------


def test_what_a_request_says(desk: Desk) -> None:
    desk.put(1, 2)
    assert desk.sent() == {
        "events": [{"type": "row", "data": {"n": n, "text": ""}} for n in (1, 2)],
        "producer": {"id": "worker-7", "epoch": 0, "seq": 1},
    }


def test_whose_events_they_are() -> None:
    desk = Desk(producer='a "b"\n', epoch=3, attempt=2)
    desk.put(1)
    told = desk.sent()
    assert told["attempt"] == 2
    assert told["producer"] == {"id": 'a "b"\n', "epoch": 3, "seq": 1}
    shapes.AppendEvents.model_validate(told)


@pytest.mark.parametrize(
    "given",
    [
        {"producer": ""},
        {"producer": "x" * 101},
        {"epoch": -1},
        {"epoch": 2**60},
        {"attempt": 0},
        {"attempt": 2**60},
    ],
)
def test_what_no_server_would_take(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as raised:
        Desk(**given)
    assert raised.value.fix


def test_events_are_numbered_on(desk: Desk) -> None:
    desk.put(1, 2)
    desk.sent()
    desk.put(3)
    desk.answer()
    assert (desk.sender.kept, desk.sender.held) == (2, 1)
    desk.now += LINGER_SECONDS
    told = desk.sent()
    assert [event["data"]["n"] for event in told["events"]] == [3]
    assert told["producer"]["seq"] == 3


def test_what_has_no_answer_is_sent_again_as_it_was(desk: Desk) -> None:
    desk.put(1, 2)
    first = desk.step()
    desk.cut(chance=0.5)
    desk.put(3)
    assert desk.step() == pytest.approx(0.1)
    desk.now += 0.1
    assert desk.step() == first
    desk.answer()
    assert desk.sender.kept == 2
    assert desk.sender.trouble is None


def test_an_idle_producer_sends_at_once_and_a_busy_one_lingers(desk: Desk) -> None:
    desk.put(1)
    assert desk.numbers() == [1]
    desk.now += 0.01
    desk.answer()
    desk.put(2)
    assert desk.step() == pytest.approx(LINGER_SECONDS - 0.01)
    desk.put(3)
    desk.now += LINGER_SECONDS - 0.01
    assert desk.numbers() == [2, 3]
    desk.answer()
    desk.now += 1
    desk.put(4)
    assert desk.numbers() == [4]


def test_who_waits_is_not_made_to_linger(desk: Desk) -> None:
    desk.put(1)
    desk.sent()
    desk.answer()
    assert desk.sender.hurry() == 1
    desk.put(2)
    assert desk.sender.hurry() == 2
    assert desk.numbers() == [2]
    desk.answer()
    assert desk.sender.kept == 2
    desk.put(3)
    assert desk.step() == pytest.approx(LINGER_SECONDS)


def test_a_request_has_a_bound(desk: Desk) -> None:
    assert MAX_EVENTS == shapes.MAX_EVENTS
    assert MAX_BYTES + MAX_EVENT_BYTES > MAX_BODY_BYTES > MAX_BYTES + 1000
    desk.put(*range(2 * MAX_EVENTS + 1))
    for _ in range(2):
        # A full one does not linger.
        assert len(desk.numbers()) == MAX_EVENTS
        desk.answer()
    assert desk.step() == pytest.approx(LINGER_SECONDS)
    desk.now += LINGER_SECONDS
    assert desk.numbers() == [2 * MAX_EVENTS]


def test_a_request_is_never_too_large(desk: Desk) -> None:
    desk.put(*range(8), text="x" * (MAX_EVENT_BYTES - 100))
    numbers: list[int] = []
    while desk.sender.held:
        content = desk.step()
        assert isinstance(content, bytes)
        assert len(content) < MAX_BODY_BYTES
        numbers += [event["data"]["n"] for event in json.loads(content)["events"]]
        desk.answer()
        desk.now += LINGER_SECONDS
    assert numbers == list(range(8))


def levels(desk: Desk) -> tuple[bool, bool]:
    return desk.sender.is_high, desk.sender.is_full


def test_how_much_is_held(desk: Desk) -> None:
    large = "x" * 200_000
    for number in range(FULL_BYTES // 2 // 200_000):
        desk.put(number, text=large)
    assert levels(desk) == (False, False)
    desk.put(0, text=large)
    assert levels(desk) == (True, False)
    for number in range(FULL_BYTES // 2 // 200_000 + 1):
        desk.put(number, text=large)
    assert levels(desk) == (True, True)
    while desk.sender.held:
        desk.sender.hurry()
        desk.sent()
        desk.answer()
    assert levels(desk) == (False, False)

    desk.put(*range(FULL_EVENTS - 1))
    assert levels(desk) == (True, False)
    desk.put(0)
    assert levels(desk) == (True, True)


# --- asking --------------------------------------------------------------------------------


def test_a_silent_producer_asks_now_and_then(desk: Desk) -> None:
    assert desk.step() == pytest.approx(LINGER_SECONDS)
    desk.now += LINGER_SECONDS
    assert desk.sent() == {"events": [], "producer": {"id": "worker-7", "epoch": 0, "seq": 1}}
    desk.answer()
    assert desk.step() == pytest.approx(POLL_SECONDS)
    desk.now += 3
    desk.put(1)
    assert desk.numbers() == [1]
    desk.answer()
    assert desk.step() == pytest.approx(POLL_SECONDS)


def test_a_question_that_was_lost_is_not_in_the_way(desk: Desk) -> None:
    desk.now += LINGER_SECONDS
    desk.sent()
    desk.put(1)
    desk.cut(chance=0.0)
    assert desk.numbers() == [1]
    desk.answer()
    desk.now += POLL_SECONDS
    assert desk.sent()["events"] == []
    desk.cut()
    assert desk.step() == pytest.approx(POLL_SECONDS)


@pytest.mark.parametrize(
    ("state", "is_stopped"),
    [
        ("queued", False),
        ("running", False),
        ("cancelling", True),
        ("cancelled", True),
        ("completed", True),
        ("lost", True),
    ],
)
def test_whether_the_run_is_to_stop(desk: Desk, state: str, is_stopped: bool) -> None:
    desk.put(1)
    desk.sent()
    desk.answer(state=state)
    assert desk.sender.is_stopped is is_stopped
    # Who knows asks no more.
    assert (desk.step() is None) is is_stopped
    # And yet it may tell how it ends.
    desk.put(2)
    desk.now += 1
    assert desk.numbers() == [2]


# --- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", TailraceError),
        (403, "scope-missing", TailraceError),
        (404, "run-unknown", RunUnknown),
        (409, "writer-fenced", WriterFenced),
        (409, "producer-gap", ProducerGap),
        (413, "event-too-large", EventTooLarge),
        (422, "event-invalid", TailraceError),
        (307, "", TailraceError),
        (404, "", TailraceError),
    ],
)
def test_what_ends_the_sending(
    desk: Desk, status: int, code: str, kind: type[TailraceError]
) -> None:
    desk.put(1)
    desk.sent()
    desk.answer(status, code, expected=1, state="cancelled")
    assert isinstance(desk.sender.error, kind)
    assert desk.sender.error.fix
    assert not desk.sender.is_stopped
    assert desk.step() is None
    with pytest.raises(kind):
        desk.put(2)
    assert desk.sender.held == 1


@pytest.mark.parametrize("count", [0, 1, 5])
def test_what_a_run_that_is_over_does_not_take_is_dropped(
    desk: Desk, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "FULL_EVENTS", 10)
    for number in range(count):
        desk.put(number)
    desk.now += POLL_SECONDS
    desk.sent()
    desk.answer(409, "run-ended", state="failed")
    for number in range(20):
        desk.put(number)
    assert isinstance(desk.sender.error, RunEnded)
    assert desk.sender.is_stopped
    assert desk.step() is None
    # It is not forgotten that there was something, but it takes no room.
    assert desk.sender.hurry() == desk.sender.held == count + 20
    assert desk.sender.kept == 0
    assert not desk.sender.is_full


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"state":"flying"}', b"null"])
def test_an_answer_of_somebody_else(desk: Desk, body: bytes) -> None:
    desk.put(1)
    desk.sent()
    desk.answer(body=body)
    assert isinstance(desk.sender.error, ProtocolViolation)
    assert "prefix" in desk.sender.error.fix
    assert (desk.sender.kept, desk.sender.held) == (0, 1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_what_passes(desk: Desk, status: int) -> None:
    desk.put(1)
    first = desk.step()
    for losses, pause in enumerate((0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0), 1):
        desk.answer(status, "log-closed")
        assert desk.sender.losses == losses
        assert isinstance(desk.sender.trouble, LogClosed)
        assert desk.step() == pytest.approx(pause)
        desk.now += pause
        assert desk.step() == first
    desk.answer()
    assert (desk.sender.losses, desk.sender.trouble, desk.sender.kept) == (0, None, 1)


@pytest.mark.parametrize(("after", "pause"), [("7", 7.0), ("0", 0.1), ("99999", 3600.0)])
def test_a_server_says_when_to_come_back(desk: Desk, after: str, pause: float) -> None:
    desk.put(1)
    desk.sent()
    desk.answer(429, "too-many-requests", after=after)
    assert isinstance(desk.sender.trouble, TooManyRequests)
    assert desk.step() == pytest.approx(pause)


def test_what_is_too_large_at_once_is_sent_in_parts(desk: Desk) -> None:
    desk.put(*range(10))
    assert len(desk.numbers()) == 10
    desk.answer(413)
    assert desk.numbers() == [0, 1, 2, 3, 4]
    desk.answer(413)
    told = desk.sent()
    assert [event["data"]["n"] for event in told["events"]] == [0, 1]
    assert told["producer"]["seq"] == 1
    desk.answer()
    assert desk.numbers() == [2, 3]
    desk.answer()
    desk.sender.hurry()
    assert desk.numbers() == [4, 5]
    assert desk.sender.error is None


# --- patience ------------------------------------------------------------------------------


def test_patience_ends() -> None:
    desk = Desk(patience=1.0)
    desk.put(1)
    desk.sent()
    desk.now += 0.5
    desk.cut()
    assert desk.step() == pytest.approx(0.2)
    desk.now += 0.2
    desk.sent()
    desk.cut()
    # The last attempt is made when patience ends.
    assert desk.step() == pytest.approx(0.3)
    desk.now += 0.3
    desk.sent()
    desk.cut()
    assert isinstance(desk.sender.error, ServerUnreachable)
    assert desk.sender.held == 1


def test_patience_begins_anew_with_each_answer() -> None:
    desk = Desk(patience=1.0)
    desk.put(1)
    for _ in range(5):
        desk.sent()
        desk.now += 0.6
        desk.cut(chance=0.0)
        desk.sent()
        desk.answer()
        desk.put(1)
        desk.now += LINGER_SECONDS
    assert desk.sender.error is None


def test_who_has_nothing_to_tell_loses_no_patience() -> None:
    desk = Desk(patience=0.0)
    desk.now += POLL_SECONDS
    desk.sent()
    desk.cut()
    assert desk.sender.error is None
    desk.put(1)
    desk.now += 5
    desk.sent()
    desk.cut()
    assert isinstance(desk.sender.error, ServerUnreachable)


def test_a_pause_beyond_patience_is_not_waited_for() -> None:
    desk = Desk(patience=10.0)
    desk.put(1)
    desk.sent()
    desk.answer(429, "too-many-requests", after="60")
    assert isinstance(desk.sender.error, TooManyRequests)
