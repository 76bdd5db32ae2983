"""Which tools there are: the operations, and three to look after runs with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import mcp_types as types

from tailrace.operations import Operation
from tailrace.protocol.access import CANCEL, RUN, WATCH, Access

GET: Final = "run_get"
EVENTS: Final = "run_events"
STOP: Final = "run_cancel"

MOST_EVENTS: Final = 200
"""How many events one call of `run_events` answers with at the most."""

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
_MAX_NAME: Final = 128

_RUN: Final = {"type": "string", "description": "The run's id: run_ and 26 letters and digits."}


def _tool(
    name: str,
    description: str,
    more: Mapping[str, Any] | None = None,
    *,
    is_reading: bool,
) -> types.Tool:
    return types.Tool(
        name=name,
        description=description,
        input_schema={
            "type": "object",
            "properties": {"run": _RUN, **(more or {})},
            "required": ["run"],
            "additionalProperties": False,
        },
        annotations=types.ToolAnnotations(
            read_only_hint=is_reading,
            destructive_hint=not is_reading,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )


OWN: Final[Mapping[str, tuple[str, types.Tool]]] = {
    GET: (
        WATCH,
        _tool(GET, "What a run does now: its state, progress, result or error.", is_reading=True),
    ),
    EVENTS: (
        WATCH,
        _tool(
            EVENTS,
            "What a run has told, oldest first, in pages. The answer's `next` is the `after` of "
            "the next page; once `finished` is true, nothing will follow.",
            {
                "after": {
                    "type": "string",
                    "default": "0",
                    "description": "The id of the last event that is known; 0 for none.",
                },
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MOST_EVENTS,
                    "default": 50,
                    "description": "How many events at the most.",
                },
            },
            is_reading=True,
        ),
    ),
    STOP: (CANCEL, _tool(STOP, "Ask a run to stop. Harmless if it has ended.", is_reading=False)),
}
"""By name: the scope that is needed, and the tool."""


def named(operations: Iterable[Operation[Any, Any]]) -> dict[str, Operation[Any, Any]]:
    """The operations by the names of their tools: MCP knows fewer names than we do."""
    found: dict[str, Operation[Any, Any]] = {}
    for operation in operations:
        name = wanted = _FOREIGN.sub("_", operation.name)[:_MAX_NAME]
        number = 1
        while name in found:
            number += 1
            name = f"{wanted[: _MAX_NAME - 4]}_{number}"
        found[name] = operation
    return found


def offered(operations: Mapping[str, Operation[Any, Any]], access: Access) -> list[types.Tool]:
    """The tools for whoever asks: those they may call. An operation hides a tool of ours that
    is called the same.
    """
    tools = []
    if access.may(RUN):
        tools += [described(name, operation) for name, operation in operations.items()]
    tools += [
        tool for name, (scope, tool) in OWN.items() if access.may(scope) and name not in operations
    ]
    return tools


def described(name: str, operation: Operation[Any, Any]) -> types.Tool:
    """An operation as a tool."""
    return types.Tool(
        name=name,
        title=None if name == operation.name else operation.name,
        description=operation.description or f"Runs {operation.name}.",
        input_schema={"type": "object", **operation.parameters},
    )
