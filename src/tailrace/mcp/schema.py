"""Whether an input fits a JSON Schema that came from somewhere else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from tailrace.errors import InputInvalid

_MOST: Final = 20

# The expressions are another server's, the texts are anybody's: together they could keep this
# process busy for ever. That server looks at them itself.
_BY_PATTERN: Final = ("pattern", "patternProperties", "unevaluatedProperties")
_OTHERS: Final = "additionalProperties"


def guard(name: str, schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What refuses inputs of operation `name` that do not fit; it raises InputInvalid.

    Regular expressions are not looked at, nor schemas at other addresses; a schema that makes no
    sense refuses nothing: whoever made it checks the input anyway.
    """
    validators = importlib.import_module("jsonschema.validators")
    registry = importlib.import_module("referencing").Registry()
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    others = kind.VALIDATORS.get(_OTHERS, _nothing)

    def checked(validator: Any, value: Any, instance: Any, within: Mapping[str, Any]) -> Any:
        return None if _BY_PATTERN[1] in within else others(validator, value, instance, within)

    changed = {**dict.fromkeys(_BY_PATTERN, _nothing), _OTHERS: checked}
    # Without a registry it would fetch what a $ref names.
    validator = validators.extend(kind, changed)(schema, registry=registry)

    def check(given: Mapping[str, Any]) -> None:
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


def _nothing(*_: object) -> None:
    """A keyword that says nothing."""


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
