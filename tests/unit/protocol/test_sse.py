"""The SSE codec, clause by clause of WHATWG HTML section 9.2, and against known attacks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError

import pytest

from tailrace.errors import FieldInvalid, StreamTooLarge
from tailrace.protocol import sse
from tailrace.protocol.sse import Decoder, ServerSentEvent, comment, encode

BOM = b"\xef\xbb\xbf"


def message(data: str, id: str = "", event: str = "message") -> ServerSentEvent:
    return ServerSentEvent(event=event, data=data, id=id)


def feed_all(decoder: Decoder, chunks: Iterable[bytes]) -> list[ServerSentEvent]:
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    return feed_all(Decoder(), chunks)


def drip(wire: bytes, size: int = 1) -> list[bytes]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]


# ---------------------------------------------------------------- what we write


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (encode("hello"), b"data: hello\n\n"),
        (encode(b'{"a":1}', id="57", event="log"), b'id: 57\nevent: log\ndata: {"a":1}\n\n'),
        (
            encode("x", id="57", event="log", retry=2000),
            b"id: 57\nevent: log\nretry: 2000\ndata: x\n\n",
        ),
        (encode("x", retry=0), b"retry: 0\ndata: x\n\n"),
        (encode("x", event="log"), b"event: log\ndata: x\n\n"),
        (encode("x", id="é\t1", event="log"), "id: é\t1\nevent: log\ndata: x\n\n".encode()),
        (encode("x", id=""), b"id: \ndata: x\n\n"),
        (encode(""), b"data: \n\n"),
        (encode(b""), b"data: \n\n"),
        (encode("a\nb"), b"data: a\ndata: b\n\n"),
        (encode("a\n"), b"data: a\ndata: \n\n"),
        (encode("\r\r\n\n"), b"data: \ndata: \ndata: \ndata: \n\n"),
        (encode(b"a\rb\r\nc\nd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (encode(b"\xff\x00"), b"data: \xff\x00\n\n"),
        (comment(), b": \n"),
        (comment("keep-alive"), b": keep-alive\n"),
        (comment("é: \x00"), b": \xc3\xa9: \x00\n"),
        (sse.retry(0), b"retry: 0\n"),
        (sse.retry(10**15 - 1), b"retry: 999999999999999\n"),
    ],
)
def test_bytes_on_the_wire(wire: bytes, expected: bytes) -> None:
    assert wire == expected


@pytest.mark.parametrize(
    "inside", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_only_cr_lf_and_crlf_end_a_line(inside: str) -> None:
    assert encode(f"a{inside}b") == f"data: a{inside}b\n\n".encode()
    assert decode(encode(f"a{inside}b", id=inside)) == [message(f"a{inside}b", id=inside)]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "\n",
        "\n\n",
        "a\n",
        "\na",
        "a\n\n\nb",
        " a",
        "  ",
        ":",
        "data: x",
        "\ufeff",
        "\0",
        "🥌",
        "a\tb",
    ],
)
def test_data_comes_back_exactly(data: str) -> None:
    assert decode(encode(data)) == [message(data)]
    assert decode(encode(data.encode(), id="1", event="x")) == [message(data, "1", "x")]


@pytest.mark.parametrize("data", ["\r", "a\rb", "a\r\nb", "\n\r", "\r\r\n"])
def test_line_ends_in_data_become_lf(data: str) -> None:
    assert decode(encode(data)) == [message(data.replace("\r\n", "\n").replace("\r", "\n"))]


FORGERIES = [
    "1\ndata: forged\n\n",
    "1\r",
    "\n",
    "1\r\nevent: forged",
    "1\0",
    "\0",
]


@pytest.mark.parametrize("text", FORGERIES)
def test_forged_ids_and_types_are_rejected(text: str) -> None:
    with pytest.raises(FieldInvalid, match="CR, LF or NUL"):
        encode("x", id=text)
    with pytest.raises(FieldInvalid, match="CR, LF or NUL"):
        encode("x", event=text)
    with pytest.raises(FieldInvalid, match="id must not"):
        encode("x", id=text, event="fine")
    with pytest.raises(FieldInvalid, match="event must not"):
        encode("x", id="fine", event=text)


def test_rejection_names_but_never_repeats_the_line_end() -> None:
    with pytest.raises(FieldInvalid) as caught:
        encode("x", id="1\n2" + "x" * 10_000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\r\n"])
def test_forged_comments_are_rejected(text: str) -> None:
    with pytest.raises(FieldInvalid, match="comment"):
        comment(text)


@pytest.mark.parametrize(
    "send",
    [
        lambda: encode("\ud800"),
        lambda: encode("x", id="\udfff"),
        lambda: encode("x", event="\ud800"),
        lambda: encode("x", id="1", event="\ud800"),
        lambda: comment("\ud800"),
    ],
)
def test_lone_surrogates_are_rejected(send: Callable[[], bytes]) -> None:
    with pytest.raises(FieldInvalid, match="surrogate"):
        send()


@pytest.mark.parametrize(
    "value",
    [True, False, -1, 1.5, "5", 10**15, pytest.param(10**5000, id="beyond int-to-str")],
)
def test_retry_is_a_whole_number_of_milliseconds(value: int) -> None:
    with pytest.raises(FieldInvalid, match="retry"):
        encode("x", retry=value)
    with pytest.raises(FieldInvalid, match="retry"):
        sse.retry(value)


def test_public_names() -> None:
    assert sorted(sse.__all__) == ["Decoder", "ServerSentEvent", "comment", "encode", "retry"]


def test_events_are_frozen_values() -> None:
    event = message("x")
    assert hash(event) == hash(message("x"))
    with pytest.raises(FrozenInstanceError):
        event.data = "y"  # type: ignore[misc]


# ---------------------------------------------------------------- what we read
# Every row is decoded in one piece, byte by byte, and in pieces of two and three.

PARSING: list[tuple[str, bytes, list[ServerSentEvent]]] = [
    ("nothing", b"", []),
    ("one line", b"data: Hello\n\n", [message("Hello")]),
    ("two events", b"data: Hello\n\ndata: World\n\n", [message("Hello"), message("World")]),
    ("two lines", b"data: Hello\ndata:World\n\n", [message("Hello\nWorld")]),
    ("empty data", b"data:\n\n", [message("")]),
    ("data that is one space", b"data: \n\n", [message("")]),
    ("data without colon", b"data\n\ndata\ndata\n\n", [message(""), message("\n")]),
    ("type", b"event: greeting\ndata: x\n\n", [message("x", event="greeting")]),
    ("empty type", b"event:\ndata: x\n\n", [message("x")]),
    ("type without colon", b"event: a\nevent\ndata: x\n\n", [message("x")]),
    ("last type wins", b"event: a\nevent: b\ndata: x\n\n", [message("x", event="b")]),
    (
        "type is not inherited",
        b"event: a\ndata: 1\n\ndata: 2\n\n",
        [message("1", event="a"), message("2")],
    ),
    ("type without data is reset", b"event: a\n\ndata: x\n\n", [message("x")]),
    ("type after data", b"data: x\nid: 1\nevent: a\n\n", [message("x", "1", "a")]),
    ("no space", b"event:greeting\ndata:x\n\n", [message("x", event="greeting")]),
    ("one space only", b"event:  a\nid:  1\ndata:  x\n\n", [message(" x", " 1", " a")]),
    ("a tab is no space", b"data:\tx\n\n", [message("\tx")]),
    ("colons in data", b"data: a: b::\n\n", [message("a: b::")]),
    ("space before colon", b"data : x\n\n", []),
    ("space before name", b" data: x\n\n", []),
    ("names are lower case", b"DATA: x\nData: x\n\n", []),
    ("unknown fields", b"color: blue\ndata: x\nname\n\n", [message("x")]),
    ("comments", b":\n: a\n::data: no\ndata: x\n:data: no\n\n", [message("x")]),
    ("comments dispatch nothing", b": a\n\n: b\n\n", []),
    ("blank lines", b"\n\n\ndata: x\n\n\n\n", [message("x")]),
    ("a space is no blank line", b"data: a\n \ndata: b\n\n", [message("a\nb")]),
    ("no last blank line", b"data: 1\n\ndata: 2\n", [message("1")]),
    ("no last line end", b"data: 1\n\ndata: 2", [message("1")]),
    ("id", b"id: abc\ndata: x\n\n", [message("x", "abc")]),
    ("id stays", b"id: 1\ndata: a\n\ndata: b\n\n", [message("a", "1"), message("b", "1")]),
    ("empty id resets", b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [message("a", "1"), message("b")]),
    (
        "id without colon resets",
        b"id: 1\ndata: a\n\nid\ndata: b\n\n",
        [message("a", "1"), message("b")],
    ),
    ("last id wins", b"id: 1\nid: 2\ndata: x\n\n", [message("x", "2")]),
    ("id without data holds", b"id: 1\n\ndata: x\n\n", [message("x", "1")]),
    ("no ghost after id", b"id: 1\ndata: x\n\n: keep-alive\n\n", [message("x", "1")]),
    ("NUL id is ignored", b"id: 1\nid: bad\0id\ndata: x\n\n", [message("x", "1")]),
    ("only NUL id", b"id: \0\ndata: x\n\n", [message("x")]),
    ("NUL in type and data", b"event: a\0\ndata: \0\n\n", [message("\0", event="a\0")]),
    ("BOM", BOM + b"data: x\n\n", [message("x")]),
    ("BOM alone on its line", BOM + b"\ndata: x\n\n", [message("x")]),
    ("one BOM only", BOM + BOM + b"data: 1\n\ndata: 2\n\n", [message("2")]),
    ("BOM after a line", b"\n" + BOM + b"data: 1\n\ndata: 2\n\n", [message("2")]),
    ("BOM in data", BOM + b"data: \xef\xbb\xbfx\n\n", [message("\ufeffx")]),
    ("half a BOM", b"\xef\xbbdata: 1\n\ndata: 2\n\n", [message("2")]),
    ("UTF-16 BOM", b"\xff\xfedata: 1\n\ndata: 2\n\n", [message("2")]),
    ("characters", "data: €豆腐🥌\nid: é\n\n".encode(), [message("€豆腐🥌", "é")]),
    ("broken UTF-8", b"data: a\xffb\n\n", [message("a\ufffdb")]),
    ("cut UTF-8", b"data: \xf0\x9f\xa5\ndata: \x8c\n\n", [message("\ufffd\n\ufffd")]),
    ("surrogates in UTF-8", b"data: \xed\xa0\x80\n\n", [message("\ufffd\ufffd\ufffd")]),
    ("overlong", b"data: \xc0\x8a\n\n", [message("\ufffd\ufffd")]),
    (
        "broken id and type",
        b"id: \xff\nevent: \xfe\ndata: x\n\n",
        [message("x", "\ufffd", "\ufffd")],
    ),
    (
        "U+2028 and NEL",
        "data: a\u2028b\u0085c\x0bd\x0c\n\n".encode(),
        [message("a\u2028b\x85c\x0bd\x0c")],
    ),
]


@pytest.mark.parametrize(
    ("wire", "expected"), [row[1:] for row in PARSING], ids=[row[0] for row in PARSING]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_parsing(wire: bytes, expected: list[ServerSentEvent], end: bytes) -> None:
    wire = wire.replace(b"\n", end)
    assert decode(wire) == expected
    for size in (1, 2, 3):
        assert decode(*drip(wire, size)) == expected


MULTILINE = b"data: 1~~data:~data: 2~data: 3~~~data: 4~data:~data: 5~~~~data:~~"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_line_ends(end: bytes, size: int) -> None:
    wire = MULTILINE.replace(b"~", end)
    expected = [message("1"), message("\n2\n3"), message("4\n\n5"), message("")]
    assert decode(*drip(wire, size)) == expected


def test_mixed_line_ends() -> None:
    assert decode(b"data: a\rdata: b\ndata: c\r\n\r") == [message("a\nb\nc")]
    assert decode(b"data: a\n\rdata: b\r\n\n") == [message("a"), message("b")]
    assert decode(b"data: a\r\n\ndata: b\r\r\n") == [message("a"), message("b")]


def test_crlf_cut_between_chunks() -> None:
    assert decode(b"data: A\r\n", b"data: B\r", b"\n", b"data: C\r\n", b"\n") == [
        message("A\nB\nC")
    ]
    assert decode(
        b"data: Hello\r", b"\ndata: World\r", b"\n\r\ndata: OK\r", b"\n", b"\r", b"\n"
    ) == [message("Hello\nWorld"), message("OK")]


def test_a_cr_at_the_end_of_a_chunk_dispatches_at_once() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: x\r\n\r") == [message("x")]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: y\r\r") == [message("y")]
    assert decoder.feed(b"\ndata: z\n\n") == [message("z")]


def test_only_one_lf_is_swallowed_after_a_cr() -> None:
    assert decode(b"data: x\r", b"", b"\n\n") == [message("x")]
    assert decode(b"data: x\r", b"\r", b"\n", b"data: y\n\n") == [message("x"), message("y")]
    assert decode(b"data: x\r", b"a\n\n") == [message("x")]


# ---------------------------------------------------------------- the last event id


def test_the_id_is_committed_when_the_block_ends() -> None:
    decoder = Decoder(last_event_id="56")
    assert decoder.last_event_id == "56"
    decoder.feed(b"id: 57\ndata: x\n")
    assert decoder.last_event_id == "56", "a reconnect here must bring event 57 again"
    assert decoder.feed(b"\n") == [message("x", "57")]
    assert decoder.last_event_id == "57"


def test_the_given_id_is_in_force_from_the_start() -> None:
    decoder = Decoder(last_event_id="9")
    assert decoder.feed(b"\ndata: x\n\n") == [message("x", "9")]
    assert decoder.last_event_id == "9"


@pytest.mark.parametrize(
    ("wire", "committed"),
    [
        (b"id: 42\n", "1"),
        (b"id: 42\n\n", "42"),
        (b"id: 42\r", "1"),
        (b"id: 42\r\r", "42"),
        (b"id: 42\nevent: x\n\n", "42"),
        (b"id: 4\0\n\n", "1"),
        (b"id\n\n", ""),
        (b"id: \n\n", ""),
        (b": id: 42\n\n", "1"),
    ],
)
def test_blocks_without_data_commit_ids_and_dispatch_nothing(wire: bytes, committed: str) -> None:
    decoder = Decoder(last_event_id="1")
    assert feed_all(decoder, drip(wire)) == []
    assert decoder.last_event_id == committed


# ---------------------------------------------------------------- retry


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1000", 1000),
        (b"0", 0),
        (b"007", 7),
        (b"0" * 5000, 0),
        (b"0" * 5000 + b"9", 9),
        (b"999999999999999", 10**15 - 1),
        (b"9" * 16, None),
        (b"9" * 5000, None),
        (b"", None),
        (b"+1", None),
        (b"-1", None),
        (b" 1", None),
        (b"1 ", None),
        (b"1_000", None),
        (b"1.5", None),
        (b"1e3", None),
        (b"0x10", None),
        (b"2000x", None),
        ("١٢".encode(), None),
        ("²".encode(), None),
        ("\uff11".encode(), None),
    ],
)
def test_retry_takes_ascii_digits_only(value: bytes, expected: int | None) -> None:
    assert retry_after(b"retry: " + value + b"\n") == expected
    kept = 5 if expected is None else expected
    assert retry_after(b"retry: 5\nretry: " + value + b"\n") == kept


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"", None),
        (b"retry: 500", None),
        (b"retry: 500\r", 500),
        (b"retry:500\n", 500),
        (b"retry: 500\nretry\nretry:\n", 500),
        (b"retry: 1\n\nretry: 2\n\ndata: x\n\n", 2),
    ],
)
def test_retry_applies_when_its_line_ends(wire: bytes, expected: int | None) -> None:
    assert retry_after(wire) == expected


def retry_after(wire: bytes) -> int | None:
    decoder = Decoder()
    feed_all(decoder, drip(wire))
    return decoder.retry


def test_what_we_send_between_blocks_dispatches_nothing() -> None:
    wire = sse.retry(2000) + comment("hi") + encode("x", id="1") + comment() + comment("end")
    decoder = Decoder()
    assert feed_all(decoder, drip(wire)) == [message("x", "1")]
    assert (decoder.retry, decoder.last_event_id) == (2000, "1")


# ---------------------------------------------------------------- bounds


TOO_LARGE = [
    ("one data line", b"data: " + b"x" * 60),
    ("no field at all", b"x" * 65),
    ("a comment", b":" + b"x" * 64),
    ("a comment with its end", b":" + b"x" * 64 + b"\n"),
    ("an id", b"id:" + b"x" * 62),
    ("many short lines", b"data: xxxxxx\n" * 20),
    ("many empty lines", b"data\n" * 66),
    ("multibyte", "data: {}".format("€" * 20).encode()),
]


@pytest.mark.parametrize("wire", [row[1] for row in TOO_LARGE], ids=[row[0] for row in TOO_LARGE])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_too_large(wire: bytes, size: int) -> None:
    decoder = Decoder(last_event_id="1", max_event_bytes=64)
    with pytest.raises(StreamTooLarge, match="64 bytes") as first:
        feed_all(decoder, drip(wire, size))
    for chunk in (b"", b"\n\n", b"data: fine\n\n"):
        with pytest.raises(StreamTooLarge) as again:
            decoder.feed(chunk)
        assert str(again.value) == str(first.value)
    assert decoder.last_event_id == "1"


def test_the_bound_itself_is_allowed() -> None:
    fits = b"data: " + b"x" * 58
    assert decode_bounded(fits + b"\n\n") == [message("x" * 58)]
    # The last line is being read, 8 bytes, when 18 lines of 3 are kept.
    assert decode_bounded(b"data: xx\n" * 19 + b"\n") == [message("\n".join(["xx"] * 19))]
    assert decode_bounded(BOM + b"data: " + b"x" * 55 + b"\n\n") == [message("x" * 55)]


def decode_bounded(wire: bytes) -> list[ServerSentEvent]:
    whole = Decoder(max_event_bytes=64).feed(wire)
    assert feed_all(Decoder(max_event_bytes=64), drip(wire)) == whole
    return whole


def test_the_bound_is_per_block() -> None:
    fits = b"data: " + b"x" * 58 + b"\n\n"
    assert decode_bounded(fits * 3) == [message("x" * 58)] * 3
    decoder = Decoder(max_event_bytes=64)
    for _ in range(100):
        assert len(decoder.feed(b"data: xxxxxxxxxxxxxxxxxxxx\n\n" * 10)) == 10
        assert decoder.feed(b": keep-alive, without a blank line after it\n" * 10) == []


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_events_before_the_violation_are_delivered(size: int) -> None:
    wire = b"id: 1\ndata: good\n\nid: 2\ndata: " + b"x" * 100 + b"\n\n"
    decoder = Decoder(max_event_bytes=64)
    seen: list[ServerSentEvent] = []
    with pytest.raises(StreamTooLarge):  # noqa: PT012, which call raises depends on the size
        for chunk in [*drip(wire, size), b""]:
            seen += decoder.feed(chunk)
    assert seen == [message("good", "1")]
    assert decoder.last_event_id == "1"


def memory_taken(chunks: Iterable[bytes], decoder: Decoder) -> tuple[int, int]:
    """Feed; return the sum of all bytes newly taken by each feed, and the peak held at once."""
    total = peak = 0
    tracemalloc.start()
    try:
        floor = tracemalloc.get_traced_memory()[0]
        for chunk in chunks:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            decoder.feed(chunk)
            highest = tracemalloc.get_traced_memory()[1]
            total += highest - before
            peak = max(peak, highest - floor)
    finally:
        tracemalloc.stop()
    return total, peak


@pytest.mark.parametrize("prefix", [b"data: ", b": ", b"event: "])
def test_a_long_line_in_small_chunks_is_copied_a_constant_number_of_times(prefix: bytes) -> None:
    # Joining at every chunk would take 512 MB here; a line kept in pieces takes its own size,
    # and a few copies when it ends.
    line = prefix + b"x" * 1_000_000
    total, _ = memory_taken([*drip(line, 1000), b"\n", b"\n"], Decoder())
    assert total < 8 * len(line)


def test_many_data_lines_are_copied_a_constant_number_of_times() -> None:
    wire = (b"data: " + b"x" * 1000 + b"\n") * 1000
    total, _ = memory_taken([*drip(wire, 1000), b"\n"], Decoder())
    assert total < 8 * len(wire)


@pytest.mark.parametrize(
    "chunks",
    [[b"xx"] * 60_000, [b"data\n"] * 60_000, [b"data:ab\n"] * 20_000],
    ids=["fragments", "empty lines", "short lines"],
)
def test_small_pieces_cost_no_more_memory_than_their_bytes(chunks: list[bytes]) -> None:
    _, peak = memory_taken(chunks, Decoder(max_event_bytes=200_000))
    assert peak < 400_000


def test_comments_and_unknown_fields_are_not_kept() -> None:
    chunks = [b": " + b"x" * 1000 + b"\n", b"unknown: " + b"x" * 1000 + b"\n"] * 500
    _, peak = memory_taken(chunks, Decoder())
    assert peak < 50_000


def test_a_refused_stream_holds_no_memory() -> None:
    decoder = Decoder(max_event_bytes=1_000_000)
    tracemalloc.start()
    try:
        floor = tracemalloc.get_traced_memory()[0]
        with pytest.raises(StreamTooLarge):
            feed_all(decoder, [b"data: " + b"x" * 900_000 + b"\n", b"x" * 200_000])
        assert tracemalloc.get_traced_memory()[0] - floor < 50_000
    finally:
        tracemalloc.stop()


def test_many_events_in_order() -> None:
    wire = b"".join(encode(f"message {n}", id=str(n)) for n in range(1000))
    expected = [message(f"message {n}", str(n)) for n in range(1000)]
    for size in (1, 13, 1448, len(wire)):
        assert decode(*drip(wire, size)) == expected
