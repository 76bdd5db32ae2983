"""The built-in model, which needs neither keys nor a network, and what it works with.

It is no language model: it looks for words, and plans calls of real tools, which ask a small
database of people who do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

NAME: Final = "demo"
"""What the built-in model is called where one is chosen."""

NOTE: Final = (
    "This is the built-in model: no real language model, only a planner that looks for words. "
    "It works on a small database of invented employees. Configure a model to have a real one."
)
"""What is told of it, where a turn begins."""


def model(*, pace: float = 0.0) -> Any:
    """A pydantic-ai Model. `pace`: seconds before each piece of what it says."""
    # Whoever has no chat, has no pydantic-ai.
    from tailrace.agent.demo.stream import make  # noqa: PLC0415

    return make(pace)


def tools() -> list[Callable[..., Any]]:
    """The functions that ask the database; they only read."""
    from tailrace.agent.demo import lookups  # noqa: PLC0415

    return list(lookups.TOOLS)
