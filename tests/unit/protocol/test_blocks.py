"""Blocks: framed, taken apart, cut."""

from __future__ import annotations

import pytest

from tailrace.errors import LogCorrupt
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import Draft, Event, draft
from tailrace.protocol.sse import Decoder

# Whoever looks for the framing with too simple an eye finds it in here.
TRICKY = 'x\n\nid: 5\nevent: complete\ndata: {}\n\nid: 6\r\n\r\n": 1-5'


def block(count: int, first: int = 1, epoch: int = 0, text: str = TRICKY) -> Block:
    drafts = [draft("log", {"n": n, text: text}, 0.0) for n in range(count)]
    return Block("run", first, first + count - 1, pack(first, drafts, epoch), epoch)


@pytest.mark.parametrize(
    ("first", "epoch", "wire"),
    [
        (1, 0, b'id: 1\nevent: log\ndata: {}\n\nid: 2\nevent: result\ndata: {"a":1}\n\n'),
        (99, 0, b'id: 99\nevent: log\ndata: {}\n\nid: 100\nevent: result\ndata: {"a":1}\n\n'),
        (7, 2, b'id: 2-7\nevent: log\ndata: {}\n\nid: 2-8\nevent: result\ndata: {"a":1}\n\n'),
    ],
)
def test_the_wire_form(first: int, epoch: int, wire: bytes) -> None:
    assert pack(first, [Draft("log", b"{}"), Draft("result", b'{"a":1}')], epoch) == wire


def test_nothing_packed_is_nothing() -> None:
    assert pack(1, []) == b""


@pytest.mark.parametrize("epoch", [0, 3])
def test_events_are_what_was_packed(epoch: int) -> None:
    drafts = [draft("log", {TRICKY: TRICKY}, 0.0), draft("a:b", "é", 1.0), Draft("x", b"{}")]
    made = Block("run", 5, 7, pack(5, drafts, epoch), epoch)
    expected = [Event(seq, told.type, told.data) for seq, told in enumerate(drafts, 5)]
    assert list(made.events) == expected
    assert made.events is made.events, "taken apart once"


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("first", [1, 5, 9])
def test_what_follows_any_event(first: int, epoch: int) -> None:
    whole = block(6, first, epoch)
    assert whole.after(first - 1) is whole
    assert whole.after(0) is whole
    for seq in range(first, whole.last):
        rest = whole.after(seq)
        assert (rest.run, rest.first, rest.last, rest.epoch) == ("run", seq + 1, whole.last, epoch)
        assert rest.events == whole.events[seq + 1 - first :]
        assert whole.wire.endswith(rest.wire)


def test_what_is_not_in_a_block_cannot_follow() -> None:
    with pytest.raises(LogCorrupt):
        block(3).after(3)
    lying = Block("run", 1, 5, block(3).wire)
    with pytest.raises(LogCorrupt, match="Event 5 is missing"):
        lying.after(4)


@pytest.mark.parametrize(
    ("types", "ends"),
    [
        (["complete"], True),
        (["log", "error"], True),
        (["log", "cancelled"], True),
        (["log"], False),
        (["completed"], False),
        (["result"], False),
    ],
)
def test_whether_a_block_ends_its_run(types: list[str], ends: bool) -> None:
    drafts = [draft(type_, {"text": TRICKY}, 0.0) for type_ in types]
    assert Block("run", 1, len(types), pack(1, drafts)).ends is ends


@pytest.mark.parametrize(
    "wire",
    [
        b"id: 1\nevent: log\n\n",
        b"id: x\nevent: log\ndata: {}\n\n",
        b"id: 1\nevent: \xff\ndata: {}\n\n",
        b"id: 1\nevent: log\ndata: {}\nretry: 1\n\n",
        b"\n\n",
    ],
)
def test_a_damaged_block_says_so(wire: bytes) -> None:
    with pytest.raises(LogCorrupt) as error:
        _ = Block("run", 1, 1, wire).events
    assert error.value.fix


def test_a_stream_decoder_reads_a_block() -> None:
    made = block(4, first=8, epoch=1)
    decoded = [(event.id, event.event, event.data) for event in Decoder().feed(made.wire)]
    assert decoded == [(f"1-{e.seq}", e.type, e.data.decode()) for e in made.events]
