"""Live market news in a browser: the tool of an MCP server, as a run that any page may watch.

    tailrace market-news &
    tailrace serve examples.market_news.app:app

Then open http://127.0.0.1:4000. MARKET_NEWS_URL says where the news server is, if elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from tailrace import Limits, Tailrace

HERE = Path(__file__).parent

# Whatever the page needs comes from here, and nothing else may run in it: titles are anybody's.
POLICY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

runs = Tailrace("memory:", limits=Limits(rates={"run": "10/minute"}))
runs.upstream("market", url=os.environ.get("MARKET_NEWS_URL", "http://127.0.0.1:4100/mcp"))

app = FastAPI(title="Market news", lifespan=runs.lifespan)
app.include_router(runs.router)


@app.get("/api/mcp/stream-news")
async def stream_news(
    request: Request,
    symbol: Annotated[str | None, Query(max_length=20)] = None,
    interval: Annotated[int, Query(ge=1000, le=3_600_000, description="Milliseconds")] = 10_000,
    duration: Annotated[int, Query(ge=1, le=86_400_000, description="Milliseconds")] = 60_000,
) -> Response:
    """The news as they come: JSON-RPC progress notifications, and the result at the end."""
    asked = {"symbol": symbol, "interval": interval / 1000, "duration": duration / 1000}
    return await runs.stream("market.stream_market_news", request, asked, format="jsonrpc")


@app.get("/", include_in_schema=False)
@app.get("/{name}", include_in_schema=False)
async def page(name: str = "page.html") -> Response:
    """The page and what belongs to it."""
    if name not in ("page.html", "page.js", "page.css"):
        return Response(status_code=404)
    return FileResponse(HERE / name, headers=POLICY)
