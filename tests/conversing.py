"""Conversations with the built-in model's planner, whose calls are really made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tailrace.agent.demo.lookups import TOOLS
from tailrace.agent.demo.planner import plan
from tailrace.agent.demo.step import Call, Outcome, Step
from tailrace.errors import TailraceError

MOST_STEPS: Final = 8


class Talk(NamedTuple):
    """The steps of a turn, the last of which is the answer, and what came of their calls."""

    steps: list[Step]
    rounds: list[list[Outcome]]

    @property
    def answer(self) -> str:
        return self.steps[-1].text

    @property
    def calls(self) -> list[list[str]]:
        return [[call.name for call in step.calls] for step in self.steps if step.calls]

    @property
    def failures(self) -> list[str]:
        return [one.result for outcomes in self.rounds for one in outcomes if one.failed]


def talk(*messages: str, functions: Sequence[Callable[..., Any]] = TOOLS) -> Talk:
    """A turn, up to its answer."""
    tools = {function.__name__: function for function in functions}
    found = Talk([], [])
    while len(found.steps) < MOST_STEPS:
        step = plan(messages, found.rounds, list(tools))
        found.steps.append(step)
        if not step.calls:
            return found
        found.rounds.append([made(tools[call.name], call) for call in step.calls])
    raise AssertionError(f"no answer after {MOST_STEPS} steps: {found.calls}")


def made(tool: Callable[..., Any], call: Call) -> Outcome:
    try:
        return Outcome(call.name, call.args, tool(**call.args))
    except (TailraceError, TypeError) as error:
        return Outcome(call.name, call.args, str(error), failed=True)
