"""Whatever the secrets and wherever a stream is cut: the same is hidden, and nothing else."""

from __future__ import annotations

import itertools
import json

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.protocol.masking import MASK, Masking, Masks

# Few letters, so that secrets overlap, repeat and begin like each other; `*` is the mask's own.
LETTERS = 'ab*"é\\'
secret = st.text(LETTERS, min_size=8, max_size=12) | st.sampled_from(["a" * 8, "ab" * 5, "a" * 11])
secrets = st.lists(secret, min_size=1, max_size=4)
cuts = st.lists(st.integers(0, 200), max_size=8)


@st.composite
def told(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Secrets, and a stream that has them, parts of them, and other things."""
    known = draw(secrets)
    piece = st.sampled_from(known) | st.text(LETTERS + "c \n", max_size=10)
    parts = draw(st.lists(piece, max_size=8))
    ends = draw(st.lists(st.integers(0, 12), min_size=len(parts), max_size=len(parts)))
    starts = draw(st.lists(st.sampled_from([0, 0, 1, 3]), min_size=len(parts), max_size=len(parts)))
    whole = zip(parts, starts, ends, strict=True)
    return known, "".join(part[start : start + end] for part, start, end in whole).encode()


def pieces(content: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(content)) for cut in at), len(content)]
    return [content[a:b] for a, b in itertools.pairwise(edges)]


def covered(masks: Masks, content: bytes) -> bytes:
    """What is left if each byte that lies in a form of a secret goes: the definition, slowly."""
    hidden = [False] * len(content)
    for form in masks._forms:
        for at in range(len(content)):
            if content.startswith(form, at):
                hidden[at : at + len(form)] = [True] * len(form)
    return bytes(byte for byte, is_hidden in zip(content, hidden, strict=True) if not is_hidden)


@given(told(), cuts)
@example((["a" * 8], b"a" * 30), [3, 9, 17])
@example((["abababab", "babababab"], b"abababababababab"), [8])
def test_cuts_make_no_difference(given: tuple[list[str], bytes], at: list[int]) -> None:
    known, content = given
    masks = Masks(known)
    masking = Masking(masks)
    seen, said = b"", b""
    for piece in pieces(content, at):
        seen += piece
        said += masking.feed(piece)
        assert masking.held < masks.longest
        # At any time, not only at the end: whoever goes on elsewhere relies on it.
        other = Masking(masks)
        assert other.feed(seen) == said
        assert other.held == masking.held
    assert said + masking.end() == masks.apply(content)


@given(told())
def test_what_is_hidden_is_what_is_secret(given: tuple[list[str], bytes]) -> None:
    known, content = given
    masks = Masks(known)
    said = masks.apply(content)
    if b"*" not in content:
        assert said.replace(MASK.encode(), b"") == covered(masks, content)
        assert all(not masks.spans(piece) for piece in said.split(MASK.encode()))
    if not masks.spans(content):
        assert said is content
    assert masks.apply(content.decode()) == said.decode()


@given(secrets, st.recursive(
    st.text(LETTERS, max_size=30) | st.integers(0, 10**12) | st.none() | st.sampled_from(["a" * 9]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(LETTERS, max_size=12), inner),
))  # fmt: skip
def test_json_stays_json(known: list[str], value: object) -> None:
    masks = Masks(known)

    def expected(value: object) -> object:
        if isinstance(value, str):
            return masks.apply(value)
        if isinstance(value, list):
            return [expected(each) for each in value]
        if isinstance(value, dict):
            return {expected(key): expected(each) for key, each in value.items()}
        return value

    for document in (orjson.dumps(value), json.dumps(value).encode()):
        assert orjson.loads(masks.json(document)) == expected(value)
