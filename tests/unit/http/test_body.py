import json
import math
from typing import Any

import pytest

from tailrace.errors import InputInvalid
from tailrace.http.body import MAX_DEPTH, decode


@pytest.mark.parametrize(
    "value",
    [{}, [], None, 1, {"a": [1, 2.5, "x", True, None], "ü": "😀\u2028\0"}, 2**63, -(2**63),
     2**64 - 1, 1e308],
)  # fmt: skip
def test_what_every_reader_understands(value: Any) -> None:
    assert decode(json.dumps(value).encode()) == value
    assert decode(json.dumps(value, ensure_ascii=False).encode()) == value


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("depth", [1, 2, MAX_DEPTH - 1, MAX_DEPTH])
def test_depth_up_to_the_bound(depth: int) -> None:
    assert decode(nested(depth)) is not None


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 500, 1020, 1030, 100_000])
def test_depth_beyond_the_bound(depth: int) -> None:
    with pytest.raises(InputInvalid, match="levels deep"):
        decode(nested(depth))
    with pytest.raises(InputInvalid, match="levels deep"):
        decode(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    "text",
    [b"{", b"{'a': 1}", b"hello", b"{} {}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'"\xff"',
     b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":-1e999}',
     b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":01}', b"[1,]", b'{"a":"\n"}', b"9" * 5000],
)  # fmt: skip
def test_what_is_no_json_or_cannot_be_kept(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="is not JSON that can be kept") as caught:
        decode(text)
    assert caught.value.fix
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [b"", b" ", b"\r\n\t"])
def test_nothing_is_said_to_be_nothing(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="is empty"):
        decode(text)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, 10**300])
def test_numbers_beyond_64_bits_would_be_rounded(number: int) -> None:
    with pytest.raises(InputInvalid, match="64 bits") as caught:
        decode(b'{"a":%d}' % number)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":1}', b'{"x":[{"b":1,"a":2,"a":3}]}', b'{"a":1,"\\u0061":2}']
)
def test_a_key_that_stands_twice_has_no_meaning(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="'a' stands more than once"):
        decode(text)


def test_a_long_key_is_not_repeated_in_full() -> None:
    key = "k" * 10_000
    with pytest.raises(InputInvalid) as caught:
        decode(f'{{"{key}":1,"{key}":2}}'.encode())
    assert str(caught.value).count("k") < 200


def test_no_finite_number_becomes_infinite() -> None:
    assert math.isfinite(decode(b"[1.7976931348623157e308]")[0])
