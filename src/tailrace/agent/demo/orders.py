"""Calls that a message asks for by the names of the tools: how somebody tries their own.

    call make_report {"month": 5}
    use list_months
    then call send_report {"to": "me"}

Lines are called at the same time, up to one that begins with "then".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from tailrace.agent.demo.step import Call, Outcome, Rounds, Step

MAX_CALLS: Final = 20

_SHOWN: Final = 2_000

_LINE: Final = re.compile(
    # Possessive: no text may keep it busy for long.
    r"^[ \t]*+(?:[-*][ \t]++)?(?P<then>then[ \t]++)?(?:please[ \t]++)?(?:call|use|run)[ \t]++"
    r"(?:the[ \t]++)?(?:tool[ \t]++)?`?(?P<name>[A-Za-z][\w.-]{0,99})`?(?:[ \t]++tool\b)?"
    r"(?:[ \t]++with\b)?[ \t]*+(?::[ \t]*+)?(?=(?P<json>\{)|[.!]?+[ \t]*+$)",
    re.IGNORECASE | re.MULTILINE,
)


class Orders(NamedTuple):
    """`stages`: calls that are made together, one after the other. `problems`: why others are
    not.
    """

    stages: tuple[tuple[Call, ...], ...]
    problems: tuple[str, ...]


def ordered(text: str, tools: Collection[str]) -> Orders | None:
    """What a message asks to be called; None if it asks for nothing of the kind."""
    stages: list[list[Call]] = [[]]
    problems: list[str] = []
    for line in _LINE.finditer(text):
        # "Call me" is no order, as long as nobody offers the tool `me`.
        name = line["name"] if line["name"] in tools else line["name"].rstrip(".")
        if name not in tools and line["json"] is None and "_" not in name:
            continue
        if name not in tools:
            problems.append(f"There is no tool `{name}`.")
            continue
        if sum(map(len, stages)) == MAX_CALLS:
            problems.append(f"I call no more than {MAX_CALLS} in a turn.")
            break
        args: Any = {}
        if line["json"]:
            try:
                args, _ = json.JSONDecoder().raw_decode(text, line.end())
            except (ValueError, RecursionError) as error:
                problems.append(f"What follows `{name}` is no JSON: {error}.")
                continue
        if line["then"] and stages[-1]:
            stages.append([])
        stages[-1].append(Call(name, args))
    if not any(stages) and not problems:
        return None
    return Orders(tuple(tuple(stage) for stage in stages if stage), tuple(problems))


def obey(orders: Orders, rounds: Rounds, tools: Collection[str]) -> Step:
    """The next stage, or what all of them came to."""
    if len(rounds) < len(orders.stages):
        calls = orders.stages[len(rounds)]
        names = ", ".join(f"`{call.name}`" for call in calls)
        return Step(f"I call {names}, as you say.", calls)
    told = [_told(outcome) for outcomes in rounds for outcome in outcomes]
    if orders.problems:
        told += [*orders.problems, f"The tools here: {', '.join(sorted(tools)) or 'none'}."]
    return Step("\n\n".join(told))


def _told(outcome: Outcome) -> str:
    if outcome.failed:
        return f"`{outcome.name}` failed: {outcome.result}"
    if isinstance(outcome.result, str):
        shown = outcome.result
    else:
        shown = json.dumps(outcome.result, indent=2, ensure_ascii=False, default=str)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}\n… and {len(shown) - _SHOWN:,} characters more"
    # A longer fence than any in the text, or the text could end it.
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"`{outcome.name}` answered:\n\n{fence}\n{shown}\n{fence}"
