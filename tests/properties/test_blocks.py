"""Blocks of any payloads: what goes in comes out, wherever it is cut."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import TERMINAL_TYPES, Draft, draft
from tailrace.protocol.sse import Decoder

# Text that looks like the framing is likelier than chance would have it.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "\n\nid: 5\nevent: ",
        "x\n\nid: 2\nevent: complete\ndata: {}\n\n",
        "\r\n\r\nid: 1-2\r\nevent: log\r\n",
        "\nevent: error\n",
        "\\n\\nid: 3\\nevent: ",
        "\0\u2028\u2029\x85",
    ]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from(sorted(TERMINAL_TYPES)) | st.from_regex(
    r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}", fullmatch=True
)
drafts = st.lists(
    st.builds(lambda type_, payload: draft(type_, payload, 0.0), types, values),
    min_size=1,
    max_size=6,
)


def made(given_: list[Draft], first: int, epoch: int) -> Block:
    return Block("run", first, first + len(given_) - 1, pack(first, given_, epoch), epoch)


@given(drafts, st.integers(1, 10**9), st.integers(0, 2))
def test_what_is_packed_is_taken_apart(given_: list[Draft], first: int, epoch: int) -> None:
    block = made(given_, first, epoch)
    assert [(event.seq, event.type, event.data) for event in block.events] == [
        (seq, told.type, told.data) for seq, told in enumerate(given_, first)
    ]
    assert block.ends == (given_[-1].type in TERMINAL_TYPES)


@given(drafts, st.sampled_from([1, 4, 8, 9, 10, 98, 99, 999]), st.integers(0, 2))
def test_a_cut_anywhere_is_exact(given_: list[Draft], first: int, epoch: int) -> None:
    block = made(given_, first, epoch)
    for seq in range(first - 1, block.last):
        rest = block.after(seq)
        assert rest.wire == pack(seq + 1, given_[seq + 1 - first :], epoch)
        assert rest.events == block.events[seq + 1 - first :]
        assert rest.ends == block.ends


@given(drafts, st.integers(1, 100), st.integers(0, 2))
def test_any_stream_decoder_agrees(given_: list[Draft], first: int, epoch: int) -> None:
    block = made(given_, first, epoch)
    lead = f"{epoch}-" if epoch else ""
    assert [(event.id, event.event, event.data) for event in Decoder().feed(block.wire)] == [
        (f"{lead}{event.seq}", event.type, event.data.decode()) for event in block.events
    ]
