"""Whether an input fits a JSON Schema that came from somewhere else."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any, Final

from tailrace.errors import InputInvalid

_MOST: Final = 20

# Schemas of a few lines can ask for more steps than anybody has time for.
_MOST_STEPS: Final = 10_000
_MOST_SECONDS: Final = 1.0

# The expressions are another server's, the texts are anybody's: together they could keep this
# process busy for ever. That server looks at them itself.
_BY_PATTERN: Final = ("pattern", "patternProperties", "unevaluatedProperties")

# The one compares each item with each other; the other follows references without our counting.
_BY_ITEMS: Final = ("uniqueItems", "unevaluatedItems")
_OTHERS: Final = "additionalProperties"
_DIALECT: Final = "$schema"


def guard(name: str, schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What refuses inputs of operation `name` that do not fit; it raises InputInvalid.

    Regular expressions are not looked at, nor schemas at other addresses; a schema that makes no
    sense refuses nothing, nor does one that takes more than 10,000 steps or a second: whoever made
    it checks the input anyway.
    """
    validators = importlib.import_module("jsonschema.validators")
    registry = importlib.import_module("referencing").Registry()
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    others = kind.VALIDATORS.get(_OTHERS, _nothing)

    def checked(validator: Any, value: Any, instance: Any, within: Mapping[str, Any]) -> Any:
        return None if _BY_PATTERN[1] in within else others(validator, value, instance, within)

    left_out = dict.fromkeys((*_BY_PATTERN, *_BY_ITEMS), _nothing)
    changed = {**kind.VALIDATORS, **left_out, _OTHERS: checked}
    counted = {keyword: _counted(looks) for keyword, looks in changed.items()}
    # Where it stands, the library would go on with keywords that are not changed.
    plain = {key: value for key, value in schema.items() if key != _DIALECT}
    # Without a registry it would fetch what a $ref names.
    validator = validators.extend(kind, counted)(plain, registry=registry)
    if _names_dialect(plain):
        return _nothing

    def check(given: Mapping[str, Any]) -> None:
        _steps.set(_Steps())
        try:
            found = [_fault(error) for error in islice(validator.iter_errors(given), _MOST)]
        except Exception:  # noqa: BLE001 - a schema may be wrong in any way, and recurse for ever
            return
        if found:
            said = "; ".join(f"{fault['where']}: {fault['what']}" for fault in found[:5])
            raise InputInvalid(
                f"{name} does not take this input: {said}.",
                fix=f"GET /operations shows the schema of {name}.",
                errors=found,
            )

    return check


class _Steps:
    """How far one check has come."""

    def __init__(self) -> None:
        self._left = _MOST_STEPS
        self._ends = time.monotonic() + _MOST_SECONDS

    def take(self) -> None:
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._ends:
            raise RuntimeError("This schema takes too long.")


# Several threads check by one schema at the same time.
_steps: Final[ContextVar[_Steps]] = ContextVar("steps")


def _counted(looks: Callable[..., Any]) -> Callable[..., Any]:
    def look(*given: Any) -> Any:
        _steps.get().take()
        return looks(*given)

    return look


def _names_dialect(schema: object) -> bool:
    """Whether any part of a schema says that it is of a dialect of its own."""
    rest = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get(_DIALECT), str):
                return True
            rest.extend(part.values())
        elif isinstance(part, list):
            rest.extend(part)
    return False


def _nothing(*_: object) -> None:
    """A keyword that says nothing, or a check that refuses nothing."""


def _fault(error: Any) -> dict[str, str]:
    where = ".".join(map(str, error.absolute_path))[:40] or "input"
    # Its own message begins with the value, which may be large, or a secret.
    return {"where": where, "what": _WHAT.get(error.validator, _other)(error)[:200]}


def _other(error: Any) -> str:
    return f"does not fit {error.validator}: {str(error.validator_value)[:80]}"


_WHAT: Final[Mapping[str, Callable[[Any], str]]] = {
    "type": lambda error: f"must be of type {error.validator_value}",
    _OTHERS: lambda _: "has members that are unknown",
    "required": lambda error: str(error.message),
    "enum": lambda error: f"must be one of {str(error.validator_value)[:160]}",
}
