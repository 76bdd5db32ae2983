import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.launch import SECONDS, is_token, token

KEY = f"tl_{'a' * 52}"
NOW = 1_800_000_000.0


def test_who_has_the_key_is_believed_for_a_minute() -> None:
    sent = token(KEY, 4000, NOW)
    assert KEY not in sent
    for later in (-SECONDS, 0, SECONDS):
        assert is_token(sent, KEY, 4000, NOW + later)
    for later in (-SECONDS - 1, SECONDS + 1):
        assert not is_token(sent, KEY, 4000, NOW + later)


def test_it_is_for_one_port_and_of_one_key() -> None:
    sent = token(KEY, 4000, NOW)
    assert not is_token(sent, KEY, 4001, NOW)
    assert not is_token(sent, KEY.replace("a", "b"), 4000, NOW)
    assert not is_token(token(KEY, 400, NOW).replace("_18", "_018"), KEY, 400, NOW)


@pytest.mark.parametrize("text", ["", KEY, "tlt_", "tlt_1_" + "0" * 64, "tlt_٣_" + "0" * 64])
def test_what_is_none(text: str) -> None:
    assert not is_token(text, KEY, 4000, NOW)


@given(st.integers(5, 75), st.sampled_from("0123456789abcdefx"))
def test_a_changed_one_is_none(at: int, character: str) -> None:
    sent = token(KEY, 4000, NOW)
    changed = sent[:at] + character + sent[at + 1 :]
    assert is_token(changed, KEY, 4000, NOW) == (changed == sent)
