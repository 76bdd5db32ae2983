from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.parts import (
    MAX_SAID_BYTES,
    Parts,
    bounded,
    cut,
    cut_short,
    folded,
    parsed,
    sayable,
    size,
)
from tailrace.protocol import agent
from tailrace.protocol.events import to_json
from tests.turns import TURNS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("name", ["plain", "tools", "thinking"])
def test_the_events_of_a_turn_make_the_parts_of_its_result(name: str) -> None:
    turn = TURNS[name]
    assert folded(turn) == turn[-1][1]["result"]["parts"]


def test_a_call_that_nothing_has_ended_has_no_status() -> None:
    states = {part["id"]: part.get("status") for part in folded(TURNS["lost"]) if "id" in part}
    assert states == {"call_1": None, "call_2": "failed"}


def test_the_text_is_that_of_one_iteration() -> None:
    parts = Parts()
    for type_, told in TURNS["tools"]:
        parts.add(type_, told)
    assert parts.text(1) == "Let me look."
    assert parts.text(2) == "Twelve people."


def test_what_is_no_event_of_ours_changes_nothing() -> None:
    odd: list[tuple[str, dict[str, Any]]] = [
        ("progress", {}), ("text_start", {}), ("text_chunk", {"chunk": 4}), ("tool_ready", {}),
        ("tool_progress", {"id": "x", "status": "completed"}), ("tool_args", {"chunk": "x"}),
    ]  # fmt: skip
    assert folded(odd) == [{"type": "text", "part": "None", "text": "4"}]


# --- bounds ----------------------------------------------------------------------------------


def call(id: str, **more: Any) -> dict[str, Any]:
    made = {"type": "tool", "part": "1.0", "id": id, "name": "n", "input": {}}
    return {**made, "status": "completed", **more}


def test_what_is_small_stays_as_it_is() -> None:
    parts = [call("a", result="x")]
    assert bounded(parts) is parts


def test_the_largest_results_go_first() -> None:
    parts = [call("a", result="x" * 600), call("b", result="y" * 100), call("c", error="z" * 300)]
    kept = bounded(parts, 700)
    assert size(kept) <= 700
    assert kept[0]["omitted"]
    assert kept[0]["result"] is None
    assert kept[1]["result"] == "y" * 100
    assert parts[0]["result"] == "x" * 600


def test_texts_are_cut_last() -> None:
    text = {"type": "text", "part": "1.0", "text": "é" * 60_000}
    thinking = {"type": "thinking", "part": "1.1", "text": "t" * 90_000}
    kept = bounded([text, thinking, call("a", result="x" * 9000, input={"a": "b" * 9000})], 90_000)
    assert size(kept) <= 90_000
    assert kept[2]["omitted"]
    assert kept[2]["input"] == {}
    assert kept[1]["text"] == ""
    assert 0 < len(kept[0]["text"]) < 60_000
    assert kept[0]["truncated"]


def test_even_a_turn_of_thousands_of_calls_is_bounded() -> None:
    assert size(bounded([call(str(n)) for n in range(5000)], 10_000)) <= 10_000


@given(st.text(), st.integers(0, 50))
def test_a_cut_text_is_a_beginning(text: str, most: int) -> None:
    shortened = cut(text, most)
    assert text.startswith(shortened)
    assert len(shortened.encode()) <= max(most, 0)


def test_a_large_result_is_told_as_the_beginning_of_its_text() -> None:
    assert cut_short({"a": 1}) == ({"a": 1}, False)
    told, is_cut = cut_short({"a": "\0" * MAX_SAID_BYTES})
    assert is_cut
    assert told.startswith('{"a":"\\u0000')
    assert size(told) <= MAX_SAID_BYTES


# --- what events can carry ---------------------------------------------------------------------


@given(ANYTHING)
def test_whatever_a_tool_answers_can_be_told(value: Any) -> None:
    to_json(sayable(value))


def test_what_can_be_told_is_told_as_it_is() -> None:
    plain = {"a": [1, 2.5, None, True, "ü"], "b": {"c": 2**63}}
    assert sayable(plain) == plain
    assert sayable([2**80, 10**400, "\ud800", (1,)]) == [float(2**80), None, "?", [1]]


@pytest.mark.parametrize(
    ("written", "input"),
    [
        ("", {}),
        (None, {}),
        ("{}", {}),
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("[1]", "[1]"),
        ('{"a": ', '{"a": '),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_an_input_is_an_object_or_the_text_of_it(written: Any, input: Any) -> None:
    assert parsed(written) == input


def test_the_preview_of_a_cut_result_is_its_beginning() -> None:
    assert agent.preview(cut_short("x" * 100_000)[0]).startswith("xxx")


def test_what_is_nested_too_deeply_is_cut_there() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    assert len(to_json(sayable(value))) < 200
    assert parsed('{"a":' * 300 + "1" + "}" * 300) != {}
    assert parsed('{"a":' * 5000 + "1" + "}" * 5000).startswith('{"a":')
