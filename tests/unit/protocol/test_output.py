from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.events import MAX_EVENT_BYTES, draft, to_json
from tailrace.protocol.output import CHUNK_BYTES, Decoder, raw

EURO = "€".encode()
CLEF = "\U0001d11e".encode()


def payloads(*chunks: bytes) -> list[dict[str, Any]]:
    decoder = Decoder("stdout")
    told = [*map(decoder.feed, chunks), decoder.end()]
    return [payload for payload in told if payload is not None]


def texts(*chunks: bytes) -> list[str]:
    return [payload["text"] for payload in payloads(*chunks)]


def test_text_is_text() -> None:
    assert payloads(b"one\n") == [{"stream": "stdout", "text": "one\n"}]
    assert payloads(b"a\0b\x1b[31m\r\n") == [{"stream": "stdout", "text": "a\0b\x1b[31m\r\n"}]
    assert payloads() == payloads(b"") == []


@pytest.mark.parametrize("character", [b"\xc3\xa9", EURO, CLEF])
def test_a_split_character_waits_for_its_rest(character: bytes) -> None:
    for at in range(1, len(character)):
        told = texts(b"a" + character[:at], character[at:] + b"b")
        assert told == ["a", character.decode() + "b"]
    drip = [character[at : at + 1] for at in range(len(character))]
    assert texts(*drip) == [character.decode()]


def test_a_character_that_is_never_completed_is_told_at_the_end() -> None:
    first, last = payloads(b"a" + EURO[:2])
    assert first == {"stream": "stdout", "text": "a"}
    assert last == {"stream": "stdout", "text": "\ufffd", "bytes": "4oI="}
    assert raw(last) == EURO[:2]
    decoder = Decoder("stdout")
    decoder.feed(EURO[:2])
    decoder.end()
    assert decoder.end() is None


@pytest.mark.parametrize(
    "wrong",
    [b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80",
     b"\xe2\x82", b"\xe2\x28\xa1", b"a\x80\x80\x80\x80"],
)  # fmt: skip
def test_what_is_no_text_keeps_its_bytes(wrong: bytes) -> None:
    told = payloads(b"before " + wrong + b" after")
    assert b"".join(map(raw, told)) == b"before " + wrong + b" after"
    assert any("bytes" in payload and "\ufffd" in payload["text"] for payload in told)
    to_json(told)


def test_an_impossible_lead_is_not_waited_for() -> None:
    assert len(payloads(b"a\xff", b"b")) == 2
    assert texts(b"\x80\x80\x80\x80") == ["\ufffd" * 4]


@given(st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=6).map(str.encode))))
def test_the_bytes_that_went_in_come_out(chunks: list[bytes]) -> None:
    told = payloads(*chunks)
    assert b"".join(map(raw, told)) == b"".join(chunks)
    assert all(payload["text"] for payload in told)


@given(st.text(), st.data())
def test_text_is_never_torn(text: str, data: st.DataObject) -> None:
    wire = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    edges = [0, *cuts, len(wire)]
    told = payloads(*(wire[a:b] for a, b in itertools.pairwise(edges)))
    assert "".join(payload["text"] for payload in told) == text
    assert not any("bytes" in payload for payload in told)


@pytest.mark.parametrize("filling", [b"\x00", b"\xff", b"\x1b", b'"', b"\xe2\x82", EURO])
def test_a_full_chunk_fits_one_event(filling: bytes) -> None:
    decoder = Decoder("stdout")
    decoder.feed(CLEF[:3])
    payload = decoder.feed((filling * CHUNK_BYTES)[:CHUNK_BYTES])
    assert payload is not None
    assert len(draft("output", payload, 0.0).data) < MAX_EVENT_BYTES


def test_payloads_of_others_have_bytes_too() -> None:
    assert raw({"text": "é\n"}) == "é\n".encode()
    assert raw({}) == b""
    assert raw({"text": 5}) == b"5"
