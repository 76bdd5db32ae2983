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


DOUBLING = {
    "$ref": "#/$defs/d0",
    "$defs": {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} if n < 40 else {} for n in range(41)
    },
}


@pytest.mark.parametrize(
    "schema",
    [
        DOUBLING,
        {"properties": {"rows": {**DOUBLING, "$defs": {}, "unevaluatedItems": False}},
         "$defs": DOUBLING["$defs"]},
        {"properties": {"rows": {"uniqueItems": True}}},
        {"properties": {"rows": {"items": {"enum": [{"a": [n]} for n in range(9_000)]}}}},
    ],
)  # fmt: skip
def test_a_schema_that_takes_too_long_refuses_nothing(schema: dict[str, Any]) -> None:
    rows = [{"a": [n]} for n in range(9_000)]
    began = time.monotonic()
    guard("x", schema)({"rows": rows})
    assert time.monotonic() - began < 5, "it would take longer than there are people"


def test_each_check_has_steps_of_its_own() -> None:
    check = guard("x", {"properties": {"rows": {"items": {"type": "integer"}}}})
    for _ in range(3):
        check({"rows": [1] * 6000})
    with pytest.raises(InputInvalid, match=r"rows\.5999: must be of type integer"):
        check({"rows": [1] * 5999 + ["no"]})


@pytest.mark.parametrize("dialect", ["draft-07/schema#", "draft/2020-12/schema"])
def test_a_part_in_another_dialect_brings_no_expressions_back(dialect: str) -> None:
    named = {"$schema": f"http://json-schema.org/{dialect}"}
    text = "a" * 40 + "!"
    began = time.monotonic()
    guard("x", {"properties": {"a": {**named, **HARD}}})({"a": text})
    whole = {**named, "properties": {"a": HARD, "b": {"$ref": "#"}}}
    guard("x", whole)({"b": {"a": text}})
    assert time.monotonic() - began < 1
    with pytest.raises(InputInvalid):
        guard("x", whole)({"b": {"a": 1}})
