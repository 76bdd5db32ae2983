from __future__ import annotations

from typing import Any

import pytest

from tailrace.projections.output import Output
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.output import Decoder


def block(*told: tuple[str, dict[str, Any]]) -> Block:
    drafts = [draft(type_, payload, 0.0) for type_, payload in told]
    return Block("run_a", 1, len(drafts), pack(1, drafts))


def written(stream: str, *chunks: bytes) -> list[tuple[str, dict[str, Any]]]:
    decoder = Decoder(stream)
    payloads = [*map(decoder.feed, chunks), decoder.end()]
    return [("output", payload) for payload in payloads if payload is not None]


def test_the_bytes_and_nothing_else() -> None:
    raw = [b"one\r\n", b"\x00\xff\xfe", "é".encode()[:1], "é".encode()[1:], b"data: x\n\nid: 5\n"]
    told = block(("start", {}), *written("stdout", *raw), ("log", {"message": "m"}),
                 ("complete", {"status": "completed"}))  # fmt: skip
    assert Output().tell(told, None) == b"".join(raw)
    assert Output().tell(told, frozenset({"log"})) == b"".join(raw)


def test_one_stream_of_two() -> None:
    told = block(*written("stdout", b"out\n"), *written("stderr", b"err\n"),
                 *written("stdout", b"more\n"), ("output", {"text": "neither"}))  # fmt: skip
    assert Output("stdout").tell(told, None) == b"out\nmore\n"
    assert Output("stderr").tell(told, None) == b"err\n"
    assert Output().tell(told, None) == b"out\nerr\nmore\nneither"


def test_each_choice_is_shared_under_its_own_name() -> None:
    assert len({Output(stream).name for stream in (None, "stdout", "stderr")}) == 3


def test_nothing_stands_around_the_bytes() -> None:
    one = Output()
    assert one.media_type == "text/plain; charset=utf-8"
    around = (one.opening, one.heartbeat, one.closing(5), one.control("tick", {}))
    assert around == (b"", b"", b"", b"")


@pytest.mark.parametrize("type_", ["gap", "reset"])
def test_missing_bytes_are_not_silent(type_: str) -> None:
    line = Output().control(type_, {"from": 3, "to": 9})
    assert line == b"\n[tailrace: events 3 to 9 are no longer kept]\n"
