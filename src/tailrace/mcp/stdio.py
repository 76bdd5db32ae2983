"""MCP over a process's own stdin and stdout, as desktop clients start it."""

from __future__ import annotations

from mcp.server.stdio import stdio_server

from tailrace.engine import Engine
from tailrace.mcp.answers import Link
from tailrace.mcp.server import RunServer


async def serve(engine: Engine, link: Link | None = None) -> None:
    """Serve one client until it closes our stdin. Meanwhile whatever else writes to stdout
    writes to stderr.
    """
    server = RunServer(engine, link=link)
    async with engine, stdio_server() as (read, write):
        with server.news.following(engine.operations):
            try:
                await server.run(read, write, server.create_initialization_options())
            finally:
                server.leave()
