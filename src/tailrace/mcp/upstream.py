"""Another MCP server whose tools are operations here, and whose calls are runs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec

from tailrace.engine import Engine
from tailrace.errors import SettingsInvalid
from tailrace.mcp.address import Address

logger = logging.getLogger("tailrace.mcp")


class Upstream:
    """One upstream of an engine; its `life` belongs into `engine.companions`.

    Its tools become operations called NAME.TOOL as soon as it answers; it is asked again until
    it does, and when its tools change. They stay when it goes away: what is started then fails
    after a few seconds, and says why.

    A call is a run. Its progress and log notifications are events; structured content, or else
    the list of content blocks, is its result; a cancel or timeout stops the tool there.

    Raises SettingsInvalid for an environment variable that is not set, or without the SDK.
    """

    def __init__(
        self, engine: Engine, address: Address, environment: Mapping[str, str] = os.environ
    ) -> None:
        if find_spec("mcp") is None:
            raise SettingsInvalid(
                f"The upstream {address.name} needs the MCP SDK, which is not installed.",
                fix='Install it: pip install "tailrace[mcp]".',
            )
        self._engine = engine
        self._address = address
        self._headers = address.sent(environment)
        self._environment = address.handed(environment)

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """While it lasts, the tools are offered. It begins at once, answer or not."""
        keeping = asyncio.create_task(self._keep(), name=f"tailrace-mcp-{self._address.name}")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))

    async def _keep(self) -> None:
        # The SDK takes half a second to import, which nobody here shall wait for.
        toolbox = await asyncio.to_thread(importlib.import_module, "tailrace.mcp.toolbox")
        line = toolbox.Line(self._address, self._headers, self._environment)
        try:
            await toolbox.Toolbox(self._engine, self._address, line).keep()
        except Exception:
            # Nobody waits for this task before the engine's end.
            logger.exception("The upstream %s is not asked any more", self._address.name)
        finally:
            # Calls go on: it is for the engine to end them, and that over this line.
            await line.close()


__all__ = ["Upstream"]
