"""Whatever a program writes and wherever a server stops: each byte is in the log once, and of a
secret none.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.events import draft
from tailrace.protocol.masking import Masks
from tailrace.protocol.output import CHUNK_BYTES, raw
from tailrace.runners.markers import Said
from tailrace.runners.output import Reading
from tailrace.runners.spool import EXIT, STDERR, STDOUT, Frame
from tailrace.runners.transcript import Told, Transcript

END = {"code": 0, "signal": None, "reason": None}
STREAMS = {STDOUT: "stdout", STDERR: "stderr"}

# One has the other's end as its beginning; one is cut by what is no text.
SECRETS = ["s3cret-s3cret-é", "cret-éclair\n[5/10] z", "::log info hush-hush", "fai\tled failed"]
MASKS = [None, Masks(), Masks(SECRETS), Masks([*SECRETS, "x" * 4000, "s3cret-s3"])]

SYLLABLES = [
    b"s3cret-", b"s3", b"cret-", b"-\xc3", b"\xa9", b"\xa9clair\n", "cret-éclair".encode(),
    b"s3cret-s3cret-\xc3", b"::log info hush", b"-hush\n", b"fai\tled ",
    b"\n", b"\r", b"\r\n", b"[3/10] x\n", b"[9/10] y\r", b"::log info a\n", b"::log ", b"error b",
    b'::result {"a": 1}\n', b"::result 2", b"::progress 4/5\n", b"failed\n", b"fai",
    "é".encode(), "€".encode(), "𝄞".encode(), b"\xe2", b"\x82", b"\xac", b"\xf0\x9d", b"\xff",
    b"\xed\xa0\x80", b"x" * 200, b"x" * (CHUNK_BYTES - 1), "é".encode() * (CHUNK_BYTES // 2 + 1),
]  # fmt: skip

written = st.lists(
    st.tuples(
        st.sampled_from([STDOUT, STDERR]),
        st.binary(max_size=8) | st.sampled_from(SYLLABLES),
        st.sampled_from([0.0, 0.001, 0.03, 0.06]),
    ),
    max_size=14,
)


def frames(parts: list[tuple[int, bytes, float]]) -> list[Frame]:
    made: list[Frame] = []
    at = 1_800_000_000.0
    for kind, content, pause in parts:
        at += pause
        made.append(Frame(kind, at, content, 0))
    return [*made, Frame(EXIT, at, json.dumps(END).encode(), 0)]


def transcript(masks: Masks | None, told: Told | None = None) -> Transcript:
    reading = Reading(failure=re.compile("^failed"))
    return Transcript(reading, told or Told(), masks)


def lists(one: Transcript, batches: list[list[Frame]]) -> Iterator[list[Said]]:
    """All that a server tells of frames that come in batches, as it is kept: list by list."""
    for batch in batches:
        yield from one.take(batch)
    assert one.end == END
    yield from one.finish()


def batched(data: st.DataObject, made: list[Frame]) -> list[list[Frame]]:
    """In the portions in which a server may find them."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=5)))
    edges = [0, *cuts, len(made)]
    return [made[a:b] for a, b in itertools.pairwise(edges)]


def from_log(log: list[Said]) -> Told:
    """What a server that goes on finds out about the one before it."""
    payloads = [payload for type, payload in log if type == "output"]
    cut = frozenset(told["stream"] for told in payloads if told.get("cut"))
    return Told(payloads[-1]["offset"] if payloads else 0, cut)


def bytes_of(log: list[Said], stream: str) -> bytes:
    told = [payload for type, payload in log if type == "output"]
    return b"".join(raw(payload) for payload in told if payload["stream"] == stream)


def marked(log: list[Said]) -> list[tuple[str, dict[str, Any]]]:
    """What lines say for certain."""
    return [
        (type, {key: value for key, value in payload.items() if key != "timestamp"})
        for type, payload in log
        if type in ("log", "result")
    ]


def latest(log: list[Said]) -> dict[str, Any] | None:
    """How far it is."""
    told = [payload for type, payload in log if type == "progress"]
    unsure = ("timestamp", "eta_seconds")
    return {key: told[-1][key] for key in told[-1] if key not in unsure} if told else None


@given(written, st.sampled_from(MASKS), st.data())
def test_wherever_a_server_stops(
    parts: list[tuple[int, bytes, float]], masks: Masks | None, data: st.DataObject
) -> None:
    made = frames(parts)
    one_by_one = lists(transcript(masks), [[frame] for frame in made])
    whole = [event for said in one_by_one for event in said]
    log: list[Said] = []
    # One after the other dies after some list, though before the very last one, which has what
    # the lines without an end say: with it the run is over.
    for _ in range(data.draw(st.integers(1, 3))):
        told = list(lists(transcript(masks, from_log(log)), batched(data, made)))
        for said in told[: data.draw(st.integers(0, len(told) - 1))]:
            log += said
    for said in lists(transcript(masks, from_log(log)), batched(data, made)):
        log += said

    for kind, stream in STREAMS.items():
        content = b"".join(part[1] for part in parts if part[0] == kind)
        assert bytes_of(log, stream) == (masks or Masks()).apply(content)
    offsets = [payload["offset"] for type, payload in log if type == "output"]
    assert offsets == sorted(offsets)
    assert sorted(map(str, marked(log))) == sorted(map(str, marked(whole)))
    assert latest(log) == latest(whole)
    for type, payload in log:
        draft(type, payload, 0)
