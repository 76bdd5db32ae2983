"""What may be emitted, and as which bytes."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import threading
import types
import uuid
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from tailrace.errors import EventInvalid, EventTooLarge
from tailrace.protocol import events
from tailrace.protocol.events import Draft, Event, draft, emitted, loads, seconds, stamp, to_json

AT = 1_795_166_400.25
STAMP = stamp(AT)


class Colour(enum.StrEnum):
    RED = "red"


class Model(BaseModel):
    when: dt.date
    tags: set[str]


@dataclasses.dataclass
class Point:
    x: int
    y: Any


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024 - users have them too


class Stubborn:
    def model_dump(self, mode: str) -> Any:
        raise ZeroDivisionError(mode)


def body(payload: Any) -> Any:
    return orjson.loads(draft("log", payload, AT).data)


# ---------------------------------------------------------------- payloads


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({}, {}),
        ({"a": 1, "b": [True, None, 1.5, "é"]}, {"a": 1, "b": [True, None, 1.5, "é"]}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.UserDict(a={"b": 1}), {"a": {"b": 1}}),
        ({"a": [types.MappingProxyType({"b": 1})]}, {"a": [{"b": 1}]}),
        ({2: "two", None: 2, True: 3}, {"2": "two", "null": 2, "true": 3}),
        ({Colour.RED: Colour.RED}, {"red": "red"}),
        ("text", {"value": "text"}),
        (b"raw \xff", {"value": "raw \ufffd"}),
        (None, {"value": None}),
        (0, {"value": 0}),
        (2**64 - 1, {"value": 2**64 - 1}),
        (float("nan"), {"value": None}),
        ([1, (2, {3})], {"value": [1, [2, [3]]]}),
        (frozenset({4}), {"value": [4]}),
        (Pair(1, 2), {"value": [1, 2]}),
        (Point(1, {2}), {"value": {"x": 1, "y": [2]}}),
        (uuid.UUID(int=1), {"value": "00000000-0000-0000-0000-000000000001"}),
        (
            Model(when=dt.date(2026, 11, 20), tags={"a"}),
            {"value": {"when": "2026-11-20", "tags": ["a"]}},
        ),
        (
            {"deep": Model(when=dt.date(2026, 1, 2), tags=set())},
            {"deep": {"when": "2026-01-02", "tags": []}},
        ),
    ],
)
def test_anything_sensible_can_be_emitted(payload: Any, expected: Any) -> None:
    found = body(payload)
    assert found.pop("timestamp") == STAMP
    assert found == expected


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "payload",
    [
        *(object(), Point, 2**64, "\ud800", {"\ud800": 1}, {(1, 2): 3}, Stubborn(), 1j, range(2)),
        nested(300),
    ],
)
def test_what_json_cannot_say_is_refused(payload: Any) -> None:
    with pytest.raises(EventInvalid) as error:
        draft("log", payload, AT)
    assert error.value.fix


def test_a_circle_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(EventInvalid):
        draft("log", circle, AT)


@pytest.mark.parametrize(
    "raw", [b'{"a":\n1}', b'{"a":\r1}', b"1\n\nid: 9\nevent: complete\ndata: 1"]
)
def test_a_fragment_cannot_break_out_of_its_frame(raw: bytes) -> None:
    with pytest.raises(EventInvalid):
        draft("log", {"fragment": orjson.Fragment(raw)}, AT)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x00\x1f\x7f", "\u2028\u2029", "\n\nid: 5\n"])
def test_a_payload_is_one_line(text: str) -> None:
    told = draft("log", {"text": text, text: 1}, AT)
    assert not {b"\n", b"\r", b"\0"} & {told.data[at : at + 1] for at in range(len(told.data))}
    assert orjson.loads(told.data)["text"] == text


def test_a_timestamp_of_ones_own_is_kept() -> None:
    assert body({"timestamp": "noon"}) == {"timestamp": "noon"}
    assert body({"timestamp": None}) == {"timestamp": None}


def test_the_payload_that_was_given_is_left_alone() -> None:
    given = {"a": 1}
    draft("log", given, AT)
    assert given == {"a": 1}


def test_the_limit_counts_bytes_of_json() -> None:
    fits = len(draft("log", {"text": ""}, AT).data)
    assert len(draft("log", {"text": "x" * 100}, AT, limit=fits + 100).data) == fits + 100
    for text in ("x" * 101, "é" * 51, "\n" * 51):
        with pytest.raises(EventTooLarge) as error:
            draft("log", {"text": text}, AT, limit=fits + 100)
        assert "'log'" in str(error.value)
    with pytest.raises(EventTooLarge):
        draft("log", "x" * events.MAX_EVENT_BYTES, AT)


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("type_", ["log", "a", "Tool.call:1/x-y_z", "x" * 64, Colour.RED])
def test_what_is_a_type(type_: str) -> None:
    assert draft(type_, {}, AT).type == type_


@pytest.mark.parametrize(
    "type_",
    [
        *("", "1a", "_a", "a b", "a\n", "a\r", "a\nid: 9", "a\0", "é", "aé", "x" * 65, "a,b", "*"),
        *(None, 5, b"log", ["log"], {"log"}),
    ],
)
@pytest.mark.parametrize("make", [draft, emitted])
def test_what_is_no_type(type_: Any, make: Any) -> None:
    with pytest.raises(EventInvalid) as error:
        make(type_, {}, AT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("type_", sorted(events.TERMINAL_TYPES | events.CONTROL_TYPES))
def test_a_producer_cannot_end_a_run_or_forge_a_control_frame(type_: str) -> None:
    with pytest.raises(EventInvalid):
        emitted(type_, {}, AT)
    assert draft(type_, {}, AT).type == type_


@pytest.mark.parametrize(
    "type_", ["start", "status", "progress", "log", "output", "result", "message", "Complete"]
)
def test_a_producer_may_emit_the_rest(type_: str) -> None:
    assert emitted(type_, {"a": 1}, AT) == draft(type_, {"a": 1}, AT)
    with pytest.raises(EventTooLarge):
        emitted(type_, {"a": 1}, AT, limit=5)


# ---------------------------------------------------------------- events, times, JSON


def test_an_event_knows_its_payload_and_whether_it_ends() -> None:
    assert Event(1, "log", b'{"a":[1]}').payload == {"a": [1]}
    assert [Event(1, type_, b"{}").terminal for type_ in ("complete", "error", "cancelled")] == [
        True
    ] * 3
    assert not Event(1, "result", b"{}").terminal


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
        (1_795_166_400.0, "2026-11-20T09:20:00.000Z"),
        (1_795_166_400.9996, "2026-11-20T09:20:00.999Z"),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(at: float, text: str) -> None:
    assert stamp(at) == text
    read = seconds(text)
    assert read is not None
    assert 0 <= at - read < 0.001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T09:20:00Z", 1_795_166_400.0),
        ("2026-11-20T10:20:00.5+01:00", 1_795_166_400.5),
        ("noon", None),
        ("", None),
        ("2026-13-01T00:00:00Z", None),
        ("0001-01-01T00:00:00", None),
    ],
)
def test_a_time_is_read_or_is_none(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


def test_stored_json_is_read() -> None:
    assert loads(None) is None
    assert loads(to_json({"a": (1, 2)})) == {"a": [1, 2]}


def test_a_stamp_that_was_read_is_written_as_it_was() -> None:
    for number in range(1_795_166_400_000, 1_795_166_403_000):
        text = stamp(number / 1000)
        assert text.endswith(f"{number % 1000:03}Z")
        assert stamp(seconds(text) or 0.0) == text


def test_threads_stamp_with_their_own_time() -> None:
    """The latest stamp is kept for all of them."""
    wrong: list[str] = []

    def work(start: float) -> None:
        for number in range(3000):
            at = start + number % 7 / 1000
            told = orjson.loads(draft("log", {}, at).data)["timestamp"]
            if told != f"{base(start)}.{number % 7:03}Z" or stamp(at) != told:
                wrong.append(told)

    def base(start: float) -> str:
        return dt.datetime.fromtimestamp(start, dt.UTC).isoformat()[:-6]

    threads = [threading.Thread(target=work, args=(1e9 + n * 1000.0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_number_of_types_is_remembered_for_ever() -> None:
    for number in range(3 * events._KNOWN_TYPES):
        assert emitted(f"t{number}", {}, AT).type == f"t{number}"
        assert draft(f"d{number}", {}, AT).type == f"d{number}"
    assert len(events._emittable) <= events._KNOWN_TYPES
    assert len(events._good) <= events._KNOWN_TYPES
    with pytest.raises(EventInvalid):
        emitted("complete", {}, AT)


def test_drafts_are_values() -> None:
    assert Draft("log", b"{}") == Draft("log", b"{}")
    assert len({Draft("log", b"{}"), Draft("log", b"{}")}) == 1
    with pytest.raises(AttributeError):
        Draft("log", b"{}").type = "other"  # type: ignore[misc]
    assert repr(emitted("log", {"timestamp": 1}, AT)) == (
        "Draft(type='log', data=b'{\"timestamp\":1}')"
    )
