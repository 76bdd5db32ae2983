"""The words of an agent's turn."""

from __future__ import annotations

import pytest

from tailrace.protocol import agent
from tailrace.protocol.events import emitted


@pytest.mark.parametrize(
    ("part", "iteration"), [("1.0", 1), ("12.3", 12), ("", 0), ("x.1", 0), ("²", 0), (".1", 0)]
)
def test_a_part_names_its_iteration(part: str, iteration: int) -> None:
    assert agent.iteration(part) == iteration


def test_a_message_is_named_by_its_run_and_iteration() -> None:
    assert agent.message_id("run_x", 2) == "run_x.2"


def test_a_result_is_text_or_its_json() -> None:
    assert agent.text_of("as it is") == "as it is"
    assert agent.text_of({"n": 1}) == '{"n":1}'
    assert agent.text_of(None) == "null"


def test_a_preview_says_that_it_was_cut() -> None:
    assert agent.preview("a" * 200) == "a" * 200
    cut = agent.preview("a" * 201)
    assert len(cut) == 200
    assert cut.endswith("…")


def test_every_word_may_be_emitted() -> None:
    words = [
        value
        for name, value in vars(agent).items()
        if name.isupper() and isinstance(value, str) and name != "CHAT"
    ]
    assert len(words) == 20
    for word in words:
        assert emitted(word, {}, 0.0).type == word


def test_a_part_that_nobody_would_name_so() -> None:
    assert agent.iteration("9" * 5000 + ".1") == 0
