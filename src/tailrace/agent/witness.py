"""The tools of a turn, as the loop of pydantic-ai calls them; and who sees how each call goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_ai import exceptions
from pydantic_ai.capabilities import (
    AbstractCapability,
    RawToolArgs,
    ValidatedToolArgs,
    WrapToolExecuteHandler,
)
from pydantic_ai.messages import ToolCallPart, ToolReturn
from pydantic_ai.tools import RunContext as LoopContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from tailrace.agent.calls import MAX_ERROR, jsonable
from tailrace.agent.teller import Teller
from tailrace.agent.tools import CallContext, Tool
from tailrace.errors import RunCancelled, TailraceError
from tailrace.protocol.problems import said
from tailrace.run import RunContext, current

MAX_CALLS: Final = 100
"""How many calls a turn may make; further ones fail."""

# Each tool looks at its input itself, and says what is wrong with it.
_ANYTHING: Final = SchemaValidator(core_schema.dict_schema())

_CONTROL: Final = (exceptions.CallDeferred, exceptions.ApprovalRequired)

logger = logging.getLogger("tailrace.agent")


class Toolset(AbstractToolset[Any]):
    """What one turn may call of ours."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    @property
    def id(self) -> str:
        """How pydantic-ai names it."""
        return "tailrace"

    async def get_tools(self, ctx: LoopContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return {
            tool.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=tool.name,
                    description=tool.description,
                    parameters_json_schema=dict(tool.parameters),
                ),
                max_retries=0,
                args_validator=_ANYTHING,
            )
            for tool in self._tools.values()
        }

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: LoopContext[Any],
        tool: ToolsetTool[Any],
    ) -> Any:
        context = current()
        if not isinstance(context, CallContext):
            raise TypeError(f"{name} was called by something other than its turn.")
        return jsonable(await self._tools[name].call(tool_args, context))


class Witness(AbstractCapability[Any]):
    """Has `teller` tell how each call goes, and makes of each that fails a result that says so:
    the loop goes on. `run` is the turn's; `runs` names the tools that start runs of their own.
    """

    def __init__(self, teller: Teller, run: RunContext, runs: Collection[str] = ()) -> None:
        self.teller = teller
        self.making: set[asyncio.Task[Any]] = set()
        """The tasks that make calls."""
        self._run = run
        self._runs = frozenset(runs)
        self._made = 0

    async def on_tool_validate_error(
        self,
        ctx: LoopContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: RawToolArgs,
        error: ValidationError | exceptions.ModelRetry,
    ) -> ValidatedToolArgs:
        """Its input is not what the tool takes."""
        raise self._failed(call, f"{call.tool_name} does not take this input: {_why(error)}")

    async def wrap_tool_execute(
        self,
        ctx: LoopContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Make a call."""
        self._made += 1
        if self._made > MAX_CALLS:
            raise self._failed(call, f"This turn has made the {MAX_CALLS} calls that it may.")
        context = self._context(call, is_run=call.tool_name in self._runs)
        task = asyncio.current_task()
        self.making |= {task} if task is not None else set()
        try:
            with context.entered():
                result = await handler(args)
        except _CONTROL:
            raise
        except exceptions.SkipToolExecution as skipped:
            self._complete(call, skipped.result)
            raise
        except RunCancelled:
            if self._run.cancelled:
                raise asyncio.CancelledError from None
            raise self._failed(call, "It was cancelled.") from None
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            raise self._failed(call, "It was cancelled.") from None
        except Exception as error:
            if not isinstance(error, _SAID):
                logger.warning("The tool %s failed", call.tool_name, exc_info=error)
            raise self._failed(call, _why(error)) from error
        finally:
            self.making -= {task}
        self._complete(call, result)
        return result

    def _context(self, call: ToolCallPart, *, is_run: bool) -> CallContext:
        calls = self.teller.calls
        found = None if calls is None else calls.find(call.tool_call_id)
        if calls is None or found is None:
            # Another's call: it is made, and not told.
            return CallContext(self._run, lambda _: None, lambda _: None)
        if not is_run:
            calls.begin(found)
        return CallContext(
            self._run,
            lambda told: calls.progress(found, told),
            lambda run: calls.begin(found, run=run),
        )

    def _complete(self, call: ToolCallPart, result: Any) -> None:
        calls = self.teller.calls
        found = None if calls is None else calls.find(call.tool_call_id)
        if calls is not None and found is not None:
            calls.complete(found, result.return_value if isinstance(result, ToolReturn) else result)

    def _failed(self, call: ToolCallPart, why: str) -> exceptions.ToolFailed:
        """Tell that a call has failed; what the loop is to be told."""
        calls = self.teller.calls
        found = None if calls is None else calls.find(call.tool_call_id)
        if calls is not None and found is not None:
            calls.fail(found, why)
        return exceptions.ToolFailed(why[:MAX_ERROR])


# What is raised to be read, and says all there is.
_SAID: Final = (
    TailraceError,
    TimeoutError,
    exceptions.ToolFailed,
    exceptions.ToolFailedError,
    exceptions.ToolRetryError,
)


def _why(error: Exception) -> str:
    """What a model, and whoever watches it, is told of a failure."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)[:5]
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'input'}: {e['msg']}" for e in found)
    return said(error) or type(error).__name__
