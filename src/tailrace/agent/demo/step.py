"""What the built-in model does next, and what came of what it did before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A tool, and what it is given."""

    name: str
    args: dict[str, Any]


class Outcome(NamedTuple):
    """A call that was made. `result` is what the tool answered; where it `failed`, why."""

    name: str
    args: dict[str, Any]
    result: Any
    failed: bool = False


class Step(NamedTuple):
    """One answer of the model: it says `text`, after thinking `thought`, and makes the `calls` at
    the same time. Without calls the turn ends.
    """

    text: str
    calls: tuple[Call, ...] = ()
    thought: str = ""


Rounds = Sequence[Sequence[Outcome]]
"""The calls that were made in this turn: those of its first answer, of its second, …"""


def call(name: str, /, **args: Any) -> Call:
    """A call with those arguments that are not None."""
    return Call(name, {key: _whole(value) for key, value in args.items() if value is not None})


def _whole(value: Any) -> Any:
    """Five percent are 5, not 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def results(rounds: Rounds, name: str) -> list[Outcome]:
    """What calls of `name` came to that did not fail."""
    return [one for outcomes in rounds for one in outcomes if one.name == name and not one.failed]
