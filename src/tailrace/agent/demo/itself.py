"""What the built-in model says of itself. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from tailrace.agent.demo.vocabulary import Topic

_MAX_NAMED: Final = 30

_IS: Final = (
    "I am the built-in model. I am not a language model: I look for words that I know, and ask a "
    "small database of invented employees."
)
_EXAMPLES: Final = """\
- Give me the list of employees with 5–10% increment
- How many employees are in Sales?
- Who is the highest paid employee in Engineering?
- What is the average salary in each department?
- Compare Sales and Marketing
- Tell me about Ingrid Solvang
- Think step by step: who got an increment above 8 % in 2023?"""
_CALL: Final = (
    'Any tool of this chat is called by its name: `call NAME {"key": "value"}`, one on a line; '
    "several lines are called at the same time."
)
_REAL: Final = (
    'For everything else, choose a real model: `model = "openai:gpt-5"` in the table `[chat]` of '
    "the settings file, or `runs.chat(model=…)` in Python, with the provider's key in the "
    "environment."
)


def told(topic: Topic | None, tools: Collection[str]) -> str:
    """What is answered to a greeting, to a request for help, and to what was not understood."""
    if topic == "greeting":
        return f"Hello. {_IS} Ask me what I can do."
    begin = _IS if topic == "help" else f"I do not understand that. {_IS}"
    return f"{begin} I can answer questions like these:\n\n{_EXAMPLES}\n\n{_rest(tools)}"


def without(missing: Sequence[str], tools: Collection[str]) -> str:
    """Where there are not the tools that a question needs."""
    named = ", ".join(f"`{name}`" for name in missing)
    return f"To answer that I need {named}, which this chat does not have. {_IS}\n\n{_rest(tools)}"


def puzzled(tools: Collection[str]) -> str:
    """Where a tool that is called like one of the built-in ones answers something else."""
    return (
        "I do not understand what a tool answered: it is not the one that I come with. "
        f"{_IS}\n\n{_rest(tools)}"
    )


def _rest(tools: Collection[str]) -> str:
    names = sorted(tools)
    more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    listed = ", ".join(f"`{name}`" for name in names[:_MAX_NAMED])
    there_are = f" Its tools are {listed}{more}." if names else " It has no tools."
    return f"{_CALL}{there_are}\n\n{_REAL}"
