"""The tools of an upstream, kept as operations; and what a run of one of them does."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Iterable
from typing import Any, Final

import anyio
from mcp_types import CallToolResult, Tool

from tailrace.engine import Engine
from tailrace.mcp import faults, schema
from tailrace.mcp.address import Address
from tailrace.mcp.feed import Feed
from tailrace.mcp.line import MAX_TOOLS, Line, heard
from tailrace.operations import Operation, Traits
from tailrace.run import Run, RunContext

REFRESH_SECONDS: Final = 60.0
"""How often an upstream is asked for its tools, for want of news."""

PAUSES: Final = (0.1, 0.3, 0.9, 2.7)
"""Seconds between the attempts of a call that finds no connection."""

# What may be heard by the dozen is heeded once.
_PACE_SECONDS: Final = 0.1

_FIRST_SECONDS: Final = 0.25
_LAST_SECONDS: Final = 30.0

# As the protocol has it ("Tools", "Tool Names"): no line end can come in by it.
_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}", re.ASCII)
_MAX_DESCRIPTION: Final = 8000
_MAX_SCHEMA: Final = 64 * 1024

logger = logging.getLogger("tailrace.mcp")

_chance: Final = random.SystemRandom()

# What the SDK writes with a traceback when we hang up in the middle of what it reads.
_HANGING_UP: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Harmless(logging.Filter):
    """Lets pass what is worth a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is."""
        return not record.exc_info or not isinstance(record.exc_info[1], _HANGING_UP)


class Toolbox:
    """What one upstream offers to an engine, in one event loop. `line` is the way to it."""

    def __init__(self, engine: Engine, address: Address, line: Line) -> None:
        self._engine = engine
        self._address = address
        self._line = line
        self._offered: dict[str, tuple[Tool, Operation[..., Run]]] = {}
        self._ask = asyncio.Event()
        self._says = ""

    # --- what there is ---------------------------------------------------------------

    async def keep(self) -> None:
        """Have the tools as operations, until it is cancelled."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_SECONDS
        harmless, sdk = Harmless(), logging.getLogger("mcp.client.streamable_http")
        sdk.addFilter(harmless)
        try:
            while True:
                began = loop.time()
                try:
                    await self._follow()
                except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - as `faults` says
                    self._report(error)
                if loop.time() - began > _LAST_SECONDS:
                    pause = _FIRST_SECONDS
                # Not all at once, when what they have in common comes back.
                await asyncio.sleep(pause * _chance.uniform(0.5, 1.0))
                pause = min(pause * 2, _LAST_SECONDS)
        finally:
            sdk.removeFilter(harmless)
            self._offer(())

    async def _follow(self) -> None:
        """List the tools, and again whenever they may be others; until the connection ends."""
        self._line.forget()
        while True:
            self._ask.clear()
            async with self._line.client(message_handler=heard(self._ask.set)) as client:
                changes = asyncio.create_task(self._line.changes(client, self._ask.set))
                try:
                    self._offer(await self._line.tools(client))
                    while self._address.url is not None:
                        await self._asked(changes)
                        self._offer(await self._line.tools(client))
                finally:
                    changes.cancel()
                    await asyncio.wait((changes,))
            # A program is not kept only to hear whether its tools change.
            await self._ask.wait()
            await asyncio.sleep(_PACE_SECONDS)

    async def _asked(self, changes: asyncio.Task[None]) -> None:
        """Wait until there is a reason to list the tools. Raises what ends the listening."""
        asking = asyncio.ensure_future(self._ask.wait())
        waited: set[asyncio.Future[Any]] = {asking}
        if not changes.done():
            waited.add(changes)
        try:
            await asyncio.wait(waited, timeout=REFRESH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
        await asyncio.sleep(_PACE_SECONDS)
        self._ask.clear()
        if changes.done():
            changes.result()

    def _report(self, error: BaseException) -> None:
        told = faults.fault(error, self._address, "the list of its tools")
        self._say(logging.WARNING, f"{told} {told.fix}")

    def _say(self, level: int, said: str) -> None:
        """Once for each state it is in: it may be in it for days."""
        if said != self._says:
            self._says = said
            logger.log(level, "%s", said)

    def _offer(self, tools: Iterable[Tool]) -> None:
        """Have exactly these as operations."""
        wanted = {tool.name: tool for tool in list(tools)[:MAX_TOOLS]}
        for name, (tool, operation) in list(self._offered.items()):
            if wanted.get(name) != tool:
                self._engine.operations.remove(operation)
                del self._offered[name]
        for name, tool in wanted.items():
            made = None if name in self._offered else self._made(tool)
            if made is not None:
                self._offered[name] = tool, made
        if wanted:
            count = len(self._offered)
            self._say(logging.INFO, f"The upstream {self._address.name} offers {count} tools.")

    def _made(self, tool: Tool) -> Operation[..., Run] | None:
        """The operation for a tool; None if there cannot be one."""
        name = f"{self._address.name}.{tool.name}"
        if _NAME.fullmatch(tool.name) is None:
            logger.warning("A tool of %s has a name that cannot be used", self._address.name)
            return None
        if len(json.dumps(tool.input_schema)) > _MAX_SCHEMA:
            logger.warning("%s is not offered: its schema is larger than 64 KiB", name)
            return None

        async def call(run: RunContext, arguments: dict[str, Any]) -> Any:
            return await self._called(run, tool, arguments)

        try:
            return self._engine.offer(
                call,
                name=name,
                description=(tool.description or tool.title or "")[:_MAX_DESCRIPTION],
                parameters=tool.input_schema,
                timeout=self._address.timeout,
                concurrency=self._address.at_once,
                traits=Traits(guard=schema.guard(name, tool.input_schema)),
            )
        except ValueError as error:
            logger.warning("%s is not offered: %s", name, error)
            return None

    # --- a call ----------------------------------------------------------------------

    async def _called(self, run: RunContext, tool: Tool, arguments: dict[str, Any]) -> Any:
        try:
            answer = await self._insist(run, tool, arguments)
        except (Exception, BaseExceptionGroup) as error:
            # It may be another server by now.
            self._ask.set()
            raise faults.fault(error, self._address, tool.name) from error
        return self._read(tool, answer)

    async def _insist(
        self, run: RunContext, tool: Tool, arguments: dict[str, Any]
    ) -> CallToolResult:
        """The answer. A call that could not even be sent is tried again for a few seconds: the
        upstream may just be starting anew.
        """
        for attempt, pause in enumerate(PAUSES):
            feed = Feed(run)
            try:
                return await self._line.call(tool, arguments, feed)
            except (Exception, BaseExceptionGroup) as error:
                if feed.has_heard or not faults.is_unsent(error):
                    raise
            if not attempt:
                run.log(f"{self._address.name} does not answer; trying again.", "warning")
            await asyncio.sleep(pause)
        return await self._line.call(tool, arguments, Feed(run))

    def _read(self, tool: Tool, answer: CallToolResult) -> Any:
        """What a run is to answer. Raises ToolFailed where the tool says that it failed."""
        if answer.is_error:
            texts = [block.text for block in answer.content if block.type == "text"]
            said = "\n".join(texts).strip()[: faults.MAX_SAID]
            raise faults.ToolFailed(
                said or f"{tool.name} of {self._address.name} failed, and says no more."
            )
        if answer.structured_content is not None:
            return answer.structured_content
        return [
            block.model_dump(mode="json", by_alias=True, exclude_none=True)
            for block in answer.content
        ]


__all__ = ["Line", "Toolbox"]
