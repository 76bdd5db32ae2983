"""Another MCP server, with tools that an upstream may have; the SDK's own, in its own process.

python tests/apps/market.py PORT [ERA]      over HTTP; ERA `legacy` knows no 2026-07-28
python tests/apps/market.py                 over stdin and stdout
"""

import asyncio
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("market", log_level="ERROR")
seen: Counter[str] = Counter()


@contextmanager
def watched() -> Iterator[None]:
    """How the calls here began and ended, for `/probe`."""
    seen["began"] += 1
    try:
        yield
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise
    else:
        seen["finished"] += 1
    finally:
        seen["ended"] += 1


@server.tool()
async def count(ctx: Context, n: int, every: float = 0.01) -> str:
    """Count up to n."""
    with watched():
        await ctx.report_progress(0, n, "connected")
        for number in range(1, n + 1):
            await asyncio.sleep(every)
            await ctx.report_progress(
                number, n, json.dumps({"number": number, "sent": time.time()})
            )
        return f"counted {n}"


@server.tool()
async def burst(ctx: Context, n: int) -> str:
    with watched():
        for number in range(n):
            await ctx.report_progress(number, n)
        return f"told {n}"


@server.tool()
async def hold(ctx: Context) -> str:
    with watched():
        await ctx.report_progress(1)
        await asyncio.Event().wait()
        return "never"


@server.tool()
async def meet(ctx: Context, n: int) -> int:
    """Wait until there are n."""
    with watched():
        seen["met"] += 1
        await ctx.report_progress(seen["met"], n)
        while seen["met"] < n:
            await asyncio.sleep(0.01)
        return n


@server.tool()
async def silent(seconds: float) -> str:
    with watched():
        await asyncio.sleep(seconds)
        return "was silent"


@server.tool()
async def fail() -> str:
    raise ToolError("The exchange is closed.")


@server.tool()
async def pair(a: int, b: int) -> dict[str, int]:
    return {"sum": a + b}


@server.tool(structured_output=False)
async def blocks() -> list[Any]:
    return ["one", "two"]


@server.tool()
async def says(ctx: Context) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await ctx.log("notice", "a text", logger_name="feeds")
        await ctx.log("error", {"n": 1})
    return "said"


@server.tool()
async def large(ctx: Context, size: int) -> str:
    await ctx.report_progress(1, 2, "x" * size)
    await ctx.report_progress(2, 2, "small")
    return "told"


@server.tool()
async def key(ctx: Context) -> str:
    headers = ctx.headers or {}
    return f"{headers.get('authorization')} {headers.get('x-api-key')}"


@server.tool()
async def environment(name: str) -> str:
    return os.environ.get(name, "unset")


@server.tool()
async def grow(ctx: Context) -> str:
    """Offer another tool from now on."""

    async def grown() -> str:
        return "grown"

    server.add_tool(grown)
    await ctx.notify_tools_changed()
    return "grew"


@server.custom_route("/probe", methods=["GET"])  # type: ignore[untyped-decorator]
async def probe(request: Request) -> Response:
    return JSONResponse({"pid": os.getpid(), **seen})


class Old:
    """Knows the revisions up to 2025-11-25."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        seen[f"{scope['type']} {headers.get(b'mcp-protocol-version', b'').decode()}"] += 1
        if headers.get(b"mcp-protocol-version", b"").startswith(b"2026"):
            await PlainTextResponse("Unsupported version", 400)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def main() -> None:
    if len(sys.argv) == 1:
        server.run("stdio")
        return
    app: ASGIApp = server.streamable_http_app()
    if sys.argv[2:] == ["legacy"]:
        app = Old(app)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
