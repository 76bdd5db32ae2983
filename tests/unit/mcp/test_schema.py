from __future__ import annotations

import time
from typing import Any

import pytest

from tailrace.errors import InputInvalid
from tailrace.mcp.schema import guard

NEWS = {
    "type": "object",
    "properties": {
        "symbol": {"type": "string", "enum": ["ABC", "DEF"]},
        "limit": {"$ref": "#/$defs/Limit"},
    },
    "required": ["symbol"],
    "additionalProperties": False,
    "$defs": {"Limit": {"type": "integer", "minimum": 1}},
}


@pytest.mark.parametrize("given", [{"symbol": "ABC"}, {"symbol": "DEF", "limit": 1}])
def test_what_fits(given: dict[str, Any]) -> None:
    guard("market.news", NEWS)(given)


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({}, "input", "'symbol' is a required property"),
        ({"symbol": "hunter2"}, "symbol", "must be one of ['ABC', 'DEF']"),
        ({"symbol": "ABC", "limit": 0}, "limit", "does not fit minimum: 1"),
        ({"symbol": "ABC", "limit": "hunter2"}, "limit", "must be of type integer"),
        ({"symbol": "ABC", "hunter2": 1}, "input", "has members that are unknown"),
    ],
)
def test_what_does_not_fit(given: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        guard("market.news", NEWS)(given)
    assert refused.value.details["errors"] == [{"where": where, "what": what}]
    assert "market.news does not take this input" in str(refused.value)
    assert "hunter2" not in str(refused.value), "what is refused may be a secret"


def test_what_is_said_has_bounds() -> None:
    schema = {"additionalProperties": {"type": "integer", "description": "x" * 10_000}}
    with pytest.raises(InputInvalid) as refused:
        guard("x", schema)({"k" * 1000 + str(n): "no" for n in range(100)})
    assert len(refused.value.details["errors"]) == 20
    assert len(str(refused.value)) < 1500


HARD = {"type": "string", "pattern": "^(a+)+$"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": HARD}},
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"$defs": {"x": {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}},
         "$ref": "#/$defs/x"},
        {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False},
    ],
)  # fmt: skip
def test_expressions_of_others_are_not_tried(schema: dict[str, Any]) -> None:
    text = "a" * 40 + "!"
    began = time.monotonic()
    guard("x", schema)({"a": text, text: 1})
    assert time.monotonic() - began < 1, "it would take longer than there are people"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#"},
        {"required": 4},
        {"$schema": "http://127.0.0.1:9/other"},
    ],
)
def test_a_schema_that_makes_no_sense_refuses_nothing(schema: dict[str, Any]) -> None:
    guard("x", schema)({"a": 1})


def test_an_input_without_end_is_left_to_whoever_made_the_schema() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    guard("x", {"properties": {"a": {"$ref": "#"}}})(deep)
