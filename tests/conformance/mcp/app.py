"""What the conformance suite of the Model Context Protocol calls, by the names it knows: as far
as it goes by operations, and the rest next to them, by a server of the SDK.

    uvicorn tests.conformance.mcp.app:app
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Annotated, Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR
from pydantic import Field
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from tailrace import RunContext, Tailrace
from tailrace.http.access import Admitted
from tailrace.http.origins import LOOPBACK_HOSTS, Gate, Origins
from tailrace.mcp.face import McpFace
from tests.conformance.mcp.neighbour import neighbour

runs = Tailrace(os.environ.get("TAILRACE_LOG", "memory:"))
face = McpFace(runs, guest=neighbour, tasks_only={"failing_job"})
runs.companions.append(face.life)
numbers = itertools.count()

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def _as_it_came(run: RunContext, given: dict[str, Any]) -> str:
    return f"{given.get('name')}"


runs.offer(_as_it_came, name="json_schema_2020_12_tool", description="2020-12", parameters=SCHEMA)


# --- calls ---------------------------------------------------------------------------


@runs.operation
async def test_simple_text() -> str:
    """Answers with text."""
    return "This is a simple text response for testing."


@runs.operation
async def test_error_handling() -> None:
    """Always fails."""
    raise RuntimeError("This tool intentionally returns an error for testing")


@runs.operation
async def test_tool_with_logging(run: RunContext) -> str:
    """Logs three lines."""
    run.log("Tool execution started")
    await asyncio.sleep(0.05)
    run.log("Tool processing data")
    await asyncio.sleep(0.05)
    run.log("Tool execution completed")
    return "done"


@runs.operation
async def test_logging_tool(run: RunContext) -> str:
    """Logs a line, which nobody has asked to be sent."""
    run.log("A line")
    return "done"


@runs.operation
async def test_tool_with_progress(run: RunContext) -> str:
    """Tells progress."""
    for step in (0, 50, 100):
        run.progress(step, 100, f"Completed step {step} of 100")
        await asyncio.sleep(0.05)
    return "done"


@runs.operation
async def test_headers(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    """Takes an argument that is a header as well."""
    return region


@runs.operation
async def test_trigger_tool_change() -> str:
    """Has one more tool."""

    async def another() -> None:
        """Does nothing."""

    runs.offer(another, name=f"another_{next(numbers)}")
    return "done"


# --- questions -----------------------------------------------------------------------


@runs.operation
async def test_sampling(run: RunContext, prompt: str) -> str:
    """Asks the client's model."""
    message = {"role": "user", "content": {"type": "text", "text": prompt}}
    params = {"messages": [message], "maxTokens": 100}
    answer = await face.asks.request(run, "sampling/createMessage", params)
    return f"LLM response: {answer['content']['text']}"


@runs.operation
async def test_elicitation(run: RunContext, message: str) -> str:
    """Asks the user."""
    text = {"type": "string", "description": "User's response"}
    schema = {
        "type": "object",
        "properties": {"username": text, "email": text},
        "required": ["username", "email"],
    }
    return f"User response: {await face.asks.ask(run, message, schema)}"


@runs.operation
async def test_streaming_elicitation(run: RunContext) -> str:
    """Tells progress, then asks the user."""
    run.progress(1, 2)
    return f"{await face.asks.ask(run, 'Go on?')}"


@runs.operation
async def test_elicitation_sep1034_defaults(run: RunContext) -> str:
    """Asks for all kinds of fields, with defaults."""
    states = ["active", "inactive", "pending"]
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": states, "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    }
    return f"Elicitation completed: {await face.asks.ask(run, 'Who are you?', schema)}"


@runs.operation
async def test_elicitation_sep1330_enums(run: RunContext) -> str:
    """Asks for a choice, in all ways there are."""
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    plain = ["option1", "option2", "option3"]
    names = ["Option One", "Option Two", "Option Three"]
    schema = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": plain, "enumNames": names},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
    }
    return f"Elicitation completed: {await face.asks.ask(run, 'Which?', schema)}"


# --- tasks ---------------------------------------------------------------------------


@runs.operation
async def greet(name: str) -> str:
    """Quick."""
    return f"Hello, {name}!"


@runs.operation
async def slow_compute(run: RunContext, seconds: float = 1, label: str = "") -> str:
    """Takes its time."""
    run.progress(message="computing")
    await asyncio.sleep(seconds)
    return f"computed {label}"


@runs.operation
async def failing_job() -> None:
    """Fails after a second."""
    await asyncio.sleep(1)
    raise RuntimeError("The job has failed")


@runs.operation
async def protocol_error_job() -> None:
    """Fails as no tool should."""
    await asyncio.sleep(1)
    raise MCPError(code=INTERNAL_ERROR, message="The server is at fault")


@runs.operation
async def confirm_delete(run: RunContext, filename: str = "") -> str:
    """Asks once it is a task."""
    await asyncio.sleep(0.6)
    answer = await face.asks.ask(run, f"Delete {filename}?")
    return "kept" if answer is None else "deleted"


@runs.operation
async def multi_input(run: RunContext) -> str:
    """Asks twice at the same time."""
    await asyncio.sleep(0.6)
    answers = await asyncio.gather(face.asks.ask(run, "Name?"), face.asks.ask(run, "Sure?"))
    return str(answers)


@runs.operation
async def test_tool_with_task(run: RunContext) -> str:
    """Asks at once, and takes its time afterwards."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    answer = await face.asks.ask(run, "What is your name?", schema)
    await asyncio.sleep(1)
    return f"Hello, {(answer or {}).get('name')}!"


routes = [Route("/mcp", Admitted(runs, face)), Mount("/", runs.asgi)]
served = Starlette(routes=routes, lifespan=runs.lifespan)
app = Gate(served, Origins(LOOPBACK_HOSTS))
