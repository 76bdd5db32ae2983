"""Whatever is sent comes back, whatever arrives is read alike, wherever the bytes are cut."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import httpx
import httpx_sse
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import StreamTooLarge
from tailrace.protocol import sse
from tailrace.protocol.sse import Decoder, ServerSentEvent

# ---------------------------------------------------------------- the reference


@dataclass
class Reading:
    """What a whole stream comes to."""

    events: list[ServerSentEvent]
    last_event_id: str
    retry: int | None


def reference_lines(body: bytes) -> list[str]:
    text = body.decode("utf-8", errors="replace")
    if text[:1] == "\ufeff":
        text = text[1:]
    lines: list[str] = []
    line = ""
    at = 0
    while at < len(text):
        if text[at] in "\r\n":
            lines.append(line)
            line = ""
            if text[at : at + 2] == "\r\n":
                at += 1
        else:
            line += text[at]
        at += 1
    return lines


def reference(body: bytes, last_event_id: str = "") -> Reading:
    """Decode a whole stream as the WHATWG text words it: clumsily, and on decoded text."""
    reading = Reading([], last_event_id, None)
    data_buffer = event_type_buffer = ""
    last_event_id_buffer = last_event_id
    for line in reference_lines(body):
        if line == "":
            reading.last_event_id = last_event_id_buffer
            if data_buffer == "":
                event_type_buffer = ""
                continue
            if data_buffer[-1] == "\n":
                data_buffer = data_buffer[:-1]
            kind = event_type_buffer if event_type_buffer != "" else "message"
            reading.events.append(ServerSentEvent(kind, data_buffer, reading.last_event_id))
            data_buffer = event_type_buffer = ""
            continue
        if line[0] == ":":
            continue
        colon = line.find(":")
        field, value = (line, "") if colon < 0 else (line[:colon], line[colon + 1 :])
        value = value.removeprefix(" ")
        if field == "event":
            event_type_buffer = value
        elif field == "data":
            data_buffer += value + "\n"
        elif field == "id" and "\0" not in value:
            last_event_id_buffer = value
        elif field == "retry" and value != "" and set(value) <= set("0123456789"):
            # Our one addition to the text: times beyond 15 digits are ignored.
            reading.retry = int(value) if int(value) < 10**15 else reading.retry
    return reading


def read(chunks: list[bytes], last_event_id: str = "") -> Reading:
    decoder = Decoder(last_event_id=last_event_id)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return Reading(events, decoder.last_event_id, decoder.retry)


# ---------------------------------------------------------------- what is drawn

line_text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)
data_text = st.text(
    st.one_of(st.sampled_from("\r\n :\u2028\x85\0\ufeffé🥌"), st.characters(codec="utf-8")),
    max_size=30,
)
milliseconds = st.integers(0, 10**15 - 1)


@dataclass
class Block:
    data: str
    id: str | None
    event: str | None
    retry: int | None


blocks = st.builds(
    Block,
    data=data_text,
    id=st.none() | line_text,
    event=st.none() | line_text,
    retry=st.none() | milliseconds,
)
comments = line_text.map(sse.comment)
hints = milliseconds
sent = st.lists(st.one_of(blocks, comments, hints), max_size=8)

# Bytes that have a meaning to the decoder far more often than chance would draw them.
raw_bytes = st.lists(
    st.one_of(
        st.sampled_from(
            [b"data", b"id", b"event", b"retry", b":", b": ", b" ", b"\r", b"\n", b"\r\n", b"\n\n"]
        ),
        st.sampled_from([b"data: x\n\n", b"id: 7\n", b"retry:05", b"1", b"\0", b"\xef\xbb\xbf"]),
        st.sampled_from([b"\xef", b"\xbb", b"\xbf", b"\xf0\x9f", b"\xa5\x8c", b"\xff", b"\xc0"]),
        st.binary(max_size=4),
    ),
    max_size=40,
).map(b"".join)


@st.composite
def cut(draw: st.DrawFn, body: bytes) -> list[bytes]:
    """Cut bytes anywhere, empty pieces included; or into single bytes."""
    if draw(st.integers(0, 4)) == 0:
        return [body[at : at + 1] for at in range(len(body))]
    places = sorted(draw(st.lists(st.integers(0, len(body)), max_size=12)))
    edges = [0, *places, len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


def wire_of(items: list[Block | bytes | int]) -> bytes:
    return b"".join(
        item
        if isinstance(item, bytes)
        else sse.retry(item)
        if isinstance(item, int)
        else sse.encode(item.data, id=item.id, event=item.event, retry=item.retry)
        for item in items
    )


def meaning_of(items: list[Block | bytes | int]) -> Reading:
    """What a client must see of what was sent."""
    reading = Reading([], "", None)
    for item in items:
        if isinstance(item, int):
            reading.retry = item
        elif isinstance(item, Block):
            if item.retry is not None:
                reading.retry = item.retry
            if item.id is not None:
                reading.last_event_id = item.id
            data = item.data.replace("\r\n", "\n").replace("\r", "\n")
            event = ServerSentEvent(item.event or "message", data, reading.last_event_id)
            reading.events.append(event)
    return reading


# ---------------------------------------------------------------- the properties


@given(st.data(), sent)
def test_what_is_sent_comes_back_at_any_split(
    draws: st.DataObject, items: list[Block | bytes | int]
) -> None:
    wire = wire_of(items)
    expected = meaning_of(items)
    assert read([wire]) == expected
    assert read(draws.draw(cut(wire))) == expected


@given(blocks)
def test_text_and_its_bytes_are_sent_alike(block: Block) -> None:
    as_text = sse.encode(block.data, id=block.id, event=block.event, retry=block.retry)
    as_bytes = sse.encode(block.data.encode(), id=block.id, event=block.event, retry=block.retry)
    assert as_text == as_bytes


@given(blocks)
def test_a_block_ends_once_and_has_no_cr(block: Block) -> None:
    wire = sse.encode(block.data, id=block.id, event=block.event, retry=block.retry)
    assert b"\r" not in wire
    assert wire.find(b"\n\n") == len(wire) - 2


@given(st.data(), raw_bytes, line_text)
def test_any_bytes_read_alike_at_any_split_and_as_the_standard_says(
    draws: st.DataObject, body: bytes, last_event_id: str
) -> None:
    whole = read([body], last_event_id)
    assert whole == reference(body, last_event_id)
    assert read(draws.draw(cut(body)), last_event_id) == whole


def read_bounded(chunks: list[bytes], bound: int) -> tuple[list[ServerSentEvent], str, bool]:
    decoder = Decoder(max_event_bytes=bound)
    events: list[ServerSentEvent] = []
    try:
        for chunk in [*chunks, b""]:
            events += decoder.feed(chunk)
    except StreamTooLarge:
        return events, decoder.last_event_id, True
    return events, decoder.last_event_id, False


@given(st.data(), raw_bytes, st.integers(0, 40))
def test_the_bound_strikes_at_the_same_byte_at_any_split(
    draws: st.DataObject, body: bytes, bound: int
) -> None:
    whole = read_bounded([body], bound)
    assert read_bounded(draws.draw(cut(body)), bound) == whole
    events, _, _ = whole
    assert events == reference(body).events[: len(events)]
    assert all(len(event.data.encode()) <= 3 * bound for event in events)


@given(sent)
def test_httpx_sse_reads_what_we_send(items: list[Block | bytes | int]) -> None:
    # It is compared on LF, on our comments and on blocks with data: elsewhere it differs from
    # the standard (lone CR, empty events after an id).
    wire = wire_of(items)
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=wire)
    theirs = [
        ServerSentEvent(event.event, event.data, event.id)
        for event in httpx_sse.EventSource(response).iter_sse()
    ]
    assert theirs == read([wire]).events
