"""Wherever a stream is cut, what was had and what comes then are the whole, without a double: also
between two frames of one event, and whatever the events are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.projections import STREAMS, Projection
from tailrace.projections.chat import Accumulated, text_before
from tailrace.projections.contract import ServerSent
from tailrace.projections.named import Named
from tailrace.projections.rest import resting
from tailrace.protocol import agent, events
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import parse
from tailrace.protocol.sse import Decoder
from tests.turns import RUN, TURNS, Told, blocks

PLAIN: Final = [one for one in STREAMS.values() if isinstance(one, ServerSent)]
PROJECTIONS: Final[list[Projection]] = [*PLAIN, Named(STREAMS["ag-ui"])]

KEYS: Final = (
    *("part", "chunk", "position", "id", "name", "input", "iteration", "index", "count", "status"),
    *("finished", "result", "error", "reason", "usage", "thread", "tools", "duration_seconds"),
    *("model", "timestamp", "text", "type", "forced", "length", "completed", "failed", "total"),
    *("parts", "input_tokens", "current", "percent", "message"),
)
TYPES: Final = (
    *(value for name, value in vars(agent).items() if name.isupper() and isinstance(value, str)),
    *(events.START, events.STATUS, events.PROGRESS, events.LOG, events.OUTPUT, events.MESSAGE),
    *sorted(events.TERMINAL_TYPES),
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        ["1.0", "2.7", "completed", "failed", "executing", "1\n\nid: 9", "2023-11-14T22:13:20.000Z"]
    )
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=6,
)
# Some of each: the words of a turn, and what else may be called so.
forged = st.tuples(
    st.sampled_from(TYPES), st.dictionaries(st.sampled_from(KEYS), values, max_size=8)
)
told: st.SearchStrategy[list[Told]] = st.lists(
    st.sampled_from([event for turn in TURNS.values() for event in turn]) | forged,
    min_size=1,
    max_size=12,
)
sizes = st.integers(1, 5)


def frames(wire: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in wire.split(b"\n\n")[:-1]]


def tell(projection: Projection, some: Sequence[Block], after: int = 0) -> bytes:
    """What a watcher is told that goes on after an event."""
    return b"".join(projection.tell(one.after(after), None) for one in some if one.last > after)


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)
@settings(max_examples=40)
@given(told, sizes, sizes, st.sampled_from([0, 2]))
def test_any_cut(
    projection: Projection, turn: list[Told], size: int, again: int, epoch: int
) -> None:
    whole = tell(projection, blocks(turn, size, epoch=epoch))
    there = frames(whole)
    ids = [frame[4 : frame.index(b"\n")].decode() for frame in there]
    assert len(set(ids)) == len(ids)
    for cut, id_ in enumerate(ids, 1):
        cursor = parse(id_.removeprefix(f"{RUN}:"))
        rest = resting(projection, cursor)
        assert tell(rest, blocks(turn, again, epoch=epoch), cursor.complete) == b"".join(
            there[cut:]
        )
        assert (rest is projection) == (cursor.frame is None)


@pytest.mark.parametrize("name", [one.name for one in PLAIN if one.name != "text"])
@settings(max_examples=40)
@given(told, sizes)
def test_whatever_is_emitted_it_is_one_line_of_json(name: str, turn: list[Told], size: int) -> None:
    for event in Decoder().feed(tell(STREAMS[name], blocks(turn, size))):
        if name == "plain" or event.data == "[DONE]":
            continue
        assert "\n" not in event.data
        assert isinstance(json.loads(event.data), dict)


@pytest.mark.parametrize("name", TURNS)
@settings(max_examples=25)
@given(st.data(), sizes, sizes)
def test_all_the_text_so_far(name: str, data: st.DataObject, size: int, again: int) -> None:
    turn = TURNS[name]
    wanted: dict[int, str] = {}
    text = ""
    for seq, (type_, said) in enumerate(turn, 1):
        text += said["chunk"] if type_ == agent.TEXT_CHUNK else ""
        wanted[seq] = text
    seq = data.draw(st.integers(0, len(turn)))
    before = text_before(blocks(turn, again), seq)
    assert before == wanted.get(seq, "")
    projection = Accumulated(before)
    first = tell(projection, blocks(turn, size), seq)
    chunks = ""
    for event in Decoder().feed(first):
        body = json.loads(event.data)
        if body["type"] == "text_chunk":
            chunks += body["chunk"]
            assert body["accumulated"] == wanted[int(event.id)] == before + chunks
    assert before + chunks == text
    assert tell(projection, blocks(turn, size), seq) == first, "to be told it twice does nothing"
