from __future__ import annotations

import pytest

from tailrace.errors import FormatUnknown
from tailrace.projections import STREAMS, Projection, stream
from tailrace.projections.contract import chosen, cursor, framed
from tailrace.projections.output import Output
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import TERMINAL_TYPES, draft
from tailrace.protocol.sse import Decoder

SERVER_SENT = ["events", "text", "typed", "jsonrpc"]


def block(first: int = 1, epoch: int = 0, end: str = "complete") -> Block:
    types = ("start", "log", "progress", "log", end)
    drafts = [draft(type_, {"number": number}, 0.0) for number, type_ in enumerate(types)]
    return Block("run_a", first, first + 4, pack(first, drafts, epoch), epoch)


@pytest.mark.parametrize("end", sorted(TERMINAL_TYPES))
def test_a_filter_always_passes_the_terminal_event(end: str) -> None:
    some = block(end=end)
    assert [event.seq for event in chosen(some, None)] == [1, 2, 3, 4, 5]
    assert [event.seq for event in chosen(some, frozenset({"log"}))] == [2, 4, 5]
    assert [event.seq for event in chosen(some, frozenset())] == [5]


def test_an_id_has_the_epoch_of_its_block() -> None:
    for epoch, expected in ((0, "7"), (2, "2-7")):
        some = block(7, epoch)
        assert cursor(some, some.events[0]) == expected


@pytest.mark.parametrize(
    ("bodies", "ids"),
    [([], []), ([b"data: a"], ["2-7"]), ([b"data: a", b"data: b", b"data: c"],
                                        ["2-7.1", "2-7.2", "2-7"])],
)  # fmt: skip
def test_the_last_frame_of_an_event_has_its_id(bodies: list[bytes], ids: list[str]) -> None:
    some = block(7, 2)
    told = framed(some, some.events[0], bodies)
    assert [event.id for event in Decoder().feed(told)] == ids
    assert [event.data for event in Decoder().feed(told)] == ["a", "b", "c"][: len(ids)]


def test_a_format_is_found_by_its_name() -> None:
    assert {name: stream(name).name for name in STREAMS} == {name: name for name in STREAMS}
    with pytest.raises(FormatUnknown) as unknown:
        stream("xml" * 100)
    assert len(str(unknown.value)) < 100
    assert "events, text, typed, ndjson" in unknown.value.fix


@pytest.mark.parametrize("name", SERVER_SENT)
def test_what_is_sent_around_the_events_is_no_event(name: str) -> None:
    one = stream(name)
    assert one.media_type == "text/event-stream; charset=utf-8"
    around = (one.opening, one.heartbeat, one.closing(None), one.closing(500))
    assert around == (
        b": tailrace\nretry: 1000\n",
        b": keep-alive\n",
        b": end\n",
        b"retry: 500\n: end\n",
    )
    # A blank line would make httpx-sse see an empty event.
    assert not any(b"\n\n" in part for part in around)
    decoder = Decoder()
    assert decoder.feed(b"".join(around)) == []
    assert decoder.retry == 500


@pytest.mark.parametrize("name", SERVER_SENT)
def test_a_control_frame_has_no_id(name: str) -> None:
    frame = stream(name).control("gap", {"run": "run_a", "from": 3, "to": 4})
    decoder = Decoder(last_event_id="2")
    (event,) = decoder.feed(frame)
    assert event.id == "2"
    assert b"id:" not in frame


@pytest.mark.parametrize("one", [*STREAMS.values(), Output()], ids=lambda one: one.name)
def test_a_block_is_told_the_same_however_it_is_cut(one: Projection) -> None:
    """Under one id everybody sees the same bytes, whatever was committed together."""
    some = block(3, 1)
    for types in (None, frozenset({"log"})):
        whole = one.tell(some, types)
        for at in range(3, 7):
            rest = some.after(at)
            head = Block("run_a", 3, at, some.wire.removesuffix(rest.wire), 1)
            assert one.tell(head, types) + one.tell(rest, types) == whole


@pytest.mark.parametrize("name", [*SERVER_SENT, "ndjson"])
def test_each_event_is_one_frame_with_its_id(name: str) -> None:
    told = stream(name).tell(block(3, 1), None)
    if name == "ndjson":
        assert told.count(b"\n") == 5
        assert b'{"id":"1-3",' in told
    else:
        assert [event.id for event in Decoder().feed(told)] == ["1-3", "1-4", "1-5", "1-6", "1-7"]
