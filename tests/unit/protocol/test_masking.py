from __future__ import annotations

import json
import time
from urllib.parse import quote, quote_plus

import orjson
import pytest

from tailrace.errors import SettingsInvalid
from tailrace.protocol.masking import MASK, MAX_BYTES, Masking, Masks, is_maskable

SECRET = "hunter2-hunter2"
ODD = 'p"ä\\ß/ w\tö+rd'


def test_a_secret_becomes_stars() -> None:
    masks = Masks([SECRET])
    assert masks.apply(f"a {SECRET} b {SECRET}{SECRET}") == "a *** b ******"
    assert masks.apply(f"a {SECRET} b".encode()) == b"a *** b"


def test_without_a_hit_it_is_the_very_same() -> None:
    masks = Masks([SECRET])
    text, content = "nothing here", b"nothing here"
    assert masks.apply(text) is text
    assert masks.apply(content) is content
    assert masks.json(content) is content
    assert Masking(masks).feed(content) is content


def test_no_secrets() -> None:
    masks = Masks()
    assert not masks
    assert masks.apply("\0abc") == "\0abc"
    assert masks.json(b'{"a":1}') == b'{"a":1}'
    masking = Masking(masks)
    assert (masking.feed(b"\0a"), masking.end()) == (b"\0a", b"")


@pytest.mark.parametrize(
    "form",
    [
        ODD,
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False),
        orjson.dumps(ODD).decode(),
        json.dumps(json.dumps(ODD)),
        json.dumps(ODD).replace("/", "\\/"),
        repr(ODD),
        ascii(ODD),
        repr(ODD.encode()),
        quote(ODD),
        quote(ODD, safe=""),
        quote_plus(ODD),
    ],
)
def test_the_forms_it_may_have(form: str) -> None:
    masks = Masks([ODD])
    hidden = masks.apply(f"<{form}>")
    assert MASK in hidden
    assert "rd" not in hidden
    assert Masking(masks).feed(f"<{form}>".encode()) == hidden.encode()


def test_lines_count_by_themselves() -> None:
    masks = Masks(["-----BEGIN-----\r\nabcdefghij\nshort\nklmnopqrst\n"])
    assert masks.apply("abcdefghij\r\nklmnopqrst short") == "***\r\n*** short"


def test_what_overlaps_is_hidden_as_a_whole() -> None:
    masks = Masks(["abcdefgh", "defghijk", "abcdefghXYZ"])
    assert masks.apply("<abcdefghijk>") == "<***>"
    assert masks.apply("<abcdefghXYZ>") == "<***>"
    assert Masks(["aaaaaaaa"]).apply("a" * 13 + "b") == "***b"


@pytest.mark.parametrize(
    "wrong",
    [
        ["short"],
        [""],
        ["seven77\nlines77"],
        ["x" * (MAX_BYTES + 1)],
        ["é" * (MAX_BYTES // 2 + 1)],
        [None],
        [b"bytes-bytes"],
        "one text, which is no list",
    ],
)
def test_what_cannot_be_masked(wrong: list[str]) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Masks(wrong)
    assert refused.value.fix
    assert "short" not in str(refused.value).replace("shorter", "")
    assert "seven77" not in str(refused.value)


def test_what_can_be_masked() -> None:
    assert is_maskable("eight888")
    assert is_maskable("a\neight888\n")
    assert not is_maskable("seven77")
    assert not is_maskable("seven77\nseven77")


def test_nobody_prints_them() -> None:
    masks = Masks([SECRET])
    assert SECRET not in repr(masks) + repr(masks.marks("salt"))


def test_further_ones() -> None:
    masks = Masks([SECRET])
    assert masks.also([SECRET]) is masks
    assert masks.also(["another-one"]).apply(f"another-one {SECRET}") == "*** ***"
    assert masks.apply("another-one") == "another-one"


def test_marks_tell_which_are_known() -> None:
    masks = Masks([SECRET, "another-one"])
    marks = Masks([SECRET]).marks("run_a")
    assert marks < masks.marks("run_a")
    assert not marks & masks.marks("run_b")
    assert masks.of("run_a", marks).apply(f"another-one {SECRET}") == "another-one ***"
    assert not masks.of("run_b", marks)


# --- JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ({"a": f"x {SECRET} y"}, {"a": "x *** y"}),
        ({SECRET: [SECRET, 1, None, True]}, {"***": ["***", 1, None, True]}),
        ({"a": json.dumps({"b": SECRET})}, {"a": '{"b": "***"}'}),
        ([12345678, -0.12345678, 1.5], ["***", "***", 1.5]),
        ({"a": "\nabcdefgh", "b": "\\nabcdefgh"}, {"a": "\nabcdefgh", "b": "\\***"}),
        ({"a": ODD, "b": json.dumps(ODD)}, {"a": "***", "b": '"***"'}),
    ],
)
def test_json_stays_json(value: object, hidden: object) -> None:
    masks = Masks([SECRET, "12345678", "nabcdefgh", ODD])
    assert orjson.loads(masks.json(orjson.dumps(value))) == hidden
    assert json.loads(masks.json(json.dumps(value).encode())) == hidden


def test_json_that_is_not_touched_stays_as_it_was() -> None:
    document = b'{"a":1.50,"b":"\\u0041", "c":"%b","d":[true]}' % SECRET.encode()
    expected = b'{"a":1.50,"b":"\\u0041", "c":"***","d":[true]}'
    assert Masks([SECRET]).json(document) == expected


def test_json_however_deep() -> None:
    depth = 20_000
    document = b"[" * depth + b'"%b"' % SECRET.encode() + b"]" * depth
    assert Masks([SECRET]).json(document) == b"[" * depth + b'"***"' + b"]" * depth


def test_half_a_surrogate_pair_in_json() -> None:
    document = b'{"a":"\\ud800 %b","b":"\\ud800"}' % SECRET.encode()
    assert SECRET.encode() not in Masks([SECRET]).json(document)


def test_tokens_on_both_sides_of_the_shortest_secret() -> None:
    masks = Masks(["12345678", "-1234567", "a\tb\u00e9cdef", SECRET])
    value = [
        1234567,
        12345678,
        -1234567,
        -123456,
        "a\tb\u00e9cde",
        "a\tb\u00e9cdef",
        "",
        "\\",
        SECRET,
    ]
    hidden = [1234567, MASK, MASK, -123456, "a\tb\u00e9cde", MASK, "", "\\", MASK]
    for document in (orjson.dumps(value), json.dumps(value).encode()):
        assert orjson.loads(masks.json(document)) == hidden


def test_a_secret_that_only_seems_to_stand_across_tokens() -> None:
    masks = Masks(['b","cccc', SECRET])
    assert masks.json(b'["aaab","cccccccccc"]') == b'["aaab","cccccccccc"]'
    assert masks.json(b'["a","%b","b\\",\\"cccc"]' % SECRET.encode()) == b'["a","***","***"]'


def test_half_a_character_is_no_secret_of_bytes_that_are_no_text() -> None:
    masks = Masks([b"\x80abcdefgh".decode("utf-8", "surrogateescape")])
    said = orjson.loads(masks.json('["\u00c0abcdefgh"]'.encode()))
    assert said == ["\ufffd***"]


@pytest.mark.parametrize("filler", [b"1,", b'"",', b'{"timestamp":1},', b'"\\n1234567",'])
def test_one_secret_does_not_make_all_else_costly(filler: bytes) -> None:
    masks = Masks(f"sk-live-{number:020}" for number in range(20))
    document = b'["sk-live-%020d",%b1]' % (3, filler * (240_000 // len(filler)))
    costs = []
    for _ in range(3):
        began = time.perf_counter()
        assert masks.json(document).startswith(b'["***",')
        costs.append(time.perf_counter() - began)
    # To look into each number and string took 0.1 to 0.5 s.
    assert min(costs) < 0.08


# --- texts that are no UTF-8 -------------------------------------------------------------


def test_bytes_of_the_environment() -> None:
    secret = b"caf\xe9-caf\xe9".decode("utf-8", "surrogateescape")
    masks = Masks([secret])
    assert masks.apply(b"<caf\xe9-caf\xe9>") == b"<***>"
    assert masks.apply(f"<{secret}>") == "<***>"
    assert masks.apply(f"\ud800 {SECRET}") == f"\ud800 {SECRET}"
    assert Masks([SECRET]).apply(f"\ud800 {SECRET} \udcff") == "\ud800 *** \udcff"
    assert Masks([f"\ud800\udcff{SECRET}"]).apply(SECRET) == SECRET


# --- streams ------------------------------------------------------------------------------


def test_any_border() -> None:
    content = f"a {SECRET} b".encode()
    for cut in range(len(content) + 1):
        masking = Masking(Masks([SECRET]))
        told = masking.feed(content[:cut]) + masking.feed(content[cut:])
        assert told == b"a *** b"
        assert masking.end() == b""


def test_what_only_began_like_one_is_told() -> None:
    masking = Masking(Masks([SECRET]))
    assert masking.feed(b"password: hunt") == b"password: "
    assert masking.held == 4
    assert masking.feed(b"ing") == b"hunting"
    assert masking.feed(b"hunter2-") == b""
    assert masking.end() == b"hunter2-"
    assert masking.held == 0


def test_a_secret_that_may_go_on() -> None:
    masking = Masking(Masks(["abcdefgh", "abcdefghXYZ"]))
    assert masking.feed(b"abcdefgh") == b""
    assert masking.feed(b"X") == b""
    assert masking.feed(b"-") == b"***X-"


def test_one_that_overlaps_what_was_told_as_stars() -> None:
    masking = Masking(Masks(["abcdefgh", "ghijklmn"]))
    assert masking.feed(b"abcdefgh") == b"***"
    assert masking.feed(b"ijklmn.") == b"."
    masking = Masking(Masks(["abcdefgh", "ghijklmn"]))
    assert masking.feed(b"abcdefgh") == b"***"
    assert masking.feed(b"ij.") == b"ij."
