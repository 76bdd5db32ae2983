from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest

from tailrace.protocol.events import draft, stamp
from tailrace.protocol.masking import MAX_BYTES, Masks
from tailrace.protocol.output import CHUNK_BYTES, raw
from tailrace.runners.markers import Said
from tailrace.runners.output import PAUSE_SECONDS, Reading
from tailrace.runners.spool import EXIT, STDERR, STDOUT, Frame
from tailrace.runners.transcript import Told, Transcript

NOW = 1_800_000_000.0


def made(told: Told | None = None) -> Transcript:
    return Transcript(Reading(failure=re.compile("^failed")), *(() if told is None else (told,)))


def out(content: bytes, at: float = NOW) -> Frame:
    return Frame(STDOUT, at, content, 0)


def err(content: bytes, at: float = NOW) -> Frame:
    return Frame(STDERR, at, content, 0)


def taken(transcript: Transcript, *frames: Frame) -> list[Said]:
    return [event for said in transcript.take(frames) for event in said]


def finished(transcript: Transcript) -> list[Said]:
    return [event for said in transcript.finish() for event in said]


def outputs(said: Iterable[Said], *keys: str) -> list[dict[str, Any]]:
    payloads = [payload for type, payload in said if type == "output"]
    return [{key: told[key] for key in told if key in keys} for told in payloads]


def texts(said: Iterable[Said]) -> list[str]:
    return [told["text"] for told in outputs(said, "text")]


def test_an_event_for_what_came_at_once() -> None:
    assert taken(made(), out(b"one\n")) == [
        ("output", {"stream": "stdout", "text": "one\n", "offset": 4, "timestamp": stamp(NOW)})
    ]


def test_frames_of_one_stream_are_one_event() -> None:
    said = taken(made(), out(b"a"), out(b"b", NOW + 1), err(b"c"), out(b"d"), out(b""), out(b"e"))
    assert outputs(said, "stream", "text", "offset") == [
        {"stream": "stdout", "text": "ab", "offset": 2},
        {"stream": "stderr", "text": "c", "offset": 3},
        {"stream": "stdout", "text": "de", "offset": 5},
    ]
    # Of the last one: it had all of it then.
    assert said[0][1]["timestamp"] == stamp(NOW + 1)


def test_no_event_is_too_large() -> None:
    content = random.Random(1).randbytes(5 * CHUNK_BYTES // 2)
    frames = [out(content[at : at + 5000]) for at in range(0, len(content), 5000)]
    for said in (taken(made(), out(content)), taken(made(), *frames)):
        told = [payload for _, payload in said]
        assert b"".join(map(raw, told)) == content
        assert max(len(raw(payload)) for payload in told) <= CHUNK_BYTES + 3
        assert told[-1]["offset"] == len(content)
        for type, payload in said:
            draft(type, payload, NOW)


@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_a_character_may_be_cut_anywhere(character: str) -> None:
    encoded = character.encode()
    for cut in range(1, len(encoded)):
        transcript = made()
        said = taken(transcript, out(b"a" + encoded[:cut]))
        assert outputs(said, "text", "offset") == [{"text": "a", "offset": 1 + cut}]
        # What comes between on the other stream has nothing to do with it.
        assert texts(taken(transcript, err(b"!"))) == ["!"]
        said = taken(transcript, out(encoded[cut:] + b"b"))
        assert outputs(said, "text", "offset") == [
            {"text": f"{character}b", "offset": 3 + len(encoded)}
        ]
        assert finished(transcript) == []


@pytest.mark.parametrize("before", range(4))
def test_a_character_may_be_where_a_piece_ends(before: int) -> None:
    content = b"x" * (CHUNK_BYTES - before) + "𝄞€".encode()
    said = taken(made(), out(content))
    assert "".join(texts(said)) == content.decode()
    assert not any("bytes" in payload for _, payload in said)


def test_half_a_character_brings_nothing() -> None:
    transcript = made()
    assert taken(transcript, out(b"\xe2\x82")) == []
    assert outputs(taken(transcript, out(b"\xac")), "text", "offset") == [
        {"text": "€", "offset": 3}
    ]


def test_bytes_that_are_no_text() -> None:
    [(_, told)] = taken(made(), out(b"a\xffb"))
    assert told["text"] == "a\ufffdb"
    assert raw(told) == b"a\xffb"
    assert "bytes" not in taken(made(), out("aéb".encode()))[0][1]


def test_the_last_word_of_a_stream() -> None:
    transcript = made()
    taken(transcript, out(b"a\xe2"), err(b"b\xf0\x9d"))
    assert outputs(finished(transcript), "stream", "bytes", "offset", "cut") == [
        {"stream": "stdout", "bytes": "4g==", "offset": 5, "cut": True},
        {"stream": "stderr", "bytes": "8J0=", "offset": 5, "cut": True},
    ]


def test_what_the_lines_say_comes_with_them() -> None:
    transcript = made()
    [said] = transcript.take([out(b"[1/10] a\n::log warning hot\nfailed: x\n::result 7\n")])
    assert [type for type, _ in said] == ["output", "progress", "log", "result"]
    assert {payload["timestamp"] for _, payload in said} == {stamp(NOW)}
    assert transcript.reading.failure == "failed"
    assert transcript.reading.result == 7


def test_a_line_without_an_end_is_read_at_the_end() -> None:
    transcript = made()
    assert [type for type, _ in taken(transcript, out(b"::log info bye"))] == ["output"]
    assert finished(transcript) == [
        ("log", {"level": "info", "message": "bye", "timestamp": stamp(NOW)})
    ]


def test_what_is_held_back_is_told_in_time() -> None:
    transcript = made()
    assert transcript.due(NOW) is None
    assert transcript.held(NOW) == []
    taken(transcript, out(b"[1/10] a\n"))
    assert transcript.due(NOW) is None
    taken(transcript, out(b"[2/10] a\n", NOW + 0.01))
    due = transcript.due(NOW + 0.01)
    assert due == pytest.approx(PAUSE_SECONDS - 0.01, abs=1e-5)
    assert transcript.held(NOW + 0.01) == []
    [(type, told)] = transcript.held(NOW + 1)
    assert (type, told["current"]) == ("progress", 2)
    assert transcript.due(NOW + 1) is None


def test_how_it_ended() -> None:
    transcript = made()
    end = {"code": 3, "signal": None, "reason": None}
    assert transcript.end is None
    said = taken(transcript, out(b"one"), Frame(EXIT, NOW, json.dumps(end).encode(), 0))
    assert texts(said) == ["one"]
    assert transcript.end == end


def test_frames_of_another_version_are_passed_over() -> None:
    said = taken(made(), out(b"one"), Frame(99, NOW, b"?", 0), out(b"two"))
    assert "".join(texts(said)) == "onetwo"


# --- going on --------------------------------------------------------------------------

CONTENT = "aé€𝄞\n".encode() + b"\xff\n" + b"::log info x\n[3/10] y\nend"


@pytest.mark.parametrize("offset", range(len(CONTENT) + 1))
def test_what_is_known_is_not_told_again(offset: int) -> None:
    """From whichever byte on: what was not told of a character is told with its rest."""
    first = made()
    before = taken(first, out(CONTENT[:offset]))
    again = made(Told(offset))
    after = [*taken(again, out(CONTENT[:3]), out(CONTENT[3:])), *finished(again)]
    both = [payload for type, payload in (*before, *after) if type == "output"]
    assert b"".join(map(raw, both)) == CONTENT
    assert [told["offset"] for told in both] == sorted(told["offset"] for told in both)
    others = [payload for type, payload in (*before, *after) if type == "log"]
    assert len(others) == 1


def test_what_was_seen_in_silence_is_known() -> None:
    content = b"failed\n::result 5\n::log info x\nhal"
    again = made(Told(len(content)))
    assert taken(again, out(content)) == []
    assert (again.reading.failure, again.reading.result) == ("failed", 5)
    assert texts(taken(again, out(b"f\n"))) == ["f\n"]
    assert finished(again) == []


def test_progress_is_rather_told_again_than_never() -> None:
    frames = [out(b"[1/10] a\n[2/10] a\n"), out(b"b\n", NOW + 1)]
    content = b"".join(frame.content for frame in frames)
    again = made(Told(len(content)))
    assert taken(again, *frames) == []
    assert again.due(NOW + 2) == 0
    assert [payload["current"] for _, payload in again.held(NOW + 2)] == [1, 2]
    assert again.due(NOW + 2) is None
    assert finished(again) == []
    again = made(Told(len(content)))
    taken(again, *frames)
    assert [payload["current"] for _, payload in finished(again)] == [1, 2]
    # Unless there is news.
    again = made(Told(len(content)))
    said = taken(again, *frames) + taken(again, out(b"[3/10] a\n", NOW + 3))
    assert [payload["current"] for type, payload in said if type == "progress"] == [3]
    assert again.due(NOW + 3) is None


def test_both_streams_count() -> None:
    frames = [out(b"abc"), err(b"def"), out(b"ghi")]
    expected = {0: "abcdefghi", 2: "cdefghi", 3: "defghi", 5: "fghi", 6: "ghi", 9: ""}
    for offset, rest in expected.items():
        assert "".join(texts(taken(made(Told(offset)), *frames))) == rest


def test_more_known_than_there_is() -> None:
    """The disk lost what was written last, the log did not."""
    again = made(Told(100))
    assert taken(again, out(b"abc")) == []
    assert texts(taken(again, out(b"x" * 97 + b"new"))) == ["new"]


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ((), ["stdout", "stderr"]),
        (("stdout",), ["stderr"]),
        (("stderr",), ["stdout"]),
        (("stdout", "stderr"), []),
    ],
)
def test_a_last_word_is_told_once(cut: tuple[str, ...], left: list[str]) -> None:
    again = made(Told(5, frozenset(cut)))
    assert taken(again, out(b"a\xe2"), err(b"b\xf0\x9d")) == []
    assert [told["stream"] for told in outputs(finished(again), "stream")] == left


# --- secrets -----------------------------------------------------------------------------

SECRET = "hunter2-hunter2"


def masked(*secrets: str, told: Told | None = None) -> Transcript:
    reading = Reading(failure=re.compile("^failed.*"))
    return Transcript(reading, told or Told(), Masks(secrets))


def test_a_secret_is_not_told() -> None:
    transcript = masked(SECRET)
    said = taken(transcript, out(b"it is hunter2-"), err(b"hunter2-hun"), out(b"hunter2!\n"))
    said += taken(transcript, err(b"t\n")) + finished(transcript)
    assert outputs(said, "stream", "text", "offset") == [
        {"stream": "stdout", "text": "it is ", "offset": 14},
        {"stream": "stdout", "text": "***!\n", "offset": 34},
        {"stream": "stderr", "text": "hunter2-hunt\n", "offset": 36},
    ]


def test_nothing_that_is_read_shows_a_secret() -> None:
    transcript = masked(SECRET)
    lines = f'::log info {SECRET}\n::result "{SECRET}"\n[1/2] {SECRET}\nfailed: {SECRET}\n'
    said = taken(transcript, out(lines.encode()))
    assert SECRET not in json.dumps(said)
    assert [type for type, _ in said] == ["output", "log", "result", "progress"]
    assert (transcript.reading.result, transcript.reading.failure) == ("***", "failed: ***")


def test_what_began_like_a_secret_is_told_at_the_end() -> None:
    transcript = masked(SECRET)
    assert texts(taken(transcript, out(b"password: hunter"))) == ["password: "]
    assert outputs(finished(transcript), "text", "cut") == [{"text": "hunter", "cut": True}]


def test_the_last_word_is_one() -> None:
    """Half a secret, and half a character of it: in one event, or a second server would tell the
    first half again.
    """
    transcript = masked("s3cret-é-s3cret")
    assert taken(transcript, out(b"s3cret-\xc3")) == []
    [(_, told)] = finished(transcript)
    assert raw(told) == b"s3cret-\xc3"
    assert told["text"] == "s3cret-\ufffd"
    assert (told["cut"], told["offset"]) == (True, 8)
    again = masked("s3cret-é-s3cret", told=Told(0, frozenset({"stdout"})))
    assert taken(again, out(b"s3cret-\xc3")) + finished(again) == []


def test_no_event_is_too_large_for_what_was_held_back() -> None:
    long = "\x01" * MAX_BYTES
    content = random.Random(1).randbytes(CHUNK_BYTES) + long.encode()[:-1] + b"\xff" * CHUNK_BYTES
    said = taken(masked(long), out(content))
    assert b"".join(raw(payload) for _, payload in said) == content
    for type, payload in said:
        assert len(raw(payload)) <= CHUNK_BYTES + 3
        draft(type, payload, NOW)


@pytest.mark.parametrize("offset", range(42))
def test_whoever_goes_on_masks_the_same(offset: int) -> None:
    content = f"a {SECRET} {SECRET}{SECRET[:5]}".encode()
    first = masked(SECRET)
    before = taken(first, out(content[:offset]))
    again = masked(SECRET, told=Told(*[payload["offset"] for _, payload in before][-1:]))
    after = [*taken(again, out(content[:3]), out(content[3:])), *finished(again)]
    assert "".join(texts([*before, *after])) == "a *** ***hunte"


def test_without_secrets_nothing_is_masked() -> None:
    content = b"as it is"
    assert texts(taken(Transcript(Reading(), masks=Masks()), out(content))) == ["as it is"]
