"""Live market news in a browser: the tool of an MCP server, as a run that any page may watch.

    tailrace market-news &
    tailrace serve examples.market_news.app:app

Then open http://127.0.0.1:4000. MARKET_NEWS_URL says where the news server is, if elsewhere. With
MARKET_NEWS_KEY only those are let in who send it as X-API-Key, or have opened /?key=… once.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from tailrace import Limits, Tailrace
from tailrace.errors import Unauthorized

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

KEY = os.environ.get("MARKET_NEWS_KEY")


def visitor(request: Request) -> str:
    """Who asks. There is one key, so they are all the same."""
    sent = request.headers.get("x-api-key") or request.cookies.get("market-news", "")
    if KEY is not None and not hmac.compare_digest(sent.encode(), KEY.encode()):
        raise Unauthorized("This server wants its key.", fix="Send it as X-API-Key.")
    return "visitor"


starts = {"run": "10/minute"}
runs = Tailrace("memory:", principal=visitor, limits=Limits(rates=starts, keyed=starts))
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
async def page(name: str = "page.html", key: str | None = None) -> Response:
    """The page and what belongs to it. An EventSource sends no headers, but its cookies."""
    if name not in ("page.html", "page.js", "page.css"):
        return Response(status_code=404)
    answer = FileResponse(HERE / name, headers=POLICY)
    if key is not None:
        answer.set_cookie("market-news", key, httponly=True, samesite="strict")
    return answer
